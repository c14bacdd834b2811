"""The strategies: who is stopped with whom, in which order all come back, and what a hold does to the others."""

from __future__ import annotations

import pytest
from attrs import evolve

from darkfactory.model.actions import Held, Resumed
from darkfactory.model.drift import CorrectionLevel
from darkfactory.model.ends import Reason
from darkfactory.model.fleet import AgentDefinition, AgentLayer, LayerConfig, Strategy
from darkfactory.policy.restart import AFTER, Again

from .world import CORE, GROWTH, SAFETY, STEADY, World, agent, fleet

ONE, ALL, REST = Strategy.ONE_FOR_ONE, Strategy.ONE_FOR_ALL, Strategy.REST_FOR_ONE
NAMES = ["a", "b", "c", "d"]
TOGETHER = {ONE: ["b"], ALL: NAMES, REST: ["b", "c", "d"]}
"""Whom a bad end of "b" restarts."""
ENDS = [reason for reason in Reason if reason is not Reason.LOST]
MATRIX = [
    pytest.param(layer, strategy, reason, id=f"{layer.value.lower()}-{strategy.value}-{reason.value}")
    for layer in AgentLayer
    for strategy in Strategy
    for reason in ENDS
    if layer is SAFETY or strategy is ONE
]


def begin(strategy: Strategy, *more: AgentDefinition, **layer: object) -> World:
    """At second 1 four Safety agents run, and whatever else is declared."""
    safety = evolve(STEADY, strategy=strategy, **layer)
    config = fleet(*(agent(name, SAFETY, grace_secs=3.0) for name in NAMES), *more)
    world = World(evolve(config, layers={SAFETY: safety, CORE: STEADY, GROWTH: STEADY}))
    world.misses()
    for name in NAMES:
        world.started(name, 1)
    return world


def stopping(world: World) -> list[str]:
    """Whose runs have been told to stop, as siblings."""
    return [world.orders[run_id].agent for run_id, stop in world.stops.items() if stop.reason is Reason.SIBLING]


def obey(world: World, secs: float = 1.0) -> list[str]:
    """Let every run that is told to stop end, each `secs` after the one before; in which order that was."""
    ended = []
    while world.stops:
        (run_id,) = world.stops
        name = world.orders[run_id].agent
        world.ends(name, world.stops[run_id].reason, world.at + secs)
        ended.append(name)
    return ended


def last_starts(world: World) -> list[str]:
    """The agents of the latest runs, in the order in which those were begun."""
    newest = max(record.when.at for record in world.kinds("run_begun"))
    return [record.data["agent"] for record in world.kinds("run_begun") if record.when.at == newest]


@pytest.mark.parametrize(("layer", "strategy", "reason"), MATRIX)
def test_after_an_end(layer: AgentLayer, strategy: Strategy, reason: Reason) -> None:
    """Who is stopped with it, who comes back, and that it counts for the one that ended alone."""
    others = {CORE: agent("it", CORE, retries=1), GROWTH: agent("it", GROWTH, retries=1)}
    world = begin(strategy, *([others[layer]] if layer is not SAFETY else []))
    if layer is CORE:
        world.due("it", 5)
    elif layer is GROWTH:
        world.asks("it", 5)
    name = "b" if layer is SAFETY else "it"
    world.ends(name, reason, 10)
    together = TOGETHER[strategy] if layer is SAFETY and AFTER[reason].counts else [name]
    assert obey(world) == [other for other in reversed(together) if other != name]
    world.passes(950 if AFTER[reason].safety is Again.CURED else 200)
    bad = (10.0,) if AFTER[reason].counts else ()
    assert {other: world.state.agents[other].bad_ends for other in NAMES} == {
        other: bad if other == name else () for other in NAMES
    }
    assert {other for other in NAMES if len(world.starts(other)) == 2} == (set(together) if layer is SAFETY else set())
    assert all(world.lives(other) for other in NAMES)
    if len(together) > 1:
        assert last_starts(world) == together
    assert world.state.regroup is None


@pytest.mark.parametrize("strategy", [ALL, REST])
def test_siblings_are_stopped_in_reverse_each_waited_for(strategy: Strategy) -> None:
    world = begin(strategy)
    world.ends("b", Reason.FAILED, 10)
    assert stopping(world) == ["d"]
    assert world.stops[world.run_of("d")].grace_secs == 3.0
    world.passes(60)
    assert stopping(world) == ["d"]
    world.ends("d", Reason.SIBLING)
    assert stopping(world) == ["c"]
    world.ends("c", Reason.SIBLING, 61)
    if strategy is ALL:
        assert stopping(world) == ["a"]
        world.ends("a", Reason.SIBLING, 62)
    assert last_starts(world) == TOGETHER[strategy]


