"""How long a run may take for what it does: the exact second at which it is stopped, and why."""

from __future__ import annotations

from datetime import timedelta

import pytest

from darkfactory.model.drift import CorrectionLevel
from darkfactory.model.ends import ErrorClass, Reason
from darkfactory.model.events import MemoryExceeded, OutputSeen, Tick
from darkfactory.model.providers import Spending
from darkfactory.model.signals import Waiting
from darkfactory.model.state import Phase

from .world import CORE, EPOCH, GROWTH, SAFETY, World, agent, moment


def begin(name: str = "it", **fields: object) -> World:
    """A world whose agent runs since second 10. One named "announcing" has a tool that announces itself."""
    world = World.begun(agent(name, GROWTH, **fields))
    world.asks(name, 10)
    return world


def stopped(world: World, name: str = "it", before: float = 100_000.0) -> tuple[float, Reason] | None:
    """When the supervisor, waking at its deadlines, orders the run to stop, and why; None if it does not."""
    while world.state.next_deadline() < before:
        world.passes(world.state.next_deadline())
        reason = world.stop_reason(name)
        if reason is not None:
            return world.at, reason
    return None


def talks(world: World, until: float, every: float = 100.0) -> None:
    while world.at + every <= until:
        world.passes(world.at + every)
        world.says("it", world.at)


def test_a_run_ends_at_its_timeout_however_much_it_says() -> None:
    world = begin(timeout_secs=1000.0)
    talks(world, 1000)
    assert stopped(world) == (1010, Reason.TIMED_OUT)


def test_the_timeout_counts_from_the_admission() -> None:
    world = begin(timeout_secs=100.0)
    world.started("it", 50)
    assert stopped(world) == (110, Reason.TIMED_OUT)


def test_a_job_has_two_hours_by_default() -> None:
    world = begin()
    talks(world, 7200)
    assert stopped(world) == (7210, Reason.TIMED_OUT)


def test_a_safety_agent_has_no_timeout_by_default() -> None:
    world = World.begun(agent("it", SAFETY))
    talks(world, 50_000)
    assert world.stop_reason("it") is None
    assert world.starts("it") == [0]


def test_a_safety_agent_may_be_given_one() -> None:
    world = World.begun(agent("it", SAFETY, timeout_secs=60.0))
    assert stopped(world) == (60, Reason.TIMED_OUT)


def test_a_tool_that_announces_itself_must_do_so_within_the_start_timeout() -> None:
    world = begin("announcing", start_timeout_secs=30.0)
    assert stopped(world, "announcing") == (40, Reason.STALLED)
    assert "start_timeout_secs" in world.stops[world.run_of("announcing")].detail


def test_once_it_has_spoken_the_start_timeout_is_over() -> None:
    world = begin("announcing", start_timeout_secs=30.0, stall_timeout_secs=500.0)
    world.says("announcing", 39)
    assert stopped(world, "announcing") == (539, Reason.STALLED)


def test_a_tool_that_does_not_announce_itself_may_be_silent_from_the_start() -> None:
    world = begin(start_timeout_secs=30.0, stall_timeout_secs=500.0)
    assert stopped(world) == (510, Reason.STALLED)


def test_silence_counts_from_the_last_output() -> None:
    world = begin(stall_timeout_secs=100.0)
    for at in (50, 140, 239.5):
        world.passes(at)
        world.says("it", at)
    assert stopped(world) == (339.5, Reason.STALLED)


def test_output_at_the_last_moment_is_in_time() -> None:
    world = begin(stall_timeout_secs=100.0)
    world.passes(109.9)
    assert world.stop_reason("it") is None
    world.says("it", 109.99)
    world.passes(110)
    assert world.stop_reason("it") is None


def test_a_run_that_said_its_result_is_stopped_after_linger_secs() -> None:
    world = begin(linger_secs=15.0)
    world.says("it", 100, finished=True)
    assert stopped(world) == (115, Reason.SUCCEEDED)
    assert world.stops[world.run_of("it")].lingered


def test_later_output_rearms_the_linger() -> None:
    world = begin(linger_secs=15.0)
    world.says("it", 100, finished=True)
    world.passes(110)
    world.says("it", 110, finished=True)
    assert stopped(world) == (125, Reason.SUCCEEDED)


def test_a_run_that_has_more_to_say_takes_its_result_back() -> None:
    world = begin(linger_secs=15.0, stall_timeout_secs=200.0)
    world.says("it", 100, finished=True)
    world.says("it", 110)
    assert stopped(world) == (310, Reason.STALLED)


def test_a_run_that_said_its_result_no_longer_stalls() -> None:
    world = begin(linger_secs=300.0, stall_timeout_secs=60.0)
    world.says("it", 100, finished=True)
    assert stopped(world) == (400, Reason.SUCCEEDED)


def test_a_run_that_said_its_result_still_times_out() -> None:
    world = begin(linger_secs=300.0, timeout_secs=100.0)
    world.says("it", 100, finished=True)
    assert stopped(world) == (110, Reason.TIMED_OUT)


