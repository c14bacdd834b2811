"""Isolated agents in a real factory, the command that shows what they left, and a factory that is killed meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import evolve

from darkfactory import AgentOrchestrator, OrchestratorConfig, load_config, open_factory
from darkfactory.devices import procfs, worktree_store
from darkfactory.devices.disk import Mounts
from darkfactory.devices.machine import open_machine

from .repositories import Checkout

pytestmark = pytest.mark.real

FLEET = """
working_dir = "{work}/sub"
state_dir = "{state}"
min_free_bytes = 0
shutdown_grace_secs = 6
[layers.Safety]
success_cooldown_secs = "1h"
backoff_secs = "5m"
[[agents]]
name = "it"
layer = "{layer}"
cli_tool = "bash"
isolation = "worktree"
timeout_secs = {timeout}
stall_timeout_secs = {stall}
task = '''
{task}
'''
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout.begun(tmp_path / "repository")


def write(checkout: Checkout, task: str, *, layer: str = "Growth", timeout: float = 60) -> Path:
    place = checkout.path.parent
    file = place / "fleet.toml"
    file.write_text(
        FLEET.format(
            work=checkout.path, state=place / "state", task=task, layer=layer, timeout=timeout, stall=timeout - 0.1
        )
    )
    return file


def fleet(checkout: Checkout, task: str, **more: Any) -> OrchestratorConfig:
    return load_config(write(checkout, task, **more), os.environ, paths_exist=True)


def journal(checkout: Checkout, kind: str) -> list[dict[str, Any]]:
    """The journal's lines of a kind; a factory may be writing the last one."""
    paths = sorted(checkout.path.parent.glob("state/journal/*.jsonl"))
    lines = [line for path in paths for line in path.read_bytes().splitlines(keepends=True) if line[-1:] == b"\n"]
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


async def run_once(factory: AgentOrchestrator) -> None:
    await factory.start("it")
    with trio.fail_after(30):
        await factory.wait_statuses(lambda statuses: statuses[0].running)
        await factory.wait_statuses(lambda statuses: not statuses[0].running)


async def test_its_work_is_on_its_branch_and_the_shared_checkout_as_it_was(checkout: Checkout) -> None:
    checkout.write("sub/file", "not committed")
    async with open_factory(fleet(checkout, "pwd; cat file; echo work > new")) as factory:
        await run_once(factory)
        assert factory.agent_statuses()[0].worktree is None
    (kept,) = journal(checkout, "worktree_kept")
    run, (branch,) = kept["run"], kept["branches"]
    assert branch == f"darkfactory/it/{run}"
    assert checkout.files(branch) == {"README": "read me", "sub/file": "one", "sub/new": "work"}
    stdout = checkout.path.parent / "state" / "runs" / run / "stdout"
    assert stdout.read_text() == f"{checkout.path.parent}/state/worktrees/{run}/sub\none\n"
    assert checkout.git("status", "--porcelain") == "M sub/file"
    assert checkout.git("symbolic-ref", "HEAD") == "refs/heads/main"
    (made,) = journal(checkout, "worktree_made")
    assert (made["branch"], made["commit"]) == (branch, checkout.branches()["main"])


async def test_one_that_changed_nothing_leaves_nothing(checkout: Checkout) -> None:
    async with open_factory(fleet(checkout, "echo looked")) as factory:
        await run_once(factory)
    assert checkout.branches().keys() == {"main"}
    assert len(journal(checkout, "worktree_removed")) == 1
    assert not list(checkout.path.parent.glob("state/worktrees/it-*"))


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        ("echo work > new; exit 3", "failed"),
        ("echo work > new; kill -9 $$", "failed"),
        ("echo work > new; sleep 1000", "stalled"),
        ("trap '' TERM; echo work > new; while :; do sleep 1000; done", "stalled"),
        ("echo work > new; setsid sleep 1000 & sleep 1000", "stalled"),
    ],
)
async def test_however_it_ends_its_work_is_kept(checkout: Checkout, task: str, reason: str) -> None:
    config = fleet(checkout, task, timeout=1.0)
    async with open_factory(config) as factory:
        await run_once(factory)
    (kept,) = journal(checkout, "worktree_kept")
    assert checkout.files(kept["branches"][0])["sub/new"] == "work"
    assert f"ended as {reason}" in checkout.git("log", "-1", "--format=%B", kept["branches"][0])


