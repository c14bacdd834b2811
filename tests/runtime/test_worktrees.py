"""Runs in worktrees on a mock clock: where they work, what is told of it, and when the gate lets the next one in."""

from __future__ import annotations

import itertools
from pathlib import Path

import attrs
import pytest
import structlog
import trio
from trio.testing import MockClock

from darkfactory import AgentDefinition, AgentLayer, Isolation, OrchestratorConfig, Queue, open_factory
from darkfactory.testing import HANGS, STUBBORN, SUCCEEDS, CancelAtStep, Script, SimulatedMachine, SimulatedWorktrees

from .fleets import fleet, secs

HELPER = AgentDefinition("helper", AgentLayer.GROWTH, "demo", "x", isolation=Isolation.WORKTREE)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory that looks like a repository; the simulated machine asks no more of it."""
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").touch()
    return tmp_path


def apart(place: Path, *agents: AgentDefinition, **fields: object) -> OrchestratorConfig:
    return attrs.evolve(fleet(*(agents or (HELPER,)), **fields), working_dir=place)  # type: ignore[arg-type]


async def test_a_run_works_in_its_worktree_and_the_status_says_where(place: Path, autojump_clock: MockClock) -> None:
    machine = SimulatedMachine(lambda _: Script(secs=10))
    shares = AgentDefinition("shares", AgentLayer.GROWTH, "demo", "x")
    async with open_factory(apart(place, HELPER, shares), machine=machine.open) as factory:
        await factory.start("helper")
        await factory.start("shares")
        await trio.sleep(5)
        by_name = {status.name: status for status in factory.agent_statuses()}
        run = by_name["helper"].run_id
        assert by_name["helper"].worktree == Path("/simulated/worktrees") / str(run)
        assert by_name["shares"].worktree is None
        await trio.sleep(10)
        assert factory.agent_statuses()[0].worktree is None
    cwds = {spec.run_id.split("-")[0]: spec.cwd for spec in machine.launcher.started}
    assert cwds == {"helper": Path("/simulated/worktrees") / str(run), "shares": place}
    assert machine.worktrees.made == [run]
    assert machine.records("worktree_made", run=run)[0]["branch"] == f"darkfactory/helper/{run}"
    assert machine.records("worktree_removed", run=run)


async def test_what_cannot_be_isolated_is_not_run_at_all(place: Path, autojump_clock: MockClock) -> None:
    machine = SimulatedMachine()
    machine.worktrees.refuses = "the repository is locked"
    async with open_factory(apart(place), machine=machine.open) as factory:
        await factory.start("helper")
        await trio.sleep(10)
    assert machine.launcher.started == []
    (ended,) = machine.records("run_ended")
    assert (ended["reason"], ended["detail"]) == ("failed", "worktree: the repository is locked")


async def test_a_full_house_lets_the_next_in_when_somebody_has_pruned(place: Path, autojump_clock: MockClock) -> None:
    machine = SimulatedMachine(lambda _: SUCCEEDS)
    machine.worktrees.keeps = lambda _: "1 commits that main does not contain"
    async with open_factory(apart(place, max_worktrees=2), machine=machine.open) as factory:
        for _ in range(2):
            await factory.start("helper")
            await trio.sleep(10)
        answer = await factory.start("helper")
        assert isinstance(answer, Queue)
        assert answer.reason == "max_worktrees"
        await trio.sleep(30)
        assert len(machine.records("run_begun")) == 2
        machine.worktrees.there.popitem()
        await trio.sleep(31)
    assert secs(machine, "run_begun") == [0.0, 10.0, 60.0]  # the disk and the worktrees are looked at every half minute
    assert len(machine.records("worktree_kept")) == 3


async def test_what_was_kept_before_counts_from_the_first_moment(place: Path, autojump_clock: MockClock) -> None:
    machine = SimulatedMachine()
    machine.worktrees.there = {"former": "dirty"}
    always = attrs.evolve(HELPER, name="always", layer=AgentLayer.SAFETY)
    async with open_factory(apart(place, always, max_worktrees=1), machine=machine.open) as factory:
        assert factory.agent_statuses()[0].reason == "max_worktrees"
        await trio.sleep(100)
    assert not machine.records("run_begun")


class Slow(SimulatedWorktrees):
    """Takes its time."""

    async def settle(self, run_id: str, why: str):
        await trio.sleep_forever()


@pytest.mark.parametrize(("stops", "takes"), [(False, 10.0), (True, 0.5)])
async def test_settling_has_a_bound_and_the_factorys_own_still_holds(
    place: Path, autojump_clock: MockClock, stops: bool, takes: float
) -> None:
    machine = SimulatedMachine(lambda _: STUBBORN if stops else Script(secs=5))
    machine.worktrees = Slow()
    patient = attrs.evolve(HELPER, grace_secs=2.0)
    async with open_factory(apart(place, patient, shutdown_grace_secs=6.0), machine=machine.open) as factory:
        await factory.start("helper")
        await trio.sleep(5)
        if not stops:
            await trio.sleep(20)
    (ended,) = secs(machine, "run_ended")
    assert ended == pytest.approx(5.0 + (2.0 if stops else 0.0) + takes, abs=0.01)
    assert machine.records("factory_stopped")[0]["exit_code"] == 0
    assert not machine.records("worktree_removed")


async def test_a_factory_that_stops_in_the_middle_of_settling_keeps_its_bound(
    place: Path, autojump_clock: MockClock
) -> None:
    machine = SimulatedMachine(lambda _: Script(secs=5))
    machine.worktrees = Slow()
    async with open_factory(apart(place, HELPER, shutdown_grace_secs=2.0), machine=machine.open) as factory:
        await factory.start("helper")
        await trio.sleep(6)
    (stopped,) = machine.records("factory_stopped")
    assert (stopped["exit_code"], stopped.get("unreaped")) == (0, None)
    assert secs(machine, "factory_stopped") == [8.5]


async def test_what_was_cut_short_is_settled_by_a_task_of_its_own(place: Path, autojump_clock: MockClock) -> None:
    class SlowOnce(SimulatedWorktrees):
        async def settle(self, run_id: str, why: str):
            if why != "lost":
                await trio.sleep_forever()
            return await super().settle(run_id, why)

    machine = SimulatedMachine(lambda _: Script(secs=5))
    machine.worktrees = SlowOnce()
    async with open_factory(apart(place), machine=machine.open) as factory:
        await factory.start("helper")
        await trio.sleep(100)
    assert secs(machine, "run_ended") == [15.0]
    assert secs(machine, "worktree_removed") == [30.0]


async def test_one_that_may_have_somebody_in_it_is_left_alone(place: Path, autojump_clock: MockClock) -> None:
    machine = SimulatedMachine(lambda _: attrs.evolve(STUBBORN, immortal=True))
    hurried = attrs.evolve(HELPER, timeout_secs=6.0, stall_timeout_secs=5.0)
    async with open_factory(apart(place, hurried), machine=machine.open) as factory:
        await factory.start("helper")
        await trio.sleep(100)
        assert not machine.records("worktree_removed")
        assert list(machine.worktrees.there.values()) == ["something of it may live"]


async def test_a_bug_beside_the_runs_stops_nobody(place: Path, autojump_clock: MockClock) -> None:
    class Broken(SimulatedWorktrees):
        def leftovers(self) -> tuple[str, ...]:
            raise ZeroDivisionError

    machine = SimulatedMachine(lambda _: SUCCEEDS)
    machine.worktrees = Broken()
    with structlog.testing.capture_logs() as logs:
        async with open_factory(apart(place), machine=machine.open) as factory:
            await factory.start("helper")
            await trio.sleep(50)
    assert machine.records("run_ended")[0]["reason"] == "succeeded"
    told = [line for line in logs if line["event"] == "worktrees_failed"]
    assert len(told) == 2
    assert told[0]["exception"].startswith("Traceback ")


async def test_without_isolated_agents_nobody_looks_for_worktrees(autojump_clock: MockClock) -> None:
    class Counting(SimulatedWorktrees):
        looks = 0

        def kept(self) -> int:
            Counting.looks += 1
            return 0

    machine = SimulatedMachine(lambda _: HANGS)
    machine.worktrees = Counting()
    async with open_factory(fleet(AgentDefinition("w", AgentLayer.SAFETY, "demo", "x")), machine=machine.open):
        await trio.sleep(1000)
    assert Counting.looks == 1


def test_cancelled_at_every_step_each_worktree_that_was_made_is_settled_or_left(place: Path) -> None:
    config = apart(place, shutdown_grace_secs=6.0)

    async def program(machine: SimulatedMachine, cancel: CancelAtStep) -> None:
        with cancel.scope:
            async with open_factory(config, machine=machine.open, seed=1) as factory:
                await factory.start("helper")
                await trio.sleep(3)
        assert not machine.launcher.living
        begun, ended = machine.records("run_begun"), machine.records("run_ended")
        assert len(begun) == len(ended)
        told = machine.records("worktree_removed")
        assert len(told) == len(machine.worktrees.made)

    for step in itertools.count(1):
        machine, cancel = SimulatedMachine(lambda _: SUCCEEDS), CancelAtStep(step)
        trio.run(program, machine, cancel, clock=MockClock(autojump_threshold=0), instruments=[cancel])
        if cancel.at is None or not cancel.scope.cancelled_caught:
            break
    assert step > 50
