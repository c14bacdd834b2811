"""What an agent's options make of the real programs: what each may do, its limits, and a session that goes on."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from darkfactory import Permissions

from .conftest import Ended, Stage, only
from .model_server import Say, Shell, model_server

EDIT = "echo edited > file"
"""Changes a file of the working directory; claude sees that it does no more than that."""
TEST = "python3 -c 'print(6 * 7)' > answer"
"""A command of which nobody can say beforehand what it does."""
COMMIT = "git -c user.name=a -c user.email=a@localhost commit --allow-empty --message=first"


def online(port: int) -> str:
    return f"curl --silent --show-error --max-time 5 http://127.0.0.1:{port}/ > page"


@pytest.fixture
def work(stage: Stage) -> Path:
    """The working directory, a repository."""
    subprocess.run(["git", "init", "--quiet"], cwd=stage.work, env=stage.environ, check=True)
    return stage.work


@pytest.fixture
def commits(work: Path, stage: Stage):
    """How many there are."""

    def commits() -> int:
        command = ["git", "rev-list", "--all", "--count"]
        return int(subprocess.run(command, cwd=work, env=stage.environ, capture_output=True, check=True).stdout)

    return commits


async def act(stage: Stage, cli: str, **options) -> Ended:
    """A run that looks, edits, tests, downloads and commits, as far as it may."""
    async with model_server() as server:
        server.steps += [Shell("ls"), Shell(EDIT), Shell(TEST), Shell(online(server.port)), Shell(COMMIT), Say()]
        async with stage.factory(stage.agent(cli, server, **options)) as (factory, directory):
            await factory.wait_statuses(lambda agents: not agents[0].running)
        ended = stage.ended(directory, server)
    assert ended.record["reason"] == "succeeded", ended.told()
    assert len(ended.server.requests) == 6
    return ended


def done(work: Path) -> set[str]:
    """What came of it in the working directory; a file that was opened and not written is nothing."""
    return {path.name for path in work.iterdir() if path.is_file() and path.stat().st_size}


@only("claude")
async def test_an_agent_that_may_do_nothing_that_it_tries_has_not_succeeded(stage: Stage, cli):
    ended = await stage.run(cli, Shell(TEST), Say(), permissions=Permissions.READ_ONLY)
    assert ended.outcome == ("failed", "permission_denied"), ended.told()
    assert ended.record["denials"] == 1


@pytest.mark.usefixtures("sandbox")
async def test_read_only_changes_nothing(stage: Stage, cli, work, commits):
    await act(stage, cli, permissions=Permissions.READ_ONLY)
    assert (done(work), commits()) == (set(), 0)


@only("claude")
async def test_a_claude_that_may_write_edits_and_runs_no_commands(stage: Stage, cli, work, commits):
    await act(stage, cli, permissions=Permissions.WORKSPACE_WRITE)
    assert (done(work), commits()) == ({"file"}, 0)


@only("claude")
async def test_a_claude_that_may_write_may_be_given_commands(stage: Stage, cli, work, commits):
    args = ("--allowedTools", "Bash(git *)")
    await act(stage, cli, permissions=Permissions.WORKSPACE_WRITE, args=args)
    assert (done(work), commits()) == ({"file"}, 1)


@only("codex")
@pytest.mark.usefixtures("sandbox")
async def test_a_codex_that_may_write_runs_commands_that_neither_download_nor_commit(stage: Stage, cli, work, commits):
    await act(stage, cli, permissions=None)
    assert (done(work), commits()) == ({"file", "answer"}, 0)


@only("codex")
@pytest.mark.usefixtures("sandbox")
async def test_a_codex_that_may_write_may_be_given_the_network(stage: Stage, cli, work, commits):
    args = ("-c", "sandbox_workspace_write.network_access=true")
    await act(stage, cli, permissions=None, args=args)
    assert (done(work), commits()) == ({"file", "answer", "page"}, 0)


@only("codex")
@pytest.mark.usefixtures("sandbox")
async def test_a_codex_that_may_write_may_be_given_its_git_directory(stage: Stage, cli, work, commits):
    args = ("-c", 'sandbox_workspace_write.writable_roots=[".git"]')
    await act(stage, cli, permissions=None, args=args)
    assert (done(work), commits()) == ({"file", "answer"}, 1)


async def test_full_access_does_it_all(stage: Stage, cli, work, commits):
    await act(stage, cli, permissions=Permissions.FULL_ACCESS)
    assert (done(work), commits()) == ({"file", "answer", "page"}, 1)


@only("claude")
async def test_claude_does_it_all_by_default_since_it_has_no_sandbox_to_do_it_in(stage: Stage, cli, work, commits):
    await act(stage, cli)
    assert (done(work), commits()) == ({"file", "answer", "page"}, 1)


@only("claude")
@pytest.mark.skipif(os.geteuid() != 0, reason="claude refuses this to root alone")
async def test_claude_refuses_root_what_the_fleet_file_is_refused_for(stage: Stage, cli):
    skip = ("--dangerously-skip-permissions",)
    refused = await stage.run(cli, Say(), args=skip, env_pass=("PATH", "HOME", "IS_SANDBOX"))
    assert (refused.outcome, refused.record["exit_code"]) == (("failed", "config"), 1)
    assert "root" in refused.record["detail"]
    allowed = await stage.run(cli, Say(), args=skip, env={"IS_SANDBOX": "1"})
    assert allowed.record["reason"] == "succeeded", allowed.told()


@only("claude")
async def test_claude_stops_at_its_limit_of_turns(stage: Stage, cli):
    ended = await stage.run(cli, Shell("true"), max_turns=2)
    assert ended.outcome == ("max_turns", "max_turns"), ended.told()
    assert len(ended.server.requests) == 2


@only("claude")
async def test_claude_stops_at_its_limit_of_money(stage: Stage, cli):
    """Each answer costs about half a cent."""
    ended = await stage.run(cli, Shell("true"), max_cost_usd=0.008)
    assert ended.outcome == ("budget", "budget"), ended.told()
    assert len(ended.server.requests) == 2


async def test_a_model_is_asked_for_by_its_name(stage: Stage, cli):
    ended = await stage.run(cli, Say(), model="some-model")
    assert [request["model"] for request in ended.server.requests] == ["some-model"], ended.told()


async def test_a_session_goes_on_where_it_was(stage: Stage, cli):
    first = await stage.run(cli, Say("The word is xylophone."))
    async with (
        model_server(Say()) as server,
        stage.factory(stage.agent(cli, server, resume=first.record["session"])) as (factory, second),
    ):
        await factory.wait_statuses(lambda agents: not agents[0].running)
        admission = await factory.start("agent")
        await factory.wait_statuses(lambda agents: not agents[0].running)
    runs = [stage.ended(second.with_name(run), server) for run in (second.name, admission.run_id)]
    for request, run in zip(server.requests, runs, strict=True):
        assert "The word is xylophone." in str(request)
        assert run.outcome == ("succeeded", None), run.told()
        assert run.record["session"] == first.record["session"]
    # Both programs add up what a session has used, but a run is told what it used itself.
    assert runs[1].record["input_tokens"] == 1000


async def test_a_session_that_does_not_exist_is_a_failure(stage: Stage, cli):
    ended = await stage.run(cli, Say(), resume="01a20799-f09e-7561-a62f-935552842240")
    assert ended.outcome == ("failed", "config"), ended.told()
    assert ended.server.requests == []
