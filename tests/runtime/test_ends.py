"""A run has an end, whatever hangs: what cannot be finished in time is named, and the agent goes on."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from darkfactory import AgentDefinition, AgentLayer, open_factory
from darkfactory.runtime import body
from darkfactory.testing import HANGS, SUCCEEDS, Script, ScriptedProcess, SimulatedMachine

from .fleets import fleet, secs

HELPER = AgentDefinition("helper", AgentLayer.GROWTH, "demo", "x", grace_secs=3.0, stall_timeout_secs=100.0)


async def hang(_: ScriptedProcess) -> None:
    await trio.sleep_forever()


@pytest.mark.parametrize(
    ("method", "script", "left_after"),
    [
        ("sweep", SUCCEEDS, 1.0 + body.CLEANUP_SECS),
        ("terminate", HANGS, 100.0 + 3.0 + body.CLEANUP_SECS),
    ],
)
async def test_a_clean_up_that_hangs_ends_in_a_verdict_that_names_what_is_left(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, method: str, script: Script, left_after: float
) -> None:
    monkeypatch.setattr(ScriptedProcess, method, hang)
    machine = SimulatedMachine(lambda _: script)
    async with open_factory(fleet(HELPER), machine=machine.open) as factory:
        await factory.start("helper")
        (status,) = await factory.wait_statuses(lambda statuses: not statuses[0].running)
        assert status.condition == "idle"
    (line,) = machine.records("run_ended")
    assert secs(machine, "run_ended") == [left_after]
    assert line["unreaped"] == [f"1001 {line['run']}"]
    assert not machine.launcher.living, "SIGKILL was sent all the same"


async def test_output_that_cannot_be_read_to_its_end_is_left_and_said(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ScriptedProcess, "drain", hang)
    machine = SimulatedMachine(lambda _: SUCCEEDS)
    async with open_factory(fleet(HELPER), machine=machine.open) as factory:
        await factory.start("helper")
        await factory.wait_statuses(lambda statuses: not statuses[0].running)
    (line,) = machine.records("run_ended")
    assert secs(machine, "run_ended") == [1.0 + body.DRAIN_SECS]
    assert line["detail"].endswith("its output was not read to the end")
