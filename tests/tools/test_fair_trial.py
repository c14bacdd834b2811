"""A fair trial: what Nightwatch makes of real transcripts, also when they are repeated all night."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import count

import pytest

from darkfactory.model.drift import CorrectionLevel
from darkfactory.policy.drift import NightwatchMonitor
from darkfactory.policy.restart import AFTER

from .conftest import Recording

Recorded = Callable[[str, str], Recording]

HEALTHY = {
    "claude": (
        *("text", "tool", "partial", "binout", "slow", "mcp", "mcp_hang", "stdin_open", "inputjson", "inputjson_open"),
        *("bashtimeout", "bgproc", "root_sandboxenv", "oauth_warn", "ratelimit_ok", "resume", "continue"),
    ),
    "codex": (
        *("text", "tool", "tool_gpt55", "binout", "slow", "mcp", "mcp_hang", "native", "root", "bgproc"),
        *("resume_last", "ratelimit_ok"),
    ),
    # toolerr too: of a command that fails it says the same as of one that does not
    "gemini": (
        *("text", "tool", "toolerr", "binout", "slow", "mcp", "mcp_hang", "stdin_open", "resume", "root"),
        *("model_auto", "perm_default", "ratelimit_ok"),
    ),
    "opencode": (
        *("text", "tool", "binout", "slow", "mcp", "mcp_hang", "anthropic_provider", "root", "continue"),
        *("config_content", "ratelimit_ok"),
    ),
    "pi": ("text", "tool", "ratelimit_ok"),
    "qwen": (
        *("text", "tool", "v015_tool", "partial", "binout", "slow", "mcp", "mcp_hang", "stdin_open", "resume", "root"),
        *("continue", "bgproc", "perm_default", "ratelimit_ok"),
    ),
}
PROVIDERS_FAULT = {
    "claude": ("ratelimit", "retries2_ratelimit", "usage", "err500", "noserver", "streamerr"),
    "codex": ("ratelimit", "usage", "err500", "streamerr"),
    "gemini": ("ratelimit", "ratelimit60", "usage", "err500", "retries1", "streamerr", "noserver", "hangstream_long"),
    "opencode": ("ratelimit", "ratelimit60", "usage", "err500", "streamerr", "noserver"),
    "pi": ("ratelimit", "ratelimit60", "usage", "err500", "streamerr"),
    "qwen": ("ratelimit", "usage", "usage_long", "err500", "streamerr", "noserver", "hangstream_long"),
}


def each(table: dict[str, tuple[str, ...]]) -> list[tuple[str, str]]:
    return [(tool, case) for tool, cases in table.items() for case in cases]


def night(run: Recording, secs: float = 60.0, hours: float = 8.0) -> list[CorrectionLevel]:
    """The levels after each run of a night in which nothing else happens, a run each minute unless told otherwise."""
    monitor, levels = NightwatchMonitor(), []
    tally = run.read()
    counts, healthy = tally.counts(), AFTER[run.judge(tally).reason].healthy
    for at in range(0, int(hours * 3600), int(secs)):
        monitor.observe("it", counts, float(at))
        if healthy is not None:
            monitor.observe_health("it", healthy, float(at))
        monitor.evaluate("it", float(at))
        levels.append(monitor.drift_score("it", float(at)).level)
    return levels


@pytest.mark.parametrize(("tool", "case"), each(HEALTHY))
def test_a_healthy_transcript_stays_normal_all_night(recording: Recorded, tool: str, case: str):
    assert set(night(recording(tool, case))) == {CorrectionLevel.NORMAL}


@pytest.mark.parametrize(("tool", "case"), each(PROVIDERS_FAULT))
def test_what_its_provider_did_is_not_held_against_an_agent(recording: Recorded, tool: str, case: str):
    assert set(night(recording(tool, case))) == {CorrectionLevel.NORMAL}


@pytest.mark.parametrize("tool", ["claude", "codex", "opencode", "pi", "qwen"])
def test_toolerr_is_moderate_at_least(recording: Recorded, tool: str):
    levels = night(recording(tool, "toolerr"))
    assert min(levels) >= CorrectionLevel.MODERATE
    # one such night is no reason to stop until somebody comes
    assert levels[0] < CorrectionLevel.CRITICAL


def claude_calls(number: int, ok: Iterator[bool]) -> list[dict]:
    lines = []
    for call in range(number):
        use = {"type": "tool_use", "id": f"t{call}", "name": "Bash", "input": {"command": "make test"}}
        good = next(ok)
        text = "all tests pass" if good else "ERROR: 3 tests failed\nfatal: error 429"
        result = {"type": "tool_result", "tool_use_id": f"t{call}", "content": text, "is_error": not good}
        lines.append({"type": "assistant", "message": {"id": f"m{call}", "content": [use]}})
        lines.append({"type": "user", "message": {"content": [result]}})
    said = "I fixed the error: the exception said error 429, FATAL, and that 3 tests failed."
    lines.append({"type": "assistant", "message": {"id": "last", "content": [{"type": "text", "text": said}]}})
    result = {"type": "result", "subtype": "success", "is_error": False, "result": said}
    return [{"type": "system", "subtype": "init", "session_id": "s"}, *lines, result]


def codex_calls(number: int, ok: Iterator[bool]) -> list[dict]:
    lines: list[dict] = []
    for call in range(number):
        good = next(ok)
        item = {"id": f"item_{call}", "type": "command_execution", "command": "make test"}
        text = "all tests pass" if good else "ERROR: 3 tests failed\nfatal: error 429"
        done = {"aggregated_output": text, "exit_code": 0 if good else 1, "status": "completed" if good else "failed"}
        lines.append({"type": "item.started", "item": item | {"status": "in_progress"}})
        lines.append({"type": "item.completed", "item": item | done})
    said = {"id": "last", "type": "agent_message", "text": "I fixed the error: error 429, FATAL, 3 tests failed."}
    return [
        {"type": "thread.started", "thread_id": "s"},
        {"type": "turn.started"},
        *lines,
        {"type": "item.completed", "item": said},
        {"type": "turn.completed", "usage": {"input_tokens": 1, "output_tokens": 1}},
    ]


def pi_calls(number: int, ok: Iterator[bool]) -> list[dict]:
    lines: list[dict] = [{"type": "session", "id": "s"}, {"type": "agent_start"}]
    for call in range(number):
        good = next(ok)
        text = "all tests pass" if good else "ERROR: 3 tests failed\nfatal: error 429"
        told = {"toolCallId": f"t{call}", "toolName": "bash"}
        use = {"type": "toolCall", "id": f"t{call}", "name": "bash", "arguments": {"command": "make test"}}
        message = {"role": "assistant", "content": [use], "stopReason": "toolUse"}
        lines += [
            {"type": "turn_start"},
            {"type": "message_end", "message": message},
            {"type": "tool_execution_start", **told},
            {"type": "tool_execution_end", **told, "result": text, "isError": not good},
        ]
    said = [{"type": "text", "text": "I fixed the error: error 429, FATAL, 3 tests failed."}]
    message = {"role": "assistant", "content": said, "stopReason": "stop"}
    return [*lines, {"type": "turn_start"}, {"type": "message_end", "message": message}]


def opencode_calls(number: int, ok: Iterator[bool]) -> list[dict]:
    lines: list[dict] = []
    for call in range(number):
        good = next(ok)
        text = "all tests pass" if good else "ERROR: 3 tests failed\nfatal: error 429"
        state = {"status": "completed", "output": text, "metadata": {"exit": 0 if good else 1}}
        lines.append({"type": "step_start", "sessionID": "s"})
        lines.append({"type": "tool_use", "part": {"tool": "bash", "callID": f"t{call}", "state": state}})
        lines.append({"type": "step_finish", "part": {"reason": "tool-calls"}})
    lines.append({"type": "text", "part": {"text": "I fixed the error: error 429, FATAL, 3 tests failed."}})
    return [*lines, {"type": "step_finish", "part": {"reason": "stop"}}]


CALLS = {"claude": claude_calls, "codex": codex_calls, "opencode": opencode_calls, "pi": pi_calls}
PROGRESS = b"Reading files...\nERROR in the last line is what I look for\nwarning: 3 errors\nfatal: no\n" * 100


def transcript(tool: str, number: int, failing: set[int]) -> Recording:
    """A run of so many commands, of which these fail, with talk of errors on both streams."""
    ok = (call not in failing for call in count())
    lines = CALLS[tool](number, ok)
    return Recording(tool, b"".join(json.dumps(line).encode() + b"\n" for line in lines), PROGRESS, 0)


@pytest.mark.parametrize("secs", [20.0, 60.0, 290.0, 3600.0])
@pytest.mark.parametrize("number", [2, 5, 6, 8])
@pytest.mark.parametrize("tool", CALLS)
def test_words_on_stderr_and_in_prose_are_no_errors(tool: str, number: int, secs: float):
    run = transcript(tool, number, set())
    assert run.judge(run.read()).reason.value == "succeeded"
    assert set(night(run, secs)) == {CorrectionLevel.NORMAL}


@pytest.mark.parametrize("secs", [20.0, 60.0, 290.0, 3600.0])
@pytest.mark.parametrize("number", [11, 12, 15, 40])
@pytest.mark.parametrize("tool", CALLS)
def test_a_failing_test_that_is_then_mended_is_no_drift(tool: str, number: int, secs: float):
    run = transcript(tool, number, {3})
    assert run.read().counts().tool_failures == 1
    assert set(night(run, secs)) == {CorrectionLevel.NORMAL}


@pytest.mark.parametrize("number", [5, 8])
@pytest.mark.parametrize("tool", CALLS)
def test_one_failing_test_of_a_few_commands_is_no_drift_either(tool: str, number: int):
    assert set(night(transcript(tool, number, {3}), secs=3600.0)) == {CorrectionLevel.NORMAL}


@pytest.mark.parametrize("tool", CALLS)
def test_the_trial_can_end_otherwise(tool: str):
    assert max(night(transcript(tool, 12, {1, 3, 5, 7, 9}))) >= CorrectionLevel.MODERATE
