"""When cron schedules are due, in civil time.

What makes this hard is not cron but the clock on the wall: it jumps in spring, repeats itself in autumn, is stepped
by people and lags behind after a suspend. Everything is therefore keyed by the scheduled time in UTC, a cursor tells
which occurrences were dealt with, and the clock is only ever asked "what is due by now?".
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

from attrs import define, field, frozen

from darkfactory.errors import SchedulerError

if TYPE_CHECKING:  # not every fleet has a schedule, and it takes 0.7 MiB and 8 ms
    from croniter import croniter

LARGEST_SET_BACK: Final = timedelta(hours=26)
"""How far the clock may be set back before a schedule no longer waits for the time that it was set back from."""

_DAY = timedelta(days=1)
_TICK = timedelta(microseconds=1)
_NOWHERE = datetime.min.replace(tzinfo=UTC)
"""Where an iterator stands that has failed: it is set anew before it is used again."""


@define(eq=False)
class Schedule:
    """The occurrences of one cron expression in one zone, strictly ascending; keeps its iterator.

    croniter is asked for civil times only, as if in a zone that never changes; what the zone makes of them is worked
    out here, because croniter itself repeats, skips or drifts, each in another zone.

    - An expression that names hours means civil times: each occurs once. One that the autumn night repeats occurs the
      first time; one that the spring gap skips occurs at the first instant after the gap.
    - An expression for every hour follows the clock: it goes on through both of the hours (or half hours) that are
      repeated, and knows nothing of times that the gap skips.
    """

    expression: str
    zone: ZoneInfo
    _every_hour: bool = field(init=False)
    _iterator: croniter = field(init=False)
    _civil: datetime = field(init=False)
    """The civil time, labelled UTC, on which the iterator stands."""

    def __attrs_post_init__(self) -> None:
        from croniter import CroniterError, croniter

        self._civil = datetime(2000, 1, 1, tzinfo=UTC)
        try:
            self._iterator = croniter(self.expression, start_time=self._civil)
        except CroniterError as error:
            raise SchedulerError(f"cron expression {self.expression!r}: {error}") from error
        self._every_hour = self._iterator.expanded[1] == ["*"]

    def after(self, instant: datetime) -> datetime | None:
        """The first occurrence after `instant`, in UTC; None when there is none in the years that croniter looks at."""
        occurrence = self._first_time(instant)
        if self._every_hour and (again := self._set_back(instant)) is not None:
            repeated = self._civil_after(self._shown(again) - _TICK)
            second = None if repeated is None else again + (repeated - self._shown(again))
            if second is not None and (occurrence is None or second < occurrence):
                return second
        return occurrence

    def _first_time(self, instant: datetime) -> datetime | None:
        """The first occurrence after `instant`, as if the clock were not set back between the two."""
        civil: datetime | None = self._shown(instant)
        while (civil := civil and self._civil_after(civil)) is not None:
            local = civil.replace(tzinfo=self.zone)
            occurrence = local.astimezone(UTC)
            if self._shown(occurrence) != civil:  # the gap skips it: read with the offset after it, it lies before
                if self._every_hour:
                    continue
                occurrence = self._change(local.replace(fold=1).astimezone(UTC), occurrence)
            elif self._every_hour and occurrence <= instant:  # it is the second time already
                occurrence = local.replace(fold=1).astimezone(UTC)
            if occurrence > instant:
                return occurrence
        return None

    def _civil_after(self, civil: datetime) -> datetime | None:
        """The next civil time that the expression matches."""
        from croniter import CroniterBadDateError

        if civil != self._civil:
            self._iterator.set_current(civil, force=True)
        try:
            self._civil = self._iterator.get_next(datetime)
        except CroniterBadDateError:
            self._civil = _NOWHERE
            return None
        return self._civil

    def _shown(self, instant: datetime) -> datetime:
        """What the clock on the wall shows, labelled UTC."""
        return instant.astimezone(self.zone).replace(tzinfo=UTC)

    def _set_back(self, instant: datetime) -> datetime | None:
        """When, within a day after `instant`, the clock is set back; None when it is not."""
        if self._shown(instant + _DAY) - self._shown(instant) >= _DAY:
            return None
        return self._change(instant, instant + _DAY)

    def _change(self, before: datetime, after: datetime) -> datetime:
        """The first instant, of those between the two, at which the zone's offset is the one that it has `after`."""
        offset = after.astimezone(self.zone).utcoffset()
        while after - before > _TICK:
            middle = before + (after - before) / 2
            if middle.astimezone(self.zone).utcoffset() == offset:
                after = middle
            else:
                before = middle
        return after

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
        newest, upcoming = first, self.schedule.after(first)
        if upcoming is not None and upcoming <= now:
            newest = self.schedule.newest(first, now) or first
            upcoming = self.schedule.after(newest)
        self.cursor, self.upcoming = newest, upcoming
        return Due(self.name, newest, first if newest != first else None)
