"""What the factory makes of real runs of Gemini CLI, and of Qwen Code, which grew out of it."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import trio

from darkfactory import Permissions

from .conftest import Stage, only
from .model_server import Refuse, Say, Shell, model_server
from .test_runs import ASLEEP, SUCCESS, started

BOTH = only("gemini", "qwen")


@pytest.fixture
def file(stage: Stage) -> Path:
    return stage.work / "file"


@BOTH
async def test_an_agent_changes_a_file_and_is_understood(stage: Stage, cli, file):
    """The task is on stdin, however long it is and whatever it looks like."""
    task = "--help me\nwith this: " + "x" * 200_000
    ended = await stage.run(cli, Shell("echo changed > file", "I change it."), Say("It is done."), task=task)
    assert (ended.outcome, ended.record["exit_code"]) == (SUCCESS, 0), ended.told()
    assert file.read_text() == "changed\n"
    assert repr(task)[1:-1] in repr(ended.server.requests[0])
    summary = ended.summary
    assert summary["answer"] == "It is done."
    assert ended.record["session"] == ended.session
    assert (summary["tool_calls"], summary["tool_failures"], summary["unknown_events"]) == (1, 0, 0)
    assert (summary["api_calls"], summary["api_calls_estimated"]) == (2, True)
    assert (summary["input_tokens"], summary["output_tokens"]) == (
        1000 * (2 + ended.server.asides),
        20 * (2 + ended.server.asides),
    )


@BOTH
async def test_a_session_goes_on_with_a_model_that_is_asked_for_by_its_name(stage: Stage, cli):
    first = await stage.run(cli, Say("The word is xylophone."))
    second = await stage.run(cli, Say(), resume=first.record["session"], model="gemini-2.5-pro")
    assert second.outcome == SUCCESS, second.told()
    request = second.server.requests[0]  # qwen may ask more behind its answer
    assert "The word is xylophone." in str(request)
    assert request["model"] == "gemini-2.5-pro"
    assert second.record["session"] == first.record["session"]


@BOTH
async def test_an_agent_that_may_only_read_changes_nothing_and_waits_for_nobody(stage: Stage, cli, file):
    ended = await stage.run(cli, Shell("echo changed > file"), Say(), permissions=Permissions.READ_ONLY)
    assert not file.exists()
    # It was not offered the tool that it asked for, and that is a failed call, of which it may think what it likes.
    assert ended.outcome == SUCCESS, ended.told()
    assert (ended.summary["tool_calls"], ended.summary["tool_failures"]) == (1, 1)


@BOTH
async def test_a_wrong_key_is_told_soon_and_is_not_tried_again(stage: Stage, cli):
    ended = await stage.run(cli, Refuse("auth"))
    assert ended.outcome == ("failed", "auth"), ended.told()
    assert (len(ended.server.requests), ended.record["retryable"]) == (1, False)


@only("gemini")
async def test_gemini_says_on_stderr_that_it_waits_for_its_provider(stage: Stage, cli):
    ended = await stage.run(cli, Refuse("throttled"), Say())
    assert ended.outcome == SUCCESS, ended.told()
    assert (len(ended.server.requests), ended.summary["retries"]) == (2, 1)


@only("gemini")
async def test_a_usage_limit_is_no_failure_of_the_agent(stage: Stage, cli):
    ended = await stage.run(cli, Refuse("usage_limit"))
    assert ended.outcome == ("throttled", "quota"), ended.told()
    assert len(ended.server.requests) == 1


@only("qwen")
async def test_qwen_tries_again_without_a_word(stage: Stage, cli):
    ended = await stage.run(cli, Refuse("throttled"), Say())
    assert ended.outcome == SUCCESS, ended.told()
    assert len(ended.server.requests) > 1
    assert ended.summary["retries"] == 0


@only("qwen")
async def test_a_qwen_stops_at_its_limit_of_turns(stage: Stage, cli):
    ended = await stage.run(cli, Shell("true"), max_turns=2)
    assert ended.outcome == ("max_turns", "max_turns"), ended.told()
    assert len(ended.server.requests) == 2


@only("qwen")
async def test_commands_of_a_qwen_that_fail_are_counted(stage: Stage, cli):
    ended = await stage.run(cli, *[Shell("echo no >&2; exit 3")] * 2, Say("It cannot be done."))
    assert ended.outcome == SUCCESS, ended.told()
    assert (ended.summary["tool_calls"], ended.summary["tool_failures"]) == (2, 2)


@BOTH
async def test_a_session_that_does_not_exist_is_a_failure(stage: Stage, cli):
    ended = await stage.run(cli, Say(), resume="01a20799-f09e-4561-a62f-935552842240")
    assert ended.outcome == ("failed", "config"), ended.told()
    assert ended.server.requests == []


@BOTH
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
