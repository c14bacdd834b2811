"""The memory of whole runs, looked at once a second, where the kernel does not limit it for us.

A limit on each process (`RLIMIT_DATA`) says nothing about a tree of them: real tools are one big process and a dozen
middling ones. So the tree is measured, shared pages counted once, and the policy told when it is over its limit. All
limited runs are measured in one round, on one scan of /proc; without one of them, nothing happens here at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import trio
from attrs import define, field

from darkfactory.devices.process import Process
from darkfactory.model.events import MemoryExceeded
from darkfactory.runtime.inbox import Sender

SAMPLE_SECS: Final = 1.0


@define(eq=False)
class MemoryWatch:
    """Tells the supervisor of every run that takes more than it may."""

    sender: Sender
    _limited: dict[str, tuple[Process, int]] = field(factory=dict)
    """By run id."""
    _some: trio.Event = field(factory=trio.Event)
    """Set when there was one to measure."""

    @contextmanager
    def watching(self, run_id: str, process: Process, max_memory_bytes: int | None) -> Iterator[None]:
        """Have a run, or a process that waits for it, measured while the block lasts; None means no limit."""
        if max_memory_bytes is None:
            yield
            return
        limited = self._limited[run_id] = process, max_memory_bytes
        self._some.set()
        try:
            yield
        finally:
            if self._limited.get(run_id) is limited:  # else a run has taken over a process that waited, and its place
                del self._limited[run_id]

    async def run(self) -> None:
        """Measure once a second while there is something to measure; until cancelled."""
        while True:
            await self._some.wait()
            await trio.sleep(SAMPLE_SECS)
            async with trio.open_nursery() as round_:  # all at once, so that they share a scan
                for run_id, (process, limit) in self._limited.items():
                    round_.start_soon(self._measure, run_id, process, limit)
            if not self._limited:
                self._some = trio.Event()

    async def _measure(self, run_id: str, process: Process, limit: int) -> None:
        memory = await process.memory_bytes()
        if memory is None:
            self._limited.pop(run_id, None)  # it need not be measured
        elif memory > limit:
            await self.sender.send(MemoryExceeded(self.sender.now(), run_id, memory))
