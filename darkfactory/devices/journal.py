"""An append-only file of JSON lines: the only memory that outlives the process.

What was handed to the kernel survives the death of the factory; what was synced survives the death of the machine.
So `append` writes at once, and whoever is about to act on a record waits until it was synced. One task syncs for
everybody who waits at the time (group commit).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import trio
from attrs import define, field
from trio_util import AsyncValue

from darkfactory.errors import JournalDamaged

Line = Mapping[str, Any]


class Journal(Protocol):
    """Where records go."""

    def append(self, lines: Iterable[Line], *, durable: bool) -> int:
        """Write these lines together; a number for `wait_durable`. No checkpoint. OSError when the disk refuses."""
        ...

    async def wait_durable(self, number: int) -> None:
        """Wait until everything up to `number` is on the disk."""
        ...

    async def serve(self) -> None:
        """The sync service: runs until it is cancelled; OSError when the disk refuses."""
        ...

    def close(self) -> None:
        """Sync what is left and let go of the file. No checkpoint."""
        ...


def encode(line: Line) -> bytes:
    """One line of the file: compact, ASCII, keys in the order given."""
    return json.dumps(line, separators=(",", ":")).encode() + b"\n"


def read_lines(path: Path) -> tuple[list[Line], int]:
    """The lines of a journal file and the size in bytes of what is whole; ([], 0) when there is no such file.

    A bad line with nothing good behind it is a write that was torn by a crash: it is left out. A bad line before a
    good one is damage: JournalDamaged names it.
    """
    lines: list[Line] = []
    whole = position = 0
    bad: int | None = None
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return [], 0
    for number, raw in enumerate(data.splitlines(keepends=True), 1):
        position += len(raw)
        line = _decode(raw) if raw.endswith(b"\n") else None
        if line is None:
            bad = bad or number
        elif bad is not None:
            raise JournalDamaged(
                f"{path}:{bad}: this line is no journal record, but later lines are; it was not written by a crash"
            )
        else:
            lines.append(line)
            whole = position
    return lines, whole


def _decode(raw: bytes) -> Line | None:
    try:
        line = json.loads(raw)
    except ValueError:  # bad JSON and bad UTF-8 alike
        return None
    return line if isinstance(line, dict) and isinstance(line.get("kind"), str) and "utc" in line else None


@define(eq=False)
class FileJournal:
    """The journal in a file. One at a time may have the file open: the state directory's lock sees to it."""

    path: Path
    history: tuple[Line, ...] = field(init=False, repr=False)
    """What the file held when it was opened."""
    _fd: int = field(init=False)
    _written: int = field(init=False, default=0)
    _wanted: int = field(init=False, default=0)
    """The newest line that somebody wants on the disk."""
    _synced: AsyncValue[int] = field(init=False, factory=lambda: AsyncValue(0))
    _due: trio.Event = field(init=False, factory=trio.Event)
    # of its own, so that other thread work cannot hold up a sync
    _limiter: trio.CapacityLimiter = field(init=False, factory=lambda: trio.CapacityLimiter(1))

    def __attrs_post_init__(self) -> None:
        lines, whole = read_lines(self.path)
        self.history = tuple(lines)
        self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._fd, whole)  # a torn tail must not become the beginning of the next line
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def append(self, lines: Iterable[Line], *, durable: bool) -> int:
        """Write these lines together; a number for `wait_durable`. No checkpoint."""
        encoded = [encode(line) for line in lines]
        data = memoryview(b"".join(encoded))
        while data:
            data = data[os.write(self._fd, data) :]
        self._written += len(encoded)
        if durable:
            self._wanted = self._written
            self._due.set()
        return self._written

    async def wait_durable(self, number: int) -> None:
        """Wait until everything up to `number` is on the disk."""
        if number > self._wanted:
            self._wanted = number
            self._due.set()
        await self._synced.wait_value(lambda synced: synced >= number)

    async def serve(self) -> None:
        """Sync whenever somebody wants it, once for all who want it by then."""
        while True:
            await self._due.wait()
            self._due = trio.Event()
            number = self._written
            await trio.to_thread.run_sync(os.fdatasync, self._fd, limiter=self._limiter)
            self._synced.value = number

    def close(self) -> None:
        """Sync what is left and let go of the file."""
        if self._fd >= 0:
            try:
                os.fdatasync(self._fd)
            finally:
                os.close(self._fd)
                self._fd = -1