async def test_stopped_with_the_factory_its_work_is_kept_within_the_bound(checkout: Checkout) -> None:
    async with open_factory(fleet(checkout, "echo work > new; echo ready; sleep 1000")) as factory:
        await factory.start("it")
        new = checkout.path.parent / "state" / "worktrees"
        with trio.fail_after(20):
            while not list(new.glob("it-*/sub/new")):  # noqa: ASYNC110 - another process makes it
                await trio.sleep(0.01)
    (kept,) = journal(checkout, "worktree_kept")
    assert journal(checkout, "factory_stopped")[0]["exit_code"] == 0
    assert "ended as shutdown" in checkout.git("log", "-1", "--format=%B", kept["branches"][0])


async def test_a_git_that_will_not_end_breaks_no_bound_on_the_shutdown(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = checkout.path.parent / "bin" / "git"
    git.parent.mkdir()
    stubborn = "trap '' TERM; while :; do sleep 1000; done"
    git.write_text(f'#!/bin/sh\ncase "$*" in *"add --all"*) {stubborn};; esac\nexec {shutil.which("git")} "$@"\n')
    git.chmod(0o755)
    monkeypatch.setenv("PATH", f"{git.parent}:{os.environ['PATH']}")
    config = evolve(
        fleet(checkout, f"trap '' TERM; echo work > begun; mv begun new; {stubborn}"), shutdown_grace_secs=1.0
    )
    async with open_factory(config) as factory:
        await factory.start("it")
        new = checkout.path.parent / "state" / "worktrees"
        with trio.fail_after(20):
            while not list(new.glob("it-*/sub/new")):  # noqa: ASYNC110 - another process makes it
                await trio.sleep(0.01)
    (stopped,) = journal(checkout, "factory_stopped")
    assert (stopped["exit_code"], stopped.get("unreaped")) == (0, None)
    assert [path.read_text() for path in new.glob("it-*/sub/new")] == ["work\n"], "the next life settles it"


async def test_what_cannot_be_isolated_does_not_run(checkout: Checkout) -> None:
    async with open_factory(fleet(checkout, "echo ran > ../ran")) as factory:
        checkout.git("branch", "darkfactory")
        await run_once(factory)
    (ended,) = journal(checkout, "run_ended")
    assert ended["reason"] == "failed"
    assert ended["detail"].startswith("worktree: ")
    assert not (checkout.path / "ran").exists()


async def test_the_agent_can_commit_and_the_merged_branch_goes(checkout: Checkout) -> None:
    task = f"""
    export GIT_AUTHOR_NAME=A GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=A GIT_COMMITTER_EMAIL=a@b
    echo work > new; git add new; git commit -qm 'its own'; git -C {checkout.path} merge -q --ff-only HEAD
    """
    async with open_factory(fleet(checkout, task)) as factory:
        await run_once(factory)
    (kept,) = journal(checkout, "worktree_kept")
    assert (kept["commits"], kept["rescued"]) == (1, 0)
    assert checkout.subjects(kept["branches"][0])[0] == "its own"


def test_the_disk_of_the_worktrees_is_asked_too(tmp_path: Path) -> None:
    for isolates in (False, True):
        with open_machine(tmp_path / "state", None, keep=timedelta(1), isolates=isolates) as machine:
            assert isinstance(machine.disk, Mounts)
            assert (tmp_path / "state" / "worktrees" in machine.disk.directories) is isolates


def darkfactory(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "darkfactory", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)  # noqa: TID251 - polls another process


@contextmanager
def running(file: Path, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """The command; killed at the end, with what its guard then has to do."""
    command = [sys.executable, "-m", "darkfactory", str(file)]
    log = (file.parent / "log").open("ab")
    with log, subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log, env=os.environ | env) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            instance = json.loads((file.parent / "state" / "fleet.json").read_text())["instance"]
            until(lambda: not list(procfs.scan().carrying(f"{instance}/")))


def test_a_factory_that_is_killed_has_its_worktrees_settled_by_the_next(checkout: Checkout) -> None:
    file = write(checkout, "[ -e ../stop ] || { echo work > new; sleep 1000; }", layer="Safety", timeout=600)
    worktrees = file.parent / "state" / "worktrees"
    with running(file) as factory:
        until(lambda: list(worktrees.glob("it-*/sub/new")))
        factory.kill()
    (left,) = worktrees.glob("it-*")
    checkout.write("stop", "")
    checkout.commit("stop")
    with running(file) as factory:
        until(lambda: journal(checkout, "worktree_kept"))
        until(lambda: journal(checkout, "worktree_removed"))  # that of the new run, which changed nothing
        factory.send_signal(signal.SIGTERM)
        assert factory.wait(20) == 0
    (kept,) = journal(checkout, "worktree_kept")
    assert kept["run"] == left.name
    assert checkout.files(kept["branches"][0])["sub/new"] == "work"
    assert journal(checkout, "run_ended")[0]["reason"] == "lost"


def test_a_git_that_hangs_does_not_outlive_a_factory_that_is_killed(checkout: Checkout) -> None:
    bin_dir = checkout.path.parent / "bin"
    bin_dir.mkdir()
    hanging = bin_dir / "git"
    pid = bin_dir / "pid"
    hanging.write_text(f"#!/bin/sh\nsetsid sleep 1000 &\necho $! > {pid}.new; mv {pid}.new {pid}; sleep 1000\n")
    hanging.chmod(0o755)
    file = write(checkout, "true", layer="Safety")
    with running(file, PATH=f"{bin_dir}:{os.environ['PATH']}") as factory:
        until(pid.exists)
        factory.kill()
    left = procfs.scan().processes.get(int(pid.read_text()))
    assert left is None or not left.alive


class TestTheCommand:
    @pytest.fixture
    def file(self, checkout: Checkout) -> Path:
        """A fleet whose agent has left one worktree with work and lives in a second."""
        return write(checkout, "echo work > new", layer="Growth")

    async def left(self, file: Path) -> str:
        """A run that has left work; its id."""
        worktrees = file.parent / "state" / "worktrees"
        before = set(worktrees.glob("it-*"))
        async with open_factory(load_config(file, os.environ)) as factory:
            await run_once(factory)
        (new,) = set(worktrees.glob("it-*")) - before
        return new.name

    async def test_nothing(self, file: Path) -> None:
        done = await trio.to_thread.run_sync(darkfactory, "worktrees", file)
        assert (done.returncode, done.stdout) == (0, "there are no worktrees\n")
        done = await trio.to_thread.run_sync(darkfactory, "worktrees", file, "--json")
        assert json.loads(done.stdout) == []
        assert not (file.parent / "state").exists()

    async def test_it_lists_what_was_left(self, file: Path, checkout: Checkout) -> None:
        run = await self.left(file)
        done = await trio.to_thread.run_sync(darkfactory, "worktrees", file)
        assert run in done.stdout
        assert "1 commit" in done.stdout
        done = await trio.to_thread.run_sync(darkfactory, "worktrees", file, "--json")
        (told,) = json.loads(done.stdout)
        assert (told["run"], told["agent"], told["in_use"]) == (run, "it", False)
        assert told["branches"] == [f"darkfactory/it/{run}"]
        assert told["commits"][0]["subject"] == f"it: what run {run} left uncommitted"
        assert (told["files"], told["dirty"]) == (["A sub/new"], [])

    async def test_it_removes_what_was_named_and_shown_and_only_with_a_yes(
        self, file: Path, checkout: Checkout
    ) -> None:
        run = await self.left(file)
        (file.parent / "state" / "worktrees" / run / "README").write_text("dirty")
        done = await trio.to_thread.run_sync(darkfactory, "worktrees", file, "--prune", run)
        assert done.returncode == 0
        for word in ("left uncommitted", "A sub/new", "not committed: M README", "say --yes"):
            assert word in done.stdout
        assert len(checkout.branches()) == 2
        done = await trio.to_thread.run_sync(darkfactory, "worktrees", file, "--prune", run, "--yes")
        assert done.returncode == 0, done.stderr
        assert checkout.branches().keys() == {"main"}
        assert not (file.parent / "state" / "worktrees" / run).exists()
        assert checkout.git("worktree", "list").count("\n") == 0

    async def test_without_names_it_removes_what_loses_nothing(self, file: Path, checkout: Checkout) -> None:
        first, second = await self.left(file), await self.left(file)
        assert first != second
        done = await trio.to_thread.run_sync(darkfactory, "worktrees", file, "--prune", "--yes")
        assert "nothing can be removed without losing something" in done.stdout
        checkout.git("merge", "--quiet", f"darkfactory/it/{first}")
        done = await trio.to_thread.run_sync(darkfactory, "worktrees", file, "--prune", "--yes")
        assert done.returncode == 0
        assert checkout.branches().keys() == {"main", f"darkfactory/it/{second}"}

    async def test_an_unknown_run_is_a_wrong_usage(self, file: Path) -> None:
        run = await self.left(file)
        done = await trio.to_thread.run_sync(darkfactory, "worktrees", file, "--prune", run, "nobody", "--yes")
        assert done.returncode == 2
        assert "nobody" in done.stderr
        assert (file.parent / "state" / "worktrees" / run).exists()

    @pytest.mark.parametrize("words", [("--yes",), ("some-run",), ("--prune", "--json")])
    async def test_options_that_do_not_go_together(self, file: Path, words: tuple[str, ...]) -> None:
        done = await trio.to_thread.run_sync(darkfactory, "worktrees", file, *words)
        assert done.returncode == 2

    async def test_what_nobody_can_look_into_stays(self, file: Path, checkout: Checkout) -> None:
        run = await self.left(file)
        checkout.path.rename(checkout.path.with_name("moved"))
        (checkout.path / "sub").mkdir(parents=True)
        done = await trio.to_thread.run_sync(darkfactory, "worktrees", file, "--prune", run, "--yes")
        assert done.returncode == 1
        assert "nobody knows what it holds" in done.stderr
        assert (file.parent / "state" / "worktrees" / run).exists()


def test_a_worktree_in_use_stays_while_the_factory_runs(checkout: Checkout) -> None:
    file = write(checkout, "echo work > new; sleep 1000", layer="Safety")
    with running(file):
        until(lambda: list((file.parent / "state" / "worktrees").glob("it-*/sub/new")))
        (run,) = [path.name for path in (file.parent / "state" / "worktrees").glob("it-*")]
        assert "in use" in darkfactory("worktrees", file).stdout
        done = darkfactory("worktrees", file, "--prune", run, "--yes")
        assert done.returncode == 1
        assert "its run lives" in done.stderr
        assert (file.parent / "state" / "worktrees" / run / "sub" / "new").exists()


def test_outside_of_a_repository_the_fault_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "repository" / "sub").mkdir(parents=True)
    file = write(Checkout(tmp_path / "repository"), "true")
    line = file.read_text().splitlines().index('isolation = "worktree"') + 1
    done = darkfactory("run", file)
    assert done.returncode == 2
    assert f"fleet.toml:{line}: agents[0].isolation: takes a git repository, and working_dir is in none" in done.stderr
    done = darkfactory("check", file)
    assert done.returncode == 0
    assert "agents[0].isolation" in done.stderr


@pytest.mark.parametrize(("older_than", "left"), [(3600.0, {"git-1.out", "run-1-1.index", "run-x"}), (-1.0, set())])
async def test_what_killed_lives_have_left_of_the_moment_goes_when_it_is_old(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, older_than: float, left: set[str]
) -> None:
    """Young files may be another process's, which lists or prunes worktrees just now."""
    monkeypatch.setattr(worktree_store, "_MOMENT_SECS", older_than)
    config = fleet(checkout, "true")
    scratch = checkout.path.parent / "state" / "worktrees" / ".scratch"
    (scratch / "run-x" / "new").mkdir(parents=True)
    for name in ("git-1.out", "run-1-1.index", "run-x/new/.git"):
        (scratch / name).write_text("x")
    scratch.parents[1].chmod(0o700)
    async with open_factory(config):
        assert {path.name for path in scratch.iterdir()} == left
