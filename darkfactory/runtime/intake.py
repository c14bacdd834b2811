"""A run's output on its way to the supervisor: bytes in, one small event for each round out.

A flooding agent writes a million lines a second and the supervisor reads thousands of events: so lines are cut, read
and reduced here, in the follower's task, and only what the supervisor decides by goes on.
"""

from __future__ import annotations

from collections.abc import Callable

import trio
from attrs import define, field

from darkfactory.model.events import OutputSeen, OutputTruncated
from darkfactory.model.signals import Finished, Retry, Started, Stream, Throttled, ToolCall
from darkfactory.runtime.inbox import Sender
from darkfactory.tools.lines import LineSplitter
from darkfactory.tools.tool import Tool


def _splitters() -> dict[Stream, LineSplitter]:
    return {stream: LineSplitter() for stream in Stream}


@define(eq=False)
class Intake:
    """The sink of one run (`devices.process.Sink`)."""

    run_id: str
    tool: Tool
    sender: Sender
    trouble: Callable[[str], None] = lambda _words: None
    """Told how the tool put a failure."""
    output_bytes: int = 0
    """What both streams have printed so far: what was read, or what lies in the files if that is more.

    A child can write faster than anybody reads, and its limit is on what it writes.
    """
    finished: Finished | None = None
    """Its terminal event, unless it said more behind it."""
    waits: bool = False
    """The last it said is that it waits for its provider."""
    _at_work: set[str] = field(factory=set)
    """Tool calls that have begun and not ended."""
    _splitters: dict[Stream, LineSplitter] = field(factory=_splitters)
    _memory: object = field(init=False)
    """The tool's, for this run."""
    _fed_bytes: int = 0
    _told_bytes: int = 0
    _truncated: list[Stream] = field(factory=list)
    """To be told at the next flush."""
    _truncated_before: set[Stream] = field(factory=set)

    def __attrs_post_init__(self) -> None:
        self._memory = self.tool.memory()

    @property
    def excused(self) -> bool:
        """It has a reason to be silent: it waits for its provider, or one of its tools works."""
        return self.waits or bool(self._at_work)

    def feed(self, stream: Stream, data: bytes) -> None:
        """Take the next bytes of a stream."""
        self._fed_bytes += len(data)
        self.output_bytes = max(self.output_bytes, self._fed_bytes)
        for line in self._splitters[stream].feed(data):
            self._read(stream, line)

    def written(self, size: int) -> None:
        """The size of both files."""
        self.output_bytes = max(self.output_bytes, size)

    def truncated(self, stream: Stream) -> None:
        """The stream begins anew. Told once for each: an agent could fill the journal with it."""
        self._splitters[stream].reset()
        if stream not in self._truncated_before:
            self._truncated_before.add(stream)
            self._truncated.append(stream)

    async def flush(self) -> None:
        """Tell the supervisor what the round amounted to; waits while its inbox is full."""
        truncated, self._truncated = self._truncated, []
        for stream in truncated:
            await self.sender.send(OutputTruncated(self.sender.now(), self.run_id, stream.value))
        if self.output_bytes != self._told_bytes:
            self._told_bytes = self.output_bytes
            finished = self.finished is not None
            await self.sender.send(OutputSeen(self.sender.now(), self.run_id, self.output_bytes, finished))
        else:
            await trio.lowlevel.checkpoint()

    def finish(self) -> None:
        """There will be no more: read the last lines, which may lack their newline."""
        for stream, splitter in self._splitters.items():
            for line in splitter.finish():
                self._read(stream, line)

    def _read(self, stream: Stream, line: bytes) -> None:
        for signal in self.tool.signals(stream, line, self._memory):
            self.waits = isinstance(signal, Retry | Throttled)
            match signal:
                case Started():
                    self.finished = None
                    self._at_work.clear()
                case Finished():
                    self.finished = signal
                    self._at_work.clear()
                    if not signal.ok:
                        self.trouble(signal.detail or "said that it failed")
                case ToolCall(ok=None):
                    self._at_work.add(signal.id)
                case ToolCall():
                    self._at_work.discard(signal.id)
                    if not signal.ok:
                        self.trouble(f"{signal.name} failed")
