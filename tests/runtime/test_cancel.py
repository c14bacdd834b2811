"""The factory cancelled at every single step of its tasks, and a bug in every single call of a device.

Two lives on one machine: the first is cut short, the second goes on from its journal. The scenario has what a journal
must remember: cron, crashes with their restarts, a hold and its end, a start by hand, and runs that are stopped.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest
import trio
import trio._core._run as trio_internals
from trio.testing import MockClock

from darkfactory import (
    AgentDefinition,
    AgentLayer,
    LayerConfig,
    OrchestratorConfig,
    OrchestratorError,
    Overlap,
    open_factory,
)
from darkfactory.model.actions import LEVEL
from darkfactory.model.state import Durable, State
from darkfactory.policy.history import fold
from darkfactory.runtime import factory as wiring
from darkfactory.testing import FAILS, STARTED, STUBBORN, CancelAtStep, Script, SimulatedMachine, says

from .fleets import fleet
from .fuses import Bug, Fuse, blown_in_turn, with_fuse

AGENTS = (
    AgentDefinition("watch", AgentLayer.SAFETY, "demo", "x"),
    AgentDefinition("broken", AgentLayer.SAFETY, "demo", "x"),
    AgentDefinition("minutely", AgentLayer.CORE, "demo", "x", schedule="* * * * *", overlap=Overlap.RESTART, retries=1),
    AgentDefinition("helper", AgentLayer.GROWTH, "demo", "x", grace_secs=2.0, retries=1, timeout_secs=40.0),
    AgentDefinition("paid", AgentLayer.CORE, "demo", "x", schedule="* * * * *", provider="p"),
)
FLEET = fleet(
    *(attrs.evolve(agent, stall_timeout_secs=39.0) for agent in AGENTS),
    layer=LayerConfig(max_restarts=1, backoff_secs=5.0, backoff_jitter=0.0),
    shutdown_grace_secs=6.0,
)
BOUND_SECS = 7.0
SCRIPTS = {
    "watch": Script(output=((0.0, STARTED), (30.0, b"{}\n"), (60.0, b"{}\n")), secs=math.inf, dies_after=1.0),
    "broken": attrs.evolve(FAILS, secs=3.0),
    "minutely": attrs.evolve(FAILS, secs=70.0, output=((0.0, STARTED), (35.0, b"{}\n"))),
    "helper": STUBBORN,
    "paid": attrs.evolve(FAILS, secs=3.0, last_words=says(ok=False, text="limit reached", error="quota")),
}
START = datetime(2026, 1, 5, 0, 0, 50, tzinfo=UTC)


def simulated() -> SimulatedMachine:
    return SimulatedMachine(lambda spec: SCRIPTS[spec.run_id.split("-")[0]], start=START)


async def first_life(machine: SimulatedMachine, opener: Callable[[OrchestratorConfig], Any] | None = None) -> None:
    async with open_factory(FLEET, machine=opener or machine.open, seed=1) as factory:
        await factory.start("helper")
        await factory.send("and this", "helper", message_id="this")
        await trio.sleep(20)  # the second crash of "broken" holds it; an occurrence has come
        await factory.resume("broken")
        await trio.sleep(60)  # the next occurrence stops the run of the former, "helper" is timed out
        factory.agent_statuses()


async def second_life(machine: SimulatedMachine) -> None:
    async with open_factory(FLEET, machine=machine.open, seed=2):
        await trio.sleep(70)


@pytest.fixture
def last_states(monkeypatch: pytest.MonkeyPatch) -> list[wiring.Life]:
    """Every life of a factory, in order."""
    lives: list[wiring.Life] = []

    class Remembered(wiring.Life):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            lives.append(self)

    monkeypatch.setattr(wiring, "Life", Remembered)
    return lives


@pytest.fixture
def in_order(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Fixes Trio's order of tasks by a seed, where Trio still lets us: so a failure can be repeated."""

    def fix(seed: int) -> None:
        if hasattr(trio_internals, "_r") and hasattr(trio_internals, "_ALLOW_DETERMINISTIC_SCHEDULING"):
            monkeypatch.setattr(trio_internals, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
            monkeypatch.setattr(trio_internals, "_r", random.Random(seed))

    return fix


def check(machine: SimulatedMachine) -> Durable:
    """What holds for a machine whose factory is over; the fold of its journal."""
    assert not machine.launcher.living, "a process outlived its factory"
    occurrences = Counter((line["agent"], line["occurrence"]) for line in machine.records("occurrence"))
    firsts = Counter(
        (line["agent"], line["occurrence"]) for line in machine.records("run_begun", cause="cron", attempt=1)
    )
    begun = Counter(line["run"] for line in machine.records("run_begun"))
    ended = Counter(line["run"] for line in machine.records("run_ended"))
    assert max((*occurrences.values(), *firsts.values(), 1)) == 1, "something fired twice"
    assert max((*begun.values(), *ended.values(), 1)) == 1, "a run has two beginnings or two ends"
    assert ended.keys() <= begun.keys()
    assert {spec.run_id for spec in machine.launcher.started} <= begun.keys(), "a process before its record"
    blocked = [line["utc"] for line in machine.records("provider_blocked")]
    turned_away = [line["utc"] for line in machine.records("run_ended", reason="throttled")]
    assert blocked == turned_away, "nobody begins at a provider that is blocked"
    durable = fold(machine.journal.lines, FLEET.timezone)
    assert durable.alive.keys() == begun.keys() - ended.keys()
    return durable


def check_fold(state: State, durable: Durable, machine: SimulatedMachine) -> None:
    """The durable part of what the supervisor knew is what its journal amounts to."""
    if not state.agents:
        return  # it was cancelled before it knew anything
    assert dict(state.runs) == durable.alive
    assert {request.key for request in state.queue.values() if request.cause not in LEVEL} == durable.pending.keys()
    blocks = {name: known.block for name, known in state.providers.items() if known.block is not None}
    assert {name: attrs.evolve(block, probe=None) for name, block in blocks.items()} == durable.blocks
    assert state.mail == durable.mail
    for name, agent in state.agents.items():
        assert agent.hold == durable.holds.get(name)
        assert agent.cursor == durable.cursors.get(name, (None, None))[1]
        assert agent.runs_on == durable.runs_on.get(name)
        ends = [round((end - START) / timedelta(seconds=1), 3) for end in durable.bad_ends.get(name, ())]
        assert [round(at, 3) for at in agent.bad_ends] == ends


def test_cancelled_at_every_step_it_stops_in_order_and_goes_on_from_its_journal(
    last_states: list[wiring.Life], in_order: Callable[[int], None]
) -> None:
    async def program(machine: SimulatedMachine, cancel: CancelAtStep) -> None:
        with cancel.scope:
            await first_life(machine)
        if cancel.at is not None:
            assert trio.current_time() - cancel.at <= BOUND_SECS + 0.001, "the bound on shutdown"
        durable = check(machine)
        assert not durable.alive, "a run without an end, though the shutdown was in order"
        if last_states:
            check_fold(last_states[-1].state.value, durable, machine)
        await second_life(machine)
        durable = check(machine)
        assert not durable.alive
        check_fold(last_states[-1].state.value, durable, machine)

    reached = set()
    for step in itertools.count(1):
        in_order(step)
        last_states.clear()
        machine, cancel = simulated(), CancelAtStep(step)
        try:
            trio.run(program, machine, cancel, clock=MockClock(autojump_threshold=0), instruments=[cancel])
        except BaseException as error:
            error.add_note(f"cancelled at step {step}, at second {cancel.at}")
            raise
        reached |= {line["kind"] for line in machine.journal.lines}
        if cancel.at is None or not cancel.scope.cancelled_caught:
            break
    assert step > 200
    assert {
        "held",
        "resumed",
        "run_stopping",
        "queued",
        "occurrence",
        "factory_stopping",
        "provider_blocked",
    } <= reached


def test_a_bug_in_any_call_of_a_device_stops_everything_in_order_and_is_raised(
    in_order: Callable[[int], None],
) -> None:
    async def program(machine: SimulatedMachine, fuse: Fuse) -> None:
        caught: BaseException | None = None
        try:
            opened = with_fuse(
                machine,
                fuse,
                process=("wait", "terminate", "sweep", "drain"),
                journal=("append", "wait_durable"),
                runs=("begin", "end"),
                disk=("room",),
            )
            await first_life(machine, opened)
        except* Bug as bugs:
            caught = bugs
        except* OrchestratorError:  # whoever asks a failing factory is told so
            pass
        assert (caught is not None) == (fuse.blown_in is not None), "a bug was lost"
        check(machine)
        await second_life(machine)
        assert not check(machine).alive

    blown_in = blown_in_turn(simulated, program, in_order)
    assert blown_in == {
        *("append", "wait_durable", "begin", "end", "room", "launch", "wait", "terminate", "sweep", "drain")
    }
