"""What the factory makes of real runs of each other program: the same few ends, as each of them tells of them."""

from __future__ import annotations

import shlex

import pytest
import trio

from darkfactory import Permissions

from .conftest import Stage, only
from .model_server import Call, Hang, Refuse, Say, Shell, model_server
from .test_runs import ASLEEP, SUCCESS, started

PROGRAMS = ("opencode", "pi")
ASIDES = {"opencode": 1}
"""Requests of its own that a program makes beside those of the task."""


@only(*PROGRAMS)
async def test_a_program_does_its_task_and_what_it_took_is_counted(stage: Stage, cli):
    task = "--help me\nwith this: " + "x" * 200_000
    ended = await stage.run(cli, Shell("echo changed > file", "I change it."), Say("It is done."), task=task)
    assert (ended.outcome, ended.record["exit_code"]) == (SUCCESS, 0), ended.told()
    assert (stage.work / "file").read_text() == "changed\n"
    assert repr(task)[1:-1] in repr(ended.server.requests[0])
    summary = ended.summary
    assert summary["answer"] == "It is done."
    assert ended.record["session"] == ended.session
    assert (summary["tool_calls"], summary["tool_failures"], summary["unknown_events"]) == (1, 0, 0)
    assert (summary["input_tokens"], summary["output_tokens"]) == (2000, 40)
    assert summary["cost_usd"] == pytest.approx(2 * (1000 * 3 + 20 * 15) / 1e6)
    assert (summary["api_calls"], ended.server.asides) == (2 + ASIDES.get(cli, 0), ASIDES.get(cli, 0))


@only(*PROGRAMS)
async def test_tools_that_fail_are_counted_though_the_run_ends_well(stage: Stage, cli):
    ended = await stage.run(cli, *[Shell("echo no >&2; exit 3")] * 2, Say("It cannot be done."))
    assert ended.outcome == SUCCESS, ended.told()
    assert (ended.summary["tool_calls"], ended.summary["tool_failures"]) == (2, 2)


@only(*PROGRAMS)
async def test_a_wrong_key_is_no_fault_of_the_provider(stage: Stage, cli):
    ended = await stage.run(cli, Refuse("auth"))
    assert ended.outcome == ("failed", "auth"), ended.told()
    assert ended.record["retryable"] is False
    assert len(ended.server.requests) == 1


@only("pi")
async def test_a_usage_limit_is_told_after_all_that_pi_tries(stage: Stage, cli):
    ended = await stage.run(cli, Refuse("usage_limit"))
    assert ended.outcome == ("throttled", "quota"), ended.told()
    assert ended.record["exit_code"] == 0
    assert (len(ended.server.requests), ended.summary["api_calls"], ended.summary["retries"]) == (12, 12, 3)


@only(*PROGRAMS)
async def test_a_provider_that_says_wait_once_is_waited_for(stage: Stage, cli):
    ended = await stage.run(cli, Refuse("throttled"), Say())
    assert ended.outcome == SUCCESS, ended.told()
    assert len(ended.server.requests) == 2
    assert ended.summary["retries"] == 0  # neither tells of the first ones


@only(*PROGRAMS)
async def test_a_program_that_waits_for_its_provider_in_silence_is_stopped_at_the_stall_limit(stage: Stage, cli):
    ended = await stage.run(cli, Hang(), stall_timeout_secs=5)
    assert ended.outcome == ("stalled", "stalled"), ended.told()


@only(*PROGRAMS)
async def test_an_agent_that_may_only_read_changes_nothing_and_does_not_wait_for_anybody(stage: Stage, cli):
    ended = await stage.run(cli, Shell("echo changed > file"), Say(), permissions=Permissions.READ_ONLY)
    assert ended.outcome == SUCCESS, ended.told()
    assert not (stage.work / "file").exists()
    assert (ended.summary["tool_calls"], ended.summary["tool_failures"]) == (1, 1)


@only("opencode")
async def test_an_opencode_that_may_write_does_so_in_its_directory_alone_and_runs_nothing(stage: Stage, cli):
    inside, outside = stage.work / "inside", stage.root / "outside"
    writes = [Call("write", {"filePath": str(path), "content": "x"}) for path in (inside, outside)]
    steps = (*writes, Shell("echo changed > file"), Say())
    ended = await stage.run(cli, *steps, permissions=Permissions.WORKSPACE_WRITE)
    assert ended.outcome == SUCCESS, ended.told()
    assert (inside.exists(), outside.exists(), (stage.work / "file").exists()) == (True, False, False)
    assert (ended.summary["tool_calls"], ended.summary["tool_failures"]) == (3, 2)


@only("opencode")
async def test_an_opencode_that_may_only_read_does_not_write_either(stage: Stage, cli):
    write = Call("write", {"filePath": str(stage.work / "inside"), "content": "x"})
    ended = await stage.run(cli, write, Say(), permissions=Permissions.READ_ONLY)
    assert ended.outcome == SUCCESS, ended.told()
    assert not (stage.work / "inside").exists()


@only(*PROGRAMS)
async def test_a_session_that_does_not_exist_is_a_failure(stage: Stage, cli):
    ended = await stage.run(cli, Say(), resume="ses_df9576806ffeww49DwNippxC6E")
    assert ended.outcome == ("failed", "config"), ended.told()
    assert ended.server.requests == []


@only(*PROGRAMS)
async def test_a_session_goes_on_where_it_was(stage: Stage, cli):
    first = await stage.run(cli, Say("The word is xylophone."))
    second = await stage.run(cli, Say(), resume=first.record["session"], model="fake/some-model")
    assert second.outcome == SUCCESS, second.told()
    (request,) = second.server.requests
    assert "The word is xylophone." in str(request)
    assert request["model"] == "some-model"
    assert second.record["session"] == first.record["session"]
    assert second.record["input_tokens"] == 1000


@only(*PROGRAMS)
async def test_nothing_is_left_of_a_program_that_is_stopped_while_a_tool_of_it_runs(stage: Stage, cli):
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
