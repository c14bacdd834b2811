"""Cron by brute force: look at the clock on the wall every minute and ask whether the expression matches.

It shares nothing with the program, croniter included: the expressions are made here, from sets of numbers.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

from attrs import frozen
from hypothesis import strategies as st

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)

ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",  # changes by half an hour
    "Pacific/Chatham",  # 12:45 and 13:45
    "America/St_Johns",  # -3:30; changed at 00:01 until 2011
    "Asia/Kathmandu",  # skipped a quarter of an hour in 1986
    "Africa/Casablanca",  # winter time in Ramadan
    "Pacific/Apia",  # skipped a whole day in 2011
    "Asia/Tehran",  # changed at midnight until 2022
    "America/Havana",  # changes at midnight and at one
    "Africa/Cairo",  # skips midnight, repeats the hour before it
    "America/Santiago",  # repeats the hour before midnight
)


@frozen
class Cron:
    """A cron expression and what it means."""

    text: str
    minutes: frozenset[int]
    hours: frozenset[int] | None
    """None means every hour; likewise below."""
    days: frozenset[int] | None
    months: frozenset[int] | None
    weekdays: frozenset[int] | None
    """0 is Sunday."""

    def matches(self, shown: datetime) -> bool:
        """Whether it means this civil time. Where days and weekdays are both given, one of them suffices."""
        return (
            shown.minute in self.minutes
            and (self.hours is None or shown.hour in self.hours)
            and (self.months is None or shown.month in self.months)
            and self._means(shown.date())
        )

    def _means(self, day: date) -> bool:
        by_day = self.days is not None and day.day in self.days
        by_weekday = self.weekdays is not None and day.isoweekday() % 7 in self.weekdays
        return by_day or by_weekday or (self.days is None and self.weekdays is None)

    def occurrences(self, zone: ZoneInfo, after: datetime, until: datetime) -> list[datetime]:
        """All in (after, until], UTC, ascending."""
        found = []
        at = after.replace(second=0, microsecond=0)
        shown = at.astimezone(zone).replace(tzinfo=None)
        while (at := at + MINUTE) <= until:
            before, local = shown, at.astimezone(zone)
            shown = local.replace(tzinfo=None)
            if self.hours is None:
                due = self.matches(shown)
            else:
                skipped = (before + minutes * MINUTE for minutes in range(1, (shown - before) // MINUTE))
                due = (self.matches(shown) and local.fold == 0) or any(map(self.matches, skipped))
            if due and at > after:
                found.append(at)
        return found


def field(low: int, high: int, most: int | None = None) -> st.SearchStrategy[tuple[str, frozenset[int] | None]]:
    """One field of an expression as text, and the numbers that it means; None where it is a plain `*`."""
    everything = range(low, high + 1)
    numbers = st.integers(low, most or high)
    ends = st.lists(numbers, min_size=2, max_size=2, unique=True).map(sorted)
    return st.one_of(
        st.just(("*", None)),
        st.just(("*", None)),
        ends.map(lambda of: (f"{of[0]}-{of[1]}", frozenset(range(of[0], of[1] + 1)))),
        st.integers(2, 20).map(lambda step: (f"*/{step}", frozenset(everything[::step]))),
        st.lists(numbers, min_size=1, max_size=4, unique=True).map(lambda of: (",".join(map(str, of)), frozenset(of))),
    )


EVERY_DAY = st.just(("*", None))


def crons(
    days: st.SearchStrategy[tuple[str, frozenset[int] | None]] = EVERY_DAY,
    months: st.SearchStrategy[tuple[str, frozenset[int] | None]] = EVERY_DAY,
    weekdays: st.SearchStrategy[tuple[str, frozenset[int] | None]] = EVERY_DAY,
) -> st.SearchStrategy[Cron]:
    """Expressions with these days; by default those of every day, which come in the nights that matter."""
    return st.tuples(field(0, 59), field(0, 23), days, months, weekdays).map(_cron)


def _cron(fields: tuple[tuple[str, frozenset[int] | None], ...]) -> Cron:
    minutes, hours, *days = (numbers for _, numbers in fields)
    every_hour = hours is None or len(hours) == 24
    text = " ".join(text for text, _ in fields)
    return Cron(text, minutes or frozenset(range(60)), None if every_hour else hours, *days)


DAILY = crons()
CRONS = crons(field(1, 31, most=28), field(1, 12), field(0, 6, most=5))


@cache
def nights(zone: str) -> dict[str, list[datetime]]:
    """When the zone changed its clock since 1980, newest first, UTC: "forward" and "back"; else one night, "never"."""
    place = ZoneInfo(zone)
    found: dict[str, list[datetime]] = {}
    day = datetime(2028, 1, 1, tzinfo=UTC)
    while day.year >= 1980:
        step = day.astimezone(place).replace(tzinfo=None) - (day - DAY).astimezone(place).replace(tzinfo=None) - DAY
        if step:
            offset = day.astimezone(place).utcoffset()
            change = next(
                at for m in range(1441) if (at := day - DAY + m * MINUTE).astimezone(place).utcoffset() == offset
            )
            found.setdefault("forward" if step > timedelta() else "back", []).append(change)
        day -= DAY
    return found or {"never": [datetime(2026, 3, 29, 1, tzinfo=UTC)]}
