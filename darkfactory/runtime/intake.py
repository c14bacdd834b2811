"""A run's output on its way to the supervisor: bytes in, one small event for each round out.

A flooding agent writes a million lines a second and the supervisor reads thousands of events: so lines are cut, read
and reduced here, in the follower's task, and only what the supervisor decides by goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import trio
from attrs import define, field

from darkfactory.model.events import OutputSeen, OutputTruncated
from darkfactory.model.signals import Counts, Stream, Usage
from darkfactory.runtime.inbox import Sender
from darkfactory.tools.reader import Reader
from darkfactory.tools.tally import NOTHING, Tally
from darkfactory.tools.tool import Tool


def nobody(_: object) -> None:
    """Nobody watches."""


@define(eq=False)
class Intake:
    """The sink of one run (`devices.process.Sink`)."""

    run_id: str
    tool: Tool
    sender: Sender
    observe: Callable[[Counts], None] = nobody
    """Told at each flush what came since the last one, if that is anything that counts."""
    trouble: Callable[[str], None] = nobody
    """Told at each flush how a failure since the last one was put, if there was one."""
    earlier: Mapping[str, Usage] = field(factory=dict)
    """See `Tally.earlier`."""
    output_bytes: int = 0
    """What both streams have printed so far: what was read, or what lies in the files if that is more.

    A child can write faster than anybody reads, and its limit is on what it writes.
    """
    _reader: Reader = field(init=False)
    _fed_bytes: int = 0
    _told: tuple[int, int] = (0, 0)
    """What had been read, and printed, when the supervisor was told last."""
    _truncated: list[Stream] = field(factory=list)
    """To be told at the next flush."""
    _truncated_before: set[Stream] = field(factory=set)

    def __attrs_post_init__(self) -> None:
        self._reader = Reader(self.tool, Tally(self.earlier))

    @property
    def tally(self) -> Tally:
        """What it has said so far."""
        return self._reader.tally

    def feed(self, stream: Stream, data: bytes) -> None:
        """Take the next bytes of a stream."""
        self._fed_bytes += len(data)
        self.output_bytes = max(self.output_bytes, self._fed_bytes)
        self._reader.feed(stream, data)

    def written(self, size: int) -> None:
        """The size of both files."""
        self.output_bytes = max(self.output_bytes, size)

    def truncated(self, stream: Stream) -> None:
        """The stream begins anew. Told once for each: an agent could fill the journal with it."""
        self._reader.truncated(stream)
        if stream not in self._truncated_before:
            self._truncated_before.add(stream)
            self._truncated.append(stream)

    async def flush(self) -> None:
        """Tell the supervisor what the round amounted to; waits while its inbox is full."""
        self._observe()
        truncated, self._truncated = self._truncated, []
        for stream in truncated:
            await self.sender.send(OutputTruncated(self.sender.now(), self.run_id, stream.value))
        # Of what was truncated before it could be read the size stays, and what is printed then must catch up with it.
        if self._told != (news := (self._fed_bytes, self.output_bytes)):
            self._told = news
            tally = self.tally
            await self.sender.send(
                OutputSeen(
                    self.sender.now(),
                    self.run_id,
                    self.output_bytes,
                    tally.over,
                    tally.spent,
                    tally.waiting,
                    tally.answered,
                )
            )
        else:
            await trio.lowlevel.checkpoint()

    def finish(self) -> None:
        """There will be no more: read the last lines, which may lack their newline."""
        self._reader.finish()
        self._observe()

    def _observe(self) -> None:
        counts = self.tally.counts()
        if counts is not NOTHING:
            self.observe(counts)
        for words in self.tally.troubles():
            self.trouble(words)
