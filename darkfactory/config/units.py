"""Durations and sizes: numbers in seconds and bytes, or strings with a unit that people get right at first sight."""

from __future__ import annotations

import re

from darkfactory.config import words

_NUMBER = r"([0-9]{1,15}(?:\.[0-9]{1,9})?)"
_DURATION = re.compile(rf"(?:{_NUMBER}d)? *(?:{_NUMBER}h)? *(?:{_NUMBER}m)? *(?:{_NUMBER}s)?")
_ISO_DURATION = re.compile(rf"P(?:{_NUMBER}D)?(?:T(?=[0-9])(?:{_NUMBER}H)?(?:{_NUMBER}M)?(?:{_NUMBER}S)?)?")
_SECONDS = (86400, 3600, 60, 1)
_SIZE = re.compile(rf"{_NUMBER} *([kKMGT]i?B|B)")
_BYTES = {
    "B": 1,
    **{f"{letter}iB": 1024**power for power, letter in enumerate("KMGT", 1)},
    **{f"{letter}B": 1000**power for power, letter in enumerate("kMGT", 1)},
}


def seconds(value: object) -> float:
    """Seconds from `300`, `4.5`, "5m", "1h30m", "2d" or ISO 8601's "PT5M"; Misfit for anything else.

    Days have 24 hours. Months and years are refused: their length depends on when they begin.
    """
    what = 'seconds or a duration such as "90s", "1h30m" or "PT5M"'
    match value:
        case bool():
            raise words.expected(what, value)
        case int() | float():
            if not -1e300 < value < 1e300:  # TOML has nan, inf, and integers that float() overflows on
                raise words.expected(what, value)
            return float(value)
        case str():
            found = _DURATION.fullmatch(value) or _ISO_DURATION.fullmatch(value)
            if found is None or not any(found.groups()):
                raise words.expected(what, value)
            from decimal import Decimal  # half a megabyte, for fleets that have such a value

            parts = zip(found.groups(), _SECONDS, strict=True)
            return float(sum(Decimal(part) * length for part, length in parts if part))
        case _:
            raise words.expected(what, value)


def size(value: object) -> int:
    """Bytes from `2147483648`, "2GiB" or "500MB"; Misfit for anything else. Fractions of a byte are dropped."""
    match value:
        case int() if not isinstance(value, bool):
            return value
        case str() if (found := _SIZE.fullmatch(value)) and found[2] in _BYTES:
            from decimal import Decimal

            return int(Decimal(found[1]) * _BYTES[found[2]])
        case _:
            raise words.expected('bytes or a size such as "500MB" or "2GiB"', value)
