"""A bug of ours stops everything in order, and is raised; a mistake of an agent's never is."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs
import pytest
import trio
from trio.testing import MockClock

from darkfactory import AgentDefinition, AgentLayer, OrchestratorConfig, OrchestratorError, Overlap, open_factory
from darkfactory.devices.machine import Machine
from darkfactory.devices.process import LaunchSpec
from darkfactory.testing import MemoryJournal, MemoryRuns, Script, SimulatedMachine

from .fleets import fleet

AGENTS = tuple(
    AgentDefinition(name, layer, "demo", "x", schedule=schedule, overlap=Overlap.RESTART, catchup_secs=4e7)
    for name, layer, schedule in [
        ("safety", AgentLayer.SAFETY, None),
        ("core", AgentLayer.CORE, "0 0 1 1 *"),
        ("growth", AgentLayer.GROWTH, None),
    ]
)


class Bug(Exception):
    """Ours."""


class Ends:
    """A machine whose processes take a second to stop; it notes in which order they did."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.machine = SimulatedMachine(lambda _: Script(secs=math.inf, dies_after=1.0))
        true_ended = self.machine.launcher._ended

        def ended(pid: int) -> None:
            self.order.append(self.machine.launcher.living[pid].run_id.split("-")[0])
            true_ended(pid)

        self.machine.launcher._ended = ended  # type: ignore[method-assign]

    def opener(self, **devices: object) -> Callable[[OrchestratorConfig], object]:
        @contextmanager
        def opened(config: OrchestratorConfig) -> Iterator[Machine]:
            with self.machine.open(config) as machine:
                yield attrs.evolve(machine, **devices)  # type: ignore[arg-type]

        return opened


async def live(ends: Ends, trigger: Callable[[], None], **devices: object) -> None:
    with pytest.RaisesGroup(Bug, flatten_subgroups=True):
        async with open_factory(fleet(*AGENTS), machine=ends.opener(**devices)) as factory:  # type: ignore[arg-type]
            for name in ("core", "growth"):
                await factory.start(name)
            await trio.sleep(5)
            assert len(ends.machine.launcher.living) == 3
            trigger()
            with contextlib.suppress(OrchestratorError):  # whoever asks a failing factory is told so
                await factory.start("growth")
            await trio.sleep_forever()
    assert not ends.machine.launcher.living


async def test_in_decide(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = Ends()

    def decide(state: object, event: object) -> None:
        raise Bug

    await live(ends, lambda: monkeypatch.setattr("darkfactory.runtime.supervisor.decide", decide))
    assert ends.order == ["growth", "core", "safety"]


async def test_in_the_journal(autojump_clock: MockClock) -> None:
    ends = Ends()

    class Failing(MemoryJournal):
        fails = False

        def append(self, lines: object, *, durable: bool) -> int:
            if self.fails:
                raise Bug
            return super().append(lines, durable=durable)  # type: ignore[arg-type]

    journal = Failing()
    await live(ends, lambda: setattr(journal, "fails", True), journal=journal)
    assert ends.order == ["growth", "core", "safety"]


async def test_in_the_journals_service(autojump_clock: MockClock) -> None:
    ends = Ends()
    fail = trio.Event()

    class Failing(MemoryJournal):
        async def serve(self) -> None:
            await fail.wait()
            raise Bug

    await live(ends, fail.set, journal=Failing())
    assert ends.order == ["growth", "core", "safety"]


async def test_in_a_run_task(autojump_clock: MockClock) -> None:
    ends = Ends()

    class Failing(MemoryRuns):
        fails = False

        def begin(self, run_id: str, prompt: str, messages: str = "") -> object:  # type: ignore[override]
            if self.fails:
                raise Bug
            return super().begin(run_id, prompt, messages)

    runs = Failing()

    def trigger() -> None:
        runs.fails = True
        ends.machine.clock.step(366 * 86400.0)  # the next run is the Core agent's, which restarts

    await live(ends, trigger, runs=runs)
    assert ends.order == ["core", "growth", "safety"]  # the Core run was stopped for the new one, whose task failed


async def test_what_an_agent_does_wrong_is_no_bug(autojump_clock: MockClock) -> None:
    garbage = bytes(range(256)) * 100 + b'{"type":"result"\n{"type":"result","ok":[]}\n[[[[[\n'

    def script(spec: LaunchSpec) -> Script:
        return Script(output=((0.0, garbage), (0.5, garbage)), exit_code=255, last_words=garbage)

    machine = SimulatedMachine(script)
    async with open_factory(fleet(*AGENTS), machine=machine.open):
        await trio.sleep(3600)
    assert {line["reason"] for line in machine.records("run_ended")} == {"failed"}
