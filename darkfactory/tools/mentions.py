"""What an agent wrote for others into what it said: mentions, and handoffs.

It writes Markdown, and hostile or careless text at that: what stands in a block of code or in a quotation was said by
somebody else, or is an example, and tasks nobody. Only lines are looked at, so the cost grows with the text alone.
"""

from __future__ import annotations

import re
from typing import Final

from attrs import frozen

from darkfactory.model.messages import MESSAGE_BYTES, Mention
from darkfactory.tools import fences

HANDOFF: Final = "handoff"
"""The word behind the fence of a block that hands over."""

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

    for line in fences.read(text):
        if isinstance(line, fences.Block):
            close()
            to = ""
            if line.word == HANDOFF:
                handoffs.append(line.inside)
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
