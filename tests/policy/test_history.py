"""What the journal's records amount to, and what the next start makes of it."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from darkfactory.model.actions import Cause, Record
from darkfactory.model.drift import CorrectionLevel
from darkfactory.model.ends import Reason
from darkfactory.model.fleet import LayerConfig
from darkfactory.model.state import Durable, Hold, Pending
from darkfactory.policy.history import durable_of, fold, from_snapshot, instant, line_of, snapshot, timestamp
from darkfactory.policy.restart import AFTER

from .world import CORE, EPOCH, GROWTH, SAFETY, World, agent, fleet, moment

GMT = ZoneInfo("UTC")
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
ONE, TWO = NOON + timedelta(hours=1), NOON + timedelta(hours=2)
RUN = "a-20260105-120000-abcdef"


def line(kind: str, utc: datetime = NOON, **data: Any) -> dict[str, Any]:
    return {"utc": timestamp(utc), "kind": kind, "agent": "a", **data}


ARMED = line("schedule_armed", schedule="0 3 * * *")
OCCURRENCE = line("occurrence", ONE, occurrence=timestamp(NOON))
BEGUN = line("run_begun", ONE, run=RUN, cause="cron", attempt=1)
HELD = line("held", reason="drift", detail="0.80")
FAILED = line("run_ended", ONE, run=RUN, reason="failed")
QUEUED = line("queued", ONE, cause="operator", wanted_at=timestamp(NOON), attempt=2, reason="own_run")


@given(st.datetimes(datetime(1970, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001 -- hypothesis wants a naive bound
def test_an_instant_survives_the_journal(at: datetime) -> None:
    assert instant(timestamp(at)) == at
    assert instant(timestamp(at)).utcoffset() == timedelta(0)


@given(st.lists(st.datetimes(datetime(1970, 1, 1), timezones=st.just(UTC))))  # noqa: DTZ001
def test_timestamps_sort_like_instants(instants: list[datetime]) -> None:
    assert sorted(map(timestamp, instants)) == [timestamp(at) for at in sorted(instants)]


def test_a_timestamp_is_utc_with_microseconds_whatever_its_zone() -> None:
    assert timestamp(NOON.astimezone(ZoneInfo("Europe/Berlin"))) == "2026-01-05T12:00:00.000000Z"


def test_a_line_is_flat_json_with_time_and_kind_first() -> None:
    assert line_of(Record("held", moment(0), data={"agent": "a"})) == {
        "utc": "2026-01-05T00:00:00.000000Z",
        "kind": "held",
        "agent": "a",
    }


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param([], Durable(), id="nothing"),
        pytest.param([line("tool_missing"), {"utc": timestamp(NOON), "kind": "unheard of"}], Durable(), id="others"),
        pytest.param([ARMED], Durable(cursors={"a": ("0 3 * * *", NOON)}), id="schedule_armed"),
        pytest.param([ARMED, line("schedule_disarmed")], Durable(), id="schedule_disarmed"),
        pytest.param(
            [ARMED, OCCURRENCE],
            Durable(cursors={"a": ("0 3 * * *", NOON)}, pending={("a", Cause.CRON): Pending(ONE, NOON, 1)}),
            id="occurrence",
        ),
        pytest.param(
            [ARMED, OCCURRENCE, line("schedule_armed", TWO, schedule="1 * * * *")],
            Durable(cursors={"a": ("1 * * * *", TWO)}),
            id="schedule_armed anew",
        ),
        pytest.param([ARMED, OCCURRENCE, line("schedule_disarmed")], Durable(), id="schedule_disarmed while one waits"),
        pytest.param([QUEUED], Durable(pending={("a", Cause.OPERATOR): Pending(NOON, None, 2)}), id="queued"),
        pytest.param(
            [line("queued", cause="cron", wanted_at=timestamp(ONE), occurrence=timestamp(NOON), attempt=3)],
            Durable(pending={("a", Cause.CRON): Pending(ONE, NOON, 3)}),
            id="queued for an occurrence",
        ),
        pytest.param([line("queued", cause="always_on", attempt=1)], Durable(), id="queued always_on"),
        pytest.param([QUEUED, line("dropped", cause="operator", reason="held")], Durable(), id="dropped"),
        pytest.param(
            [QUEUED, line("dropped", cause="cron", reason="held")],
            Durable(pending={("a", Cause.OPERATOR): Pending(NOON, None, 2)}),
            id="dropped for another cause",
        ),
        pytest.param(
            [ARMED, OCCURRENCE, BEGUN],
            Durable(cursors={"a": ("0 3 * * *", NOON)}, alive={RUN: "a"}, runs_on={"a": (date(2026, 1, 5), 1)}),
            id="run_begun",
        ),
        pytest.param(
            [BEGUN, FAILED], Durable(bad_ends={"a": (ONE,)}, runs_on={"a": (date(2026, 1, 5), 1)}), id="run_ended"
        ),
        pytest.param(
            [FAILED, line("run_ended", TWO, run=RUN, reason="stalled")],
            Durable(bad_ends={"a": (ONE, TWO)}),
            id="run_ended twice",
        ),
        pytest.param([HELD], Durable(holds={"a": Hold("drift", NOON, "0.80")}), id="held"),
        pytest.param([FAILED, HELD, line("resumed", TWO)], Durable(), id="resumed"),
    ],
)
def test_fold(lines: list[dict[str, Any]], expected: Durable) -> None:
    assert fold(lines, GMT) == expected


@pytest.mark.parametrize("reason", Reason)
def test_fold_counts_the_ends_that_the_table_counts(reason: Reason) -> None:
    durable = fold([line("run_ended", run=RUN, reason=reason.value)], GMT)
    assert bool(durable.bad_ends) is AFTER[reason].counts


def test_fold_counts_runs_by_the_civil_day_of_the_zone() -> None:
    lines = [line("run_begun", NOON + timedelta(hours=hour), run=str(hour), cause="cron") for hour in (0, 10, 11, 12)]
    assert fold(lines, GMT).runs_on == {"a": (date(2026, 1, 6), 1)}
    assert fold(lines, ZoneInfo("Europe/Berlin")).runs_on == {"a": (date(2026, 1, 6), 2)}


def test_lines_survive_json() -> None:
    world = World.begun(agent("a", SAFETY), agent("job", CORE, retries=1), agent("b", GROWTH), max_concurrent_runs=2)
    world.due("job", 10)
    world.asks("b", 20)
    world.ends("job", Reason.FAILED, 30)
    assert json.loads(json.dumps(world.lines())) == world.lines()


def test_runs_that_were_alive_are_lost_and_only_the_always_on_one_runs_again() -> None:
    world = World.begun(agent("watch", SAFETY), agent("job", CORE, retries=3), agent("helper", GROWTH, retries=3))
    world.due("job", 10)
    world.asks("helper", 10)
    reborn = world.reborn(at=100)
    assert [(record.data["agent"], record.data["reason"]) for record in reborn.kinds("run_ended")] == [
        ("watch", "lost"),
        ("job", "lost"),
        ("helper", "lost"),
    ]
    assert {record.data["run"] for record in reborn.kinds("run_ended")} == set(world.orders)
    reborn.misses()
    assert [order.agent for order in reborn.orders.values()] == ["watch"]
    durable = fold(reborn.lines(), GMT)
    assert durable.alive == dict.fromkeys(reborn.orders, "watch")
    assert durable.bad_ends == {}


def test_a_run_of_an_agent_no_longer_declared_is_lost_too() -> None:
    world = World.begun(agent("a", SAFETY)).reborn(fleet(), at=10)
    assert [record.data["reason"] for record in world.kinds("run_ended")] == ["lost"]


def test_a_start_takes_up_cursor_hold_and_what_waited() -> None:
    hold = Hold("drift", EPOCH, "0.80")
    occurrence = EPOCH + timedelta(seconds=500)
    durable = Durable(
        cursors={"job": ("0 3 * * *", occurrence)},
        holds={"watch": hold},
        pending={
            ("job", Cause.CRON): Pending(EPOCH + timedelta(seconds=501), occurrence, 2),
            ("helper", Cause.OPERATOR): Pending(EPOCH + timedelta(seconds=502), None, 1),
            ("gone", Cause.OPERATOR): Pending(EPOCH, None, 1),
        },
    )
    world = World(fleet(agent("watch", SAFETY), agent("job", CORE), agent("helper", GROWTH)), durable, at=1000)
    assert world.state.agents["job"].cursor == occurrence
    assert world.state.agents["watch"].hold == hold
    assert not world.orders
    world.misses()
    assert [(order.agent, order.occurrence, order.attempt) for order in world.orders.values()] == [
        ("job", occurrence, 2),
        ("helper", None, 1),
    ]


def test_what_waited_too_long_before_the_start_is_dropped_with_its_reason() -> None:
    durable = Durable(
        cursors={"job": ("0 3 * * *", EPOCH)},
        pending={("job", Cause.CRON): Pending(EPOCH, EPOCH, 1), ("helper", Cause.OPERATOR): Pending(EPOCH, None, 1)},
    )
    world = World(fleet(agent("job", CORE), agent("helper", GROWTH)), durable, at=3606)
    world.misses()
    assert world.dropped("job") == ["missed"]
    assert world.dropped("helper") == ["expired"]


def ages(world: World, name: str = "a") -> list[float]:
    return [world.at - end for end in world.state.agents[name].bad_ends]


def reborn_with(*bad_ends: float, at: float = 1000.0, layer: LayerConfig | None = None) -> World:
    """A start at second `at` whose journal knows ends of "a" at these seconds."""
    ends = tuple(EPOCH + timedelta(seconds=end) for end in bad_ends)
    config = fleet(agent("a", SAFETY), layer=layer or LayerConfig(backoff_jitter=0.0))
    return World(config, Durable(bad_ends={"a": ends}), at=at)


def test_bad_ends_keep_their_age_across_a_restart_and_old_ones_are_cut() -> None:
    assert ages(reborn_with(100, 399, 401, 900)) == [599, 100]


def test_bad_ends_are_cut_to_the_period_that_is_configured_now() -> None:
    assert ages(reborn_with(100, 399, 900, layer=LayerConfig(period_secs=2000.0))) == [900, 601, 100]


def test_bad_ends_in_the_future_of_a_clock_stepped_back_count_as_now() -> None:
    world = reborn_with(900, 5000, 6000)
    assert ages(world) == [100, 0, 0]
    assert all(earlier <= later for earlier, later in pairwise(world.state.agents["a"].bad_ends))


def test_a_crash_loop_across_restarts_of_the_factory_is_still_one() -> None:
    world = World.begun(agent("a", SAFETY))
    for _ in range(6):
        assert world.state.agents["a"].hold is None
        world.ends("a", Reason.FAILED, world.at + 10)
        world = world.reborn(at=world.at + 1)
        world.misses()
    hold = world.state.agents["a"].hold
    assert hold is not None
    assert hold.reason == "crash_loop"
    assert not world.orders


INSTANTS = st.datetimes(datetime(1970, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
NAMES = st.text(max_size=5)
DURABLE = st.builds(
    Durable,
    cursors=st.dictionaries(NAMES, st.tuples(NAMES, INSTANTS)),
    holds=st.dictionaries(NAMES, st.builds(Hold, NAMES, INSTANTS, NAMES)),
    bad_ends=st.dictionaries(NAMES, st.lists(INSTANTS, max_size=3).map(tuple)),
    pending=st.dictionaries(
        st.tuples(NAMES, st.sampled_from(Cause)),
        st.builds(Pending, INSTANTS, st.none() | INSTANTS, st.integers(1, 9), st.integers(0, 9)),
    ),
    alive=st.dictionaries(NAMES, NAMES),
    runs_on=st.dictionaries(NAMES, st.tuples(st.dates(), st.integers(1, 9))),
)


@given(DURABLE)
def test_a_snapshot_says_it_all(durable: Durable) -> None:
    line = json.loads(json.dumps(line_of(snapshot(durable, moment(0)))))
    assert from_snapshot(line) == durable
    assert fold([QUEUED, HELD, line], GMT) == durable


def test_a_snapshot_of_nothing_is_empty() -> None:
    assert from_snapshot({"utc": timestamp(NOON), "kind": "snapshot", "version": 1}) == Durable()


def test_what_comes_after_a_snapshot_counts_on() -> None:
    before = [ARMED, OCCURRENCE, BEGUN, FAILED, QUEUED]
    after = [
        HELD,
        line("run_begun", TWO, run="b", cause="operator", attempt=2),
        line("run_ended", TWO, run="b", reason="failed"),
    ]
    summed_up = line_of(snapshot(fold(before, GMT), moment(0)))
    assert fold([summed_up, *after], GMT) == fold([*before, *after], GMT)


@given(st.data())
def test_whatever_a_repair_leaves_out_the_rest_can_be_folded_and_started_from(data: st.DataObject) -> None:
    world = World.begun(agent("a", SAFETY), agent("job", CORE, retries=1), agent("b", GROWTH), max_concurrent_runs=2)
    world.due("job", 10)
    world.asks("b", 20)
    world.ends("job", Reason.FAILED, 30)
    world.due("job", 40)
    lines = world.lines()
    left = [
        line for line, stays in zip(lines, data.draw(st.tuples(*[st.booleans()] * len(lines))), strict=True) if stays
    ]
    reborn = World(world.config, fold(left, GMT), at=50)
    reborn.misses()
    assert reborn.orders


def test_what_belongs_to_agents_no_longer_declared_is_kept_also_by_snapshots() -> None:
    fleet_before = (agent("a", SAFETY), agent("gone", CORE), agent("other", GROWTH))
    world = World.begun(*fleet_before, max_concurrent_runs=1)
    world.due("gone", 10)  # waits for the only place
    world.drifts("other", CorrectionLevel.CRITICAL, 20)
    known = fold(world.lines(), GMT)
    assert known.pending.keys() == {("gone", Cause.CRON)}
    without = world.reborn(fleet(fleet_before[0]), at=100)
    without.misses()
    summed_up = line_of(snapshot(durable_of(without.state, moment(100)), moment(100)))
    assert fold([summed_up], GMT) == fold(without.lines(), GMT)
    again = World(world.config, fold([summed_up], GMT), at=200)
    assert again.state.agents["gone"].cursor == EPOCH + timedelta(seconds=10)
    assert again.state.agents["other"].hold == known.holds["other"]
    assert [request.key for request in again.state.queue.values()] == [("gone", Cause.CRON)]


def test_a_snapshot_leaves_out_the_bad_ends_that_no_longer_count() -> None:
    world = reborn_with(100, 399, 401, 900)
    gone = Durable(bad_ends={"gone": (EPOCH + timedelta(seconds=399), EPOCH + timedelta(seconds=401))})
    state = evolve(world.state, undeclared=gone)
    ends = durable_of(state, moment(1000)).bad_ends
    assert {name: [(end - EPOCH).total_seconds() for end in ends[name]] for name in ends} == {
        "a": [401, 900],
        "gone": [401],
    }
    assert durable_of(state, moment(5000)).bad_ends == {}
