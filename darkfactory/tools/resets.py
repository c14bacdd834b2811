"""When what was used up is there again, as tools and their providers put it: a number, or words.

"resets 2am (Europe/London)", "try again at Apr 28th, 2026 10:03 PM", "Please retry in 38.52s", "Retry-After: 120". Only
what a tool says of its own failure is read here, and even there a time counts only directly behind a word such as
"resets" or "try again": the rest of the message may name any other one.

A time to the minute means the whole of that minute: told at 04:53:10, "4:53 AM" is a moment away, and not tomorrow.
How far ahead a time may lie is not judged here: who waits for it has that bound (`policy.restart.wait`).
"""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from typing import Final
from zoneinfo import ZoneInfo

from darkfactory.tools.text import MAX_MESSAGE, number

_MILLISECONDS: Final = 1e11
"""An epoch from here on is in milliseconds: in seconds it would be the year 5138."""
_MINUTE = timedelta(minutes=1)
_SECOND = timedelta(seconds=1)

_ANY_CASE: Final = re.IGNORECASE | re.ASCII
"""Of ASCII letters: else a long s (U+017F) is an s as well, and a unit that no table has."""

_ANCHOR = re.compile(
    r"""
    (?<![a-z]) (?:
        (?<!connection\ ) resets? (?:ting|at|in|after)? (?![a-z])
      | try(?:ing)?\ again (?![a-z])
      | retry(?:ing)? [\s_-]{0,2} (?:in|at|after|on) (?![a-z])
      | retry_?delay (?:ms)? (?![a-z])
      | available (?:\ again)? \ (?:in|at|after|on) (?![a-z])
      | (?:available|limited|blocked|paused|suspended|locked|exhausted|wait) \ until (?![a-z])
      | wait(?:ing)? (?![a-z])
      | limit\ reached (?=\|)
    )
    """,
    re.VERBOSE | _ANY_CASE,
)
"""What must stand before a time."""

_BETWEEN = re.compile(
    r"[\s:=\"'\\~|_-]{0,4}(?:(?:at|in|on|after|again|for|until|about|approximately)(?![a-z])[\s:=\"'\\~_-]{0,4}){0,3}",
    _ANY_CASE,
)
"""What may stand between the two."""

_EPOCH = re.compile(r"(\d{10}(?:\.\d{1,9})?|\d{13})(?![\d.]*\d)")

_KEYED = re.compile(
    r"""
    (?<![a-z]) (?: retry[-_ ]?(?:after|delay|in) | resets?[-_ ]?(?:in|after) )
    [-_ ]? (?P<unit>ms|milliseconds|s|secs|seconds)? \\?["']? \s? [:=] \s? \\?["']? (?P<amount>\d{1,12}(?:\.\d{1,9})?)
    (?![\w.:-])
    """,
    re.VERBOSE | _ANY_CASE,
)
"""A number that has its unit in its name, or else means seconds: `Retry-After: 120`, `"retry_delay_ms": 5688`."""

