"""What is done about an occurrence: run it, let it wait, drop it with a reason; never twice."""

from __future__ import annotations

from datetime import date
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkfactory.model.actions import Record, StartRun
from darkfactory.model.drift import CorrectionLevel
from darkfactory.model.ends import ErrorClass, Reason, Verdict
from darkfactory.model.events import Spawn
from darkfactory.model.fleet import AgentDefinition, Overlap
from darkfactory.policy.admission import ON_TIME_SECS
from darkfactory.policy.history import fold, instant

from .world import CORE, EPOCH, SAFETY, World, agent, fleet, moment, told

HOUR = 3600.0
DAY = 24 * HOUR
NAMES = st.sampled_from(["nightly", "review", "a", "b.c-d_e"])


def begin(**fields: object) -> World:
    """A world whose only agent is a job, idle."""
    return World.begun(agent("job", CORE, **fields))


def busy(**fields: object) -> World:
    """The same, and the job has run since its occurrence of second 100."""
    world = begin(**fields)
    world.due("job", 100)
    world.started("job")
    world.says("job", 100)
    return world


def begun(world: World) -> list[float]:
    """The occurrences that were run, in seconds after the epoch."""
    told = [record.data["occurrence"] for record in world.kinds("run_begun") if record.data["agent"] == "job"]
    return [(instant(text) - EPOCH).total_seconds() for text in told]


def test_an_occurrence_is_run_at_once() -> None:
    world = begin()
    world.due("job", 100)
    assert world.starts("job") == [100]
    order = world.orders[world.run_of("job")]
    assert (order.occurrence, order.attempt) == (moment(100).utc, 1)


def test_an_occurrence_is_journalled_before_its_run_is_ordered() -> None:
    world = begin()
    world.due("job", 100)
    kinds = [action.kind if isinstance(action, Record) else type(action) for action in world.new]
    assert kinds == ["occurrence", "run_begun", StartRun]
    assert all(action.durable for action in world.new if isinstance(action, Record))


@pytest.mark.parametrize("scheduled", [100.0, 99.0, 0.0])
def test_an_occurrence_that_was_dealt_with_does_nothing(scheduled: float) -> None:
    world = busy()
    world.ends("job", Reason.SUCCEEDED, 200)
    before = world.state
    world.tell(Spawn(moment(200), "job", moment(scheduled).utc))
    assert world.new == ()
    assert told(world.state) == told(before)


def test_an_occurrence_never_runs_twice_across_a_crash_of_the_factory() -> None:
    world = busy().reborn(at=200)
    world.misses()
    world.tell(Spawn(moment(200), "job", moment(100).utc))
    assert not world.lives("job")


def test_an_occurrence_accepted_before_a_crash_runs_after_it() -> None:
    world = World.begun(agent("first", CORE), agent("job", CORE), max_concurrent_runs=1)
    world.due("first", 50)
    world.due("job", 100)
    assert not world.lives("job")
    reborn = world.reborn(at=200)
    reborn.misses()
    assert [order.occurrence for order in reborn.orders.values()] == [moment(100).utc]


@pytest.mark.parametrize(
    ("catchup", "late", "runs"),
    [(3600, 3600, True), (3600, 3601, False), (60, 60, True), (60, 61, False), (0, ON_TIME_SECS, True), (0, 6, False)],
)
def test_an_occurrence_runs_unless_it_is_older_than_catchup_secs(catchup: float, late: float, runs: bool) -> None:
    world = begin(catchup_secs=catchup)
    world.due("job", 10_000, late=late)
    assert world.lives("job") is runs
    assert world.dropped("job") == ([] if runs else ["missed"])


def test_age_is_judged_when_the_occurrence_would_start() -> None:
    """On time when it came, it waited for a place, and by then it was too old."""
    world = World.begun(agent("first", CORE), agent("job", CORE, catchup_secs=600.0), max_concurrent_runs=1)
    world.due("first", 50)
    world.due("job", 100)
    world.passes(650)
    assert world.dropped("job") == []
    world.ends("first", Reason.SUCCEEDED, 701)
    assert world.dropped("job") == ["missed"]
    assert not world.lives("job")


def test_an_occurrence_too_old_to_start_is_dropped_while_it_still_waits() -> None:
    world = World.begun(agent("first", CORE), agent("job", CORE, catchup_secs=600.0), max_concurrent_runs=1)
    world.due("first", 50)
    world.due("job", 100)
    world.passes(700 + 60)
    assert world.dropped("job") == ["missed"]
    assert not world.state.queue


