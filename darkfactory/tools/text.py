"""What a program printed, made safe to use.

An agent's output is hostile input: it may be any bytes, nested deep enough to exhaust the stack, or full
of control characters that would rewrite the terminal of the person who reads a table of ends.
"""

from __future__ import annotations

import json

MAX_DETAIL = 200
"""Characters of a detail line: it has to fit a table, a log line and a notice."""


def json_object(line: bytes) -> dict[str, object]:
    """The JSON object that a line holds; empty when it holds anything else. Never raises.

    Invalid UTF-8 is replaced, so that one bad byte in an answer does not cost the run its result.
    """
    try:
        value = json.loads(line.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def one_line(value: object) -> str:
    """A detail line for a person: white space collapsed, the unprintable replaced, `MAX_DETAIL` at most.

    What is no string becomes the empty line.
    """
    if not isinstance(value, str):
        return ""
    # An answer can be megabytes; the margin leaves room for the white space that collapses.
    words = " ".join(value[: 4 * MAX_DETAIL].split())
    clean = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in words)
    return clean if len(clean) <= MAX_DETAIL else clean[: MAX_DETAIL - 1] + "…"