@pytest.mark.parametrize(("output_bytes", "reason"), [(1000, None), (1001, Reason.OUTPUT_LIMIT)])
def test_a_run_may_write_so_much_and_no_more(output_bytes: int, reason: Reason | None) -> None:
    world = begin(max_output_bytes=1000)
    world.says("it", 20, output_bytes)
    assert world.stop_reason("it") is reason


@pytest.mark.parametrize("waiting", [None, Waiting(ErrorClass.THROTTLED, None, 5.0, "in a moment")])
def test_it_is_stopped_once_whatever_else_its_output_tells(waiting: Waiting | None) -> None:
    world = World.begun(agent("it", GROWTH, max_output_bytes=10, provider="p"))
    world.asks("it", 10)
    for calls in (2, 3):
        world.tell(OutputSeen(world.now(10.0 + calls), world.run_of("it"), 100, False, Spending(calls), waiting))
    run = world.state.agents["it"].run
    assert run is not None
    assert (run.phase, run.spent, run.waiting) == (Phase.STOPPING, Spending(3), waiting)
    assert len(world.kinds("run_stopping")) == 1


def test_a_run_over_its_memory_is_stopped_once_and_the_numbers_are_told() -> None:
    world = begin(max_memory_bytes=1000)
    world.swells("it", 20, 1001)
    assert world.stop_reason("it") is Reason.MEMORY
    world.swells("it", 21, 1002)
    (record,) = world.kinds("run_stopping")
    assert record.data["detail"] == "its processes took 1001 bytes, max_memory_bytes is 1000"


def test_memory_that_is_told_of_a_run_that_has_ended_is_nothing() -> None:
    world = begin(max_memory_bytes=1000)
    run_id = world.run_of("it")
    world.ends("it", Reason.SUCCEEDED, 20)
    world.tell(MemoryExceeded(world.now(21), run_id, 1001))
    assert not world.kinds("run_stopping")


def test_a_moderate_drift_sets_a_deadline() -> None:
    world = begin()
    world.drifts("it", CorrectionLevel.MODERATE, 100)
    world.says("it", 500)
    assert stopped(world) == (700, Reason.CORRECTED_MODERATE)


def test_the_earliest_limit_holds_and_a_tie_goes_to_the_timeout() -> None:
    world = begin(timeout_secs=600.0, stall_timeout_secs=600.0)
    world.drifts("it", CorrectionLevel.MODERATE, 10)
    assert stopped(world) == (610, Reason.TIMED_OUT)


def test_a_run_is_stopped_once_with_its_own_grace() -> None:
    world = begin(timeout_secs=100.0, stall_timeout_secs=50.0, grace_secs=2.5)
    assert stopped(world) == (60, Reason.STALLED)
    assert world.stops[world.run_of("it")].grace_secs == 2.5
    world.says("it", 61, 10**12)
    world.passes(5000)
    assert world.stop_reason("it") is Reason.STALLED
    assert len(world.kinds("run_stopping")) == 1


def test_a_run_that_never_gets_a_process_stalls_too() -> None:
    world = World.begun(agent("it", CORE))
    world.due("it", 10)
    assert stopped(world) == (910, Reason.STALLED)


def test_each_run_has_its_limits_anew() -> None:
    world = begin(timeout_secs=100.0)
    world.ends("it", Reason.SUCCEEDED, 60)
    world.asks("it", 90)
    assert stopped(world) == (190, Reason.TIMED_OUT)


def test_output_does_not_fill_the_heap_of_deadlines() -> None:
    world = begin(stall_timeout_secs=900.0)
    for number in range(1000):
        world.says("it", 10 + number / 10)
    assert len(world.state.wakes) == 1


def test_nobody_wakes_for_an_agent_that_goes_on_talking() -> None:
    world = World.begun(agent("announcing", SAFETY, start_timeout_secs=120.0, stall_timeout_secs=900.0))
    for number in range(100):
        world.says("announcing", 100.0 * number)
        assert world.state.wakes[0][0] > 100.0 * (number + 1)
    assert stopped(world, "announcing") == (9900 + 900, Reason.STALLED)


def test_nobody_wakes_for_a_run_that_has_ended() -> None:
    world = begin(stall_timeout_secs=900.0)
    world.ends("it", Reason.SUCCEEDED, 60)
    assert not world.state.wakes


def test_restarts_do_not_fill_the_heap_of_deadlines() -> None:
    world = begin(stall_timeout_secs=900.0)
    for number in range(100):
        world.ends("it", Reason.SUCCEEDED, 20 + number)
        world.asks("it", 20 + number)
        assert len(world.state.wakes) <= 3


