"""`darkfactory verdict` on recorded runs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from darkfactory.cli import main

RECORDINGS = Path(__file__).parents[1] / "data" / "agent_cli"


def run(*args: object) -> Result:
    return CliRunner().invoke(main, ["verdict", *map(str, args)])


def explain(tool: str, case: str, exit_code: int, *args: object) -> Result:
    stdout = RECORDINGS / tool / f"{case}.stdout.jsonl"
    stderr = RECORDINGS / tool / f"{case}.stderr.txt"
    return run(
        *("--tool", tool, "--exit-code", exit_code, "--stdout", stdout),
        *(("--stderr", stderr) if stderr.exists() else ()),
        *args,
    )


def found(tool: str, case: str, exit_code: int, *args: object) -> dict[str, object]:
    result = explain(tool, case, exit_code, "--json", *args)
    assert result.exit_code == 0, result.output
    answer = json.loads(result.output)
    assert isinstance(answer, dict)
    return answer


def test_a_run_that_succeeded() -> None:
    path = RECORDINGS / "claude" / "bashtimeout.stdout.jsonl"
    told = found("claude", "bashtimeout", 0)
    decided_by = str(told.pop("decided_by"))
    assert decided_by.startswith(f'{path}:14: {{"duration_api_ms":89,')
    assert told == {
        "outcome": "succeeded",
        "error_class": None,
        "retryable": None,
        "resets_at": None,
        "detail": "Hello from the fake model. The task is done.",
        "session_id": "7f9839c5-4754-4570-8f29-424335afc2fb",
        "api_calls": 3,
        "tool_calls": 1,
        "tool_failures": 0,
        "denials": 0,
        "input_tokens": 3000,
        "output_tokens": 76,
        "cost_usd": 0.01514,
        "retries": 0,
        "unknown_events": 0,
        "no_evidence": False,
        "answer": "Hello from the fake model. The task is done.",
    }


@pytest.mark.parametrize(
    ("tool", "case", "exit_code", "outcome", "error_class", "line"),
    [
        ("claude", "auth", 1, "failed", "auth", "auth.stdout.jsonl:13: {"),
        ("claude", "usage", 1, "throttled", "quota", "usage.stdout.jsonl:3: {"),
        ("claude", "root", 1, "failed", "config", "root.stderr.txt:1: --dangerously-skip-permissions cannot"),
        ("claude", "text", 7, "failed", "unknown", "exit code 7"),
        ("claude", "sig_kill_tool", -9, "failed", "killed", "killed by SIGKILL"),
        ("codex", "err500", 1, "throttled", "provider_down", "err500.stdout.jsonl:9: {"),
        ("codex", "toolong", 1, "failed", "context_overflow", "toolong.stdout.jsonl:4: {"),
        ("codex", "sig_term_tool", -15, "failed", "killed", "killed by SIGTERM"),
    ],
)
def test_a_run_that_did_not(tool: str, case: str, exit_code: int, outcome: str, error_class: str, line: str) -> None:
    told = found(tool, case, exit_code)
    assert (told["outcome"], told["error_class"]) == (outcome, error_class)
    assert line in str(told["decided_by"])


def test_a_path_names_the_same_tool_and_a_fleet_its_own(tmp_path: Path) -> None:
    stdout = RECORDINGS / "claude" / "text.stdout.jsonl"
    by_path = run("--tool", "/opt/bin/claude", "--exit-code", 0, "--stdout", stdout, "--json")
    assert json.loads(by_path.output)["outcome"] == "succeeded"
    fleet = tmp_path / "fleet.toml"
    fleet.write_text(
        '[tools.mine]\nargv = ["mine"]\nerror = "^oh no"\n'
        '[[agents]]\nname = "a"\nlayer = "Growth"\ncli_tool = "mine"\ntask = "t"\n'
    )
    output = tmp_path / "out"
    output.write_text("well\noh no, a fault\n")
    told = json.loads(run("--tool", "mine", "--fleet", fleet, "--exit-code", 0, "--stdout", output, "--json").output)
    assert (told["outcome"], told["detail"]) == ("failed", "oh no, a fault")
    assert told["decided_by"] == f"{output}:2: oh no, a fault"


def test_a_resumed_session_is_charged_with_its_own_share_when_the_run_before_is_at_hand(tmp_path: Path) -> None:
    resumed = RECORDINGS / "codex" / "resume_last.stdout.jsonl"
    former = tmp_path / "former"
    former.write_bytes(
        resumed.read_bytes().replace(b"2400", b"1200").replace(b'"output_tokens":36', b'"output_tokens":18')
    )
    told = found("codex", "resume_last", 0, "--former", former)
    assert (told["input_tokens"], told["output_tokens"]) == (1200, 18)


def test_a_time_in_words_is_read_as_of_when_the_file_was_written_or_as_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resets_at(*args: str) -> object:
        return json.loads(run("--tool", "codex", "--exit-code", 1, "--stdout", stdout, "--json", *args).output)[
            "resets_at"
        ]

    monkeypatch.setenv("TZ", "Asia/Tokyo")
    stdout = tmp_path / "stdout"
    stdout.write_bytes((RECORDINGS / "codex" / "usage.stdout.jsonl").read_bytes())  # try again at 4:53 AM
    os.utime(stdout, (1795406000, 1795406000))  # 2026-11-23T03:53:20Z, in Tokyo 12:53:20
    assert resets_at() == "2026-11-23T19:53:00.000000Z"
    assert resets_at("--at", "2026-11-24T05:00:00+09:00") == "2026-11-24T19:53:00.000000Z"
    assert resets_at("--at", "2026-11-24T04:00") == "2026-11-23T19:53:00.000000Z"
    monkeypatch.setenv("TZ", "UTC")
    assert resets_at() == "2026-11-23T04:53:00.000000Z"


def test_people_read_it_too() -> None:
    result = explain("codex", "usage", 1, "--at", "2026-11-23T03:53:20Z")
    assert result.exit_code == 0
    first, *rest = result.output.splitlines()
    assert first == "throttled (quota)"
    assert any(line.startswith("  decided by: ") and "usage.stdout.jsonl:4: " in line for line in rest)
    assert "  run again:  it could end better, from 2026-11-23T04:53:00.000000Z on" in rest
    assert explain("claude", "text", 0).output.splitlines()[0] == "succeeded"


def test_a_hostile_transcript_writes_no_control_characters(tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.write_bytes(b'{"type":"result","ok":false,"text":"\\u001b[2J\\u0007"}\n\x1b[2J' + b"x" * 5_000_000)
    result = run("--tool", "demo", "--exit-code", 1, "--stdout", output)
    assert result.exit_code == 0
    assert "\x1b" not in result.output
    assert len(result.output) < 2000


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("--tool", "emacs"), "'emacs' is none of: bash, claude, codex, demo, gemini, opencode, pi, qwen"),
        (("--exit-code", "many"), "'many' is not a valid integer"),
        (("--stdout", "/nowhere/at/all"), "does not exist"),
        (("--stdout", "/"), "is a directory"),
        (("--stderr", "/nowhere/at/all"), "does not exist"),
        (("--fleet", "/nowhere/at/all"), "/nowhere/at/all"),
        (("--at", "4:53 AM"), "'4:53 AM' is no time such as 2026-11-23T04:53:00Z"),
        (("--bogus",), "No such option"),
    ],
)
def test_bad_input_is_a_usage_error(args: tuple[str, ...], told: str) -> None:
    stdout = RECORDINGS / "claude" / "text.stdout.jsonl"
    result = run("--tool", "claude", "--exit-code", "0", "--stdout", stdout, *args)
    assert result.exit_code == 2
    assert told in result.output
    assert "Traceback" not in result.output


def test_what_is_needed_is_asked_for() -> None:
    result = run("--tool", "claude")
    assert result.exit_code == 2
    assert "Missing option" in result.output