def test_the_group_waits_for_the_back_off_and_then_starts_in_order() -> None:
    world = begin(ALL, backoff_secs=30.0)
    world.ends("c", Reason.FAILED, 10)
    assert obey(world) == ["d", "b", "a"]
    assert {request.agent: request.waits_for for request in world.state.queue} == {
        "a": "siblings",
        "b": "siblings",
        "c": "backoff",
        "d": "siblings",
    }
    world.passes(39.9)
    assert not world.orders
    world.passes(40)
    assert last_starts(world) == NAMES


def test_start_order_holds_when_there_is_room_for_one_at_a_time() -> None:
    world = begin(ALL)
    world.state = evolve(world.state, config=evolve(world.state.config, max_concurrent_runs=1))
    world.ends("d", Reason.FAILED, 10)
    obey(world)
    world.passes(20)
    for at, name in enumerate(NAMES, 21):
        assert [order.agent for order in world.orders.values()] == [name]
        world.ends(name, Reason.SUCCEEDED, at)


def test_a_sibling_that_fails_while_it_is_stopped_counts_and_the_longer_back_off_holds() -> None:
    world = begin(ALL, backoff_secs=10.0)
    world.ends("a", Reason.FAILED, 5)  # its second failure will wait for 20 s
    obey(world)
    world.passes(100)
    world.ends("b", Reason.FAILED, 100)
    world.ends("a", Reason.FAILED, 101)
    obey(world)
    assert world.state.agents["a"].bad_ends == (5.0, 101.0)
    assert world.state.agents["b"].bad_ends == (100.0,)
    world.passes(120.9)
    assert not world.orders
    world.passes(121)
    assert last_starts(world) == NAMES


def test_one_that_fails_during_the_restart_brings_the_group_down_again() -> None:
    """ "b" comes back while "c" and "d" find no room; it fails, and nobody runs before all have ended."""
    world = begin(REST)
    world.ends("b", Reason.FAILED, 10)
    world.ends("d", Reason.SIBLING, 11)
    world.state = evolve(world.state, config=evolve(world.state.config, max_concurrent_runs=2))
    world.ends("c", Reason.SIBLING, 12)
    assert {order.agent for order in world.orders.values()} == {"a", "b"}
    world.ends("b", Reason.FAILED, 13)
    world.passes(14.9)
    assert {order.agent for order in world.orders.values()} == {"a"}
    world.passes(15)
    assert {order.agent for order in world.orders.values()} == {"a", "b"}
    assert world.starts("c") == world.starts("d") == [0]
    world.state = evolve(world.state, config=evolve(world.state.config, max_concurrent_runs=9))
    world.passes(100)
    assert all(map(world.lives, NAMES))
    assert len(world.starts("a")) == 1


def test_those_that_began_again_already_are_stopped_again() -> None:
    world = begin(ALL)
    world.ends("b", Reason.FAILED, 10)
    obey(world)
    world.passes(20)
    world.ends("a", Reason.FAILED, 21)
    assert obey(world) == ["d", "c", "b"]
    world.passes(100)
    assert [len(world.starts(name)) for name in NAMES] == [3, 3, 3, 3]
    assert world.state.agents["b"].bad_ends == (10.0,)


def test_a_resting_sibling_goes_on_resting_but_not_into_the_middle_of_a_restart() -> None:
    world = begin(ALL, success_cooldown_secs=15.0)
    world.ends("a", Reason.SUCCEEDED, 5)
    world.ends("c", Reason.SUCCEEDED, 9)
    world.ends("b", Reason.FAILED, 10)
    assert stopping(world) == ["d"]
    world.passes(22)  # the rest of "a" is over, "d" has not ended
    assert {order.agent for order in world.orders.values()} == {"d"}
    world.ends("d", Reason.SIBLING, 22.5)
    assert last_starts(world) == ["a", "b", "d"]
    world.passes(24)
    assert last_starts(world) == ["c"]


@pytest.mark.parametrize("strategy", Strategy)
@pytest.mark.parametrize("how", ["crash_loop", "drift", "operator"])
def test_while_one_is_held_those_that_restart_with_it_are_down(strategy: Strategy, how: str) -> None:
    world = begin(strategy, max_restarts=0)
    if how == "crash_loop":
        world.ends("b", Reason.FAILED, 10)
    elif how == "drift":
        world.drifts("b", CorrectionLevel.CRITICAL, 10)
    else:
        assert world.holds("b", 10) == Held(was_held=False)
    while world.stops:
        run_id = next(iter(world.stops))
        world.ends(world.orders[run_id].agent, world.stops[run_id].reason, world.at + 1)
    world.passes(5000)
    down = TOGETHER[strategy]
    assert [name for name in NAMES if not world.lives(name)] == down
    assert [name for name in NAMES if world.state.agents[name].hold is not None] == ["b"]
    assert {request.agent: request.waits_for for request in world.state.queue} == {
        name: "siblings" for name in down if name != "b"
    }
    assert world.resumes("b", 6000) == Resumed(was_held=True)
    assert last_starts(world) == down
    assert [world.starts(name) for name in down] == [[0.0, 6000.0]] * len(down)