def test_overlap_skip_tells_that_it_skipped() -> None:
    world = busy()
    world.due("job", 200)
    assert world.dropped("job") == ["overlap"]
    world.ends("job", Reason.SUCCEEDED, 300)
    assert begun(world) == [100]


def test_overlap_queue_keeps_only_the_newest() -> None:
    world = busy(overlap=Overlap.QUEUE)
    for at in (200, 300, 400):
        world.due("job", at)
    assert world.dropped("job") == ["superseded", "superseded"]
    assert [record.data["reason"] for record in world.kinds("queued")] == ["own_run"] * 3
    world.ends("job", Reason.SUCCEEDED, 500)
    assert begun(world) == [100, 400]


def test_overlap_restart_stops_the_run_and_waits_for_its_end() -> None:
    world = busy(overlap=Overlap.RESTART, grace_secs=3.0)
    world.due("job", 200)
    assert world.stop_reason("job") is Reason.CANCELLED
    assert world.stops[world.run_of("job")].grace_secs == 3.0
    world.passes(202)
    assert begun(world) == [100]
    world.ends("job", Reason.CANCELLED, 203)
    assert begun(world) == [100, 200]
    assert world.starts("job") == [100, 203]
    assert world.state.agents["job"].bad_ends == ()


def test_overlap_restart_stops_nothing_for_an_occurrence_that_cannot_start() -> None:
    world = busy(overlap=Overlap.RESTART, max_runs_per_day=1)
    world.due("job", 200)
    assert world.stop_reason("job") is None
    assert world.dropped("job") == ["max_runs_per_day"]
    late = busy(overlap=Overlap.RESTART, catchup_secs=60.0)
    late.due("job", 900, late=100)
    assert late.stop_reason("job") is None
    assert late.dropped("job") == ["missed"]


def test_a_newer_occurrence_replaces_the_retry_of_an_older_one() -> None:
    world = busy(retries=1)
    world.ends("job", Reason.FAILED, 200)
    world.due("job", 200.5)
    assert world.dropped("job") == ["superseded"]
    world.passes(300)
    assert begun(world) == [100, 200.5]
    assert world.state.begun == 2


def test_a_retry_gives_way_to_an_occurrence_that_waits_already() -> None:
    world = busy(retries=1, overlap=Overlap.QUEUE)
    world.due("job", 200)
    world.ends("job", Reason.FAILED, 300)
    assert begun(world) == [100, 200]
    world.passes(400)
    world.ends("job", Reason.SUCCEEDED)
    world.passes(500)
    assert world.state.begun == 2


@given(NAMES, st.floats(0.0, 1000.0), st.integers(1, 10**6))
def test_jitter_is_within_bounds_and_the_same_for_the_same_occurrence(name: str, jitter: float, at: int) -> None:
    starts = []
    for _ in range(2):
        world = World.begun(agent(name, CORE, jitter_secs=jitter))
        world.due(name, at)
        world.passes(at + jitter + 1)
        starts += world.starts(name)
    first, second = starts
    assert first == second
    assert at - 0.001 <= first <= at + jitter


def test_jitter_spreads_agents_and_occurrences() -> None:
    names = [f"job{number}" for number in range(5)]
    world = World.begun(*(agent(name, CORE, jitter_secs=600.0) for name in names))
    for name in names:
        world.due(name, 100)
    assert [record.data["reason"] for record in world.kinds("queued")] == ["jitter"] * 5
    world.passes(700)
    delays = {world.starts(name)[0] - 100 for name in names}
    for name in names:
        world.ends(name, Reason.SUCCEEDED, 800)
        world.due(name, 1000)
    world.passes(1600)
    delays |= {world.starts(name)[1] - 1000 for name in names}
    assert len({round(delay, 3) for delay in delays}) == 10


@given(late=st.floats(0.0, 800.0))
@settings(deadline=None)
def test_jitter_counts_from_the_scheduled_time_however_late_that_is_told_of(late: float) -> None:
    on_time, told_late = begin(jitter_secs=600.0), begin(jitter_secs=600.0)
    on_time.due("job", 1000)
    on_time.passes(1601)
    told_late.due("job", 1000 + late, late=late)
    told_late.passes(1801)
    assert told_late.starts("job") == [pytest.approx(max(1000 + late, on_time.starts("job")[0]), abs=0.002)]


