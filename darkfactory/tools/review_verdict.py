"""What an agent reports of its improvement: one fenced block of JSON in its final answer.

The answer is hostile input, and a change to a repository hangs on it. So whatever is not exactly what was asked for is
unreadable, with the reason, and counts as a failure; nothing is guessed.
"""

from __future__ import annotations

import json
from typing import Final, NoReturn

from darkfactory.model.review import ReviewVerdict
from darkfactory.tools import fences
from darkfactory.tools.text import one_line

SUMMARY_CHARS: Final = 2000
"""Of the summary; the rest is cut."""
_IMPROVED: Final = {"improved": True, "declined": False}


def review_verdict(answer: str, finding: str) -> ReviewVerdict | str:
    """The verdict in a final answer about the finding of that id; or why it is unreadable, as a sentence's end."""
    if len(answer) > fences.LONGEST_TEXT:
        return f"the answer has {len(answer)} characters, at most {fences.LONGEST_TEXT} are read"
    blocks = [piece.inside for piece in fences.read(answer) if isinstance(piece, fences.Block) and piece.word == "json"]
    if len(blocks) != 1:
        return f"the answer has {len(blocks) or 'no'} ```json block{'s' if len(blocks) > 1 else ''}, one was asked for"
    try:
        tree = json.loads(blocks[0], object_pairs_hook=_without_doubles, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        return f"its ```json block is no JSON: {one_line(str(error))}"
    if not isinstance(tree, dict):
        return "its ```json block holds no object"
    named, outcome, summary = tree.get("finding"), tree.get("outcome"), tree.get("summary")
    if named != finding:
        return f"it is about the finding {_shown(named)}, not {finding}"
    if not isinstance(outcome, str) or outcome not in _IMPROVED:
        return f"its outcome is {_shown(outcome)}, where improved or declined was asked for"
    if not isinstance(summary, str):
        return "it has no summary"
    return ReviewVerdict(_IMPROVED[outcome], _clean(summary))


def _clean(summary: str) -> str:
    told = summary.replace("\r\n", "\n").strip()
    seen = "".join(each if each.isprintable() or each in "\n\t" else "\N{REPLACEMENT CHARACTER}" for each in told)
    return seen if len(seen) <= SUMMARY_CHARS else seen[: SUMMARY_CHARS - 1] + "…"


def _shown(value: object) -> str:
    """What stands where something else should."""
    return repr(one_line(value, 80)) if isinstance(value, str) else f"no string ({type(value).__name__})"


def _without_doubles(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key of it comes twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")
