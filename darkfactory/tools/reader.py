"""A run's output, read: bytes in, a tally out.

The same reading serves a run that lives and a transcript in a file. Programs that say nothing of themselves can print a
million lines a second: of those, lines are counted chunk by chunk, and only what stderr holds is looked at.
"""

from __future__ import annotations

import re

from attrs import define, field

from darkfactory.model.signals import Stream
from darkfactory.tools.lines import LineSplitter
from darkfactory.tools.tally import Place, Tally
from darkfactory.tools.text import MAX_DETAIL, one_line
from darkfactory.tools.tool import Tool

_TELLING = (b"error", b"exception", b"fatal", b"critical", b"panic", b"traceback")
"""Where none of these is in a stretch of output, in whatever case, no line of it tells of an error."""

_ERROR_LINE = re.compile(
    rb"""
      (?:[\w./-]+:\ )? (?i:fatal|panic|(?:internal\ |uncaught\ )?\w*(?:error|exception)) (?:\[\w+\])? :(?!\ ?0\b)
    | (?:[\w./-]+:\d+:){1,2}\ ?(?:fatal\ )?error:   # compilers
    | Traceback\ \(most\ recent\ call\ last\):
    | thread\ '[^']*'.{0,20}\ panicked\ at\ |panic:
    | [\[(]?[\d:.,TZ /+\[\]-]{0,40}[\[(]?(?:ERROR|FATAL|CRITICAL|PANIC)\b(?!\s*[:=]\s*0\b)   # logs
    | [^"]{0,80}\blevel=(?:error|fatal|panic)\b
    | \{.{0,200}"level"\s*:\s*"(?:error|fatal|critical)"
    """,
    re.VERBOSE,
)
"""The usual shapes of a line that tells of an error, from its start; "0 errors" and "error rate" are none."""

_LOOKED_AT = 400
"""Bytes of a line that are searched."""


def _splitters() -> dict[Stream, LineSplitter]:
    return {stream: LineSplitter() for stream in Stream}


@define(eq=False)
class Reader:
    """The reader of one run's output; feed it both streams, in any pieces."""

    tool: Tool
    tally: Tally = field(factory=Tally)
    _memory: object = field(init=False)
    """The tool's, for this run."""
    _splitters: dict[Stream, LineSplitter] = field(factory=_splitters)
    _line_open: bool = False
    """Of stdout that is only counted: its last line has no newline yet."""

    def __attrs_post_init__(self) -> None:
        self._memory = self.tool.memory()

    def feed(self, stream: Stream, data: bytes) -> None:
        """Read the next bytes of a stream."""
        if stream is Stream.STDOUT and not self.tool.speaks:
            if data:
                self._line_open = not data.endswith(b"\n")
                self.tally.lines(data.count(b"\n"))
        else:
            self._read(stream, self._splitters[stream].feed(data))

    def truncated(self, stream: Stream) -> None:
        """The stream begins anew: what was left of its last line is gone. Lines are counted on."""
        self._splitters[stream].reset()
        if stream is Stream.STDOUT:
            self._line_open = False

    def finish(self) -> None:
        """There will be no more: read the last lines, which may lack their newline."""
        if self._line_open:
            self._line_open = False
            self.tally.lines(1)
        for stream, splitter in self._splitters.items():
            self._read(stream, splitter.finish())

    def _read(self, stream: Stream, lines: list[bytes]) -> None:
        if not lines:
            return
        first = self._splitters[stream].lines - len(lines) + 1
        telling = self._listen(lines, first) if stream is Stream.STDERR else 0
        if self.tool.plain:
            self.tally.lines(len(lines), telling)
        if self.tool.speaks:
            tally, signals, memory = self.tally, self.tool.signals, self._memory
            for number, line in enumerate(lines, first):
                if line:
                    for signal in signals(stream, line, memory):
                        tally.take(signal, Place(stream, number))

    def _listen(self, lines: list[bytes], first: int) -> int:
        """Keep the last words of stderr; how many lines tell of an error."""
        telling = 0
        whole = b"\n".join(lines).lower()
        if any(word in whole for word in _TELLING):
            for number, line in enumerate(lines, first):
                if _ERROR_LINE.match(line, 0, _LOOKED_AT):
                    telling += 1
                    self._words(line, number, tells=True)
        if not telling:
            last = next((index for index in reversed(range(len(lines))) if lines[index].strip()), None)
            if last is not None:
                self._words(lines[last], first + last, tells=False)
        return telling

    def _words(self, line: bytes, number: int, *, tells: bool) -> None:
        text = one_line(line[: 4 * MAX_DETAIL].decode("utf-8", "replace"))
        self.tally.words(text, Place(Stream.STDERR, number), tells=tells)