def test_a_restart_of_the_factory_does_not_change_when_a_jittered_occurrence_starts() -> None:
    world = begin(jitter_secs=600.0)
    world.due("job", 1000)
    starts_at = next(iter(world.state.queue.values())).not_before
    assert starts_at > 1010
    reborn = world.reborn(at=1005)
    reborn.misses()
    reborn.passes(starts_at + 1)
    assert reborn.starts("job") == [pytest.approx(starts_at, abs=0.002)]
    assert [record.data["reason"] for record in reborn.kinds("queued")] == ["jitter"]


def test_an_occurrence_that_has_come_does_not_wait_for_a_clock_that_was_set_back() -> None:
    world = begin()
    world.due("job", 100, late=-10_000.0)
    assert world.starts("job") == [100]


def test_jitter_does_not_make_an_occurrence_too_old() -> None:
    world = begin(jitter_secs=600.0, catchup_secs=0.0)
    world.due("job", 100, late=ON_TIME_SECS)
    world.passes(800)
    assert len(world.starts("job")) == 1


def test_occurrences_that_keep_coming_do_not_put_the_start_off_for_ever() -> None:
    """A minutely schedule with ten minutes of jitter still runs."""
    world = begin(jitter_secs=600.0)
    world.due("job", 60)
    first = next(iter(world.state.queue.values())).not_before
    at = 120
    while not world.starts("job"):
        world.passes(at - 1)
        world.due("job", at)
        at += 60
    assert world.starts("job")[0] <= first


def test_occurrences_while_stopping_are_left_for_the_next_start() -> None:
    world = busy()
    world.shuts_down(150)
    world.due("job", 151)
    assert world.new == ()
    assert world.state.agents["job"].cursor == moment(100).utc
    world.ends("job", Reason.SHUTDOWN, 152)
    reborn = world.reborn(at=300)
    reborn.misses()
    reborn.tell(Spawn(moment(300), "job", moment(151).utc))
    assert reborn.lives("job")


def test_a_daily_limit_refuses_and_midnight_ends_it() -> None:
    world = begin(max_runs_per_day=2)
    for at in (HOUR, 2 * HOUR, 23 * HOUR, DAY - 1, DAY):
        world.due("job", at)
        if world.lives("job"):
            world.ends("job", Reason.SUCCEEDED)
    assert begun(world) == [HOUR, 2 * HOUR, DAY]
    assert world.dropped("job") == ["max_runs_per_day"] * 2


@pytest.mark.parametrize(("zone", "midnight"), [("UTC", 24), ("Europe/Berlin", 23), ("America/New_York", 5)])
def test_the_day_is_that_of_the_fleets_zone(zone: str, midnight: int) -> None:
    world = World.begun(agent("job", CORE, max_runs_per_day=1), timezone=ZoneInfo(zone))
    for at in (midnight * HOUR - 2, midnight * HOUR - 1, midnight * HOUR):
        world.due("job", at)
        if world.lives("job"):
            world.ends("job", Reason.SUCCEEDED)
    assert begun(world) == [midnight * HOUR - 2, midnight * HOUR]
    assert fold(world.lines(), ZoneInfo(zone)).runs_on == {"job": world.state.agents["job"].runs_on}


def test_a_daily_limit_outlives_the_factory() -> None:
    world = busy(max_runs_per_day=1)
    world.ends("job", Reason.SUCCEEDED, 200)
    world = world.reborn(at=300)
    assert world.state.agents["job"].runs_on == (date(2026, 1, 5), 1)
    world.misses()
    world.due("job", 400)
    assert world.dropped("job")[-1] == "max_runs_per_day"


def test_retries_count_as_runs_of_the_day() -> None:
    world = busy(max_runs_per_day=1, retries=3)
    world.ends("job", Reason.FAILED, 200)
    world.passes(300)
    assert world.dropped("job") == ["max_runs_per_day"]


