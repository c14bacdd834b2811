"""When schedules are due: ascending, once per civil time, and the same however one asks."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkfactory.errors import SchedulerError
from darkfactory.policy.schedule import Due, Schedule, ScheduledAgent
from tests.cron_oracle import CRONS, DAILY, DAY, MINUTE, ZONES, Cron, nights

from .world import SAFETY, World, agent

BERLIN = ZoneInfo("Europe/Berlin")
GMT = ZoneInfo("UTC")
LORD_HOWE = ZoneInfo("Australia/Lord_Howe")
NIGHTS = [(zone, change) for zone in ZONES for change in sorted(nights(zone))]


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def occurrences(expression: str, zone: ZoneInfo, after: datetime, until: datetime) -> list[datetime]:
    """Every occurrence in (after, until], asked for one by one."""
    schedule = Schedule(expression, zone)
    found: list[datetime] = []
    occurrence = schedule.after(after)
    while occurrence is not None and occurrence <= until:
        found.append(occurrence)
        occurrence = schedule.after(occurrence)
    return found


def civil(found: list[datetime], zone: ZoneInfo) -> list[str]:
    return [f"{occurrence.astimezone(zone):%d %H:%M %Z}" for occurrence in found]


def a_field(low: int, high: int) -> st.SearchStrategy[str]:
    numbers = st.integers(low, high)
    ranges = st.tuples(numbers, numbers).map(lambda pair: f"{min(pair)}-{max(pair)}")
    steps = st.integers(2, 15).map(lambda step: f"*/{step}")
    lists = st.lists(numbers, min_size=1, max_size=4, unique=True).map(lambda of: ",".join(map(str, sorted(of))))
    return st.one_of(st.just("*"), st.just("*"), ranges, steps, lists)


EXPRESSIONS = st.tuples(a_field(0, 59), a_field(0, 23), a_field(1, 28), a_field(1, 12), a_field(0, 6)).map(" ".join)
INSTANTS = st.datetimes(
    datetime(2024, 1, 1),  # noqa: DTZ001 -- hypothesis draws naive ones
    datetime(2028, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)


def test_schedule_parse_cron() -> None:
    assert Schedule("0 2 * * *", GMT).after(utc("2026-01-05T12:00")) == utc("2026-01-06T02:00")
    assert Schedule("*/15 8-18 * * mon-fri", GMT).after(utc("2026-01-09T18:45")) == utc("2026-01-12T08:00")
    assert Schedule("@daily", BERLIN).after(utc("2026-01-05T12:00")) == utc("2026-01-05T23:00")


@pytest.mark.parametrize("expression", ["", "daily", "60 * * * *", "0 2 * *", "x * * * *"])
def test_schedule_invalid_cron(expression: str) -> None:
    with pytest.raises(SchedulerError, match="cron expression"):
        Schedule(expression, GMT)


def test_schedule_safety_always() -> None:
    """It runs from the start, without a cursor it has no place in the timetable, and no occurrence touches it."""
    world = World.begun(agent("watch", SAFETY))
    assert world.starts("watch") == [0]
    assert world.state.agents["watch"].definition.schedule is None
    assert world.state.agents["watch"].cursor is None
    assert not world.kinds("schedule_armed")
    world.due("watch", 10)
    assert world.new == ()


@pytest.mark.parametrize("expression", ["0 0 31 2 *", "0 0 30 2 *", "0 0 31 4,6 *"])
def test_an_impossible_date_never_comes(expression: str) -> None:
    schedule = Schedule(expression, GMT)
    start = utc("2026-01-05T00:00")
    assert schedule.after(start) is None
    assert schedule.after(start) is None
    assert schedule.newest(start, start + 800 * DAY) is None
    assert ScheduledAgent("it", schedule, start).take(start + 800 * DAY) is None


def test_a_leap_day_comes_after_years() -> None:
    assert Schedule("0 0 29 2 *", GMT).after(utc("2024-03-01T00:00")) == utc("2028-02-29T00:00")


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("30 2 * * *", ["28 02:30 CET", "29 03:00 CEST", "30 02:30 CEST"]),
        ("0 2 * * *", ["28 02:00 CET", "29 03:00 CEST", "30 02:00 CEST"]),
        ("30 1 * * *", ["28 01:30 CET", "29 01:30 CET", "30 01:30 CEST"]),
        ("0,30 2 29 * *", ["29 03:00 CEST"]),
        ("0 2,3 29 * *", ["29 03:00 CEST"]),
    ],
)
def test_the_spring_gap_runs_once_at_the_first_instant_after_it(expression: str, expected: list[str]) -> None:
    assert civil(occurrences(expression, BERLIN, utc("2026-03-27T23:00"), utc("2026-03-30T12:00")), BERLIN) == expected


def test_the_spring_gap_is_no_hole_and_no_burst_in_a_half_hourly_schedule() -> None:
    found = occurrences("*/30 * * * *", BERLIN, utc("2026-03-28T23:59"), utc("2026-03-29T03:00"))
    assert civil(found, BERLIN)[1:6] == [
        "29 01:30 CET",
        "29 03:00 CEST",
        "29 03:30 CEST",
        "29 04:00 CEST",
        "29 04:30 CEST",
    ]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("30 2 * * *", ["25 02:30 CEST", "26 02:30 CET"]),
        ("0 3 * * *", ["25 03:00 CET", "26 03:00 CET"]),
        ("15,45 2 25 * *", ["25 02:15 CEST", "25 02:45 CEST"]),
        ("0 1-3 25 * *", ["25 01:00 CEST", "25 02:00 CEST", "25 03:00 CET"]),
    ],
)
def test_a_fixed_hour_runs_once_on_the_night_the_clock_is_set_back(expression: str, expected: list[str]) -> None:
    assert civil(occurrences(expression, BERLIN, utc("2026-10-24T12:00"), utc("2026-10-26T12:00")), BERLIN) == expected


@pytest.mark.parametrize("expression", ["*/30 * * * *", "0,30 0-23 * * *", "*/30 */1 * * *"])
def test_a_schedule_of_every_hour_goes_on_through_both_hours(expression: str) -> None:
    found = occurrences(expression, BERLIN, utc("2026-10-24T23:30"), utc("2026-10-25T02:00"))
    assert civil(found, BERLIN) == [
        "25 02:00 CEST",
        "25 02:30 CEST",
        "25 02:00 CET",
        "25 02:30 CET",
        "25 03:00 CET",
    ]


@pytest.mark.parametrize(("zone", "change"), NIGHTS, ids=[f"{zone}-{change}" for zone, change in NIGHTS])
@given(st.one_of(DAILY, DAILY, CRONS), st.data())
@settings(deadline=None, max_examples=8)
def test_an_oracle_that_looks_at_the_clock_every_minute_agrees(
    zone: str, change: str, cron: Cron, data: st.DataObject
) -> None:
    """Around the nights in which the zone changed its clock, ever since 1980."""
    night = data.draw(st.sampled_from(nights(zone)[change]))
    after = night + data.draw(st.integers(-1500, 300)) * MINUTE
    until = after + 2 * DAY
    expected = cron.occurrences(ZoneInfo(zone), after, until)
    assert occurrences(cron.text, ZoneInfo(zone), after, until) == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("48 * * * *", ["00:48 +11", "01:48 +11", "01:48 +1030", "02:48 +1030"]),
        ("48 1 * * *", ["01:48 +11"]),
        ("15 * * * *", ["00:15 +11", "01:15 +11", "02:15 +1030"]),
    ],
)
def test_half_an_hour_that_is_repeated_counts_for_schedules_of_every_hour(expression: str, expected: list[str]) -> None:
    """Lord Howe, whose clocks go from 02:00 back to 01:30: croniter itself skips the second 01:48."""
    found = occurrences(expression, LORD_HOWE, utc("2026-04-04T13:00"), utc("2026-04-04T16:30"))
    assert [f"{at.astimezone(LORD_HOWE):%H:%M %Z}" for at in found] == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("15 * * * *", ["01:15 +1030", "03:15 +11"]),
        ("45 * * * *", ["01:45 +1030", "02:45 +11"]),
        ("15 2 * * *", ["02:30 +11"]),
    ],
)
def test_half_an_hour_that_is_skipped(expression: str, expected: list[str]) -> None:
    """Lord Howe, whose clocks go from 02:00 on to 02:30: for every hour the skipped time does not exist."""
    found = occurrences(expression, LORD_HOWE, utc("2026-10-03T14:30"), utc("2026-10-03T16:30"))
    assert [f"{at.astimezone(LORD_HOWE):%H:%M %Z}" for at in found] == expected


def test_a_day_that_is_skipped_runs_at_the_first_instant_after_it() -> None:
    """Samoa went from 29 to 31 December 2011."""
    apia = ZoneInfo("Pacific/Apia")
    found = occurrences("0 3,15 * * *", apia, utc("2011-12-29T11:00"), utc("2011-12-30T14:00"))
    assert [f"{at.astimezone(apia):%d %H:%M}" for at in found] == ["29 03:00", "29 15:00", "31 00:00", "31 03:00"]


@given(EXPRESSIONS, st.sampled_from(ZONES), INSTANTS)
@settings(deadline=None)
def test_next_is_always_later(expression: str, zone: str, instant: datetime) -> None:
    schedule = Schedule(expression, ZoneInfo(zone))
    for _ in range(20):
        following = schedule.after(instant)
        if following is None:
            break
        assert following > instant
        assert (following.tzinfo, following.second, following.microsecond) == (UTC, 0, 0)
        instant = following


@given(EXPRESSIONS, st.sampled_from(ZONES), INSTANTS, st.data())
@settings(deadline=None)
def test_an_answer_does_not_depend_on_what_was_asked_before(
    expression: str, zone_name: str, instant: datetime, data: st.DataObject
) -> None:
    schedule = Schedule(expression, ZoneInfo(zone_name))
    for _ in range(4):
        instant += data.draw(st.integers(-100_000, 100_000)) * MINUTE
        assert schedule.after(instant) == Schedule(expression, ZoneInfo(zone_name)).after(instant)


@given(
    st.one_of(
        st.tuples(EXPRESSIONS, st.integers(0, 3 * 1440)),
        st.tuples(
            st.tuples(st.integers(0, 59), st.integers(0, 23), a_field(1, 28), a_field(1, 12), st.just("*")).map(
                lambda fields: " ".join(map(str, fields))
            ),
            st.integers(0, 800 * 1440),
        ),
    ),
    st.sampled_from(ZONES),
    INSTANTS,
)
@settings(deadline=None, max_examples=60)
def test_newest_is_the_last_one_of_all(expression_and_minutes: tuple[str, int], zone: str, after: datetime) -> None:
    expression, minutes = expression_and_minutes
    until = after + minutes * MINUTE
    found = occurrences(expression, ZoneInfo(zone), after, until)
    assert Schedule(expression, ZoneInfo(zone)).newest(after, until) == (found[-1] if found else None)


def test_a_week_of_downtime_is_one_occurrence_the_newest() -> None:
    it = ScheduledAgent("it", Schedule("0 2 * * *", GMT), utc("2026-01-05T02:00"))
    assert it.upcoming == utc("2026-01-06T02:00")
    assert it.take(utc("2026-01-12T12:00")) == Due("it", utc("2026-01-12T02:00"), utc("2026-01-06T02:00"))
    assert it.take(utc("2026-01-12T12:00")) is None
    assert it.upcoming == utc("2026-01-13T02:00")


def test_an_occurrence_that_is_on_time_missed_none() -> None:
    it = ScheduledAgent("it", Schedule("0 2 * * *", GMT), utc("2026-01-05T02:00"))
    assert it.take(utc("2026-01-06T01:59:59.999999")) is None
    assert it.take(utc("2026-01-06T02:00")) == Due("it", utc("2026-01-06T02:00"), None)


def test_a_clock_that_is_stepped_back_brings_nothing_again() -> None:
    it = ScheduledAgent("it", Schedule("*/10 * * * *", GMT), utc("2026-01-05T00:00"))
    due = it.take(utc("2026-01-05T03:00"))
    assert due is not None
    assert it.take(utc("2026-01-05T02:00")) is None
    assert it.take(utc("2026-01-05T03:09")) is None
    assert it.take(utc("2026-01-05T03:10")) == Due("it", utc("2026-01-05T03:10"), None)


@given(EXPRESSIONS, st.sampled_from(ZONES), INSTANTS, st.lists(st.integers(-2000, 4000), max_size=8))
@settings(deadline=None, max_examples=60)
def test_whatever_the_clock_does_an_occurrence_is_taken_once_and_in_order(
    expression: str, zone: str, start: datetime, steps: list[int]
) -> None:
    it = ScheduledAgent("it", Schedule(expression, ZoneInfo(zone)), start)
    now, newest = start, start
    for step in steps:
        now += step * MINUTE
        due = it.take(now)
        if due is not None:
            first = due.first_missed or due.occurrence
            assert newest < first <= due.occurrence <= now
            assert due.first_missed != due.occurrence
            newest = due.occurrence
        upcoming = it.upcoming
        assert upcoming is None or upcoming > now