def test_many_runs_are_stopped_each_at_its_own_second() -> None:
    names = [f"agent{number}" for number in range(9)]
    world = World.begun(*(agent(name, GROWTH, timeout_secs=100.0 + 7 * int(name[-1])) for name in names))
    for name in names:
        world.asks(name, 10)
    world.passes(1000)
    told = {record.data["agent"]: record.when.at for record in world.kinds("run_stopping")}
    assert told == {name: 110.0 + 7 * int(name[-1]) for name in names}


def waits(world: World, at: float, delay_secs: float | None = None, until: float | None = None) -> None:
    """Its tool tells that its provider made it wait."""
    instant = None if until is None else EPOCH + timedelta(seconds=until)
    told = Waiting(ErrorClass.QUOTA, instant, delay_secs, f"told at {at}")
    world.tell(OutputSeen(moment(at), world.run_of("it"), 1, False, waiting=told))


class TestWaitingForItsProvider:
    """By itself, inside its tool."""

    def test_it_may_as_long_as_it_may_be_silent_however_much_it_says(self) -> None:
        world = begin(stall_timeout_secs=300.0)
        for at in range(100, 400, 60):
            waits(world, at, delay_secs=60.0)
        assert stopped(world) == (400, Reason.THROTTLED)

    def test_one_that_gets_on_begins_anew(self) -> None:
        world = begin(stall_timeout_secs=300.0)
        waits(world, 100)
        world.says("it", 350)
        waits(world, 360)
        world.says("it", 600)
        assert world.stop_reason("it") is None
        waits(world, 610)
        assert stopped(world) == (910, Reason.THROTTLED)

    def test_one_that_is_told_to_wait_longer_than_that_need_not(self) -> None:
        world = begin(stall_timeout_secs=300.0)
        waits(world, 100, delay_secs=301.0)
        assert stopped(world) == (105, Reason.THROTTLED)

    def test_nor_one_that_is_told_to_wait_until_after_its_timeout(self) -> None:
        world = begin(timeout_secs=1000.0)
        waits(world, 900, delay_secs=120.0)
        assert stopped(world) == (905, Reason.THROTTLED)

    def test_a_time_is_as_good_as_a_delay(self) -> None:
        world = begin(timeout_secs=1000.0)
        waits(world, 100, until=1011.0)
        assert stopped(world) == (105, Reason.THROTTLED)
        world = begin(timeout_secs=1000.0, stall_timeout_secs=990.0)
        waits(world, 100, until=1009.0)
        assert stopped(world) == (1010, Reason.TIMED_OUT)

    def test_a_wait_that_is_short_enough_leaves_the_other_limits_as_they_are(self) -> None:
        world = begin(timeout_secs=1000.0)
        waits(world, 500, delay_secs=100.0)
        assert stopped(world) == (1010, Reason.TIMED_OUT)


def held_up(world: World, until: float) -> None:
    """Nobody looks before then, whatever was to be done: the factory was stopped by a signal, or starved."""
    world.tell(Tick(moment(until)))


def test_after_it_was_held_up_the_factory_hears_a_run_out_before_it_stops_it_for_its_silence() -> None:
    world = begin(stall_timeout_secs=100.0)
    world.says("it", 50)
    held_up(world, 5000)
    assert [record.data for record in world.kinds("held_up")] == [{"late_secs": 4940.0}]
    assert world.stop_reason("it") is None
    world.says("it", 5001)  # what it printed meanwhile
    assert stopped(world) == (5101, Reason.STALLED)


def test_after_it_was_held_up_the_factory_stops_a_run_that_really_was_silent_a_little_later() -> None:
    world = begin(stall_timeout_secs=100.0)
    held_up(world, 5000)
    assert stopped(world) == (5005, Reason.STALLED)


def test_a_run_that_ended_while_the_factory_was_held_up_is_not_over_its_timeout() -> None:
    world = begin(timeout_secs=100.0, stall_timeout_secs=50.0)
    world.spends("it", 5000)  # whatever comes first
    assert world.stop_reason("it") is None
    world.ends("it", Reason.SUCCEEDED, 5001)
    assert not world.kinds("run_stopping")


def test_a_run_that_outlived_its_timeout_while_the_factory_was_held_up_is_stopped_a_little_later() -> None:
    world = begin(timeout_secs=100.0)
    held_up(world, 5000)
    world.says("it", 5004)
    assert stopped(world) == (5005, Reason.TIMED_OUT)


def test_a_deadline_that_is_missed_by_a_second_is_no_reason_for_leniency() -> None:
    world = begin(timeout_secs=100.0)
    world.passes(70)
    held_up(world, 111)
    assert world.stop_reason("it") is Reason.TIMED_OUT
    assert not world.kinds("held_up")


def test_a_factory_that_is_held_up_again_and_again_holds_its_runs_to_their_limits_all_the_same() -> None:
    world = begin(timeout_secs=100.0)
    at = 111.0
    while world.stop_reason("it") is None and at < 1000:
        held_up(world, at)
        at += 6.2  # 1.2 s after it would be lenient no longer
    assert at < 130
    assert len(world.kinds("held_up")) <= 2
