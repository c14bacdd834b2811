"""The gate: a cap, a queue, refusals, and a record with a reason for everything that does not start, once."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from attrs import evolve

from darkfactory.model.actions import Admit, Queue, Refuse
from darkfactory.model.drift import CorrectionLevel
from darkfactory.model.ends import Reason
from darkfactory.model.fleet import Overlap
from darkfactory.model.state import AgentState, Request
from darkfactory.policy import admission
from darkfactory.policy.admission import Surroundings

from .world import CORE, GROWTH, SAFETY, STEADY, World, agent, fleet

TRIO = ("a", "b", "c")


def helpers(cap: int = 10, **fields: object) -> World:
    return World.begun(*(agent(name, GROWTH, **fields) for name in TRIO), max_concurrent_runs=cap)


def test_what_may_start_starts_and_says_which_run_it_is() -> None:
    world = helpers()
    assert world.asks("a", 10) == Admit(world.run_of("a"))
    assert world.starts("a") == [10]


def test_over_the_cap_requests_wait_in_the_order_they_came() -> None:
    world = helpers(cap=1)
    assert isinstance(world.asks("b", 10), Admit)
    for name in ("c", "a"):
        answer = world.asks(name, 11)
        assert isinstance(answer, Queue)
        assert answer.reason == "max_concurrent_runs"
    assert [request.agent for request in world.state.queue.values()] == ["c", "a"]
    world.ends("b", Reason.SUCCEEDED, 20)
    assert world.starts("c") == [20]
    world.ends("c", Reason.SUCCEEDED, 30)
    assert world.starts("a") == [30]


def test_a_run_that_is_being_stopped_still_takes_its_place() -> None:
    world = World.begun(agent("a", GROWTH, timeout_secs=50.0), agent("b", GROWTH), max_concurrent_runs=1)
    world.asks("a", 0)
    world.asks("b", 0)
    world.passes(52)
    assert world.stop_reason("a") is Reason.TIMED_OUT
    assert not world.lives("b")


def test_what_waits_for_its_back_off_does_not_hold_up_those_behind_it() -> None:
    world = helpers(cap=1, retries=1)
    world.asks("a", 10)
    world.ends("a", Reason.FAILED, 20)
    world.asks("b", 20.5)
    assert world.starts("b") == [20.5]
    world.passes(30)
    assert world.starts("a") == [10]
    world.ends("b", Reason.SUCCEEDED, 40)
    assert world.starts("a") == [10, 40]


def test_one_request_waits_for_each_agent_and_cause() -> None:
    world = World.begun(agent("job", CORE, overlap=Overlap.QUEUE), agent("other", GROWTH), max_concurrent_runs=1)
    world.asks("other", 5)
    world.asks("job", 10)
    answer = world.asks("job", 11)
    assert isinstance(answer, Queue)
    assert answer.reason == "already_queued"
    world.due("job", 12)
    assert len(world.state.queue) == 2  # another cause
    world.ends("other", Reason.SUCCEEDED, 20)
    world.ends("job", Reason.SUCCEEDED, 30)
    assert world.starts("job") == [20, 30]


def test_a_request_for_an_agent_that_runs_waits_for_its_own_run() -> None:
    world = helpers()
    world.asks("a", 10)
    answer = world.asks("a", 20)
    assert isinstance(answer, Queue)
    assert answer.reason == "own_run"
    world.ends("a", Reason.SUCCEEDED, 30)
    assert world.starts("a") == [10, 30]


@pytest.mark.parametrize(("asked_after", "starts"), [(3600.0, True), (3600.1, False)])
def test_an_operators_request_waits_an_hour_at_most(asked_after: float, starts: bool) -> None:
    world = World.begun(agent("a", GROWTH), agent("b", GROWTH), max_concurrent_runs=1)
    world.asks("a", 7)
    world.says("a", 7)
    world.asks("b", 100)
    world.ends("a", Reason.SUCCEEDED, 100 + asked_after)
    assert world.lives("b") is starts
    assert world.dropped("b") == ([] if starts else ["expired"])


def test_an_expired_request_is_dropped_at_the_next_sweep_though_nothing_else_happens() -> None:
    world = helpers(cap=1, timeout_secs=None, stall_timeout_secs=100_000.0)
    world.asks("a", 10)
    world.asks("b", 100)
    world.passes(3700)
    assert world.dropped("b") == []
    world.passes(3700 + 60)
    assert world.dropped("b") == ["expired"]


def test_an_always_on_request_never_expires() -> None:
    endless = {"stall_timeout_secs": 1e9}
    world = World.begun(agent("a", SAFETY, **endless), agent("b", SAFETY, **endless), max_concurrent_runs=1)
    world.passes(20_000)
    world.ends("a", Reason.SUCCEEDED)
    assert world.starts("b") == [20_000]


def refused_disabled() -> World:
    return World.begun(agent("it", GROWTH, enabled=False))


def refused_held() -> World:
    world = World.begun(agent("it", GROWTH))
    world.drifts("it", CorrectionLevel.CRITICAL, 5)
    return world


def refused_tool_missing() -> World:
    world = World.begun(agent("it", GROWTH))
    world.misses(5, "it")
    return world


def refused_always_on() -> World:
    return World.begun(agent("it", SAFETY))


def refused_max_runs_per_day() -> World:
    world = World.begun(agent("it", GROWTH, max_runs_per_day=1))
    world.asks("it", 5)
    world.ends("it", Reason.SUCCEEDED, 6)
    return world


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (refused_disabled, "disabled"),
        (refused_held, "held"),
        (refused_tool_missing, "tool_missing"),
        (refused_always_on, "always_on"),
        (refused_max_runs_per_day, "max_runs_per_day"),
    ],
)
def test_a_refusal_is_answered_and_recorded_with_its_reason(make: Callable[[], World], reason: str) -> None:
    world = make()
    begun = len(world.starts("it"))
    answer = world.asks("it", 10)
    assert isinstance(answer, Refuse)
    assert answer.reason == reason
    assert answer.detail
    assert world.dropped("it") == [reason]
    assert len(world.starts("it")) == begun
    assert not world.state.queue


def test_an_asker_is_refused_while_the_factory_stops() -> None:
    world = helpers()
    world.asks("a", 10)
    world.shuts_down(11)
    answer = world.asks("b", 12)
    assert isinstance(answer, Refuse)
    assert answer.reason == "stopping"


def test_a_disabled_agent_is_neither_always_on() -> None:
    world = World.begun(agent("it", SAFETY, enabled=False))
    assert [record.data["reason"] for record in world.kinds("refused")] == ["disabled"]
    world.passes(3600)
    assert world.starts("it") == []


def test_nothing_starts_before_the_tools_were_looked_for() -> None:
    world = World(fleet(agent("watch", SAFETY), agent("a", GROWTH)))
    world.passes(100)
    answer = world.asks("a", 110)
    assert isinstance(answer, Queue)
    assert answer.reason == "starting"
    assert not world.orders
    world.misses(120)
    assert world.starts("watch") == world.starts("a") == [120]


def test_a_request_accepted_while_starting_is_journalled() -> None:
    """It was promised to the asker, so the next start must know of it."""
    world = World(fleet(agent("a", GROWTH)))
    world.asks("a", 1)
    reborn = world.reborn(at=5)
    reborn.misses()
    assert reborn.starts("a") == [5]


def test_a_missing_tool_is_told_once_and_its_agent_starts_when_it_is_found() -> None:
    world = World(fleet(agent("watch", SAFETY), agent("a", GROWTH)))
    world.misses(0, "watch", "a")
    assert [record.data["agent"] for record in world.kinds("tool_missing")] == ["watch", "a"]
    world.passes(3600)
    world.misses(3600, "watch", "a")
    assert [record.kind for record in world.records if record.kind != "schedule_armed"] == ["tool_missing"] * 2
    world.misses(4000, "a")
    assert [record.data["agent"] for record in world.kinds("tool_found")] == ["watch"]
    assert world.starts("watch") == [4000]
    assert world.starts("a") == []


def test_a_tool_that_vanishes_leaves_the_run_alone_and_stops_the_next() -> None:
    world = World.begun(agent("watch", SAFETY))
    world.misses(10, "watch")
    assert world.stop_reason("watch") is None
    world.ends("watch", Reason.FAILED, 20)
    world.passes(100)
    assert world.starts("watch") == [0]
    world.misses(110)
    assert world.starts("watch") == [0, 110]


def test_every_request_that_does_not_start_has_a_record_with_a_reason() -> None:
    world = World.begun(
        agent("off", CORE, enabled=False), agent("job", CORE), agent("late", CORE), agent("a", GROWTH),
        max_concurrent_runs=1,
    )  # fmt: skip
    world.due("job", 10)
    world.due("job", 20)
    world.due("late", 30_000, late=20_000)
    world.asks("off")
    world.asks("a")
    for record in (*world.kinds("dropped"), *world.kinds("queued"), *world.kinds("refused")):
        assert record.data["reason"]
        assert record.data["detail"]
    assert {(record.kind, record.data.get("agent")) for record in world.records} >= {
        ("dropped", "job"),
        ("dropped", "late"),
        ("dropped", "off"),
        ("queued", "a"),
    }


def test_while_nothing_changes_nothing_is_recorded_twice() -> None:
    """An hour of sweeps over agents that are refused, held, without a tool, waiting for a place or at work."""
    patient = {"timeout_secs": None, "stall_timeout_secs": 1e6}
    world = World(
        fleet(
            agent("runs", SAFETY, **patient),
            agent("off", SAFETY, enabled=False),
            agent("held", SAFETY, **patient),
            agent("toolless", SAFETY, **patient),
            agent("waits", SAFETY, **patient),
            agent("jobs", CORE, overlap=Overlap.QUEUE, **patient),
            agent("asked", GROWTH, **patient),
            layer=evolve(STEADY, max_restarts=0),
            max_concurrent_runs=2,
        )
    )
    world.misses(0, "toolless")
    world.ends("held", Reason.FAILED, 5)
    world.due("jobs", 6)
    world.asks("asked", 7)
    world.passes(10)
    told = list(world.records)
    world.passes(3500)
    assert world.records == told
    assert {request.agent for request in world.state.queue.values()} == {"jobs", "asked"}


def test_a_waiting_request_is_recorded_again_when_it_waits_for_something_else() -> None:
    world = World.begun(agent("a", GROWTH, retries=1), agent("b", GROWTH), max_concurrent_runs=1)
    world.asks("a", 10)
    world.ends("a", Reason.FAILED, 20)
    world.asks("b", 20.5)
    world.passes(30)
    reasons = [record.data["reason"] for record in world.kinds("queued")]
    assert reasons == ["backoff", "max_concurrent_runs"]


def test_a_missed_event_costs_a_minute_at_most() -> None:
    """Level, not edge: what the gate was not told of is found at the next sweep."""
    world = World.begun(agent("a", GROWTH), agent("b", GROWTH), max_concurrent_runs=1)
    world.asks("a", 10)
    world.asks("b", 10)
    world.state = evolve(world.state, config=evolve(world.state.config, max_concurrent_runs=2))
    world.passes(59)
    assert world.starts("b") == []
    world.passes(60)
    assert world.starts("b") == [60]


def test_run_ids_tell_agent_and_time_and_never_repeat() -> None:
    world = helpers()
    ids = set()
    for _ in range(20):
        for name in TRIO:
            world.asks(name, 3661)
            ids.add(world.run_of(name))
            world.ends(name, Reason.SUCCEEDED)
    assert len(ids) == 60
    assert all(re.fullmatch(r"[abc]-20260105-010101-[0-9a-f]{6}", run_id) for run_id in ids)


def test_a_crowd_at_a_full_gate_is_not_asked_about_at_every_end(monkeypatch: pytest.MonkeyPatch) -> None:
    crowd = [agent(f"a{number}", SAFETY) for number in range(100)]
    world = World.begun(*crowd, max_concurrent_runs=5)
    asked: list[str] = []

    def admit(agent: AgentState, request: Request, around: Surroundings) -> Queue | Refuse | None:
        asked.append(request.agent)
        return real(agent, request, around)

    real = admission.admit
    monkeypatch.setattr(admission, "admit", admit)
    world.ends("a0", Reason.SUCCEEDED, 10)
    assert world.lives("a5")
    assert asked == ["a5", "a0"]  # the one that has waited longest, and the one that ended
    asked.clear()
    world.passes(60)
    assert len(asked) >= 95, "the sweep asks about everybody"
