"""What is to be known of added lines: those with a mark such as TODO, and the functions that they made longer."""

from __future__ import annotations

import re
from typing import Final

from attrs import define, evolve, field

from darkfactory.devices import git_output
from darkfactory.devices.git_output import Hunk
from darkfactory.model.review import AddedLine, FunctionGrowth

MAX_MARKED: Final = 500
LINE_CHARACTERS: Final = 300
"""Of a line with a mark, around the mark."""
_MARK: Final = re.compile(r"\b(?:TODO|FIXME|XXX)\b", re.ASCII)
_MARK_BYTES: Final = re.compile(rb"TODO|FIXME|XXX")
_FUNCTION_BYTES: Final = 80
"""Git tells no more of a function's first line."""
_DEFINES: Final = re.compile(
    rb"(?:(?:abstract|async|const|default|export|extern|final|inline|internal|open|override|private|protected"
    rb"|pub(?:\([^)]{0,40}\))?|public|sealed|static|suspend|unsafe|virtual)\s+){0,6}"
    rb"(?:class|def|enum|fn|func|fun|function|impl|interface|module|namespace|proc|struct|sub|trait)\b[^=]"
)
"""The first line of a function, or of what holds some. Git tells in which one lines begin, and not where that ends:
whatever is written behind a function would have made that grow.
"""
_NO_END: Final = (b"#", b")", b"]", b"}", b"{")
"""What ends no function by standing further out: comments, what the preprocessor reads, and what closes something."""


@define(eq=False)
class Lines:
    """What is known of them so far; the lines themselves go by."""

    wanted: frozenset[str]
    """Paths; git tells of more where a directory has the name that a file had."""
    marked: list[AddedLine] = field(factory=list)
    beyond: int = 0
    functions: dict[tuple[str, str], FunctionGrowth] = field(factory=dict)

    def take(self, output: bytes) -> None:
        """Take a patch."""
        for hunk in git_output.hunks(output):
            if hunk.path in self.wanted:
                self._take(hunk)

    def _take(self, hunk: Hunk) -> None:
        for number, line in enumerate(hunk.added, hunk.line):
            if _MARK_BYTES.search(line) and (mark := _MARK.search(text := line.decode(errors="replace"))):
                if len(self.marked) < MAX_MARKED:
                    begin = max(0, min(mark.start() - LINE_CHARACTERS // 3, len(text) - LINE_CHARACTERS))
                    self.marked.append(AddedLine(hunk.path, number, text[begin : begin + LINE_CHARACTERS].strip()))
                else:
                    self.beyond += 1
        inside = [(0, hunk.function)] if hunk.function else []
        for number, line in enumerate(hunk.added, hunk.line):
            bare = line.lstrip()
            indent = len(line) - len(bare)
            if bare and bare[:1] not in _NO_END:
                while inside and indent <= inside[-1][0]:
                    inside.pop()
            if _DEFINES.match(bare):
                inside.append((indent, bare[:_FUNCTION_BYTES].decode(errors="ignore").strip()))
            if inside:
                key = (hunk.path, inside[-1][1])
                known = self.functions.get(key)
                self.functions[key] = (
                    FunctionGrowth(*key, number, 1) if known is None else evolve(known, added=known.added + 1)
                )
