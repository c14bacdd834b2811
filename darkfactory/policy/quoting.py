"""Other people's words in our own: capped, on one line, and fenced where somebody acts on what he reads."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

LONGEST: Final = 200
"""Characters."""


def plain(text: str, longest: int = LONGEST) -> str:
    """The text on one line, without characters that steer a terminal or hide; capped."""
    # the cap comes first: what is cut off need not be looked at, however long it is
    told = text[: 4 * longest]
    seen = "".join(" " if unicodedata.category(each)[0] in "CZ" else each for each in told)
    words = " ".join(seen.split())
    return words if len(words) <= longest and len(told) == len(text) else words[: longest - 3] + "..."


def fenced(text: str, longest: int = LONGEST) -> str:
    """The text as a block of code in Markdown, whose fence nothing in it can close."""
    return f"```\n{plain(text, longest).replace('`', chr(39))}\n```"


def block(text: str) -> str:
    """The text as it is, in a block of code in Markdown whose fence is longer than any in it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"