_UNITS = {
    "ms": 0.001,
    "millisecond": 0.001,
    "s": 1,
    "sec": 1,
    "second": 1,
    "m": 60,
    "min": 60,
    "minute": 60,
    "h": 3600,
    "hr": 3600,
    "hour": 3600,
    "d": 86400,
    "day": 86400,
    "w": 7 * 86400,
    "week": 7 * 86400,
}
_SPAN = (
    r"(\d{1,9}(?:\.\d{1,9})?|(?:less than )?(?:an?|one)(?= )) ?"
    r"(ms|[smhdw]|(?:millisecond|sec|second|min|minute|hr|hour|day|week)s?)(?![a-z])"
)
_AMOUNT = re.compile(_SPAN, _ANY_CASE)
_DURATION = re.compile(rf"(?:{_SPAN}[\s,]{{0,2}}(?:and )?){{1,7}}", _ANY_CASE)

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MONTH = (
    r"(jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?|"
    r"nov(?:ember)?|dec(?:ember)?)\.?"
)
_DAY = r"(\d{1,2})(?:st|nd|rd|th)?"
_YEAR = r"(?:,?\s{1,2}(\d{4})(?![\d:]))?"
_PARTS = {
    ("day", "iso"): re.compile(r"(\d{4})-(\d\d)-(\d\d)(?!\d)"),
    ("day", "month first"): re.compile(rf"{_MONTH}\s{{0,2}}{_DAY}(?![\d:]){_YEAR}", _ANY_CASE),
    ("day", "day first"): re.compile(rf"{_DAY}\s{_MONTH}(?![a-z]){_YEAR}", _ANY_CASE),
    ("day", "relative"): re.compile(r"(today|tomorrow)(?![a-z])", _ANY_CASE),
    ("weekday", ""): re.compile(
        r"(mon(?:day)?|tue(?:s|sday)?|wed(?:nesday)?|thu(?:rs|rsday)?|fri(?:day)?|sat(?:urday)?|sun(?:day)?)(?![a-z])",
        _ANY_CASE,
    ),
    ("clock", "of 12"): re.compile(
        r"(\d{1,2})(?::(\d\d)(?::(\d\d)(?:[.,]\d{1,9})?)?)?\s?([ap])\.?m(?![a-z])\.?(?!\d)", _ANY_CASE
    ),
    ("clock", "of 24"): re.compile(r"(\d{1,2}):(\d\d)(?::(\d\d)(?:[.,]\d{1,9})?)?(?!\d)"),
    ("clock", "word"): re.compile(r"(midnight|noon)(?![a-z])", _ANY_CASE),
    ("zone", ""): re.compile(
        r"\(?(?P<name>[A-Z][A-Za-z_]{1,20}/[A-Za-z0-9_+./-]{0,40}[A-Za-z0-9_+-]"
        r"|(?:UTC|GMT)?(?P<sign>[+-])(?P<hours>\d{1,2})(?::?(?P<minutes>\d\d))?(?![\d:])"
        r"|(?:Z|UTC|[A-Z]{1,4}T|(?i:pacific|mountain|central|eastern))(?![A-Za-z]))"
        r"(?:\s(?i:standard\s|daylight\s)?(?i:time))?\)?"
    ),
}
"""The parts of a civil time, by kind and form. They stand in any order, one of each kind, a zone not first."""
_SEPARATOR = re.compile(r"(?:[\s,]|(?:at|on|the)(?=\s)|(?<=\d)T(?=\d)){0,6}")

_ZONES = {
    "Z": "UTC",
    "UTC": "UTC",
    "GMT": "UTC",
    "PACIFIC": "America/Los_Angeles",
    "MOUNTAIN": "America/Denver",
    "CENTRAL": "America/Chicago",
    "EASTERN": "America/New_York",
} | {
    letter + kind: name
    for letter, name in (
        ("P", "America/Los_Angeles"),
        ("M", "America/Denver"),
        ("C", "America/Chicago"),
        ("E", "America/New_York"),
    )
    for kind in ("T", "ST", "DT")
}
"""Other abbreviations mean different zones to different people, so a time in one of those is none."""


