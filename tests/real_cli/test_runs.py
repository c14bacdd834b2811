"""What the factory makes of real runs of claude and codex."""

from __future__ import annotations

import contextlib
import shlex
import uuid
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import trio

from .conftest import Stage, only
from .model_server import RESETS_AT, Hang, Refuse, Say, Shell, model_server

ASLEEP = "python3 -c 'import time; time.sleep(600)'"
"""A command that does not end; claude does not run `sleep`."""
SUCCESS = ("succeeded", None)


async def test_a_plain_answer_is_a_success_that_is_told_in_its_own_words(stage: Stage, cli):
    ended = await stage.run(cli, Say("It is done."))
    assert (ended.outcome, ended.record["exit_code"]) == (SUCCESS, 0), ended.told()
    assert ended.record["session"] == ended.session
    assert (ended.record["input_tokens"], ended.record["output_tokens"]) == (1000, 20)
    summary = ended.summary
    assert summary["answer"] == "It is done."
    assert (summary["tool_calls"], summary["retries"], summary["unknown_events"]) == (0, 0, 0)
    assert summary["output_bytes"] == sum((ended.directory / name).stat().st_size for name in ("stdout", "stderr"))
    # codex tells neither how often it asked nor what that cost; the first can be made out
    assert (summary["api_calls"], summary["api_calls_estimated"]) == (1, cli == "codex")
    assert bool(summary["cost_usd"]) is (cli == "claude")


async def test_the_task_is_on_stdin_whatever_it_looks_like(stage: Stage, cli):
    task = "--help me\nwith this: " + "x" * 200_000
    ended = await stage.run(cli, Say(), task=task)
    assert ended.outcome == SUCCESS, ended.told()
    assert repr(task)[1:-1] in repr(ended.server.requests[0])


async def test_an_agent_changes_a_file(stage: Stage, cli):
    ended = await stage.run(cli, Shell("echo changed > file"), Say())
    assert ended.outcome == SUCCESS, ended.told()
    assert (stage.work / "file").read_text() == "changed\n"
    assert (ended.summary["tool_calls"], ended.summary["tool_failures"]) == (1, 0)
    assert ended.record["input_tokens"] == 2000


async def test_an_agent_sees_nothing_of_the_factorys_environment_but_what_it_needs(stage: Stage, cli):
    await stage.run(cli, Shell("env -0 > seen"), Say())
    seen = dict(pair.partition("=")[::2] for pair in (stage.work / "seen").read_text().split("\0") if pair)
    assert seen["HOME"] == stage.environ["HOME"]
    assert "not-for-agents" not in seen.values()


async def test_an_agent_whose_tools_fail_may_end_well_all_the_same(stage: Stage, cli):
    ended = await stage.run(cli, *[Shell("echo no >&2; exit 3")] * 3, Say("It cannot be done."))
    assert ended.outcome == SUCCESS, ended.told()
    assert (ended.summary["tool_calls"], ended.summary["tool_failures"]) == (3, 3)


async def test_a_provider_that_says_wait_once_is_waited_for(stage: Stage, cli):
    ended = await stage.run(cli, Refuse("throttled"), Say())
    assert ended.outcome == SUCCESS, ended.told()
    assert (len(ended.server.requests), ended.summary["retries"]) == (2, 1)


async def test_a_usage_limit_is_no_failure_of_the_agent(stage: Stage, cli):
    ended = await stage.run(cli, Refuse("usage_limit"))
    assert ended.outcome == ("throttled", "quota"), ended.told()
    assert len(ended.server.requests) == 1


@only("claude")
async def test_the_end_of_a_usage_limit_is_known_where_claude_is_logged_in(stage: Stage, cli):
    """With a key it is not told of it."""
    ended = await stage.run(cli, Refuse("usage_limit"), key="CLAUDE_CODE_OAUTH_TOKEN")
    assert ended.outcome == ("throttled", "quota"), ended.told()
    assert abs(datetime.fromisoformat(ended.record["resets_at"]) - RESETS_AT) < timedelta(seconds=1)


@only("codex")
async def test_codex_says_in_words_when_its_usage_limit_ends(stage: Stage, cli):
    """To the minute, in the zone of the machine."""
    ended = await stage.run(cli, Refuse("usage_limit"))
    assert abs(datetime.fromisoformat(ended.record["resets_at"]) - RESETS_AT) <= timedelta(minutes=1), ended.told()


