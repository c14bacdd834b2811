"""The disk on a mock clock: when it is looked at, what a bad end on a full one is called, and what is pruned when."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import timedelta

import attrs
import pytest
import trio
from trio.testing import MockClock

from darkfactory import AgentDefinition, AgentLayer, OrchestratorConfig, open_factory
from darkfactory.devices.machine import Machine
from darkfactory.devices.runstore import Keep, Pruned
from darkfactory.testing import FAILS, HANGS, SUCCEEDS, MemoryRuns, Script, SimulatedMachine

from .fleets import fleet, secs

WATCH = AgentDefinition("watch", AgentLayer.SAFETY, "demo", "x", stall_timeout_secs=1e6)
FLOOR = 100 * 1024**2
FLEET = fleet(WATCH, min_free_bytes=FLOOR)


async def test_nothing_starts_on_a_full_disk_and_everything_when_there_is_room(autojump_clock: MockClock) -> None:
    machine = SimulatedMachine(lambda _: HANGS)
    machine.disk.free_bytes = FLOOR - 1
    async with open_factory(FLEET, machine=machine.open) as factory:
        (status,) = factory.agent_statuses()
        assert (status.condition, status.reason) == ("queued", "disk")
        await trio.sleep(100)
        assert not machine.records("run_begun")
        machine.disk.free_bytes = FLOOR
        await trio.sleep(100)
        assert factory.agent_statuses()[0].condition == "running"
    assert secs(machine, "run_begun") == [120.0]  # looked at every half minute
    assert len(machine.records("disk_low")) == len(machine.records("disk_has_room")) == 1


@pytest.mark.parametrize(
    ("free_bytes", "reason", "again"),
    [
        (0, "disk", "disk"),  # whatever failed there did so for want of room
        (FLOOR - 1, "failed", "backoff"),  # there was room for it, though too little for others
        (FLOOR, "failed", "backoff"),
    ],
)
@pytest.mark.parametrize("script", [FAILS, Script(refuses="eio")])
async def test_a_bad_end_has_the_disk_looked_at_at_once(
    autojump_clock: MockClock, free_bytes: int, reason: str, again: str, script: Script
) -> None:
    machine = SimulatedMachine(lambda _: script)
    async with open_factory(FLEET, machine=machine.open) as factory:
        machine.disk.free_bytes = free_bytes
        (status,) = await factory.wait_statuses(lambda statuses: not statuses[0].running)
        assert machine.records("run_ended")[0]["reason"] == reason
        assert (status.condition, status.reason) == ("queued", again)
        assert bool(machine.records("disk_low")) == (free_bytes < FLOOR)
        await trio.sleep(25)
        assert len(machine.records("run_begun")) > 1 or free_bytes < FLOOR


@pytest.mark.parametrize("word", ["enospc", "edquot"])
async def test_a_start_that_fails_for_want_of_room_is_the_disks_though_it_shows_room(
    autojump_clock: MockClock, word: str
) -> None:
    machine = SimulatedMachine(lambda _: Script(refuses=word))
    async with open_factory(FLEET, machine=machine.open):
        await trio.sleep(610)
    assert {line["reason"] for line in machine.records("run_ended")} == {"disk"}
    assert not machine.records("held")
    assert len(machine.records("run_begun")) <= 21  # no more often than the disk is looked at


async def test_a_good_end_and_one_that_we_caused_have_nothing_to_do_with_the_disk(autojump_clock: MockClock) -> None:
    helper = AgentDefinition("helper", AgentLayer.GROWTH, "demo", "x")
    scripts = {"watch": HANGS, "helper": SUCCEEDS}
    machine = SimulatedMachine(lambda spec: scripts[spec.run_id.split("-")[0]])
    async with open_factory(fleet(WATCH, helper, min_free_bytes=FLOOR), machine=machine.open) as factory:
        await factory.start("helper")
        await trio.sleep(0.5)
        machine.disk.free_bytes = 0
        await trio.sleep(10)
    assert [line["reason"] for line in machine.records("run_ended")] == ["succeeded", "shutdown"]


async def test_without_a_floor_a_failure_is_a_failure(autojump_clock: MockClock) -> None:
    machine = SimulatedMachine(lambda _: FAILS)
    machine.disk.free_bytes = 0
    async with open_factory(fleet(WATCH, min_free_bytes=0), machine=machine.open):
        await trio.sleep(600)
    assert {line["reason"] for line in machine.records("run_ended")} == {"failed"}
    assert machine.records("held")


class CountingRuns(MemoryRuns):
    """Notes what pruning was asked for, and when."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[float, Keep, Collection[str]]] = []

    async def prune(self, keep: Keep, *, living: Collection[str]) -> Pruned:
        self.asked.append((round(trio.current_time()), keep, living))
        return await super().prune(keep, living=living)


async def test_old_runs_are_pruned_at_the_start_and_then_after_new_runs(autojump_clock: MockClock) -> None:
    machine = SimulatedMachine(lambda _: Script(secs=math.inf))
    runs = CountingRuns()

    @contextmanager
    def opened(config: OrchestratorConfig) -> Iterator[Machine]:
        with machine.open(config) as true:
            yield attrs.evolve(true, runs=runs)

    helper = AgentDefinition("helper", AgentLayer.GROWTH, "demo", "x", timeout_secs=None, stall_timeout_secs=1e6)
    config = fleet(helper, keep_runs=7, keep_days=2.0, keep_bytes=500)
    async with open_factory(config, machine=opened) as factory:
        begun = trio.current_time()
        await trio.sleep(5000)
        await factory.start("helper")
        await trio.sleep(5000)
        living = {str(factory.agent_statuses()[0].run_id)}
    assert [(round(at - begun), keep, set(names)) for at, keep, names in runs.asked] == [
        (0, Keep(7, machine.start - timedelta(days=2), 500), set()),
        (5000, Keep(7, machine.start - timedelta(days=2) + timedelta(seconds=5000), 500), living),
    ]
