"""What becomes of an agent after a run has ended: every reason, in every layer, at which second."""

from __future__ import annotations

from datetime import timedelta

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from darkfactory.model.actions import Refuse, Resumed
from darkfactory.model.drift import CorrectionLevel
from darkfactory.model.ends import Reason, Verdict
from darkfactory.model.events import RunEnded
from darkfactory.model.fleet import AgentLayer, LayerConfig
from darkfactory.policy import restart
from darkfactory.policy.restart import AFTER

from .world import CORE, GROWTH, SAFETY, STEADY, World, agent

# What the design's table says, in figures: does it count; after how many seconds does a Safety agent run again, and
# after how many does one of the other layers. None is never.
FATE: dict[Reason, tuple[bool, float, float | None]] = {
    Reason.SUCCEEDED: (False, 60.0, None),
    Reason.FAILED: (True, 1.0, None),
    Reason.TIMED_OUT: (True, 1.0, None),
    Reason.STALLED: (True, 1.0, None),
    Reason.MEMORY: (True, 1.0, None),
    Reason.OUTPUT_LIMIT: (True, 1.0, None),
    Reason.MAX_TURNS: (True, 1.0, None),
    Reason.THROTTLED: (False, 900.0, 900.0),
    Reason.BUDGET: (False, 900.0, 900.0),
    Reason.CORRECTED_SEVERE: (True, 1.0, 1.0),
    Reason.CORRECTED_MODERATE: (False, 0.0, None),
    Reason.CANCELLED: (False, 0.0, None),
    Reason.SIBLING: (False, 0.0, None),
    Reason.SHUTDOWN: (False, 0.0, None),
    Reason.DISK: (False, 0.0, 0.0),
    Reason.RESERVED: (False, 5.0, 5.0),
    Reason.LOST: (False, 0.0, None),
}
RETRIED = {reason for reason, after in AFTER.items() if after.others is restart.Again.RETRIED}
MATRIX = [pytest.param(layer, reason, id=f"{reason.value}-{layer.value}") for reason in Reason for layer in AgentLayer]


def begin(layer: AgentLayer, **fields: object) -> World:
    """A world at second 10 where "it" runs, whichever way agents of that layer come to run."""
    world = World.begun(agent("it", layer, **fields))
    if layer is CORE:
        world.due("it", 1)
    elif layer is GROWTH:
        world.asks("it", 1)
    assert len(world.starts("it")) == 1
    world.started("it", 10)
    return world


def crash(world: World, name: str = "it", at: float | None = None) -> None:
    """Its run fails, and time passes until it runs again, or is held."""
    world.ends(name, Reason.FAILED, at)
    while not world.lives(name) and world.state.agents[name].hold is None:
        assert world.at < 1e6, "it neither runs again nor is held"
        world.passes(world.state.next_deadline())


def test_every_reason_has_its_row() -> None:
    assert set(AFTER) == set(FATE) == set(Reason)


@pytest.mark.parametrize(("layer", "reason"), MATRIX)
def test_after_a_run(layer: AgentLayer, reason: Reason) -> None:
    counts, safety, others = FATE[reason]
    world = begin(layer)
    world.ends("it", reason)
    assert world.state.agents["it"].bad_ends == ((10.0,) if counts else ())
    world.passes(950)
    delay = safety if layer is SAFETY else others
    assert world.starts("it")[1:] == ([] if delay is None else [10 + delay])


@pytest.mark.parametrize(("layer", "reason"), [param for param in MATRIX if param.values[0] is not SAFETY])
def test_after_a_run_with_a_retry_left(layer: AgentLayer, reason: Reason) -> None:
    world = begin(layer, retries=1)
    world.ends("it", reason)
    world.passes(950)
    counts, _, others = FATE[reason]
    assert counts is (reason in RETRIED or reason is Reason.CORRECTED_SEVERE)
    delay = 1.0 if counts else others
    assert world.starts("it")[1:] == ([] if delay is None else [10.0 + delay])


@pytest.mark.parametrize("layer", [CORE, GROWTH])
def test_what_would_fail_again_is_not_retried(layer: AgentLayer) -> None:
    world = begin(layer, retries=1)
    world.tell(RunEnded(world.now(), world.run_of("it"), Verdict(Reason.FAILED, "no key", retryable=False), 1))
    world.passes(800)
    assert len(world.starts("it")) == 1