@only("claude")
async def test_a_wait_that_is_longer_than_the_run_may_take_is_not_waited_for(stage: Stage, cli):
    ended = await stage.run(cli, Refuse("later"), stall_timeout_secs=30.0)
    assert ended.outcome == ("throttled", "throttled"), ended.told()
    assert ended.record["decided_by"] == "the stop", ended.told()
    (stopping,) = stage.records("run_stopping")
    assert "longer than it may" in stopping["detail"]
    (blocked,) = stage.records("provider_blocked")
    assert (blocked["provider"], blocked["run"]) == ("anthropic", ended.record["run"])


async def test_a_wrong_key_is_told_soon_and_is_not_tried_again(stage: Stage, cli):
    ended = await stage.run(cli, Refuse("auth"))
    assert ended.outcome == ("failed", "auth"), ended.told()
    assert ended.record["retryable"] is False
    assert ended.record["secs"] < 30


async def test_a_provider_that_is_overloaded_is_told_soon(stage: Stage, cli):
    ended = await stage.run(cli, Refuse("overloaded"))
    assert ended.outcome[1] == "provider_down", ended.told()
    assert ended.record["secs"] < 30


async def test_a_provider_that_never_answers_is_a_stall(stage: Stage, cli):
    ended = await stage.run(cli, Hang(), stall_timeout_secs=3)
    assert ended.outcome == ("stalled", "stalled"), ended.told()
    assert ended.record["session"] == ended.session
    assert len(ended.server.requests) == 1


async def test_nothing_is_left_of_an_agent_that_is_stopped_while_a_tool_of_it_runs(stage: Stage, cli):
    pids = stage.work / "pids"
    command = f"({ASLEEP} & echo $!; setsid {ASLEEP} & echo $!; echo $$) > {shlex.quote(str(pids))}; {ASLEEP}"
    async with (
        model_server(Shell(command), Say()) as server,
        stage.factory(stage.agent(cli, server, grace_secs=1)) as (factory, directory),
    ):
        while not (pids.exists() and pids.read_text().count("\n") == 3):  # noqa: ASYNC110 - a file has no event
            await trio.sleep(0.05)
        alive = {pid: started(pid) for pid in pids.read_text().split()}
        assert None not in alive.values()
        await factory.hold("agent")
        await factory.wait_statuses(lambda agents: not agents[0].running)
        assert [pid for pid, at in alive.items() if started(pid) == at] == []
    assert stage.ended(directory, server).record["reason"] == "cancelled"


@only("codex")
@pytest.mark.usefixtures("sandbox")
async def test_nothing_is_left_of_a_codex_that_is_stopped_while_a_command_runs_in_its_sandbox(stage: Stage, cli):
    """Its pids are those of another namespace, so the command carries a word by which it is known outside."""
    word = f"known-by-{uuid.uuid4().hex}"
    async with (
        model_server(Shell(f"({ASLEEP} {word} & setsid {ASLEEP} {word} & touch began); {ASLEEP} {word}")) as server,
        stage.factory(stage.agent(cli, server, grace_secs=1, permissions=None)) as (factory, _),
    ):
        while not (stage.work / "began").exists() or len(running(word)) < 3:  # noqa: ASYNC110 - these have no event
            await trio.sleep(0.05)
        await factory.hold("agent")
        await factory.wait_statuses(lambda agents: not agents[0].running)
        assert running(word) == []


@only("claude")
async def test_claude_prints_two_results_where_a_command_outlives_its_turn_and_the_last_one_counts(stage: Stage, cli):
    wait = "python3 -c 'import time; time.sleep(3)'"
    steps = (Shell(wait, options={"run_in_background": True}), Say("It runs."), Say("It has ended."))
    ended = await stage.run(cli, *steps, linger_secs=1)
    results = [event["result"] for event in ended.events if event["type"] == "result"]
    assert results == ["It runs.", "It has ended."], ended.told()
    assert ended.outcome == SUCCESS
    assert ended.summary["answer"] == "It has ended."
    assert (ended.record["input_tokens"], ended.record["tool_calls"], ended.record["api_calls"]) == (3000, 1, 3)


def started(pid: str) -> str | None:
    """When a process began, in the kernel's ticks; None when there is none, or only its remains."""
    try:
        _, _, rest = Path("/proc", pid, "stat").read_text().rpartition(")")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = rest.split()
    return None if fields[0] == "Z" else fields[19]


def running(word: str) -> list[str]:
    """The living processes that have this word on their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if word.encode() in path.read_bytes().split(b"\0"):
                found.append(path.parent.name)
    return found
