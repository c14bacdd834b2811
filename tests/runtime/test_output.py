"""What an agent's output brings about: its end, its linger, its record, who watches."""

from __future__ import annotations

import math
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from darkfactory import AgentDefinition, AgentLayer, open_factory
from darkfactory.devices.clock import SystemClock
from darkfactory.model.events import Event, OutputSeen
from darkfactory.model.fleet import Secret
from darkfactory.model.signals import Counts, Stream
from darkfactory.runtime.inbox import Sender
from darkfactory.runtime.intake import Intake
from darkfactory.testing import STARTED, MemoryRuns, Script, SimulatedMachine, says
from darkfactory.tools import BUILTIN

from .fleets import fleet, secs

RECORDINGS = Path(__file__).parents[1] / "data" / "agent_cli"
HELPER = AgentDefinition("helper", AgentLayer.GROWTH, "demo", "x", grace_secs=3.0, stall_timeout_secs=100.0)
CLAUDE = AgentDefinition("helper", AgentLayer.GROWTH, "claude", "x", stall_timeout_secs=100.0, linger_secs=15.0)


def transcript(tool: str, case: str) -> list[bytes]:
    return (RECORDINGS / tool / f"{case}.stdout.jsonl").read_bytes().splitlines(keepends=True)


async def run(agent: AgentDefinition, script: Script) -> SimulatedMachine:
    """A run of that agent, to its end."""
    machine = SimulatedMachine(lambda _: script)
    async with open_factory(fleet(agent), machine=machine.open) as factory:
        await factory.start(agent.name)
        await factory.wait_statuses(lambda statuses: not statuses[0].running)
    return machine


def background(*, second_turn_at: float, secs: float) -> Script:
    """claude moves a command to the background, says a result at 1 s, and at last another one."""
    lines = transcript("claude", "bashtimeout")
    output = ((0.0, b"".join(lines[:7])), (1.0, lines[7]), (second_turn_at, b"".join(lines[8:])))
    return Script(output=output, secs=secs, last_words=b"")


async def test_a_process_with_a_task_in_the_background_does_not_linger(autojump_clock: MockClock) -> None:
    machine = await run(CLAUDE, background(second_turn_at=61.0, secs=62.0))
    (line,) = machine.records("run_ended")
    assert secs(machine, "run_ended") == [62.0]
    assert (line["reason"], line["api_calls"], line["cost_usd"]) == ("succeeded", 3, 0.01514)
    assert machine.records("run_stopping") == []


async def test_when_the_task_is_over_the_last_result_is_what_it_lingers_after(autojump_clock: MockClock) -> None:
    machine = await run(CLAUDE, background(second_turn_at=61.0, secs=math.inf))
    (line,) = machine.records("run_ended")
    assert secs(machine, "run_stopping", reason="lingered") == [76.0]
    assert (line["reason"], line["hung_after_result"]) == ("succeeded", True)


async def test_a_task_that_never_ends_is_a_stall(autojump_clock: MockClock) -> None:
    machine = await run(CLAUDE, background(second_turn_at=math.inf, secs=math.inf))
    (line,) = machine.records("run_ended")
    assert secs(machine, "run_stopping", reason="stalled") == [101.0]
    assert (line["reason"], line["hung_after_result"]) == ("succeeded", True)


async def test_a_stall_while_the_provider_fails_it_is_the_providers(autojump_clock: MockClock) -> None:
    lines = transcript("claude", "noserver")[:4]  # it announces itself and tries three times
    machine = await run(CLAUDE, Script(output=((0.0, b"".join(lines)),), secs=math.inf))
    (line,) = machine.records("run_ended")
    assert (line["reason"], line["error_class"], line["retries"]) == ("throttled", "network", 3)
    assert line["detail"].startswith("waited for its provider (network) until it was stopped: ")
    (queued,) = machine.records("queued")
    assert queued["reason"] == "throttled"


async def test_a_limit_with_a_time_is_waited_for(autojump_clock: MockClock) -> None:
    start = SimulatedMachine().start
    reset = start + timedelta(hours=5)
    no_more = says(ok=False, text="no more", error="quota", resets_at=reset.timestamp())
    scripts = [Script(secs=60.0, exit_code=1, last_words=no_more), Script()]
    machine = SimulatedMachine(lambda _: scripts.pop(0))
    async with open_factory(fleet(HELPER), machine=machine.open) as factory:
        await factory.start("helper")
        await trio.sleep(6 * 3600)
    first, second = machine.records("run_ended")
    assert (first["reason"], first["error_class"], first["retryable"]) == ("throttled", "quota", True)
    assert first["resets_at"] == "2026-01-05T05:00:00.000000Z"
    assert secs(machine, "run_begun") == [0.0, 5 * 3600.0]
    assert second["reason"] == "succeeded"


