"""The real git, in repositories that want more of it than we do."""

from __future__ import annotations

import errno
import os
import signal
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import trio

from darkfactory.devices import git, procfs
from darkfactory.devices.git import Git, GitError
from darkfactory.devices.launcher import RealLauncher

from .repositories import Checkout

pytestmark = pytest.mark.real


@pytest.fixture
def ours(tmp_path: Path) -> Git:
    return Git(
        RealLauncher(f"test-{uuid.uuid4().hex}", os.environ["DARKFACTORY_RUN"]), tmp_path / "scratch", os.environ
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout.begun(tmp_path / "repository")


@pytest.fixture
def trap(tmp_path: Path) -> Callable[[], Path]:
    """A program that must not run; it leaves a file behind."""
    program = tmp_path / "trap"
    program.write_text(f'#!/bin/sh\necho "$0 $*" >> {tmp_path}/sprung\ncat\n')
    program.chmod(0o755)
    return lambda: tmp_path / "sprung"


def program_of(trap: Callable[[], Path]) -> str:
    return str(trap().with_name("trap"))


async def test_what_it_prints_comes_back_and_nothing_is_left(ours: Git, checkout: Checkout) -> None:
    repository = await ours.open(checkout.path / ".git")
    assert (await repository.run("rev-parse", "HEAD")).decode().strip() == checkout.git("rev-parse", "HEAD")
    assert list(ours.scratch.iterdir()) == []


async def test_an_output_file_that_cannot_be_removed_is_no_failure_of_git(
    ours: Git, checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = await ours.open(checkout.path / ".git")

    def refused(self: Path, *, missing_ok: bool = False) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(self))

    monkeypatch.setattr(Path, "unlink", refused)
    assert (await repository.run("rev-parse", "HEAD")).decode().strip() == checkout.git("rev-parse", "HEAD")


async def test_a_failure_says_what_git_said(ours: Git, checkout: Checkout) -> None:
    repository = await ours.open(checkout.path / ".git")
    with pytest.raises(GitError) as caught:
        await repository.run("rev-parse", "--verify", "nobody")
    assert (caught.value.argv, caught.value.exit_code) == (("rev-parse", "--verify", "nobody"), 128)
    assert "Needed a single revision" in caught.value.tail


async def test_what_two_instances_start_at_once_is_told_apart(ours: Git, checkout: Checkout, tmp_path: Path) -> None:
    """As those of the worktrees and of the review, which have one launcher."""
    other = Git(ours.launcher, tmp_path / "other", os.environ)
    running = checkout.path / "running"
    slow = {"alias.slow": f"!touch {running}; sleep 1"}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(ours.run, "slow", cwd=checkout.path, overrides=slow))
        while not running.exists():  # noqa: ASYNC110 - git tells us no other way
            await trio.sleep(0.01)
        for _ in range(3):
            assert await other.run("--version")
        assert await ours.run("--version")


@pytest.mark.parametrize("name", ["HEAD", "config", "packed-refs", "shallow", "objects/info/alternates"])
async def test_a_repository_in_which_git_would_wait_for_ever_is_refused(
    ours: Git, checkout: Checkout, name: str
) -> None:
    place = checkout.path / ".git" / name
    place.unlink(missing_ok=True)
    os.mkfifo(place)
    with trio.fail_after(10), pytest.raises(GitError, match=f"has a {name} that is no file"):
        await ours.open(checkout.path / ".git")


def test_where_a_shallow_clone_ends_is_read_of_a_file_alone(tmp_path: Path) -> None:
    file = tmp_path / "shallow"
    assert git.shallow(tmp_path) == frozenset()
    os.mkfifo(file)
    assert git.shallow(tmp_path) == frozenset()
    file.unlink()
    file.write_text(f"{'a' * 40}\n../x\n")
    assert git.shallow(tmp_path) == {"a" * 40}


async def test_without_git_it_says_so(ours: Git, checkout: Checkout, tmp_path: Path) -> None:
    ours.environ = {"PATH": str(tmp_path)}
    with pytest.raises(GitError, match="install git") as caught:
        await ours.open(checkout.path / ".git")
    assert caught.value.exit_code is None


