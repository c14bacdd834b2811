"""What an agent wrote for others into what it said: mentions, and handoffs.

It writes Markdown, and hostile or careless text at that: what stands in a block of code or in a quotation was said by
somebody else, or is an example, and tasks nobody. Only lines are looked at, so the cost grows with the text alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from attrs import frozen

from darkfactory.model.messages import MESSAGE_BYTES, Mention

LONGEST_TEXT: Final = 256 * 1024
"""Characters of one thing said that are looked at."""
HANDOFF: Final = "handoff"
"""The word behind the fence of a block that hands over."""
LONGEST_BLOCK: Final = 64 * 1024
"""Characters of such a block; the rest is cut, and it will not be understood."""

_LINE_END: Final = re.compile(r"\r\n|\r|\n")
"""Markdown's. What else Unicode ends lines with may stand in what was quoted, and would end the quotation."""
_FENCE: Final = re.compile(r"( {0,3}(?:(?:[-*+]|[0-9]{1,9}[.)]) {1,4})*)(`{3,}(?=[^`]*$)|~{3,})[ \t]*([^\s`]*)")
"""Begins a block of code, perhaps as the first thing in an item of a list."""
_MENTION: Final = re.compile(r"@([A-Za-z0-9_][A-Za-z0-9._-]{0,63})(?:[:,]?[ \t]+|[:,]?$)")
_QUOTE: Final = re.compile(r" {0,3}>")
_CODE: Final = re.compile(r" {4}| {0,3}\t")
"""Begins a line of an indented block of code, unless that goes on with a paragraph."""


@frozen
class Written:
    """What one text holds for others."""

    mentions: tuple[Mention, ...] = ()
    handoffs: tuple[str, ...] = ()
    """The insides of its handoff blocks, JSON if they are right."""


NOTHING_WRITTEN: Final = Written()


def written(text: str) -> Written:
    """What a text holds for others: `@name` at the start of a line, and blocks of code that are fenced as `handoff`."""
    if "@" not in text and HANDOFF not in text:
        return NOTHING_WRITTEN
    mentions: list[Mention] = []
    handoffs: list[str] = []
    to, paragraph = "", list[str]()

    def close() -> None:
        words = "\n".join(paragraph).strip()
        if to and words:
            mentions.append(Mention(to, words[: MESSAGE_BYTES + 1]))
        paragraph.clear()

    lines = iter(_LINE_END.split(text[:LONGEST_TEXT]))
    for line in lines:
        fence = _FENCE.match(line)
        if fence is not None:
            close()
            to = ""
            inside = _block(lines, len(fence[1]), fence[2])
            if fence[3] == HANDOFF:
                handoffs.append(inside)
        elif not line.strip() or _QUOTE.match(line) or (not to and _CODE.match(line)):
            close()
            to = ""
        elif (mention := _MENTION.match(line)) is not None:
            close()
            to = mention[1]
            paragraph.append(line[mention.end() :])
        elif to:
            paragraph.append(line)
    close()
    return Written(tuple(mentions), tuple(handoffs))


def _block(lines: Iterator[str], column: int, fence: str) -> str:
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