@pytest.mark.parametrize(
    ("env", "resets_at"),
    [({}, "2026-01-05T04:53:00.000000Z"), ({"TZ": Secret("Asia/Tokyo")}, "2026-01-05T19:53:00.000000Z")],
)
async def test_a_time_in_words_is_one_of_the_zone_that_the_agent_was_given(
    env: dict[str, Secret], resets_at: str, autojump_clock: MockClock
) -> None:
    output = b"".join(transcript("codex", "usage"))  # try again at 4:53 AM; here it is midnight, in Tokyo 09:00
    agent = AgentDefinition("helper", AgentLayer.GROWTH, "codex", "x", env=env)
    machine = await run(agent, Script(output=((0.0, output),), exit_code=1, last_words=b""))
    (line,) = machine.records("run_ended")
    assert (line["error_class"], line["resets_at"]) == ("quota", resets_at)


async def test_the_summary_and_the_record_tell_what_was_seen(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    summaries: list[dict[str, Any]] = []
    monkeypatch.setattr(MemoryRuns, "end", lambda _, __, summary: summaries.append(summary))
    output = b"".join(transcript("codex", "toolerr"))
    agent = AgentDefinition("helper", AgentLayer.GROWTH, "codex", "x")
    machine = await run(agent, Script(output=((0.0, output),), last_words=b""))
    seen = {
        "session": "01a20689-5c7f-72f3-906a-1218704882e5",
        "api_calls": 6,
        "api_calls_estimated": True,
        "tool_calls": 5,
        "tool_failures": 5,
        "input_tokens": 7200,
        "output_tokens": 174,
        "decided_by": "stdout:15",
    }
    (line,) = machine.records("run_ended")
    (summary,) = summaries
    assert seen.items() <= line.items()
    assert seen.items() <= summary.items()
    assert "cost_usd" not in line
    assert summary["cost_usd"] is None
    assert (summary["error_class"], summary["resets_at"], summary["denials"]) == (None, None, 0)
    assert summary["answer"] == "I give up: the command keeps failing."


async def test_a_session_that_is_resumed_is_not_charged_twice(autojump_clock: MockClock) -> None:
    output = b"".join(transcript("codex", "resume_last"))
    former = output.replace(b"2400", b"1200").replace(b'"output_tokens":36', b'"output_tokens":18')
    scripts = [Script(output=((0.0, data),), last_words=b"") for data in (former, output)]
    machine = SimulatedMachine(lambda _: scripts.pop(0))
    agent = AgentDefinition("helper", AgentLayer.GROWTH, "codex", "x")
    async with open_factory(fleet(agent), machine=machine.open) as factory:
        for _ in range(2):
            await factory.start("helper")
            await factory.wait_statuses(lambda statuses: not statuses[0].running)
    assert [(line["input_tokens"], line["output_tokens"]) for line in machine.records("run_ended")] == [(1200, 18)] * 2


async def test_whoever_watches_is_told_what_came_since_the_last_round(autojump_clock: MockClock) -> None:
    told: list[Counts] = []
    send, receive = trio.open_memory_channel[Event](10)
    with send, receive:
        intake = Intake("run", BUILTIN["demo"]("demo"), Sender(send, SystemClock()), told.append)
        intake.feed(Stream.STDOUT, STARTED)
        await intake.flush()
        assert told == []
        intake.feed(Stream.STDOUT, b'{"type":"tool","exit_code":1}\n{"type":"tool","exit_code":0}\n')
        await intake.flush()
        await intake.flush()
        intake.feed(Stream.STDOUT, says(ok=False).rstrip())
        intake.finish()
        assert told == [Counts(tool_calls=2, tool_failures=1), Counts(finishes=1, bad_finishes=1)]
        finished = [
            event.finished
            for event in (receive.receive_nowait(), receive.receive_nowait())
            if isinstance(event, OutputSeen)
        ]
        assert finished == [False, False]


async def test_output_after_a_truncation_is_no_silence_whatever_was_lost_by_it(autojump_clock: MockClock) -> None:
    send, receive = trio.open_memory_channel[Event](10)
    with send, receive:
        intake = Intake("run", BUILTIN["demo"]("demo"), Sender(send, SystemClock()))
        intake.written(50_000_000)  # of which most is truncated before it could be read
        intake.feed(Stream.STDOUT, STARTED)
        await intake.flush()
        intake.truncated(Stream.STDOUT)
        intake.feed(Stream.STDOUT, says())
        await intake.flush()
        await intake.flush()
        send.close()
        told = [event async for event in receive]
    seen = [(event.output_bytes, event.finished) for event in told if isinstance(event, OutputSeen)]
    assert seen == [(50_000_000, False), (50_000_000, True)]