@pytest.mark.parametrize("dies", [False, True])
@pytest.mark.parametrize(
    ("reason", "error", "again"),
    [
        (Reason.THROTTLED, ErrorClass.QUOTA, True),
        (Reason.THROTTLED, ErrorClass.NETWORK, True),
        (Reason.BUDGET, ErrorClass.KILLED, True),
        (Reason.DISK, ErrorClass.UNKNOWN, False),
    ],
)
def test_a_run_that_its_provider_turned_away_is_none_of_the_days(
    reason: Reason, error: ErrorClass, *, again: bool, dies: bool
) -> None:
    world = busy(max_runs_per_day=1)
    for _ in range(3 if again else 1):
        world.judged("job", Verdict(reason, "because", error))
        if dies:
            world = world.reborn()
            world.misses()
        world.passes(world.at + 7 * 3600)
        assert world.lives("job") is again


def test_a_run_that_used_up_what_it_was_given_is_one_of_the_days() -> None:
    world = busy(max_runs_per_day=1)
    world.judged("job", Verdict(Reason.BUDGET, "max_cost_usd", ErrorClass.BUDGET, False), 200)
    world.due("job", 400)
    assert world.dropped("job") == ["max_runs_per_day"]


def test_a_disabled_agent_has_no_schedule() -> None:
    world = begin(enabled=False)
    assert world.state.agents["job"].cursor is None
    world.due("job", 100)
    assert world.new == ()
    answer = world.asks("job", 110)
    assert getattr(answer, "reason", None) == "disabled"


def test_an_occurrence_of_a_held_agent_is_dropped_with_that_reason() -> None:
    world = busy()
    world.drifts("job", CorrectionLevel.CRITICAL, 110)
    world.ends("job", Reason.CANCELLED, 112)
    world.due("job", 200)
    assert world.dropped("job") == ["held"]
    assert world.state.agents["job"].cursor == moment(200).utc


def test_a_schedule_begins_when_it_is_first_seen_and_is_kept_from_then_on() -> None:
    world = World(fleet(agent("job", CORE)), at=1000)
    assert world.state.agents["job"].cursor == moment(1000).utc
    assert [record.data["schedule"] for record in world.kinds("schedule_armed")] == ["0 3 * * *"]
    reborn = world.reborn(at=2000)
    assert reborn.state.agents["job"].cursor == moment(1000).utc
    assert not reborn.records


def test_a_changed_schedule_begins_anew_and_forgets_what_waited() -> None:
    world = World.begun(agent("first", CORE), agent("job", CORE), max_concurrent_runs=1)
    world.due("first", 50)
    world.due("job", 100)
    changed = fleet(agent("first", CORE), agent("job", CORE, schedule="0 4 * * *"))
    reborn = world.reborn(changed, at=200)
    assert reborn.state.agents["job"].cursor == moment(200).utc
    assert [record.data["agent"] for record in reborn.kinds("schedule_armed")] == ["job"]
    reborn.misses()
    assert not reborn.orders
    durable = fold(reborn.lines(), changed.timezone)
    assert durable.cursors["job"] == ("0 4 * * *", moment(200).utc)
    assert not durable.pending


@pytest.mark.parametrize("changed", [agent("job", CORE, enabled=False), agent("job", SAFETY)], ids=["off", "Safety"])
def test_a_schedule_that_is_gone_is_disarmed_once_and_begins_anew_when_it_returns(changed: AgentDefinition) -> None:
    world = begin()
    gone = world.reborn(fleet(changed), at=1000)
    assert [record.data for record in gone.kinds("schedule_disarmed")] == [{"agent": "job"}]
    assert gone.state.agents["job"].cursor is None
    again = gone.reborn(at=2000)
    assert not again.kinds("schedule_disarmed")
    back = again.reborn(world.config, at=3000)
    assert back.state.agents["job"].cursor == moment(3000).utc


def test_what_the_journal_knows_of_agents_no_longer_declared_is_told_once_a_start() -> None:
    world = busy().reborn(fleet(agent("other", CORE)))
    (kept,) = world.kinds("state_kept")
    assert kept.data["agents"] == ["job"]


def test_with_overlap_skip_an_occurrence_takes_the_place_of_one_that_was_accepted_already() -> None:
    world = World.begun(agent("nightly", CORE, schedule="* * * * *", jitter_secs=3600.0))
    world.due("nightly", 60.0)  # waits for its jitter
    world.asks("nightly", 61.0)
    world.due("nightly", 120.0)  # the operator's run lives now
    assert [record.data["reason"] for record in world.kinds("dropped")] == ["superseded"]
    (waiting,) = world.state.queue.values()
    assert waiting.occurrence == moment(120.0).utc
