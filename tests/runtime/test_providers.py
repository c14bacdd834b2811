"""Providers on a mock clock: the real runtime, scripted agents that are turned away, exact times."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio
from trio.testing import MockClock

from darkfactory import (
    AgentDefinition,
    AgentLayer,
    Fallback,
    OrchestratorConfig,
    ProviderConfig,
    ProviderStatus,
    open_factory,
)
from darkfactory.devices.process import LaunchSpec
from darkfactory.testing import SUCCEEDS, Script, SimulatedMachine, says

from .fleets import fleet, secs

HOUR = 3600.0
MIDNIGHT = datetime(2026, 1, 5, tzinfo=UTC)
RECORDINGS = Path(__file__).parents[1] / "data" / "agent_cli"
CORE, GROWTH = AgentLayer.CORE, AgentLayer.GROWTH


def at(hours: float) -> datetime:
    return MIDNIGHT + timedelta(hours=hours)


def hour_of(machine: SimulatedMachine, kind: str, **like: object) -> list[float]:
    """When these records were written, in hours after midnight, to the minute."""
    return [round(each / 60) / 60 for each in secs(machine, kind, **like)]


def turned_away(until: datetime) -> Script:
    """It is told after five seconds that the limit is reached."""
    words = says(ok=False, text="usage limit reached", error="quota", resets_at=until.timestamp())
    return Script(secs=5.0, exit_code=1, last_words=words)


def night_fleet() -> OrchestratorConfig:
    """Ten agents, five at each provider. All but the first run at one, three and six."""
    agents = []
    for number in range(5):
        for provider in ("alpha", "beta"):
            hours = "1,2,6" if (provider, number) == ("alpha", 0) else "1,3,6"
            agents.append(
                AgentDefinition(
                    f"{provider}-{number}",
                    CORE,
                    "demo",
                    "work",
                    schedule=f"{5 * number} {hours} * * *",
                    provider=provider,
                )
            )
    return fleet(*agents, max_concurrent_runs=3)


async def test_the_night_of_ten_agents(autojump_clock: MockClock) -> None:
    """Alpha's limit is reached at two, and it is back at five."""

    def script(spec: LaunchSpec) -> Script:
        within = at(2) <= machine.clock.utc() < at(5)
        return turned_away(at(5)) if within and spec.run_id.startswith("alpha") else Script(secs=120.0)

    machine = SimulatedMachine(script)
    seen: dict[float, list[ProviderStatus]] = {}
    with structlog.testing.capture_logs() as log:
        async with open_factory(night_fleet(), machine=machine.open, seed=3) as factory:
            for hours in (1.9, 4.0, 5.02, 7.0):
                await trio.sleep((at(hours) - machine.clock.utc()).total_seconds())
                seen[hours] = factory.provider_statuses()

    begun = machine.records("run_begun")
    alphas = [line for line in begun if line["agent"].startswith("alpha")]

    # all of alpha's wait, but for the one that found it out; beta's go on as if nothing were
    night = [line for line in alphas if at(2) <= datetime.fromisoformat(line["utc"]) < at(5)]
    assert [line["agent"] for line in night] == ["alpha-0"]
    for number in range(5):
        when = hour_of(machine, "run_begun", agent=f"beta-{number}")
        assert when == [hours + round(5 * number / 60 * 60) / 60 for hours in (1, 3, 6)]

    # at five one tries, and when that went well the others follow in the order in which they came
    (blocked,) = machine.records("provider_blocked")
    until = datetime.fromisoformat(blocked["until"])
    assert at(5) <= until <= at(5) + timedelta(seconds=30)
    morning = [line for line in alphas if at(5) <= datetime.fromisoformat(line["utc"]) < at(6)]
    assert [line["agent"] for line in morning] == [f"alpha-{number}" for number in range(5)]
    times = [datetime.fromisoformat(line["utc"]) for line in morning]
    assert abs(times[0] - until) < timedelta(seconds=0.01)
    served = times[0] + timedelta(seconds=120)
    assert [round((time - served).total_seconds()) for time in times[1:]] == [0, 0, 0, 120]  # three at a time

    # nothing is lost, nothing is doubled, and nobody is blamed
    wanted = {(line["agent"], line["occurrence"]) for line in machine.records("occurrence")}
    assert len(wanted) == 30
    ends = {line["run"]: line["reason"] for line in machine.records("run_ended")}
    well = [(line["agent"], line["occurrence"]) for line in begun if ends[line["run"]] == "succeeded"]
    assert len(well) == len(set(well)) == 30
    assert set(well) == wanted
    assert list(ends.values()).count("throttled") == len(ends) - 30 == 1
    assert machine.records("dropped") == machine.records("held") == machine.records("drift") == []

    # the status told it while it was so
    standing = {hours: {status.name: status for status in found} for hours, found in seen.items()}
    assert standing[1.9]["alpha"].blocked_until is None
    at_four = standing[4.0]["alpha"]
    assert (at_four.blocked_until, at_four.half_open, at_four.waiting) == (until, False, 5)
    assert at_four.reason == "quota: usage limit reached"
    assert standing[4.0]["beta"].blocked_until is None
    assert (standing[5.02]["alpha"].half_open, standing[5.02]["alpha"].probe) == (True, morning[0]["run"])
    assert standing[5.02]["alpha"].waiting == 4
    assert standing[7.0]["alpha"].blocked_until is None

    # and the log tells the whole story of each that waited
    story = [entry for entry in log if entry.get("provider") == "alpha" or entry.get("reason") == "throttled"]
    told = [(entry["event"], entry.get("agent")) for entry in story if entry["event"] != "run_begun"]
    assert told == [
        ("run_ended", "alpha-0"),
        ("provider_blocked", "alpha-0"),
        ("queued", "alpha-0"),
        *(("queued", f"alpha-{number}") for number in range(1, 5)),
        ("provider_probed", "alpha-0"),
        ("provider_serves", "alpha-0"),
    ]
    waits = [entry["detail"] for entry in story if entry["event"] == "queued"]
    assert set(waits) == {"alpha turned a run away: usage limit reached"}


