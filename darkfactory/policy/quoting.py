"""Other people's words in our own: capped, on one line, and fenced where somebody acts on what he reads."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

LONGEST: Final = 200
"""Characters."""
_MARKUP: Final = re.compile(r"[\\`*_\[\]<|~&]|(?<=www)\.|:(?=//)|^[-=+>#]|@(?=\w)", re.IGNORECASE)
"""What Markdown may take for more than itself, in a line of text or in a cell of a table."""
_NUMBERED: Final = re.compile(r"^(\d+)(?=[.)])")
_LOOKALIKES: Final = (
    ("@", "\N{FULLWIDTH COMMERCIAL AT}"),
    ("#", "\N{FULLWIDTH NUMBER SIGN}"),
    ("://", ":\N{FULLWIDTH SOLIDUS}\N{FULLWIDTH SOLIDUS}"),
    ("<!--", "<! --"),
)
_GH_NUMBER: Final = re.compile(r"\b(GH)-(?=\d)", re.IGNORECASE)


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


def visible(text: str, longest: int = LONGEST) -> str:
    """The text on one line, with what cannot be seen or encoded as escapes, so that a name can still be told from
    others; capped.
    """
    told = text[:longest]
    seen = "".join(each if each.isprintable() else _escape(each) for each in told)
    return seen if len(seen) <= longest and len(told) == len(text) else seen[: longest - 3] + "..."


def lines(text: str, longest: int) -> str:
    """The text with its lines, and with escapes for what else cannot be seen or encoded; capped."""
    told = text[:longest].replace("\r\n", "\n")
    seen = "".join(each if each.isprintable() or each in "\n\t" else _escape(each) for each in told)
    return seen if len(seen) <= longest and len(text) <= longest else seen[: longest - 4] + "\n..."


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def escaped(text: str, longest: int = LONGEST) -> str:
    """The text on one line of Markdown, where it renders as itself; also in a cell of a table. Capped."""
    return _NUMBERED.sub(r"\1\\", _MARKUP.sub(r"\\\g<0>", plain(text, longest)))


def inert(text: str) -> str:
    """The text without what GitHub acts on, wherever it comes to stand: in a fence, or in a commit's message that is
    made of it. Mentions, references to issues, links and comments are written with signs that only look like those.
    """
    for sign, other in _LOOKALIKES:
        text = text.replace(sign, other)
    return _GH_NUMBER.sub("\\1\N{NON-BREAKING HYPHEN}", text)
