"""Deciding as a function: nothing is changed in place, and one history has one future."""

from __future__ import annotations

from copy import deepcopy

import pytest
from attrs import evolve, fields

from darkfactory.model.actions import Severity
from darkfactory.model.ends import Reason, Verdict
from darkfactory.model.events import Event, OutputSeen, OutputTruncated, RunEnded, RunStarted, Tick
from darkfactory.model.fleet import LayerConfig
from darkfactory.model.state import State
from darkfactory.policy.decide import SWEEP_SECS, decide
from darkfactory.policy.draft import Draft

from .world import CORE, GROWTH, SAFETY, World, agent, moment, told


def a_day(seed: int = 0) -> World:
    """A world with some history, and jitter in its back-offs."""
    layer = LayerConfig()
    world = World.begun(agent("watch", SAFETY), agent("job", CORE, retries=2, jitter_secs=60.0), layer=layer)
    world.state = evolve(world.state, seed=seed)
    world.due("job", 10)
    world.passes(100)
    world.ends("job", Reason.FAILED, 110)
    world.ends("watch", Reason.FAILED, 120)
    world.passes(130)
    return world


def test_one_history_has_one_future_and_another_seed_another() -> None:
    assert a_day().records == a_day().records
    assert told(a_day().state) == told(a_day().state)
    assert a_day(seed=1).starts("watch") != a_day().starts("watch")


def test_a_draft_has_the_fields_of_a_state_in_their_order() -> None:
    of_state, of_draft = ([field.name for field in fields(kind)] for kind in (State, Draft))
    assert of_draft[: 1 + len(of_state)] == ["when", *of_state]


def test_deciding_changes_nothing_in_place() -> None:
    world = a_day()
    before = world.state
    copy = deepcopy(before)
    world.asks("watch", 140)
    world.ends("job", Reason.FAILED, 150)
    world.shuts_down(160)
    assert told(before) == told(copy)
    assert told(world.state) != told(before)


@pytest.mark.parametrize("kind", ["started", "output", "ended"])
def test_what_is_told_late_about_a_run_that_has_its_verdict_changes_nothing(kind: str) -> None:
    world = World.begun(agent("helper", GROWTH))
    world.asks("helper", 10)
    run_id = world.run_of("helper")
    world.ends("helper", Reason.SUCCEEDED, 20)
    before = world.state
    late: dict[str, Event] = {
        "started": RunStarted(moment(21), run_id, 4711),
        "output": OutputSeen(moment(21), run_id, 10**12, finished=True),
        "ended": RunEnded(moment(21), run_id, Verdict(Reason.FAILED), 1),
    }
    world.tell(late[kind])
    assert world.new == ()
    assert told(world.state) == told(before)


def test_a_start_that_is_told_after_the_stop_was_ordered_tells_the_pid_only() -> None:
    world = World.begun(agent("helper", GROWTH, timeout_secs=50.0))
    world.asks("helper", 10)
    world.passes(60)
    world.started("helper", 61)
    world.passes(300)
    assert world.stop_reason("helper") is Reason.TIMED_OUT
    assert len(world.kinds("run_stopping")) == 1


def test_truncated_output_is_told() -> None:
    world = World.begun(agent("helper", GROWTH))
    world.asks("helper", 10)
    world.tell(OutputTruncated(moment(20), world.run_of("helper"), "stderr"))
    (record,) = world.kinds("output_truncated")
    assert record.severity is Severity.WARNING
    assert record.data == {"run": world.run_of("helper"), "stream": "stderr"}


def test_an_event_that_nobody_decides_about_is_a_bug() -> None:
    with pytest.raises(TypeError, match="nobody decides about Event"):
        World.begun().tell(Event(moment(1)))


def test_every_agent_is_looked_at_each_minute() -> None:
    world = World.begun()
    for minute in range(1, 4):
        assert world.state.next_deadline() == minute * SWEEP_SECS
        world.tell(Tick(moment(minute * SWEEP_SECS)))


def test_a_tick_too_early_does_nothing() -> None:
    world = World.begun(agent("watch", SAFETY))
    state, todo = decide(world.state, Tick(moment(30)))
    assert told(state) == told(world.state)
    assert todo == ()
