"""Stopping: layer after layer, each with its share of the grace, and never beyond the bound."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkfactory.model import actions
from darkfactory.model.actions import Finish
from darkfactory.model.drift import CorrectionLevel
from darkfactory.model.ends import Reason
from darkfactory.model.fleet import STOP_ORDER, AgentLayer
from darkfactory.policy.shutdown import REAP_SECS, layer_grace

from .world import CORE, GROWTH, SAFETY, World, agent, told

LAYER_OF = {"watch": SAFETY, "job": CORE, "helper": GROWTH}


def begin(*names: str, grace: float = 9.0, **fields: object) -> World:
    """A world in which these agents run, asked to stop at second 100."""
    world = World.begun(
        *(agent(name, LAYER_OF[name.rstrip("0123456789")], **{"grace_secs": 60.0} | fields) for name in names),
        shutdown_grace_secs=grace,
    )
    for name in names:
        if not world.lives(name):
            world.asks(name, 1)
        world.started(name)
    world.passes(60)
    world.shuts_down(100)
    return world


def stopping(world: World) -> dict[str, float]:
    """The grace of every run that is being stopped, by agent."""
    return {
        order.agent: world.stops[run_id].grace_secs for run_id, order in world.orders.items() if run_id in world.stops
    }


def layer_stops(world: World) -> list[AgentLayer]:
    return [AgentLayer(record.data["layer"]) for record in world.kinds("layer_stopping")]


def test_layers_stop_in_order_each_when_the_one_before_is_empty() -> None:
    world = begin("watch", "job", "helper")
    assert stopping(world).keys() == {"helper"}
    world.ends("helper", Reason.SHUTDOWN, 103)
    assert stopping(world).keys() == {"job"}
    world.ends("job", Reason.SHUTDOWN, 106)
    assert stopping(world).keys() == {"watch"}
    assert world.finish is None
    world.ends("watch", Reason.SHUTDOWN, 109)
    assert world.finish == Finish(0)
    assert layer_stops(world) == list(STOP_ORDER)


def test_three_layers_share_nine_seconds_evenly() -> None:
    world = begin("watch", "job", "helper")
    assert stopping(world) == {"helper": 3.0}
    world.ends("helper", Reason.SHUTDOWN, 103)
    assert stopping(world) == {"job": 3.0}
    world.ends("job", Reason.SHUTDOWN, 106)
    assert stopping(world) == {"watch": 3.0}


def test_time_that_a_quick_layer_saves_goes_to_the_next() -> None:
    world = begin("watch", "job", "helper")
    world.ends("helper", Reason.SHUTDOWN, 101)
    assert stopping(world) == {"job": 4.0}
    world.ends("job", Reason.SHUTDOWN, 101.5)
    assert stopping(world) == {"watch": 7.5}


def test_a_layer_that_overruns_leaves_less_to_the_next() -> None:
    world = begin("watch", "job", "helper")
    world.ends("helper", Reason.SHUTDOWN, 107)
    assert stopping(world) == {"job": 1.0}
    world.ends("job", Reason.SHUTDOWN, 109.5)
    assert stopping(world) == {"watch": 0.0}


def test_empty_layers_are_skipped_and_take_no_share() -> None:
    world = begin("watch", "helper")
    assert stopping(world) == {"helper": 4.5}
    world.ends("helper", Reason.SHUTDOWN, 104)
    assert layer_stops(world) == [GROWTH, SAFETY]
    assert stopping(world) == {"watch": 5.0}


def test_runs_of_one_layer_stop_at_once_and_the_layer_waits_for_all() -> None:
    world = begin("watch", "helper1", "helper2")
    (order,) = [action for action in world.new if isinstance(action, actions.StopLayer)]
    assert (order.layer, len(order.stops)) == (GROWTH, 2)
    world.ends("helper1", Reason.SHUTDOWN, 101)
    assert stopping(world).keys() == {"helper2"}
    world.ends("helper2", Reason.SHUTDOWN, 102)
    assert stopping(world).keys() == {"watch"}


def test_a_runs_grace_is_its_own_where_that_is_shorter() -> None:
    assert stopping(begin("helper", grace_secs=2.0)) == {"helper": 2.0}
    assert stopping(begin("helper", grace_secs=20.0)) == {"helper": 9.0}


def test_a_run_that_is_being_stopped_already_keeps_its_reason_and_the_shorter_grace() -> None:
    world = World.begun(agent("watch", SAFETY, grace_secs=60.0), shutdown_grace_secs=9.0)
    world.drifts("watch", CorrectionLevel.SEVERE, 99)
    assert stopping(world) == {"watch": 60.0}
    world.shuts_down(100)
    assert world.stop_reason("watch") is Reason.CORRECTED_SEVERE
    assert stopping(world) == {"watch": 9.0}


def test_without_runs_it_finishes_at_once() -> None:
    world = World.begun(agent("helper", GROWTH))
    world.shuts_down(100)
    assert world.finish == Finish(0)


@pytest.mark.parametrize("grace", [0.0, 9.0, 30.0])
def test_at_the_bound_it_finishes_naming_what_lives(grace: float) -> None:
    world = begin("watch", "job", grace=grace)
    world.passes(100 + grace + 0.9)
    assert world.finish is None
    assert world.state.next_deadline() == 100 + grace + REAP_SECS
    names = tuple(f"4711 {world.run_of(name)}" for name in ("watch", "job"))
    world.passes(world.state.next_deadline())
    assert world.finish == Finish(1, names)
    (record,) = world.kinds("factory_stopped")
    assert (record.data["exit_code"], record.data["unreaped"]) == (1, list(names))


def test_a_run_that_never_got_a_process_is_named_so() -> None:
    world = World.begun(agent("watch", SAFETY))
    world.shuts_down(100)
    world.passes(200)
    assert world.finish == Finish(1, (f"(no pid) {world.run_of('watch')}",))


def test_processes_that_a_run_left_unreaped_are_named_at_the_end() -> None:
    world = begin("watch", "helper")
    world.ends("helper", Reason.SHUTDOWN, 102, unreaped=("77 sleep", "78 dd"))
    world.ends("watch", Reason.SHUTDOWN, 103, unreaped=("99 git",))
    assert world.finish == Finish(1, ("77 sleep", "78 dd", "99 git"))


def test_what_was_unreaped_before_the_shutdown_is_in_the_journal_and_no_failure_of_it() -> None:
    world = World.begun(agent("helper", GROWTH))
    world.asks("helper", 1)
    world.ends("helper", Reason.FAILED, 2, unreaped=("77 sleep",))
    assert world.kinds("run_ended")[0].data["unreaped"] == ["77 sleep"]
    world.shuts_down(100)
    assert world.finish == Finish(0)


def test_asked_again_with_kill_no_run_has_grace_left() -> None:
    world = begin("watch", "job", "helper")
    world.shuts_down(101, kill=True)
    assert stopping(world) == {"watch": 0.0, "job": 0.0, "helper": 0.0}
    assert world.state.next_deadline() == 101 + REAP_SECS
    for name in ("job", "watch", "helper"):
        world.ends(name, Reason.SHUTDOWN, 101.5)
    assert world.finish == Finish(0)


def test_killing_never_moves_the_bound_on() -> None:
    world = begin("watch")
    world.shuts_down(109.5, kill=True)
    assert world.state.next_deadline() == 110


def test_a_kill_alone_is_a_shutdown_without_grace() -> None:
    world = World.begun(agent("watch", SAFETY))
    world.shuts_down(100, kill=True)
    assert stopping(world) == {"watch": 0.0}
    world.passes(101)
    assert world.finish is not None
    assert world.finish.exit_code == 1


def test_asked_twice_without_kill_nothing_changes() -> None:
    world = begin("watch", "job")
    before = world.state
    for kill in (False, False):
        world.shuts_down(105, kill=kill)
    assert told(world.state) == told(before)
    assert world.new == ()


def test_a_third_signal_changes_nothing_either() -> None:
    world = begin("watch")
    world.shuts_down(101, kill=True)
    before = world.state
    world.shuts_down(101.5, kill=True)
    assert told(world.state) == told(before)


def test_nothing_starts_while_it_stops() -> None:
    world = World.begun(agent("watch", SAFETY), agent("job", CORE, retries=3), agent("helper", GROWTH))
    world.due("job", 1)
    world.ends("job", Reason.FAILED, 99.5)
    world.shuts_down(100)
    world.due("job", 101)
    world.asks("helper", 102)
    world.resumes("watch", 102)
    world.misses(103)
    world.passes(108)
    world.ends("watch", Reason.SHUTDOWN)
    assert len(world.kinds("run_begun")) == 2
    assert world.finish == Finish(0)


def test_what_waits_is_kept_for_the_next_start() -> None:
    world = World.begun(agent("job", CORE), agent("helper", GROWTH), agent("other", GROWTH), max_concurrent_runs=1)
    world.due("job", 1)
    world.asks("helper", 2)
    world.asks("other", 3)
    world.shuts_down(100)
    world.ends("job", Reason.SHUTDOWN, 101)
    reborn = world.reborn(at=200)
    assert [request.agent for request in reborn.state.queue.values()] == ["helper", "other"]
    reborn.misses()
    assert reborn.starts("helper") == [200]
    assert not reborn.lives("job")


def test_a_run_that_failed_by_itself_during_the_shutdown_is_retried_after_the_next_start() -> None:
    world = begin("job", retries=1)
    world.ends("job", Reason.FAILED, 101)
    reborn = world.reborn(at=200)
    reborn.misses()
    assert reborn.orders[reborn.run_of("job")].attempt == 2


def test_limits_go_on_while_the_other_layers_stop() -> None:
    world = begin("watch", "helper", timeout_secs=104.0)
    world.passes(104)
    assert world.stop_reason("watch") is Reason.TIMED_OUT
    assert world.stop_reason("helper") is Reason.SHUTDOWN


@given(
    names=st.lists(st.sampled_from(["watch", "job", "job2", "helper", "helper2"]), min_size=1, unique=True),
    grace=st.floats(0.0, 100.0),
    data=st.data(),
)
def test_runs_that_keep_their_grace_all_end_within_the_bound(
    names: list[str], grace: float, data: st.DataObject
) -> None:
    """Each ends as late as it may: the sum of the graces along the layers never exceeds the bound."""
    world = begin(*names, grace=grace, grace_secs=data.draw(st.floats(0.0, 50.0)))
    while world.finish is None:
        graces = stopping(world)
        assert graces
        at = world.at + max(graces.values())
        for name in graces:
            world.ends(name, Reason.SHUTDOWN, at)
    assert world.finish == Finish(0)
    assert world.at <= 100 + grace + 1e-6


@given(st.floats(-100.0, 100.0), st.integers(1, 3))
def test_a_share_is_never_negative_and_never_more_than_is_left(left: float, layers: int) -> None:
    assert 0.0 <= layer_grace(left, layers) <= max(0.0, left)