def reset_time(value: object) -> datetime | None:
    """The instant that a tool names by its epoch, in seconds or milliseconds; None when it is none."""
    epoch = number(value)
    if epoch is None or epoch <= 0:
        return None
    try:
        return datetime.fromtimestamp(epoch / 1000 if epoch >= _MILLISECONDS else epoch, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def reset_in_words(text: str, now: datetime, zone: tzinfo) -> datetime | None:
    """The instant, in UTC, from which on there is more, as a message printed at `now` tells; None if it does not.

    A civil time without a zone is one of `zone`. One that does not exist, as clocks are set forward, is the first
    instant after it; of two the first that is still to come is meant. A time of day without a date is the next such
    one; a date without a year is the nearest one. What has passed is None. Never raises.
    """
    text = " ".join(text[:MAX_MESSAGE].split())
    for anchor in _ANCHOR.finditer(text):
        try:
            found = _time_at(text, anchor.end(), now, zone) or _keyed(text, anchor.start(), now)
            if found is not None and found > now:
                return found.astimezone(UTC)
        except (ValueError, OverflowError):  # the 31st of February, 25:00, in a billion weeks
            continue
    return None


def _time_at(text: str, at: int, now: datetime, zone: tzinfo) -> datetime | None:
    """What the time that stands there means; None when none does."""
    at = _end(_BETWEEN.match(text, at), at)
    if epoch := _EPOCH.match(text, at):
        return reset_time(float(epoch[1]))
    if duration := _DURATION.match(text, at):
        return now + timedelta(seconds=sum(_secs(*amount) for amount in _AMOUNT.findall(duration[0])))
    return _civil_time(text, at, now, zone)


def _keyed(text: str, at: int, now: datetime) -> datetime | None:
    keyed = _KEYED.match(text, at)
    return None if keyed is None else now + timedelta(seconds=_secs(keyed["amount"], keyed["unit"] or "s"))


def _end(match: re.Match[str] | None, otherwise: int) -> int:
    return otherwise if match is None else match.end()


def _secs(amount: str, unit: str) -> float:
    one = _UNITS.get(unit.lower()) or _UNITS[unit.lower().removesuffix("s")]
    return one * (float(amount) if amount[0].isdigit() else 1)


def _civil_time(text: str, at: int, now: datetime, zone: tzinfo) -> datetime | None:
    parts: _Parts = {}
    while (end := _next_part(text, at, parts)) is not None:
        at = end
    if "zone" in parts:
        named = _zone(parts["zone"][1])
        if named is None:
            return None
        zone = named
    if not parts:
        return None
    clock, exact = _clock(parts)
    for day in _days(parts, now.astimezone(zone).date()):
        for instant in _instants(datetime.combine(day, clock), zone):
            if instant > now:
                return instant
            if not exact and instant + _MINUTE > now:
                return instant + _MINUTE
    return None


_Parts = dict[str, tuple[str, re.Match[str]]]
"""By kind: which form it has, and where it is."""


def _next_part(text: str, at: int, parts: _Parts) -> int | None:
    """Add the part that stands there; its end, None when there is none."""
    at = _end(_SEPARATOR.match(text, at), at)
    for (kind, form), pattern in _PARTS.items():
        if kind not in parts and (kind != "zone" or parts) and (match := pattern.match(text, at)):
            parts[kind] = form, match
            return match.end()
    return None


def _zone(match: re.Match[str]) -> tzinfo | None:
    if match["sign"]:
        offset = timedelta(hours=int(match["hours"]), minutes=int(match["minutes"] or 0))
        return timezone(-offset if match["sign"] == "-" else offset)
    name = match["name"] if "/" in match["name"] else _ZONES.get(match["name"].upper())
    try:
        return None if name is None else ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # no such zone, no such name, a directory of zones
        return None


def _clock(parts: _Parts) -> tuple[time, bool]:
    """The time of day, midnight where none is told, and whether it is told to the second. ValueError if it is none."""
    match parts.get("clock"):
        case ("of 12", found):
            if not 1 <= int(found[1]) <= 12:
                raise ValueError(found[0])
            afternoon = found[4].lower() == "p"
            hour = int(found[1]) % 12 + (12 if afternoon else 0)
            return time(hour, int(found[2] or 0), int(found[3] or 0)), found[3] is not None
        case ("of 24", found):
            return time(int(found[1]), int(found[2]), int(found[3] or 0)), found[3] is not None
        case ("word", found) if found[1].lower() == "noon":
            return time(12), False
    return time(0), False


def _days(parts: _Parts, today: date) -> tuple[date, ...]:
    """The days that may be meant, in order; ValueError if there is none such."""
    match parts.get("day"):
        case ("iso", found):
            return (date(int(found[1]), int(found[2]), int(found[3])),)
        case ("month first", found):
            return (_date(found[3], found[1], found[2], today),)
        case ("day first", found):
            return (_date(found[3], found[2], found[1], today),)
        case ("relative", found):
            return (today + timedelta(days=found[1].lower() == "tomorrow"),)
    if "weekday" in parts:
        weekday = _WEEKDAYS.index(parts["weekday"][1][1][:3].lower())
        first = today + timedelta(days=(weekday - today.weekday()) % 7)
        return (first, first + timedelta(days=7))
    return (today, today + timedelta(days=1))


def _date(year: str | None, month: str, day: str, today: date) -> date:
    """That day; where no year is named, the nearest one."""
    month_number = _MONTHS.index(month[:3].lower()) + 1
    if year is not None:
        return date(int(year), month_number, int(day))
    near = []
    for any_year in (today.year - 1, today.year, today.year + 1):
        with suppress(ValueError):  # the 29th of February
            near.append(date(any_year, month_number, int(day)))
    return min(near, key=lambda found: abs(found - today))


def _instants(civil: datetime, zone: tzinfo) -> tuple[datetime, ...]:
    """The instants at which clocks of that zone show it, in order: one, two, or else the first one behind it."""
    first, second = (civil.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    if first <= second:
        return first, second
    before, after = second, first  # around the moment at which the clocks are set forward
    offset = after.astimezone(zone).utcoffset()
    while after - before > _SECOND:
        middle = before + (after - before) / 2
        before, after = (before, middle) if middle.astimezone(zone).utcoffset() == offset else (middle, after)
    return (after.replace(microsecond=0),)