async def test_a_git_that_lies_where_agents_write_is_not_taken(ours: Git, checkout: Checkout) -> None:
    fake = checkout.write("git", "#!/bin/sh\nexit 3\n")
    fake.chmod(0o755)
    ours.environ = {"PATH": f".:{os.environ['PATH']}"}
    assert (await ours.run("rev-parse", "--is-inside-work-tree", cwd=checkout.path)).strip() == b"true"


HOOKS = ("reference-transaction", "post-checkout", "pre-commit", "post-index-change", "post-commit")


async def test_no_program_of_the_repository_runs(ours: Git, checkout: Checkout, trap: Callable[[], Path]) -> None:
    """Everything that a configuration can name is tried at once; below, that the traps do work."""
    spring(checkout, trap)
    work_tree = checkout.path
    repository = await ours.open(checkout.path / ".git")
    checkout.write("new.filtered", "new")
    index = ours.scratch / "index"
    await repository.run("read-tree", "HEAD", index=index)
    await repository.run("add", "--all", work_tree=work_tree, index=index)
    tree = (await repository.run("write-tree", index=index)).decode().strip()
    commit = (await repository.run("commit-tree", tree, "-p", "HEAD", "-m", "ours")).decode().strip()
    await repository.run("update-ref", "refs/heads/other", commit)
    added = ours.scratch.parent / "added"
    await repository.run("worktree", "add", "--quiet", str(added), "other")
    await repository.run("status", "--porcelain", work_tree=work_tree, index=index)
    await repository.run("log", "--format=%s", "-1")
    await repository.run("diff-tree", "-p", "--no-ext-diff", "--no-textconv", "HEAD", commit)
    assert not trap().exists(), trap().read_text()
    assert (added / "new.filtered").read_text() == "new"
    assert (await repository.run("cat-file", "blob", f"{commit}:new.filtered")) == b"new"


def spring(checkout: Checkout, trap: Callable[[], Path]) -> None:
    program = program_of(trap)
    checkout.write(".gitattributes", "*.filtered filter=mine diff=mine\n")
    checkout.write("old.filtered", "old")
    checkout.commit("filtered")
    for hook in HOOKS:
        (checkout.path / ".git" / "hooks" / hook).write_text(f"#!/bin/sh\nexec {program} {hook}\n")
        (checkout.path / ".git" / "hooks" / hook).chmod(0o755)
    (checkout.path / ".git" / "more").write_text(
        f'[filter "mine"]\n clean = {program}\n smudge = {program}\n required = true\n[filter "run.all"]\n'
        f" process = {program}\n"
    )
    for key, value in {
        "include.path": "more",
        "core.fsmonitor": program,
        "core.sshCommand": program,
        "core.editor": program,
        "core.pager": program,
        "pager.log": "true",
        "diff.external": program,
        "diff.mine.textconv": program,
        "diff.mine.command": program,
        "credential.helper": program,
        "gpg.program": program,
        "commit.gpgSign": "true",
        "log.showSignature": "true",
        "core.attributesFile": program,
        "alias.log": f"!{program}",
    }.items():
        checkout.git("config", key, value)


def test_the_traps_spring_for_a_person(checkout: Checkout, trap: Callable[[], Path]) -> None:
    spring(checkout, trap)
    checkout.write("new.filtered", "new")
    checkout.git("add", "new.filtered")
    checkout.git("-c", "commit.gpgSign=false", "commit", "--quiet", "--message", "hooked")
    sprung = trap().read_text()
    assert "pre-commit" in sprung
    assert sprung.count("trap \n") >= 1  # the filter


