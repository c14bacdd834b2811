"""The blocks of code in what an agent wrote, and the lines around them.

It writes Markdown, and hostile or careless text at that. Only lines are looked at, so the cost grows with the text
alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from attrs import frozen

LONGEST_TEXT: Final = 256 * 1024
"""Characters of one thing said that are looked at."""
LONGEST_BLOCK: Final = 64 * 1024
"""Characters of a block; the rest is cut, and it will not be understood."""

_LINE_END: Final = re.compile(r"\r\n|\r|\n")
"""Markdown's. What else Unicode ends lines with may stand in what was quoted, and would end the quotation."""
_FENCE: Final = re.compile(r"( {0,3}(?:(?:[-*+]|[0-9]{1,9}[.)]) {1,4})*)(`{3,}(?=[^`]*$)|~{3,})[ \t]*([^\s`]*)")
"""Begins a block of code, perhaps as the first thing in an item of a list."""


@frozen
class Block:
    """A fenced block of code."""

    word: str
    """The first one behind the fence; empty if there is none."""
    inside: str


def read(text: str) -> Iterator[str | Block]:
    """The lines of a text, each block of code in one piece. What stands inside a block is no block of its own."""
    lines = iter(_LINE_END.split(text[:LONGEST_TEXT]))
    for line in lines:
        fence = _FENCE.match(line)
        yield line if fence is None else Block(fence[3], _inside(lines, len(fence[1]), fence[2]))


def _inside(lines: Iterator[str], column: int, fence: str) -> str:
    """The lines up to the one that closes the fence, or to the end, which closes it too; they are used up."""
    closing = re.compile(rf" {{0,{column + 3}}}{re.escape(fence[0])}{{{len(fence)},}}[ \t]*")
    inside: list[str] = []
    size = 0
    for line in lines:
        if closing.fullmatch(line):
            break
        size += len(line) + 1
        if size <= LONGEST_BLOCK:
            inside.append(line)
    return "\n".join(inside)
