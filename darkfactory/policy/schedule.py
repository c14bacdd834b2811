"""When cron schedules are due, in civil time.

What makes this hard is not cron but the clock on the wall: it jumps in spring, repeats itself in autumn, is stepped
by people and lags behind after a suspend. Everything is therefore keyed by the scheduled time in UTC, a cursor tells
which occurrences were dealt with, and the clock is only ever asked "what is due by now?".
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from attrs import define, field, frozen

from darkfactory.errors import SchedulerError

if TYPE_CHECKING:  # imported where it is used: a fleet without schedules need not wait for that
    from croniter import croniter


@define(eq=False)
class Schedule:
    """The occurrences of one cron expression in one zone, strictly ascending; keeps its iterator.

    At most one occurrence per civil time: when the clock is set back, a time whose hour the expression names is not
    repeated (one that holds for every hour goes on through both). A civil time that the spring gap skips occurs at
    the first instant after the gap.
    """

    expression: str
    zone: ZoneInfo
    _every_hour: bool = field(init=False)
    _iterator: croniter = field(init=False)
    _at: datetime = field(init=False)
    """The instant behind which the iterator stands (UTC)."""

    def __attrs_post_init__(self) -> None:
        from croniter import CroniterError, croniter

        self._at = datetime(2000, 1, 1, tzinfo=UTC)
        try:
            # the start must be in the zone itself: from UTC or a fixed offset croniter drifts an hour all summer
            self._iterator = croniter(self.expression, start_time=self._at.astimezone(self.zone))
        except CroniterError as error:
            raise SchedulerError(f"cron expression {self.expression!r}: {error}") from error
        self._every_hour = self._iterator.expanded[1] == ["*"]

    def after(self, instant: datetime) -> datetime | None:
        """The first occurrence after `instant`, in UTC; None when there is none in the years that croniter looks at."""
        from croniter import CroniterBadDateError

        if instant != self._at:
            self._iterator.set_current(instant.astimezone(self.zone), force=True)
        while True:
            try:
                civil: datetime = self._iterator.get_next(datetime)
            except CroniterBadDateError:
                return None
            occurrence = civil.astimezone(UTC)
            self._at = occurrence
            repeated = civil.fold == 1 and not self._every_hour
            if occurrence > instant and not repeated:
                return occurrence

    def newest(self, after: datetime, until: datetime) -> datetime | None:
        """The last occurrence in (after, until], in UTC; None when there is none.

        Looks back in growing steps, so a minutely schedule that slept for a month costs no month of minutes.
        """
        for width in (timedelta(hours=1), timedelta(days=1), timedelta(days=32), timedelta(days=400), None):
            start = after if width is None else max(after, until - width)
            found: datetime | None = None
            occurrence = self.after(start)
            while occurrence is not None and occurrence <= until:
                found = occurrence
                occurrence = self.after(occurrence)
            if found is not None or start == after:
                return found
        return None


@frozen
class Due:
    """Occurrences that have come, coalesced into the newest."""

    agent: str
    occurrence: datetime
    first_missed: datetime | None
    """The oldest one, where there were several."""


@define(eq=False)
class ScheduledAgent:
    """One agent's place in the timetable."""

    name: str
    schedule: Schedule
    cursor: datetime
    """UTC; the newest occurrence dealt with."""

    upcoming: datetime | None = field(init=False)
    """The next occurrence, UTC; None when there is none."""

    def __attrs_post_init__(self) -> None:
        self.upcoming = self.schedule.after(self.cursor)

    def take(self, now: datetime) -> Due | None:
        """Everything due by `now`, coalesced into the newest, and the cursor moved onto it; None if nothing is due."""
        first = self.upcoming
        if first is None or first > now:
            return None
        newest = first
        following = self.schedule.after(first)  # as a rule nothing was missed, and this is all that is to be computed
        if following is not None and following <= now:
            newest = self.schedule.newest(following, now) or following
            following = self.schedule.after(newest)
        self.cursor = newest
        self.upcoming = following
        return Due(self.name, newest, first if newest != first else None)
