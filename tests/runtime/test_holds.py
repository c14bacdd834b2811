"""Holds and groups in a whole factory: by the library, across its restarts, and what resume brings back."""

from __future__ import annotations

import pytest
import trio
from attrs import evolve
from trio.testing import MockClock

from darkfactory import AgentDefinition, AgentLayer, OrchestratorConfig, Strategy, open_factory
from darkfactory.testing import FAILS, Script, SimulatedMachine

from .fleets import STEADY, by_agent, fleet, secs

WATCHES = Script(secs=1e9)
NAMES = ["db", "web", "edge"]


def group(strategy: Strategy, **layer: object) -> OrchestratorConfig:
    config = fleet(*(AgentDefinition(name, AgentLayer.SAFETY, "demo", "x", stall_timeout_secs=1e9) for name in NAMES))
    safety = evolve(STEADY, strategy=strategy, **layer)
    return evolve(config, layers={**config.layers, AgentLayer.SAFETY: safety})


def begun_since(machine: SimulatedMachine, count: int) -> list[str]:
    """The agents of all runs but the first `count`, in the order in which they were begun."""
    return [line["agent"] for line in machine.records("run_begun")][count:]


async def test_a_crash_brings_the_group_down_in_reverse_and_back_in_order(autojump_clock: MockClock) -> None:
    crashes = [Script(secs=100.0, exit_code=1, last_words=b"")]
    machine = SimulatedMachine(
        lambda spec: crashes.pop() if spec.run_id.startswith("web") and crashes else evolve(WATCHES, dies_after=1.0)
    )
    async with open_factory(group(Strategy.ONE_FOR_ALL, backoff_secs=7.0), machine=machine.open):
        await trio.sleep(200)
        ends = [(line["agent"], line["reason"]) for line in machine.records("run_ended")]
        assert ends == [("web", "failed"), ("edge", "sibling"), ("db", "sibling")]
        assert secs(machine, "run_ended") == [100.0, 101.0, 102.0]
        assert begun_since(machine, 3) == NAMES
        assert secs(machine, "run_begun")[3:] == [107.0] * 3


@pytest.mark.parametrize(
    ("strategy", "down"),
    [
        (Strategy.ONE_FOR_ONE, ["web"]),
        (Strategy.ONE_FOR_ALL, NAMES),
        (Strategy.REST_FOR_ONE, ["web", "edge"]),
    ],
    ids=["one_for_one", "one_for_all", "rest_for_one"],
)
@pytest.mark.parametrize("how", ["library", "at the start"])
async def test_a_hold_survives_the_factory_and_resume_brings_all_back_in_order(
    autojump_clock: MockClock, strategy: Strategy, down: list[str], how: str
) -> None:
    machine = SimulatedMachine(lambda _: WATCHES)
    config = group(strategy)
    async with open_factory(config, machine=machine.open) as factory:
        assert await factory.hold("web", "its disk is being replaced")
        assert not await factory.hold("web")
        await factory.wait_statuses(lambda agents: [a.name for a in agents if not a.running] == down)
        await trio.sleep(1000)
        for status in factory.agent_statuses():
            if status.name == "web":
                assert (status.condition, status.reason) == ("held", "operator: its disk is being replaced")
            elif status.name in down:
                assert (status.condition, status.reason) == ("queued", "siblings")
    (held,) = machine.records("held")
    assert (held["agent"], held["reason"]) == ("web", "operator")
    assert not any(line["reason"] == "failed" for line in machine.records("run_ended"))

    async with open_factory(config, machine=machine.open) as factory:
        await trio.sleep(1000)
        assert [status.name for status in factory.agent_statuses() if not status.running] == down
        count = len(machine.records("run_begun"))
        if how == "library":
            assert await factory.resume("web")
            assert begun_since(machine, count) == down
    if how == "at the start":
        count = len(machine.records("run_begun"))
        async with open_factory(config, machine=machine.open, resume=["web"]):
            assert begun_since(machine, count) == NAMES


@pytest.mark.parametrize(("down_secs", "held"), [(10.0, True), (400.0, False)])
async def test_bad_ends_age_out_across_a_restart_of_the_factory(
    autojump_clock: MockClock, down_secs: float, held: bool
) -> None:
    """Two failures of the first life, at seconds 1 and 202, count in the second one until they are ten minutes old."""
    machine = SimulatedMachine(by_agent(watch=FAILS))
    layer = evolve(STEADY, max_restarts=2, backoff_secs=200.0, backoff_max_secs=200.0)
    config = fleet(AgentDefinition("watch", AgentLayer.SAFETY, "demo", "x"), layer=layer)
    async with open_factory(config, machine=machine.open):
        await trio.sleep(250)
    await trio.sleep(down_secs)
    async with open_factory(config, machine=machine.open):
        await trio.sleep(10)
    assert secs(machine, "run_ended", reason="failed") == [1.0, 202.0, 251.0 + down_secs]
    assert bool(machine.records("held", reason="crash_loop")) is held
