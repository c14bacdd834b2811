"""What the adapters and the verdict make of real runs; tests/data/agent_cli/README.md tells what each case was."""

import json
from pathlib import Path

import pytest

from darkfactory.model.ends import Reason
from darkfactory.model.fleet import AgentDefinition, AgentLayer
from darkfactory.model.signals import Finished, Started, Stream
from darkfactory.tools import tool_for
from darkfactory.tools.lines import LineSplitter
from darkfactory.tools.verdict import Evidence, judge

RECORDINGS = Path(__file__).parents[1] / "data" / "agent_cli"
HELLO = "Hello from the fake model. The task is done."

# tool, case -> the signals in order (S, or F with what it said), and the verdict
CASES = {
    ("claude", "text"): ("S F", Reason.SUCCEEDED, HELLO),
    ("claude", "tool"): ("S F", Reason.SUCCEEDED, HELLO),
    ("claude", "bashtimeout"): ("S F S F", Reason.SUCCEEDED, HELLO),
    ("claude", "auth"): ("S f", Reason.FAILED, "Invalid API key · Fix external API key"),
    ("claude", "resume_unknown"): (
        "f",
        Reason.FAILED,
        "No conversation found with session ID: 99999999-2222-4333-8444-555555555555",
    ),
    ("claude", "sig_int_tool"): (
        "S f",
        Reason.FAILED,
        "[ede_diagnostic] result_type=user last_content_type=n/a stop_reason=tool_use",
    ),
    ("claude", "sig_term_tool"): ("S", Reason.FAILED, "exit code 143"),
    ("claude", "root"): ("", Reason.FAILED, "exit code 1"),
    ("claude", "stdout_closed_slow"): ("S", Reason.FAILED, "exited 0 without a result"),
    ("codex", "text"): ("S F", Reason.SUCCEEDED, ""),
    ("codex", "tool"): ("S F", Reason.SUCCEEDED, ""),
    ("codex", "auth"): (
        "S f",
        Reason.FAILED,
        "unexpected status 401 Unauthorized: Incorrect API key provided: sk-test. You can find your API key at "
        "https://platform.openai.com/account/api-keys., url: http://127.0.0.1:8099/s/auth/v1/responses, re…",
    ),
    ("codex", "nokey"): ("S f", Reason.FAILED, "Missing environment variable: `FAKE_API_KEY`."),
    ("codex", "sig_term_tool"): ("S", Reason.FAILED, "killed by SIGTERM"),
    ("codex", "badflag"): ("", Reason.FAILED, "exit code 2"),
    ("codex", "parent_killed_tool"): ("S F", Reason.FAILED, "said ok, then killed by SIGKILL"),
}


def letter(signal) -> str:
    match signal:
        case Started():
            return "S"
        case Finished(ok=True):
            return "F"
        case Finished(ok=False):
            return "f"


@pytest.mark.parametrize(("tool_name", "case"), CASES)
def test_a_recorded_run_is_understood(tool_name, case):
    expected_signals, reason, detail = CASES[tool_name, case]
    output = (RECORDINGS / tool_name / f"{case}.stdout.jsonl").read_bytes()
    exit_code = json.loads((RECORDINGS / tool_name / f"{case}.meta.json").read_text())["exit_code"]
    tool = tool_for(AgentDefinition(name="a", layer=AgentLayer.GROWTH, cli_tool=tool_name, task="hello"), tools={})
    splitter = LineSplitter()

    signals = [
        signal
        for line in splitter.feed(output) + splitter.finish()
        for signal in tool.signals(Stream.STDOUT, line, None)
    ]
    assert " ".join(map(letter, signals)) == expected_signals
    assert all(signal.session for signal in signals if isinstance(signal, Started))

    last = signals[-1] if signals else None
    verdict = judge(
        Evidence(
            finished=last if isinstance(last, Finished) else None,
            exit_code=exit_code,
            output_bytes=len(output),
            reports=tool.reports,
        )
    )
    assert (verdict.reason, verdict.detail) == (reason, detail)


def test_a_run_that_was_stopped_counts_as_stopped_although_the_tool_made_an_error_of_it():
    verdict = judge(Evidence(exit_code=143, stopped=Reason.SHUTDOWN, output_bytes=4467, reports=True))
    assert verdict.reason is Reason.SHUTDOWN
