"""What a program printed, made safe to use.

An agent's output is hostile input: it may be any bytes, nested deep enough to exhaust the stack, or full
of control characters that would rewrite the terminal of the person who reads a table of ends.
"""

from __future__ import annotations

import json
import re

from darkfactory.tools.lines import HEAD_BYTES

MAX_DETAIL = 200
"""Characters of a detail line: it has to fit a table, a log line and a notice."""
MAX_MESSAGE = 2000
"""Characters of what a tool says of a failure: its kind and the time that it names are looked for in so much."""

MAX_NAME = 200
"""Characters of an id or a name; those of real tools have 40."""

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|["{}\[\],]', re.DOTALL)
_CLOSER = {"{": "}", "[": "]"}
_ESCAPE_CHARS = 6
"""The longest escape in a JSON string is `\\uXXXX`."""


def json_object(line: bytes) -> dict[str, object]:
    """The JSON object that a line holds; empty when it holds anything else. Never raises.

    Invalid UTF-8 is replaced, so that one bad byte in an answer does not cost the run its result. Of a line that was
    cut for its length (`LineSplitter`) it is what the head tells: all that is complete in it, and the beginning of the
    string in which it ends.
    """
    text = line.decode("utf-8", "replace")
    value = _parsed(text)
    if value is None and len(line) == HEAD_BYTES:
        value = _completed(text)
    return value if isinstance(value, dict) else {}


def _parsed(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _completed(head: str) -> object:
    """What a JSON text told before it was cut; None if that cannot be made out."""
    open_ones: list[str] = []
    told, still_open = 0, ""
    for token in _TOKEN.finditer(head):
        match token[0]:
            case "{" | "[" as opening:
                open_ones.append(_CLOSER[opening])
            case "}" | "]":
                if not open_ones:
                    return None
                open_ones.pop()
            case ",":
                told, still_open = token.start(), "".join(reversed(open_ones))
            case '"':  # no end: it was cut in a string, which may be a value
                closing = '"' + "".join(reversed(open_ones))
                for missing in range(_ESCAPE_CHARS):
                    value = _parsed(head[: len(head) - missing] + closing)
                    if value is not None:
                        return value
                break
    return _parsed(head[:told] + still_open)


def in_full(value: object) -> str:
    """What a tool says of a failure, as `one_line` makes it, but whole, or nearly so: the time may stand at its end."""
    return one_line(value, MAX_MESSAGE)


def one_line(value: object, most: int = MAX_DETAIL) -> str:
    """A detail line for a person: white space collapsed, the unprintable replaced, `most` characters at most.

    What is no string becomes the empty line.
    """
    if not isinstance(value, str):
        return ""
    # An answer can be megabytes; the margin leaves room for the white space that collapses.
    words = " ".join(value[: 4 * most].split())
    clean = words
    if not words.isprintable():
        clean = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in words)
    return clean if len(clean) <= most else clean[: most - 1] + "…"


def name_of(value: object) -> str:
    """An id or a name, to be remembered among others: the beginning of one that is too long."""
    return string(value)[:MAX_NAME]


def table(value: object) -> dict[str, object]:
    """The object at some place of an event; empty when something else is there."""
    return value if isinstance(value, dict) else {}


def items(value: object) -> list[object]:
    """The array at some place of an event; empty when something else is there."""
    return value if isinstance(value, list) else []


def string(value: object) -> str:
    """The string at some place of an event; empty when something else is there."""
    return value if isinstance(value, str) else ""


def number(value: object) -> float | None:
    """The number at some place of an event; None when something else is there, or nothing that can be counted."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15:
        return value
    return None


def count(value: object) -> int | None:
    """The whole number at some place of an event."""
    found = number(value)
    return None if found is None else int(found)
