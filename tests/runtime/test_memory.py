"""The memory of whole runs, on a mock clock: the exact second at which one is stopped."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import trio
from trio.testing import MockClock

from darkfactory import AgentDefinition, AgentLayer, open_factory
from darkfactory.runtime.memory import MemoryWatch
from darkfactory.testing import HANGS, STARTED, Script, ScriptedProcess, SimulatedMachine

from .fleets import fleet, secs

MIB = 1024**2


def grows(*steps: tuple[float, int], **more: object) -> Script:
    return Script(output=((0.0, STARTED),), secs=math.inf, memory=steps, **more)  # type: ignore[arg-type]


def limited(name: str, max_memory_bytes: int | None, **more: object) -> AgentDefinition:
    return AgentDefinition(name, AgentLayer.GROWTH, "demo", "x", max_memory_bytes=max_memory_bytes, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("grown_at", "stopped_at"), [(0.0, 11.0), (0.5, 11.0), (1.0, 11.0), (1.5, 12.0), (100.0, 110.0), (100.1, 111.0)]
)
async def test_a_run_over_its_limit_is_stopped_at_the_next_full_second_of_its_life(
    autojump_clock: MockClock, grown_at: float, stopped_at: float
) -> None:
    machine = SimulatedMachine(lambda _: grows((0.0, 1 * MIB), (grown_at, 3 * MIB)))
    async with open_factory(fleet(limited("big", 2 * MIB)), machine=machine.open) as factory:
        await trio.sleep(10)
        await factory.start("big")
        await trio.sleep(600)
        (stopping,) = machine.records("run_stopping")
        assert (stopping["reason"], stopping["detail"]) == (
            "memory",
            f"its processes took {3 * MIB} bytes, max_memory_bytes is {2 * MIB}",
        )
        assert secs(machine, "run_stopping") == [stopped_at]
        (ended,) = machine.records("run_ended")
        assert ended["reason"] == "memory"


@pytest.mark.parametrize("taken", [0, 2 * MIB - 1, 2 * MIB])
async def test_a_run_at_its_limit_goes_on(autojump_clock: MockClock, taken: int) -> None:
    machine = SimulatedMachine(lambda _: grows((0.0, taken)))
    async with open_factory(fleet(limited("big", 2 * MIB)), machine=machine.open) as factory:
        await factory.start("big")
        await trio.sleep(600)
        assert factory.agent_statuses()[0].running


async def test_each_run_has_its_own_limit_and_one_without_has_none(autojump_clock: MockClock) -> None:
    machine = SimulatedMachine(lambda _: grows((5.0, 3 * MIB)))
    agents = [limited("small", 2 * MIB), limited("large", 4 * MIB), limited("free", None)]
    async with open_factory(fleet(*agents), machine=machine.open) as factory:
        for agent in agents:
            await factory.start(agent.name)
        await trio.sleep(60)
        assert [status.running for status in factory.agent_statuses()] == [False, True, True]


async def test_where_nobody_has_a_limit_nothing_is_measured_and_nobody_wakes(autojump_clock: MockClock) -> None:
    watch = MemoryWatch(None)  # type: ignore[arg-type] - nothing is told
    naps = _Naps()
    trio.lowlevel.add_instrument(naps)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.run, name="watch")
        with watch.watching("run", ScriptedProcess(1, HANGS, None, None), None):  # type: ignore[arg-type]
            await trio.sleep(3600)
        steps = naps.steps["watch"]
        with watch.watching("run", ScriptedProcess(1, grows((0.0, 1)), None, None), 2):  # type: ignore[arg-type]
            await trio.sleep(3600)
        nursery.cancel_scope.cancel()
    trio.lowlevel.remove_instrument(naps)
    assert steps == 1  # up to its first wait
    assert naps.steps["watch"] > 3600  # the same eye sees the naps that there are


class _Naps(trio.abc.Instrument):
    def __init__(self) -> None:
        self.steps: Counter[str] = Counter()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps[task.name] += 1


async def test_a_run_that_its_system_limits_is_looked_at_once(autojump_clock: MockClock) -> None:
    asked = 0

    class Limited:
        async def memory_bytes(self) -> int | None:
            nonlocal asked
            asked += 1
            await trio.lowlevel.checkpoint()
            return None

    watch = MemoryWatch(None)  # type: ignore[arg-type] - nothing is told
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.run)
        with watch.watching("run", Limited(), 1):  # type: ignore[arg-type]
            await trio.sleep(10)
            statistics = [trio.current_time(), asked]
            await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert (statistics[1], asked) == (1, 1)


async def test_what_the_system_ended_at_its_limit_counts_as_memory(autojump_clock: MockClock) -> None:
    machine = SimulatedMachine(lambda _: Script(exit_code=-9, last_words=b"", out_of_memory=True))
    async with open_factory(fleet(limited("big", 2 * MIB)), machine=machine.open) as factory:
        await factory.start("big")
        await trio.sleep(60)
    (ended,) = machine.records("run_ended")
    assert (ended["reason"], ended["exit_code"]) == ("memory", -9)
    assert str(2 * MIB) in ended["detail"]


async def test_memory_counts_against_the_intensity(autojump_clock: MockClock) -> None:
    machine = SimulatedMachine(lambda _: grows((0.0, 3 * MIB)))
    watch = AgentDefinition("watch", AgentLayer.SAFETY, "demo", "x", max_memory_bytes=2 * MIB)
    async with open_factory(fleet(watch), machine=machine.open) as factory:
        await trio.sleep(120)
        assert factory.agent_statuses()[0].condition == "held"
    assert len(machine.records("run_ended", reason="memory")) == 6