def throttle(world: World, resets_in: float | None = None, reason: Reason = Reason.THROTTLED) -> float:
    """Its run ends throttled, and time passes until it runs again; the seconds that took."""
    ended = world.now()
    resets_at = None if resets_in is None else ended.utc + timedelta(seconds=resets_in)
    run = world.run_of("it")
    del world.orders[run]
    world.tell(RunEnded(ended, run, Verdict(reason, "no more", resets_at=resets_at), 1))
    while not world.lives("it"):
        assert world.at < ended.at + 1e6, "it does not run again"
        world.passes(world.state.next_deadline())
    return world.at - ended.at


@pytest.mark.parametrize("layer", AgentLayer)
def test_a_throttled_agent_waits_longer_each_time_and_is_never_held(layer: AgentLayer) -> None:
    world = begin(layer)
    waits = [throttle(world) for _ in range(8)]
    assert waits == [900, 1800, 3600, 7200, 14400, 21600, 21600, 21600]
    assert world.state.agents["it"].bad_ends == ()
    assert [record.data["reason"] for record in world.kinds("queued")][-1] == "throttled"


def test_any_other_end_begins_the_waits_anew() -> None:
    world = begin(SAFETY)
    assert [throttle(world), throttle(world, reason=Reason.BUDGET)] == [900, 1800]
    assert [record.data["reason"] for record in world.kinds("queued")] == ["throttled", "budget"]
    crash(world)
    assert throttle(world) == 900


@pytest.mark.parametrize(
    ("resets_in", "waits"),
    [(3600.0, 3600), (2.0, 60), (0.0, 900), (-3600.0, 900), (400 * 86400.0, 8 * 86400)],
)
def test_a_throttled_agent_runs_again_when_its_provider_said(resets_in: float, waits: float) -> None:
    assert throttle(begin(SAFETY), resets_in) == pytest.approx(waits, abs=0.01)


@given(st.integers(1, 10**6), st.none() | st.floats(-1e9, 1e9))
def test_a_wait_is_never_short_and_never_for_ever(waits: int, resets_in: float | None) -> None:
    assert 60.0 <= restart.wait(waits, resets_in) <= 8 * 86400.0


@pytest.mark.parametrize("layer", AgentLayer)
def test_a_hung_result_counts_as_what_it_said(layer: AgentLayer) -> None:
    world = begin(layer)
    world.says("it", 20, finished=True)
    world.passes(35)
    assert world.stops[world.run_of("it")].lingered
    world.ends("it", Reason.SUCCEEDED, 36)
    assert world.state.agents["it"].bad_ends == ()
    world.passes(36 + 61)
    assert world.starts("it")[1:] == ([96.0] if layer is SAFETY else [])


def test_backoff_doubles_and_is_capped() -> None:
    world = World.begun(agent("it", SAFETY), layer=evolve(STEADY, max_restarts=9, backoff_max_secs=5.0))
    for _ in range(6):
        crash(world)
    assert world.starts("it") == [0, 1, 1 + 2, 3 + 4, 7 + 5, 12 + 5, 17 + 5]


def test_backoff_is_configured() -> None:
    world = World.begun(agent("it", SAFETY), layer=evolve(STEADY, backoff_secs=30.0, success_cooldown_secs=7.0))
    crash(world)
    world.ends("it", Reason.SUCCEEDED)
    world.passes(world.at + 7)
    assert world.starts("it") == [0, 30, 37]


@given(
    bad_ends=st.integers(1, 10_000),
    first=st.floats(0.001, 1000.0),
    longest=st.floats(0.001, 100_000.0),
    jitter=st.floats(0.0, 1.0),
    chance=st.floats(0.0, 1.0, exclude_max=True),
)
def test_backoff_lies_between_the_delay_and_its_jitter(
    bad_ends: int, first: float, longest: float, jitter: float, chance: float
) -> None:
    layer = LayerConfig(backoff_secs=first, backoff_max_secs=longest, backoff_jitter=jitter)
    plain = restart.backoff(bad_ends, evolve(layer, backoff_jitter=0.0), chance)
    assert min(first, longest) <= plain <= longest
    assert plain <= restart.backoff(bad_ends, layer, chance) <= plain * (1 + jitter)
    assert plain <= restart.backoff(bad_ends + 1, layer, 0.0)


