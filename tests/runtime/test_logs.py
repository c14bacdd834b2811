"""What a person reads in the morning: every decision once, with its reason."""

from __future__ import annotations

import math

import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from darkfactory import AgentDefinition, AgentLayer, open_factory
from darkfactory.testing import FAILS, HANGS, Script, SimulatedMachine

from .fleets import by_agent, fleet

SAFETY, CORE, GROWTH = AgentLayer.SAFETY, AgentLayer.CORE, AgentLayer.GROWTH


async def test_every_record_of_the_journal_is_logged_once(autojump_clock: MockClock) -> None:
    machine = SimulatedMachine(lambda _: FAILS)
    agents = (
        AgentDefinition("watch", SAFETY, "demo", "x"),
        AgentDefinition("h", CORE, "demo", "x", schedule="@hourly"),
    )
    with capture_logs() as logs:
        async with open_factory(fleet(*agents), machine=machine.open):
            await trio.sleep(4 * 3600)
    journalled = [(line["kind"], line.get("agent")) for line in machine.journal.lines]
    assert [(entry["event"], entry.get("agent")) for entry in logs] == journalled
    levels = {(entry["event"], entry["log_level"]) for entry in logs}
    assert {("held", "error"), ("run_ended", "warning"), ("run_begun", "info")} <= levels


async def test_every_skip_queue_and_refusal_says_why(autojump_clock: MockClock) -> None:
    machine = SimulatedMachine(by_agent(first=HANGS, second=HANGS, minutely=Script(secs=math.inf)))
    agents = (
        AgentDefinition("first", GROWTH, "demo", "x"),
        AgentDefinition("second", GROWTH, "demo", "x"),
        AgentDefinition("minutely", CORE, "demo", "x", schedule="* * * * *"),
        AgentDefinition("absent", SAFETY, "claude", "x"),
        AgentDefinition("off", GROWTH, "demo", "x", enabled=False),
    )
    machine.launcher.missing.add("claude")
    with capture_logs() as logs:
        async with open_factory(fleet(*agents, max_concurrent_runs=2), machine=machine.open) as factory:
            await trio.sleep(90)
            for name in ("first", "second", "off"):
                await factory.start(name)
            await trio.sleep(90)
    told = {(entry["event"], entry["agent"], entry.get("reason")) for entry in logs if entry.get("detail")}
    assert {
        ("queued", "second", "max_concurrent_runs"),
        ("dropped", "minutely", "overlap"),
        ("dropped", "off", "disabled"),
        ("tool_missing", "absent", None),
    } <= told


async def test_while_nothing_changes_nothing_is_said(autojump_clock: MockClock) -> None:
    machine = SimulatedMachine(lambda _: HANGS)
    steady = {"stall_timeout_secs": 1e6}
    agents = (
        AgentDefinition("watch", SAFETY, "demo", "x", **steady),  # type: ignore[arg-type]
        AgentDefinition("waits", SAFETY, "demo", "x", **steady),  # type: ignore[arg-type]
        AgentDefinition("absent", SAFETY, "claude", "x"),
        AgentDefinition("off", SAFETY, "demo", "x", enabled=False),
    )
    machine.launcher.missing.add("claude")
    with capture_logs() as logs:
        async with open_factory(fleet(*agents, max_concurrent_runs=1), machine=machine.open):
            await trio.sleep(10)
            said = len(logs)
            await trio.sleep(12 * 3600)
            assert len(logs) == said