def helper(name: str = "helper", tool: str = "demo", **fields: object) -> AgentDefinition:
    return AgentDefinition(name, GROWTH, tool, "help", **fields)  # type: ignore[arg-type]


async def begin(config: OrchestratorConfig, machine: SimulatedMachine, hours: float) -> list[ProviderStatus]:
    """All agents are asked for, a second after each other; the providers after so many hours."""
    async with open_factory(config, machine=machine.open, seed=3) as factory:
        for agent in config.agents:
            await factory.start(agent.name)
            await trio.sleep(1.0)
        await trio.sleep(hours * HOUR)
        return factory.provider_statuses()


def transcript(tool: str, case: str) -> list[bytes]:
    return (RECORDINGS / tool / f"{case}.stdout.jsonl").read_bytes().splitlines(keepends=True)


class TestAToolThatWaitsInsideItself:
    async def test_one_that_tries_for_ever_is_stopped_as_throttled_although_it_prints(
        self, autojump_clock: MockClock
    ) -> None:
        """codex without a network prints a line a minute, and never gives up."""
        start, *retries = transcript("codex", "noserver")
        output = ((0.0, start), *((60.0 * minute, retries[-1]) for minute in range(1, 120)))
        machine = SimulatedMachine(lambda _: Script(output=output, secs=math.inf))
        await begin(fleet(helper(tool="codex", stall_timeout_secs=600.0)), machine, 0.5)
        line, *_ = machine.records("run_ended")
        assert (line["reason"], line["error_class"]) == ("throttled", "network")
        assert secs(machine, "run_stopping", reason="throttled")[0] == 660.0
        assert machine.records("provider_blocked") == [], "the network may be ours"

    async def test_one_that_is_told_to_wait_for_too_long_need_not(self, autojump_clock: MockClock) -> None:
        """claude is told when its limit is gone. It may end by itself; this one does not."""
        start = transcript("claude", "text")[0]
        until = int(at(5).timestamp())
        limit = b'{"type":"rate_limit_event","rate_limit_info":{"status":"rejected","resetsAt":%d}}\n' % until
        machine = SimulatedMachine(lambda _: Script(output=((0.0, start), (60.0, limit)), secs=math.inf))
        providers = await begin(fleet(helper(tool="claude"), helper("other", "claude")), machine, 0.5)
        assert secs(machine, "run_stopping", agent="helper", reason="throttled") == [65.0]
        line, *_ = machine.records("run_ended", agent="helper")
        assert (line["reason"], line["error_class"]) == ("throttled", "quota")
        assert line["resets_at"] == "2026-01-05T05:00:00.000000Z"
        (anthropic,) = providers
        assert anthropic.blocked_until is not None
        assert at(5) <= anthropic.blocked_until <= at(5) + timedelta(seconds=30)
        # it was blocked as soon as that was told
        assert secs(machine, "provider_blocked") == [60.0]

    async def test_one_that_gets_on_is_left_alone(self, autojump_clock: MockClock) -> None:
        start, *rest = transcript("claude", "ratelimit_ok")
        retry = next(line for line in rest if b"api_retry" in line)
        answer = next(line for line in rest if b'"type":"assistant"' in line)
        output = ((0.0, start), (500.0, retry), (900.0, answer), (1500.0, retry), (2000.0, b"".join(rest)))
        machine = SimulatedMachine(lambda _: Script(output=output, secs=2001.0, last_words=b""))
        await begin(fleet(helper(tool="claude")), machine, 1.0)
        assert [line["reason"] for line in machine.records("run_ended")] == ["succeeded"]


