"""Words for faults: what a value is called, and which known word somebody may have meant."""

from __future__ import annotations

import math
from collections.abc import Iterable

from darkfactory.config.finding import Misfit

_SHOWN_CHARS = 60


def kind(value: object) -> str:
    """What TOML calls this value; says nothing of what it holds."""
    match value:
        case bool():
            return "a boolean"
        case int():
            return "an integer"
        case float():
            return "a float"
        case str():
            return "a string"
        case list():
            return "an array"
        case dict():
            return "a table"
        case _:
            return "a date or time"


def number(value: float) -> str:
    """A number as one would write it: 300 and not 300.0; a count of digits where it has hundreds."""
    if isinstance(value, int) or (math.isfinite(value) and value.is_integer() and abs(value) < 1e15):
        whole = int(value)
        # Hexadecimal integers have no limit in tomllib, but str() of one beyond 4300 digits raises.
        return str(whole) if whole.bit_length() <= 200 else f"an integer of {whole.bit_length()} bits"
    return repr(value)


def shown(value: object) -> str:
    """A value and its kind, for a fault; long strings are cut. Never for a value that may be a secret."""
    match value:
        case bool():
            return str(value).lower()
        case int():
            return f"the integer {value}" if value.bit_length() <= 200 else number(value)
        case float():
            return f"the float {value!r}"
        case str():
            cut = value if len(value) <= _SHOWN_CHARS else value[:_SHOWN_CHARS] + "..."
            return f"the string {cut!r}"
        case _:
            return kind(value)


def expected(what: str, value: object, remedy: str | None = None) -> Misfit:
    """The misfit of a value of the wrong kind."""
    return Misfit(f"expected {what}, found {shown(value)}", remedy)


def near(word: str, known: Iterable[str]) -> str | None:
    """The known word that is most like this one, whatever its case; None when none is."""
    import difflib  # for this alone

    by_lower = {each.lower(): each for each in known}
    matches = difflib.get_close_matches(word[:_SHOWN_CHARS].lower(), by_lower, n=1)
    return by_lower[matches[0]] if matches else None


def did_you_mean(word: str, known: Iterable[str], noun: str) -> str:
    """The remedy for an unknown word: the near one, or all there are ("known keys: a, b")."""
    known = tuple(known)
    match = near(word, known)
    return f"did you mean {match!r}?" if match is not None else f"known {noun}: {', '.join(known)}"