def test_agents_that_died_together_do_not_return_together() -> None:
    names = [f"agent{number}" for number in range(8)]
    world = World.begun(*(agent(name, SAFETY) for name in names), layer=LayerConfig())
    for name in names:
        world.ends(name, Reason.FAILED, 10)
    world.passes(12)
    returned = {world.starts(name)[1] for name in names}
    assert len(returned) > len(names) // 2
    assert all(11.0 <= at < 11.1 for at in returned)


def test_the_sixth_bad_end_within_ten_minutes_holds() -> None:
    world = World.begun(agent("it", SAFETY))
    for _ in range(5):
        crash(world)
    assert world.starts("it") == [0, 1, 3, 7, 15, 31]
    world.ends("it", Reason.FAILED, 599)
    hold = world.state.agents["it"].hold
    assert hold is not None
    assert hold.reason == "crash_loop"
    assert "6 bad ends within 600 s" in hold.detail
    world.passes(5000)
    assert len(world.starts("it")) == 6


@pytest.mark.parametrize(("at", "held"), [(599.9, True), (600.0, False)])
def test_bad_ends_age_out_of_the_window(at: float, held: bool) -> None:
    world = World.begun(agent("it", SAFETY))
    for _ in range(5):
        crash(world)  # the first at second 0
    world.ends("it", Reason.FAILED, at)
    assert (world.state.agents["it"].hold is not None) is held


def test_backoff_begins_anew_when_the_bad_ends_have_aged_out() -> None:
    world = World.begun(agent("it", SAFETY))
    for _ in range(4):
        crash(world)
    crash(world, at=800)
    assert world.starts("it")[-1] == 801


def test_the_window_is_configured_by_layer() -> None:
    layer = evolve(STEADY, max_restarts=1, period_secs=50.0)
    world = World.begun(agent("it", SAFETY), layer=layer)
    crash(world)
    crash(world, at=60)
    assert world.state.agents["it"].hold is None
    crash(world)
    assert world.state.agents["it"].hold is not None


def test_intensity_is_counted_for_each_agent_alone() -> None:
    world = World.begun(agent("it", SAFETY), agent("other", SAFETY))
    for _ in range(4):
        crash(world, "it")
        crash(world, "other")
    assert world.state.agents["it"].hold is None
    assert world.state.agents["other"].hold is None


def test_good_ends_do_not_count() -> None:
    world = World.begun(agent("it", SAFETY), layer=evolve(STEADY, success_cooldown_secs=1.0))
    for _ in range(20):
        world.ends("it", Reason.SUCCEEDED)
        world.passes(world.at + 1)
    assert world.lives("it")


@pytest.fixture
def held() -> World:
    """At second 100: "it" of Safety and "job" of Core, both held for crash loops."""
    world = World.begun(agent("it", SAFETY), agent("job", CORE), layer=evolve(STEADY, max_restarts=0))
    world.due("job", 1)
    world.ends("it", Reason.FAILED, 50)
    world.ends("job", Reason.FAILED, 100)
    return world


def test_only_a_person_ends_a_hold(held: World) -> None:
    world = held
    world.due("job", 110)
    assert world.dropped("job") == ["held"]
    for name in ("it", "job"):
        answer = world.asks(name, 120)
        assert isinstance(answer, Refuse)
        assert answer.reason == "held"
        for level in CorrectionLevel:
            world.drifts(name, level, 130)
    world.misses(140, "it", "job")
    world.misses(150)
    world.passes(7200)
    assert not world.orders
    assert [record.data["agent"] for record in world.kinds("held")] == ["it", "job"]


def test_a_hold_survives_the_restart_of_the_factory(held: World) -> None:
    world = held.reborn()
    assert {name: agent.hold for name, agent in world.state.agents.items()} == {
        name: agent.hold for name, agent in held.state.agents.items()
    }
    world.misses()
    world.passes(1000)
    assert not world.orders


def test_resume_starts_a_safety_agent_at_once_with_an_empty_window(held: World) -> None:
    world = held
    assert world.resumes("it", 111) == Resumed(was_held=True)
    assert world.starts("it") == [0, 111]
    assert world.state.agents["it"].bad_ends == ()
    assert world.resumes("it", 112) == Resumed(was_held=False)
    assert world.starts("it") == [0, 111]


def test_resume_lets_cron_go_on_but_starts_nothing_itself(held: World) -> None:
    world = held
    world.resumes("job", 111)
    world.passes(500)
    assert world.starts("job") == [1]
    world.due("job", 600)
    assert world.starts("job") == [1, 600]