class TestFallback:
    BOTH = helper(provider="alpha", fallback=Fallback(provider="beta", args=("--small",)))

    async def test_a_run_that_was_turned_away_goes_on_with_it_at_once(self, autojump_clock: MockClock) -> None:
        def script(spec: LaunchSpec) -> Script:
            return SUCCEEDS if "--small" in spec.argv else turned_away(at(5))

        machine = SimulatedMachine(script)
        alpha, beta = await begin(fleet(self.BOTH), machine, 1.0)
        assert secs(machine, "run_begun") == [0.0, 5.0]
        assert [line.get("fallback") for line in machine.records("run_begun")] == [None, True]
        assert [line["provider"] for line in machine.records("run_begun")] == ["alpha", "beta"]
        assert [line["reason"] for line in machine.records("run_ended")] == ["throttled", "succeeded"]
        assert (alpha.runs, alpha.fallbacks, alpha.share_of_fallbacks) == (1, 1, 0.5)
        assert (beta.runs, beta.fallbacks) == (1, 0)

    async def test_when_that_turns_it_away_too_it_waits_for_its_own(self, autojump_clock: MockClock) -> None:
        machine = SimulatedMachine(lambda _: turned_away(at(2)) if machine.clock.utc() < at(2) else SUCCEEDS)
        await begin(fleet(self.BOTH), machine, 3.0)
        assert [line["provider"] for line in machine.records("run_begun")] == ["alpha", "beta", "alpha"]
        assert machine.records("run_ended")[-1]["reason"] == "succeeded"
        assert secs(machine, "run_begun")[-1] >= 2 * HOUR

    async def test_it_is_not_used_while_its_program_is_missing(self, autojump_clock: MockClock) -> None:
        agent = helper(provider="alpha", fallback=Fallback("/opt/bin/codex"))
        machine = SimulatedMachine(lambda _: turned_away(at(5)))
        machine.launcher.missing = {"/opt/bin/codex"}
        config = fleet(agent)
        async with open_factory(config, machine=machine.open) as factory:
            await factory.start("helper")
            await trio.sleep(HOUR)
            assert len(machine.launcher.started) == 1
            machine.launcher.missing = set()
            await trio.sleep(120.0)
            assert machine.launcher.started[1].argv[0] == "/opt/bin/codex"


async def test_a_provider_that_is_blocked_between_admission_and_start_is_not_called(autojump_clock: MockClock) -> None:
    """The journal takes its time; meanwhile another run is turned away."""
    machine = SimulatedMachine(lambda _: turned_away(at(1)) if machine.clock.utc() < at(1) else SUCCEEDS)
    config = fleet(helper("first", provider="p"), helper("second", provider="p"))
    async with open_factory(config, machine=machine.open) as factory:
        await factory.start("first")
        await trio.sleep(4.0)
        slow = trio.Event()
        machine.journal.wait_durable = lambda _: slow.wait()  # type: ignore[method-assign]
        await factory.start("second")
        await trio.sleep(2.0)
        slow.set()
        await trio.sleep(2 * HOUR)
    first, *_ = machine.records("run_ended", agent="second")
    assert (first["reason"], first["decided_by"]) == ("throttled", "the look at its start")
    assert first["detail"].startswith("p turned a run away")
    assert [spec.run_id[:6] for spec in machine.launcher.started] == ["first-", "first-", "second"]


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"calls_per_hour": 6}, b""),
        ({"tokens_per_day": 7200}, b""),
        ({"usd_per_day": 0.01}, b"claude"),
    ],
)
async def test_each_limit_holds_back_the_next_run(
    autojump_clock: MockClock, limits: dict[str, Any], said: bytes
) -> None:
    """By what a real transcript tells: six calls, 7,374 tokens, some cents."""
    tool = said.decode() or "codex"
    output = b"".join(transcript(tool, "toolerr"))
    machine = SimulatedMachine(lambda _: Script(output=((0.0, output),), last_words=b"", secs=10.0))
    agents = (helper("first", tool, provider="p"), helper("second", tool, provider="p"))
    config = fleet(*agents, providers={"p": ProviderConfig(**limits)})
    (status,) = await begin(config, machine, 0.5)
    assert [line["agent"] for line in machine.records("run_begun")] == ["first"]
    (queued,) = machine.records("queued")
    assert (queued["agent"], queued["reason"]) == ("second", "budget")
    assert status.waiting == 1
    assert status.calls_this_hour == 6


async def test_a_hard_limit_stops_what_runs(autojump_clock: MockClock) -> None:
    lines = transcript("codex", "toolerr")
    output = tuple((float(number), line) for number, line in enumerate(lines[:-1]))
    machine = SimulatedMachine(lambda _: Script(output=output, secs=math.inf))
    config = fleet(helper("first", "codex", provider="p"), providers={"p": ProviderConfig(calls_per_hour=3, hard=True)})
    async with open_factory(config, machine=machine.open) as factory:
        await factory.start("first")
        await trio.sleep(60.0)
        (agent,) = factory.agent_statuses()
        assert (agent.condition, agent.reason, agent.api_calls_remaining) == ("queued", "budget", 0)
    (line,) = machine.records("run_ended")
    assert (line["reason"], line["api_calls"]) == ("budget", 3)