@pytest.mark.parametrize("strategy", Strategy)
def test_a_hold_keeps_the_group_down_across_restarts_until_a_person_resumes_it(strategy: Strategy) -> None:
    world = begin(strategy)
    world.holds("b", 10)
    reborn = world.reborn(at=50)
    reborn.misses()
    reborn.passes(5000)
    assert [name for name in NAMES if not reborn.lives(name)] == TOGETHER[strategy]
    resumed = World(reborn.config, reborn.durable, at=6000, resume=("b",))
    resumed.misses()
    assert last_starts(resumed) == NAMES


def test_with_two_held_the_group_waits_for_both() -> None:
    world = begin(ALL)
    world.holds("a", 10)
    world.holds("c", 11)
    while world.stops:
        run_id = next(iter(world.stops))
        world.ends(world.orders[run_id].agent, world.stops[run_id].reason, world.at + 1)
    world.resumes("a", 100)
    assert not world.orders
    (detail,) = {record.data["detail"] for record in world.kinds("queued") if record.when.at == 100}
    assert detail == "until c is resumed"
    world.resumes("c", 200)
    assert last_starts(world) == NAMES


def test_a_disabled_or_missing_agent_holds_up_nobody() -> None:
    safety = evolve(STEADY, strategy=ALL)
    config = fleet(agent("off", SAFETY, enabled=False), *(agent(name, SAFETY) for name in NAMES), layer=STEADY)
    world = World(evolve(config, layers={SAFETY: safety, CORE: STEADY, GROWTH: STEADY}))
    world.misses(0, "a")
    world.ends("c", Reason.FAILED, 10)
    assert obey(world) == ["d", "b"]
    world.passes(100)
    assert last_starts(world) == ["b", "c", "d"]
    world.misses(200)
    assert world.lives("a")
    assert world.state.regroup is None


def test_during_a_shutdown_nobody_is_restarted_or_stopped_as_a_sibling() -> None:
    world = begin(ALL)
    world.ends("b", Reason.FAILED, 10)
    world.shuts_down(11)
    assert {run_id: stop.reason for run_id, stop in world.stops.items()} == {
        world.run_of("d"): Reason.SIBLING,
        world.run_of("a"): Reason.SHUTDOWN,
        world.run_of("c"): Reason.SHUTDOWN,
    }
    for name in ("c", "d", "a"):
        world.ends(name, world.stops[world.run_of(name)].reason, 12)
    assert world.finish is not None
    assert len(world.kinds("run_begun")) == 4


@pytest.mark.parametrize("layer", AgentLayer)
def test_an_operators_hold_stops_the_run_and_refuses_the_next(layer: AgentLayer) -> None:
    world = World.begun(agent("it", layer, retries=1))
    if layer is CORE:
        world.due("it", 5)
    elif layer is GROWTH:
        world.asks("it", 5)
    assert world.holds("it", 10) == Held(was_held=False)
    assert world.stop_reason("it") is Reason.CANCELLED
    world.ends("it", Reason.CANCELLED, 11)
    (held,) = world.kinds("held")
    assert (held.data["reason"], held.data["detail"]) == ("operator", "being mended")
    assert world.holds("it", 12) == Held(was_held=True)
    if layer is CORE:
        world.due("it", 100)
        assert world.dropped("it") == ["held"]
    reborn = world.reborn(at=200)
    reborn.misses()
    reborn.passes(1000)
    assert not reborn.orders
    assert reborn.state.agents["it"].hold == world.state.agents["it"].hold
    assert reborn.resumes("it", 1001) == Resumed(was_held=True)
    assert reborn.lives("it") is (layer is SAFETY)


@pytest.mark.parametrize(("down_until", "held"), [(600.0, True), (611.0, False)])
def test_bad_ends_age_out_while_the_factory_is_down(down_until: float, held: bool) -> None:
    world = World.begun(agent("it", SAFETY), layer=LayerConfig(max_restarts=1, backoff_jitter=0.0))
    world.ends("it", Reason.FAILED, 10)
    reborn = world.reborn(at=down_until)
    reborn.misses()
    reborn.ends("it", Reason.FAILED, down_until)
    assert (reborn.state.agents["it"].hold is not None) is held