async def test_a_promised_object_is_not_fetched(ours: Git, checkout: Checkout, trap: Callable[[], Path]) -> None:
    """A repository may say that what it lacks is elsewhere, and that a program must be run to get it."""
    blob = checkout.git("rev-parse", "HEAD:README")
    (checkout.path / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    for key, value in {
        "remote.far.url": f"ext::{program_of(trap)}",
        "remote.far.promisor": "true",
        "protocol.ext.allow": "always",
        "protocol.allow": "always",
    }.items():
        checkout.git("config", key, value)
    repository = await ours.open(checkout.path / ".git")
    with pytest.raises(GitError):
        await repository.run("cat-file", "blob", blob)
    assert not trap().exists()


async def test_nobodys_configuration_is_read(
    ours: Git, checkout: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    monkeypatch.setenv("GIT_CONFIG_PARAMETERS", "'user.name=Mallory'")
    (tmp_path / ".gitconfig").write_text("[user]\n name = Mallory\n[core]\n bare = nonsense\n")
    repository = await ours.open(checkout.path / ".git")
    told = await repository.run("config", "--list", "--show-origin")
    assert b"Mallory" not in told
    commit = (await repository.run("commit-tree", "HEAD^{tree}", "-m", "x")).decode().strip()
    assert checkout.git("show", "-s", "--format=%an %ce", commit) == "darkfactory darkfactory@localhost"


async def test_a_link_is_no_repository(ours: Git, checkout: Checkout, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(checkout.path / ".git")
    with pytest.raises(GitError, match="is no directory"):
        await ours.open(tmp_path / "link")


async def test_anothers_repository_is_refused(ours: Git, checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    with pytest.raises(GitError, match="belongs to another user"):
        await ours.open(checkout.path / ".git")


def slow(tmp_path: Path, script: str) -> dict[str, str]:
    """A `git` that does something else."""
    program = tmp_path / "bin" / "git"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return {"PATH": f"{program.parent}:{os.environ['PATH']}"}


async def test_one_that_does_not_end_is_ended_with_all_that_it_started(
    ours: Git, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git, "COMMAND_SECS", 0.3)
    ours.environ = slow(tmp_path, f"setsid sleep 1000 & echo $! > {tmp_path}/child; sleep 1000")
    with pytest.raises(GitError, match="did not end within") as caught:
        await ours.run("status")
    assert caught.value.exit_code is None
    child = int((tmp_path / "child").read_text())
    left = procfs.scan().processes.get(child)
    assert left is None or not left.alive


async def test_cancelled_it_is_ended_first_and_may_take_its_locks_away(ours: Git, tmp_path: Path) -> None:
    ours.environ = slow(tmp_path, f"trap 'rm {tmp_path}/lock; exit 1' TERM; touch {tmp_path}/lock; sleep 1000 & wait")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.run, "gc")
        with trio.fail_after(20):
            while not (tmp_path / "lock").exists():  # noqa: ASYNC110 - another process makes it
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert not (tmp_path / "lock").exists()
    assert list(ours.scratch.iterdir()) == []


async def test_one_that_ignores_sigterm_is_killed(ours: Git, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git, "COMMAND_SECS", 0.3)
    monkeypatch.setattr(git, "GRACE_SECS", 0.1)
    ours.environ = slow(tmp_path, "trap '' TERM; while :; do sleep 1000; done")
    with pytest.raises(GitError, match="did not end"):
        await ours.run("status")


async def test_too_much_output_is_a_failure_and_is_not_kept(
    ours: Git, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git, "MAX_OUTPUT_BYTES", 10_000)
    ours.environ = slow(tmp_path, "yes")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.launcher.serve)
        with pytest.raises(GitError, match="printed more than we take") as caught:
            await ours.run("log")
        assert caught.value.too_much
        nursery.cancel_scope.cancel()
    ours.environ = slow(tmp_path / "once", "head -c 20000 /dev/zero")
    with pytest.raises(GitError) as caught:
        await ours.run("log")
    assert caught.value.too_much


async def test_names_of_any_bytes_come_back_as_they_are(ours: Git, checkout: Checkout) -> None:
    name = b'odd \xff\n"name'
    checkout.write(os.fsdecode(name), "x")
    repository = await ours.open(checkout.path / ".git")
    told = await repository.run("ls-files", "--others", "-z", work_tree=checkout.path)
    assert told == name + b"\0"


async def test_what_it_said_is_safe_to_print(ours: Git, tmp_path: Path) -> None:
    ours.environ = slow(tmp_path, "printf 'fatal: \\033[31mred\\a' >&2; kill -9 $$")
    with pytest.raises(GitError) as caught:
        await ours.run("status")
    assert caught.value.exit_code == -signal.SIGKILL
    assert caught.value.tail == "fatal: ?[31mred?"