def test_resume_at_the_start_of_the_factory(held: World) -> None:
    durable = held.reborn().durable
    world = World(held.config, durable, at=200, resume=("it",))
    world.misses()
    assert world.starts("it") == [200]
    assert world.state.agents["job"].hold is not None


def test_retries_of_one_occurrence_and_then_it_is_done() -> None:
    world = begin(CORE, retries=2)
    occurrence = world.orders[world.run_of("it")].occurrence
    crash(world)
    crash(world)
    order = world.orders[world.run_of("it")]
    assert (order.attempt, order.occurrence) == (3, occurrence)
    world.ends("it", Reason.FAILED)
    world.passes(world.at + 3600)
    assert world.starts("it") == [1, 11, 13]
    assert [record.data["attempt"] for record in world.kinds("run_begun")] == [1, 2, 3]
    assert world.state.agents["it"].hold is None


def test_the_next_occurrence_has_its_retries_anew() -> None:
    world = begin(CORE, retries=1)
    crash(world)
    world.ends("it", Reason.FAILED)
    world.due("it", 1000)
    crash(world)
    assert world.orders[world.run_of("it")].attempt == 2


def test_a_retry_does_not_grow_too_old_in_its_own_back_off() -> None:
    world = World.begun(agent("it", GROWTH, retries=1), layer=evolve(STEADY, backoff_secs=5e4, backoff_max_secs=1e5))
    world.asks("it", 1)
    crash(world, at=10)
    assert world.starts("it") == [1, 50_010]


def test_severe_gives_one_more_attempt_each_time_without_retries() -> None:
    world = begin(CORE)
    for _ in range(3):
        world.ends("it", Reason.CORRECTED_SEVERE)
        world.passes(world.at + 10)
    assert world.orders[world.run_of("it")].attempt == 4
    world.ends("it", Reason.FAILED)
    world.passes(world.at + 1000)
    assert not world.lives("it")


def test_corrections_and_crashes_share_one_intensity() -> None:
    world = World.begun(agent("it", SAFETY), layer=evolve(STEADY, max_restarts=1))
    crash(world)
    world.ends("it", Reason.CORRECTED_SEVERE)
    assert world.state.agents["it"].hold is not None


@pytest.mark.parametrize("retries", [0, 5])
def test_a_safety_agent_knows_no_retries(retries: int) -> None:
    world = begin(SAFETY, retries=retries)
    for _ in range(4):
        crash(world)
        assert world.orders[world.run_of("it")].attempt == 1


def test_the_first_run_is_no_restart_and_all_later_ones_are() -> None:
    world = begin(SAFETY)
    assert world.state.agents["it"].restarts == 0
    crash(world)
    crash(world)
    assert world.state.agents["it"].restarts == 2
    job = begin(CORE, retries=1)
    crash(job)
    assert job.state.agents["it"].restarts == 1
    job.ends("it", Reason.SUCCEEDED)
    job.due("it", 1000)
    assert job.state.agents["it"].restarts == 1


@pytest.mark.parametrize("layer", [CORE, GROWTH])
@pytest.mark.parametrize("reason", [Reason.CORRECTED_SEVERE, Reason.DISK])
def test_an_attempt_that_was_not_its_own_fault_uses_no_retry(layer: AgentLayer, reason: Reason) -> None:
    world = begin(layer, retries=1)
    for expected in range(2, 4):
        world.ends("it", reason)
        world.passes(world.at + 100)
        assert len(world.starts("it")) == expected
    # also not in the memory of a factory that starts anew while the attempt waits
    world.ends("it", Reason.CORRECTED_SEVERE)
    world = world.reborn()
    world.misses()
    world.passes(world.at + 100)
    assert world.lives("it")
    world.ends("it", Reason.FAILED)
    world.passes(world.at + 100)
    assert world.lives("it"), "the retry is left"
    world.ends("it", Reason.FAILED)
    world.passes(world.at + 400)
    assert not world.lives("it")


def test_a_server_that_gives_no_leases_is_asked_less_and_less_often() -> None:
    waits = [restart.lease_wait(refusals, LayerConfig(), 0.0) for refusals in (1, 2, 3, 6, 7, 100)]
    assert waits == [5.0, 10.0, 20.0, 160.0, 300.0, 300.0]
    assert restart.lease_wait(2, LayerConfig(backoff_jitter=0.5), 0.5) == 12.5
