"""Worktrees in real repositories: what agents leave behind, and that nothing of it is lost."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import shutil
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
from attrs import evolve, frozen

from darkfactory.devices import git, repository_lock, worktree_directories
from darkfactory.devices.git import Git
from darkfactory.devices.launcher import RealLauncher
from darkfactory.devices.worktree_directories import WorktreeDirectories
from darkfactory.devices.worktree_store import Record, WorktreeStore
from darkfactory.devices.worktrees import Settled, Start, Worktree
from darkfactory.errors import SpawnFailed
from darkfactory.testing import CancelAtStep

from .repositories import Checkout

pytestmark = pytest.mark.real

NOW = datetime(2026, 1, 5, tzinfo=UTC)
RUN = "it-20260105-000000-abcdef"
BRANCH = f"darkfactory/it/{RUN}"


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout.begun(tmp_path / "repository")


@pytest.fixture
def device(tmp_path: Path) -> WorktreeDirectories:
    return device_in(tmp_path)


def device_in(tmp_path: Path) -> WorktreeDirectories:
    launcher = RealLauncher(f"test-{uuid.uuid4().hex}", os.environ["DARKFACTORY_RUN"])
    store = WorktreeStore(tmp_path / "state" / "worktrees")
    return WorktreeDirectories(Git(launcher, store.scratch, os.environ), store)


async def made(device: WorktreeDirectories, checkout: Checkout, run: str = RUN, at: str = "") -> Worktree:
    return await device.make(run, run.split("-")[0], checkout.path / at, NOW)


async def settled(device: WorktreeDirectories, run: str = RUN) -> Settled:
    found = await device.settle(run, "succeeded")
    assert found is not None
    return found


def state_of(checkout: Checkout) -> tuple[object, ...]:
    """What of the shared checkout nobody may touch."""
    git = checkout.path / ".git"
    return (
        (git / "HEAD").read_bytes(),
        (git / "index").read_bytes(),
        checkout.git("status", "--porcelain"),
        checkout.branches()["main"],
        sorted(path.name for path in checkout.path.iterdir()),
    )


async def test_it_is_a_checkout_of_heads_commit_in_the_same_subdirectory(
    device: WorktreeDirectories, checkout: Checkout
) -> None:
    checkout.write("sub/file", "not committed")
    before = state_of(checkout)
    worktree = await made(device, checkout, at="sub")
    assert worktree.cwd == worktree.path / "sub"
    assert (worktree.cwd / "file").read_text() == "one\n"
    assert (worktree.branch, worktree.commit) == (BRANCH, checkout.branches()["main"])
    inside = Checkout(worktree.path)
    assert inside.git("status", "--porcelain") == ""
    assert inside.git("symbolic-ref", "HEAD") == f"refs/heads/{BRANCH}"
    assert state_of(checkout) == before
    await settled(device)
    assert state_of(checkout) == before


async def test_a_subdirectory_that_git_does_not_know_is_made(device: WorktreeDirectories, checkout: Checkout) -> None:
    checkout.write("new/file", "x")
    worktree = await made(device, checkout, at="new")
    assert list(worktree.cwd.iterdir()) == []
    assert (await settled(device)).kept is None


async def test_without_changes_everything_of_it_goes(device: WorktreeDirectories, checkout: Checkout) -> None:
    worktree = await made(device, checkout)
    (worktree.path / "README").touch()
    found = await settled(device)
    assert (found.kept, found.branches, found.rescued) == (None, (), 0)
    assert not worktree.path.exists()
    assert checkout.branches().keys() == {"main"}
    assert checkout.git("worktree", "list", "--porcelain").count("worktree ") == 1
    assert await device.bury() is None
    assert {path.name for path in device.store.path.rglob("*")} == {".records", ".doomed", ".scratch"}
    assert device.kept() == 0


async def test_commits_that_are_on_no_branch_any_more_keep_it(device: WorktreeDirectories, checkout: Checkout) -> None:
    """An agent left a detached HEAD again: its log alone knows what was committed there, and goes with the worktree."""
    inside = Checkout((await made(device, checkout)).path)
    inside.git("checkout", "--quiet", "--detach")
    inside.write("work", "much")
    inside.commit("much work")
    inside.git("checkout", "--quiet", BRANCH)
    found = await settled(device)
    assert found.kept == "1 commit that its HEAD was at and no branch has"
    (record,) = map(device.store.read, device.store.run_ids())
    assert record is not None
    loss = await device.loss(record)
    assert loss
    assert loss.oddity == found.kept
    checkout.git("branch", "rescued", inside.git("rev-parse", "HEAD@{1}"))
    assert not await device.loss(record)


async def test_what_was_not_committed_is(device: WorktreeDirectories, checkout: Checkout) -> None:
    checkout.write(".gitignore", "ignored\n")
    checkout.commit("ignores")
    worktree = await made(device, checkout)
    inside = Checkout(worktree.path)
    inside.write("sub/file", "changed")
    inside.write("new file", "new")
    inside.write("ignored", "gone")
    (worktree.path / "README").unlink()
    found = await device.settle(RUN, "timed_out")
    assert found is not None
    assert (found.branches, found.commits, found.rescued) == ((BRANCH,), 1, 3)
    assert "1 commit that main does not contain" in str(found.kept)
    assert checkout.files(BRANCH) == {".gitignore": "ignored", "new file": "new", "sub/file": "changed"}
    message = checkout.git("log", "-1", "--format=%an%n%B", BRANCH)
    assert all(word in message for word in ("darkfactory", "it", RUN, "timed_out"))
    assert inside.git("status", "--porcelain") == ""
    assert device.kept() == 1


async def test_commits_that_the_branch_contains_by_now_are_no_reason_to_keep_it(
    device: WorktreeDirectories, checkout: Checkout
) -> None:
    worktree = await made(device, checkout)
    Checkout(worktree.path).write("new", "x")
    Checkout(worktree.path).commit("its work")
    checkout.git("merge", "--quiet", "--ff-only", BRANCH)
    assert (await settled(device)).kept is None
    assert checkout.subjects("main")[0] == "its work"


async def test_it_is_the_branch_that_counts_and_not_what_is_checked_out_now(
    device: WorktreeDirectories, checkout: Checkout
) -> None:
    worktree = await made(device, checkout)
    Checkout(worktree.path).commit("its work")
    checkout.git("checkout", "--quiet", "-b", "elsewhere", BRANCH)
    found = await settled(device)
    assert found.kept == "1 commit that main does not contain"


async def test_a_base_branch_that_is_gone_is_the_commit_that_it_was(
    device: WorktreeDirectories, checkout: Checkout
) -> None:
    worktree = await made(device, checkout)
    Checkout(worktree.path).commit("its work")
    checkout.git("checkout", "--quiet", "-b", "trunk")
    checkout.git("branch", "--quiet", "-D", "main")
    assert (await settled(device)).commits == 1


async def test_from_a_detached_head_it_is_the_commit_that_counts(
    device: WorktreeDirectories, checkout: Checkout
) -> None:
    checkout.git("checkout", "--quiet", "--detach")
    worktree = await made(device, checkout)
    Checkout(worktree.path).commit("its work")
    assert (await settled(device)).commits == 1
    await made(device, checkout, "other-20260105-000000-abcdef")
    assert (await settled(device, "other-20260105-000000-abcdef")).kept is None


async def test_a_branch_that_a_person_has_checked_out_meanwhile_stays(
    device: WorktreeDirectories, checkout: Checkout
) -> None:
    await made(device, checkout)
    checkout.git("checkout", "--quiet", "--ignore-other-worktrees", BRANCH)
    assert (await settled(device)).kept is None
    assert checkout.git("status", "--porcelain") == ""
    assert BRANCH in checkout.branches()


@pytest.mark.parametrize("condition", ["gitdir:**/worktrees/**", "onbranch:darkfactory/**"])
async def test_what_is_configured_for_its_place_or_branch_alone_runs_no_program_either(
    device: WorktreeDirectories, checkout: Checkout, tmp_path: Path, condition: str
) -> None:
    checkout.write(".gitattributes", "* filter=mine\n")
    checkout.commit("filtered")
    checkout.write(
        ".git/more", f'[filter "mine"]\n clean = touch {tmp_path}/sprung\n smudge = touch {tmp_path}/sprung\n'
    )
    checkout.git("config", f"includeIf.{condition}.path", "more")
    worktree = await made(device, checkout)
    assert (worktree.path / "README").read_text() == "read me\n"
    (worktree.path / "new").write_text("work")
    assert (await settled(device)).rescued == 1
    assert not (tmp_path / "sprung").exists()


async def test_twenty_at_once_in_one_repository(device: WorktreeDirectories, checkout: Checkout) -> None:
    before = state_of(checkout)
    runs = [f"it-20260105-000000-{number:06x}" for number in range(20)]
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for run in runs:
                nursery.start_soon(made, device, checkout, run)
        assert len(checkout.branches()) == 21
        for run in runs[::2]:
            Checkout(device.store.files(run)).write("new", run)
        async with trio.open_nursery() as nursery:
            for run in runs:
                nursery.start_soon(settled, device, run)
    assert checkout.branches().keys() == {"main", *(f"darkfactory/it/{run}" for run in runs[::2])}
    assert all(checkout.files(f"darkfactory/it/{run}")["new"] == run for run in runs[::2])
    assert state_of(checkout) == before
    assert checkout.git("fsck", "--strict") == ""


class TestWhenThereIsNoneToBeHad:
    async def refused(self, device: WorktreeDirectories, where: Path) -> str:
        with pytest.raises(SpawnFailed) as caught:
            await device.make(RUN, "it", where, NOW)
        assert caught.value.reason == "worktree"
        await device.settle(RUN, "failed")
        assert device.kept() == 0
        assert not device.store.files(RUN).exists()
        return caught.value.detail

    async def test_no_repository(self, device: WorktreeDirectories, tmp_path: Path) -> None:
        detail = await self.refused(device, tmp_path)
        assert "in no git repository" in detail
        assert 'isolation = "shared"' in detail

    async def test_no_commit(self, device: WorktreeDirectories, tmp_path: Path) -> None:
        (tmp_path / "new").mkdir()
        Checkout(tmp_path / "new").git("init", "--quiet")
        assert "that has a commit" in await self.refused(device, tmp_path / "new")

    async def test_inside_of_git_itself(self, device: WorktreeDirectories, checkout: Checkout) -> None:
        await self.refused(device, checkout.path / ".git")

    async def test_no_such_directory(self, device: WorktreeDirectories, tmp_path: Path) -> None:
        assert "it is not there" in await self.refused(device, tmp_path / "gone")

    async def test_a_branch_in_its_way(self, device: WorktreeDirectories, checkout: Checkout) -> None:
        checkout.git("branch", "darkfactory")
        detail = await self.refused(device, checkout.path)
        assert "darkfactory" in detail
        assert checkout.branches().keys() == {"main", "darkfactory"}

    async def test_a_branch_of_its_name_is_left_alone(self, device: WorktreeDirectories, checkout: Checkout) -> None:
        checkout.commit("somebody's")
        checkout.git("branch", BRANCH)
        checkout.commit("more")
        with pytest.raises(SpawnFailed):
            await device.make(RUN, "it", checkout.path, NOW)
        await device.settle(RUN, "failed")
        assert BRANCH in checkout.branches()

    async def test_a_lock_that_somebody_holds(
        self, device: WorktreeDirectories, checkout: Checkout, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(repository_lock, "LOCK_SECS", 0.2)
        with (checkout.path / ".git" / repository_lock.LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)  # even so: it is for one alone
            with pytest.raises(SpawnFailed, match=r"darkfactory.lock was held by others"):
                await device.make(RUN, "it", checkout.path, NOW)
            assert checkout.branches().keys() == {"main"}
        await device.settle(RUN, "failed")
        assert device.kept() == 0

    async def test_a_lock_that_is_no_file(
        self, device: WorktreeDirectories, checkout: Checkout, tmp_path: Path
    ) -> None:
        (checkout.path / ".git" / repository_lock.LOCK).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(SpawnFailed):
            await device.make(RUN, "it", checkout.path, NOW)
        assert not (tmp_path / "elsewhere").exists()
        device.leave(RUN, alone=True)

    async def test_too_slow(
        self, device: WorktreeDirectories, checkout: Checkout, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(worktree_directories, "MAKE_SECS", 0.001)
        assert "not made within" in await self.refused(device, checkout.path)

    async def test_a_subdirectory_that_is_a_link_in_the_commit(
        self, device: WorktreeDirectories, checkout: Checkout, tmp_path: Path
    ) -> None:
        (checkout.path / "place").symlink_to(tmp_path)
        checkout.commit("a link")
        (checkout.path / "place").unlink()
        checkout.write("place/file", "x")
        assert "a link leads there" in await self.refused(device, checkout.path / "place")

    async def test_an_index_lock_in_the_shared_checkout_is_no_reason(
        self, device: WorktreeDirectories, checkout: Checkout
    ) -> None:
        checkout.write(".git/index.lock", "")
        await made(device, checkout)
        assert (await settled(device)).kept is None


@frozen
class Hostile:
    """What an agent did, and what must be found afterwards."""

    act: Callable[[Checkout, Checkout], object]
    """Given its worktree and the shared checkout."""
    found: Callable[[Checkout], bool]
    """Whether its work is there, in the shared checkout's branches."""


def subjects_of_all(checkout: Checkout) -> set[str]:
    return {subject for name in checkout.branches() for subject in checkout.subjects(name)}


def anywhere(text: str) -> Callable[[Checkout], bool]:
    """Some branch of ours has a file with that text."""
    return lambda checkout: any(
        text in checkout.files(name).values() for name in checkout.branches() if name.startswith("darkfactory/")
    )


def detach(inside: Checkout, _: Checkout) -> None:
    inside.git("checkout", "--quiet", "--detach")
    inside.write("work", "detached")
    inside.commit("detached")
    inside.write("more", "work")


def detach_after_work(inside: Checkout, _: Checkout) -> None:
    inside.commit("on its branch")
    inside.git("checkout", "--quiet", "--detach", "HEAD~")
    inside.write("more", "work")
    inside.commit("beside it")


def switch(inside: Checkout, _: Checkout) -> None:
    inside.git("checkout", "--quiet", "-b", "feature")
    inside.commit("on another")
    inside.write("more", "work")


def delete_branch(inside: Checkout, _: Checkout) -> None:
    inside.write("more", "work")
    inside.commit("deleted")
    inside.git("update-ref", "-d", "HEAD")


def orphan(inside: Checkout, _: Checkout) -> None:
    inside.git("checkout", "--quiet", "--orphan", "fresh")
    inside.write("more", "work")


def rebase(inside: Checkout, _: Checkout) -> None:
    inside.write("sub/file", "mine")
    inside.commit("mine")
    inside.git("checkout", "--quiet", "--detach", "HEAD~")
    inside.write("sub/file", "theirs")
    inside.commit("theirs")
    with pytest.raises(AssertionError):
        inside.git("rebase", "--quiet", "HEAD", BRANCH)
    inside.write("more", "work")


def garbage_head(inside: Checkout, checkout: Checkout) -> None:
    inside.write("more", "work")
    (checkout.path / ".git" / "worktrees" / RUN / "HEAD").write_text("ref: ../../../../etc/passwd\n")


def head_is_main(inside: Checkout, checkout: Checkout) -> None:
    inside.write("more", "work")
    (checkout.path / ".git" / "worktrees" / RUN / "HEAD").write_text("ref: refs/heads/main\n")


def branch_is_main(inside: Checkout, _: Checkout) -> None:
    inside.git("symbolic-ref", f"refs/heads/{BRANCH}", "refs/heads/main")
    inside.write("more", "work")


def another_repository(inside: Checkout, checkout: Checkout) -> None:
    other = Checkout.begun(checkout.path.parent / "other")
    (inside.path / ".git").write_text(f"gitdir: {other.path / '.git'}\n")
    inside.write("more", "work")


def another_common(inside: Checkout, checkout: Checkout) -> None:
    other = Checkout.begun(checkout.path.parent / "other")
    (checkout.path / ".git" / "worktrees" / RUN / "commondir").write_text(f"{other.path / '.git'}\n")
    inside.write("more", "work")


def repository_in_place(inside: Checkout, _: Checkout) -> None:
    (inside.path / ".git").unlink()
    inside.git("init", "--quiet")
    inside.write("more", "work")
    inside.commit("its own")


def locks(inside: Checkout, checkout: Checkout) -> None:
    own = checkout.path / ".git" / "worktrees" / RUN
    for name in ("index.lock", "HEAD.lock"):
        (own / name).touch()
    inside.write("more", "work")


def hidden(inside: Checkout, _: Checkout) -> None:
    inside.git("update-index", "--assume-unchanged", "sub/file")
    inside.git("update-index", "--skip-worktree", "README")
    inside.write("sub/file", "work")
    inside.write("README", "work")


def forced(inside: Checkout, _: Checkout) -> None:
    inside.write(".gitignore", "ignored\n")
    inside.write("ignored", "work")
    inside.git("add", "--force", "ignored")
    inside.commit("forced")


def own_directory_gone(inside: Checkout, checkout: Checkout) -> None:
    inside.write("more", "work")
    shutil.rmtree(checkout.path / ".git" / "worktrees")


def same_size_and_time(inside: Checkout, _: Checkout) -> None:
    file = inside.path / "sub" / "file"
    before = file.stat()
    file.write_text("two\n")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def fifos(inside: Checkout, checkout: Checkout) -> None:
    """Whoever opens one waits for ever."""
    (inside.path / "README").unlink()
    own = checkout.path / ".git" / "worktrees" / RUN
    (own / "HEAD").unlink()
    for path in (inside.path / "README", inside.path / "pipe", own / "HEAD"):
        os.mkfifo(path)
    inside.write("more", "work")


def deep(inside: Checkout, _: Checkout) -> None:
    """Deeper than a path may be long."""
    here = os.open(inside.path, os.O_RDONLY)
    for _number in range(700):
        os.mkdir("deeper", dir_fd=here)
        below = os.open("deeper", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    inside.write("more", "work")


HOSTILE = {
    act.__name__: Hostile(act, found)
    for act, found in {
        detach: lambda checkout: "detached" in subjects_of_all(checkout) and anywhere("work")(checkout),
        detach_after_work: lambda checkout: {"on its branch", "beside it"} <= subjects_of_all(checkout),
        switch: lambda checkout: "on another" in checkout.subjects(BRANCH) and anywhere("work")(checkout),
        delete_branch: lambda checkout: "deleted" in checkout.subjects(BRANCH) and anywhere("work")(checkout),
        orphan: anywhere("work"),
        rebase: lambda checkout: {"mine", "theirs"} <= subjects_of_all(checkout) and anywhere("work")(checkout),
        garbage_head: anywhere("work"),
        head_is_main: anywhere("work"),
        branch_is_main: anywhere("work"),
        another_repository: anywhere("work"),
        another_common: anywhere("work"),
        repository_in_place: anywhere("work"),
        locks: anywhere("work"),
        fifos: anywhere("work"),
        deep: anywhere("work"),
        hidden: anywhere("work"),
        forced: lambda checkout: checkout.files(BRANCH).get("ignored") == "work",
        own_directory_gone: anywhere("work"),
        same_size_and_time: anywhere("two"),
    }.items()
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_whatever_an_agent_did_its_work_is_on_a_branch(
    device: WorktreeDirectories, checkout: Checkout, name: str
) -> None:
    worktree = await made(device, checkout)
    before = state_of(checkout)
    HOSTILE[name].act(Checkout(worktree.path), checkout)
    with trio.fail_after(30):
        found = await settled(device)
    assert found.kept is not None
    assert worktree.path.exists()
    assert HOSTILE[name].found(checkout)
    assert state_of(checkout) == before
    (record,) = device.store.all()
    assert await device.remove(record, await device.loss(record))
    assert await device.bury() is None
    assert not list((device.store.path / ".doomed").iterdir())
    other = Checkout(checkout.path.parent / "other")
    if other.path.exists():
        assert other.branches().keys() == {"main"}
        assert other.subjects("main") == ["the beginning"]


async def test_work_beside_its_branch_gets_one_with_a_number(device: WorktreeDirectories, checkout: Checkout) -> None:
    worktree = await made(device, checkout)
    detach_after_work(Checkout(worktree.path), checkout)
    found = await settled(device)
    assert found.branches == (BRANCH, f"{BRANCH}-2")
    assert found.commits == 2
    assert checkout.subjects(f"{BRANCH}-2")[0] == "beside it"


async def test_a_link_in_the_place_of_its_directory_leads_nowhere(
    device: WorktreeDirectories, checkout: Checkout, tmp_path: Path
) -> None:
    worktree = await made(device, checkout)
    shutil.rmtree(worktree.path)
    precious = tmp_path / "precious"
    (precious / "deep").mkdir(parents=True)
    worktree.path.symlink_to(precious)
    found = await settled(device)
    assert "in the place of its directory" in str(found.kept)
    assert (precious / "deep").exists()
    assert anywhere("precious")(checkout) is False
    (record,) = device.store.all()
    assert await device.remove(record, await device.loss(record))
    assert await device.bury() is None
    assert not worktree.path.is_symlink()
    assert (precious / "deep").exists()


async def test_links_inside_are_kept_as_links_and_followed_by_nobody(
    device: WorktreeDirectories, checkout: Checkout, tmp_path: Path
) -> None:
    worktree = await made(device, checkout)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "secret").write_text("secret")
    shutil.rmtree(worktree.path / "sub")
    (worktree.path / "sub").symlink_to(precious)
    await settled(device)
    assert checkout.files(BRANCH)["sub"] == str(precious)
    assert not anywhere("secret")(checkout)
    (record,) = device.store.all()
    await device.remove(record, await device.loss(record))
    await device.bury()
    assert (precious / "secret").exists()


async def test_links_in_the_repository_lead_nowhere_either(
    device: WorktreeDirectories, checkout: Checkout, tmp_path: Path
) -> None:
    await made(device, checkout)
    git = checkout.path / ".git"
    (tmp_path / "far").mkdir()
    shutil.move(git / "worktrees" / RUN, tmp_path / "far" / RUN)
    (git / "worktrees").rmdir()
    (git / "worktrees").symlink_to(tmp_path / "far")
    await settled(device)
    assert (tmp_path / "far" / RUN / "HEAD").exists()


async def test_a_directory_that_is_gone_is_no_reason_to_keep_the_rest(
    device: WorktreeDirectories, checkout: Checkout
) -> None:
    worktree = await made(device, checkout)
    shutil.rmtree(worktree.path)
    assert (await settled(device)).kept is None
    assert checkout.branches().keys() == {"main"}


async def test_an_empty_directory_is_a_change_like_any_other(device: WorktreeDirectories, checkout: Checkout) -> None:
    worktree = await made(device, checkout)
    for name in ("README", "sub/file"):
        (worktree.path / name).unlink()
    found = await settled(device)
    assert (found.commits, found.rescued) == (1, 2)


async def test_a_repository_that_is_gone_is_said_and_the_files_stay(
    device: WorktreeDirectories, checkout: Checkout
) -> None:
    worktree = await made(device, checkout)
    (worktree.path / "new").write_text("x")
    checkout.path.rename(checkout.path.with_name("moved"))
    found = await settled(device)
    assert "could not be looked at" in str(found.kept)
    assert (worktree.path / "new").exists()
    checkout.path.with_name("moved").rename(checkout.path)
    assert device.leftovers() == (RUN,)
    assert (await settled(device)).commits == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
@pytest.mark.parametrize("inside", ["", "directory"])
async def test_what_cannot_be_read_keeps_it(device: WorktreeDirectories, checkout: Checkout, inside: str) -> None:
    worktree = await made(device, checkout)
    (worktree.path / inside).mkdir(exist_ok=True)
    (worktree.path / inside / "closed").write_text("x")
    closed = worktree.path / (inside or "closed")
    closed.chmod(0)
    found = await settled(device)
    assert "git could not take all of its files" in str(found.kept)
    assert closed.exists()
    (record,) = device.store.all()
    assert await device.loss(record)
    closed.chmod(0o700)


async def test_what_git_only_warns_of_keeps_it_too(device: WorktreeDirectories, checkout: Checkout) -> None:
    """That it could not read a directory, for one: root sees that nowhere, so here it warns of something else."""
    worktree = await made(device, checkout)
    (worktree.path / ".gitattributes").write_text("!*.odd text\n")
    found = await settled(device)
    assert "git could not take all of its files: warning: Negative patterns" in str(found.kept)


async def test_what_git_would_wait_for_for_ever_keeps_it_as_it_is(
    device: WorktreeDirectories, checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git, "COMMAND_SECS", 0.5)
    worktree = await made(device, checkout)
    (worktree.path / "work").write_text("work")
    os.mkfifo(worktree.path / ".gitignore")
    with trio.fail_after(20):
        found = await settled(device)
    assert "git add failed: it did not end" in str(found.kept)
    assert (worktree.path / "work").exists()


async def test_what_git_will_not_take_keeps_it_as_it_is(device: WorktreeDirectories, checkout: Checkout) -> None:
    worktree = await made(device, checkout)
    (worktree.path / ".gitattributes").write_text("*.odd working-tree-encoding=UTF-16\n")
    (worktree.path / "file.odd").write_bytes(b"odd")
    found = await settled(device)
    assert "encode" in str(found.kept)
    assert (worktree.path / "file.odd").exists()


async def test_a_repository_inside_is_kept_with_the_directory(device: WorktreeDirectories, checkout: Checkout) -> None:
    worktree = await made(device, checkout)
    Checkout.begun(worktree.path / "inner")
    found = await settled(device)
    assert found.commits == 1
    assert (worktree.path / "inner" / ".git").exists()


async def test_a_repository_in_the_place_of_its_own_is_kept_though_its_files_are_as_they_were(
    device: WorktreeDirectories, checkout: Checkout
) -> None:
    worktree = await made(device, checkout)
    (worktree.path / ".git").unlink()
    inside = Checkout(worktree.path)
    inside.git("init", "--quiet")
    inside.write("new", "x")
    inside.commit("only here")
    (worktree.path / "new").unlink()
    found = await settled(device)
    assert (found.kept, found.commits) == ("its .git is not the one that it was given", 0)


async def test_a_repository_in_a_directory_of_its_own_is_kept_though_its_files_are_as_they_were(
    device: WorktreeDirectories, checkout: Checkout
) -> None:
    worktree = await made(device, checkout)
    inside = Checkout(worktree.path / "sub")
    inside.git("init", "--quiet")
    inside.commit("only here")
    assert (await settled(device)).kept == "it has a repository inside: sub"


async def test_one_that_was_moved_is_not_taken_for_gone(device: WorktreeDirectories, checkout: Checkout) -> None:
    worktree = await made(device, checkout)
    elsewhere = worktree.path.with_name("elsewhere")
    checkout.git("worktree", "move", str(worktree.path), str(elsewhere))
    assert (await settled(device)).kept == "git says that its directory was moved"
    assert Checkout(elsewhere).git("status", "--porcelain") == ""


async def test_odd_names_of_files_are_kept_and_told(device: WorktreeDirectories, checkout: Checkout) -> None:
    worktree = await made(device, checkout)
    for name in ("new\nline", "-rf", ":(top)", os.fsdecode(b"\xff")):
        (worktree.path / name).write_text("x")
    (record,) = device.store.all()
    assert len((await device.loss(record)).dirty) == 4
    assert (await settled(device)).rescued == 4


async def test_while_a_run_is_in_it_nobody_else_settles_or_removes_it(
    device: WorktreeDirectories, checkout: Checkout, tmp_path: Path
) -> None:
    await made(device, checkout)
    other = device_in(tmp_path)
    assert other.lives(RUN)
    assert await other.settle(RUN, "x") is None
    (record,) = other.store.all()
    assert not await other.remove(record, await other.loss(record))
    assert BRANCH in checkout.branches()
    await settled(device)


async def test_the_next_life_settles_what_a_killed_one_left(
    device: WorktreeDirectories, checkout: Checkout, tmp_path: Path
) -> None:
    await made(device, checkout)
    (device.store.files(RUN) / "new").write_text("x")
    os.close(device._held.pop(RUN))  # as the end of its process would
    reborn = device_in(tmp_path)
    assert reborn.kept() == 1
    assert reborn.leftovers() == (RUN,)
    assert (await settled(reborn)).rescued == 1
    assert reborn.leftovers() == ()
    assert device_in(tmp_path).leftovers() == (), "it was decided that it is kept"


async def half_made(device: WorktreeDirectories, checkout: Checkout) -> Record:
    """The record of one whose factory was killed while it was made."""
    await made(device, checkout)
    (record,) = device.store.all()
    device.store.write(evolve(record, made=False))
    os.close(device._held.pop(RUN))
    return record


async def test_one_that_was_half_made_is_taken_away(
    device: WorktreeDirectories, checkout: Checkout, tmp_path: Path
) -> None:
    """Killed between the branch and its files: they all look deleted, and nobody has done that."""
    await half_made(device, checkout)
    for name in ("README", "sub/file"):
        (device.store.files(RUN) / name).unlink()
    assert (await settled(device_in(tmp_path))).kept is None
    assert checkout.branches().keys() == {"main"}


async def test_one_at_which_git_was_killed_is_taken_away_and_the_repository_can_be_read_again(
    device: WorktreeDirectories, checkout: Checkout, tmp_path: Path
) -> None:
    """Until it is made, git has it written that it is at no commit; with that it cannot list all commits."""
    record = await half_made(device, checkout)
    (record.own / "HEAD").write_text("0" * 40 + "\n")
    (record.own / "locked").write_text("initializing")
    with pytest.raises(AssertionError, match="bad object"):
        checkout.git("rev-list", "--all")
    assert (await settled(device_in(tmp_path))).kept is None
    assert checkout.git("rev-list", "--all") == checkout.git("rev-parse", "main")
    assert checkout.branches().keys() == {"main"}


@pytest.mark.parametrize("word", ["{", "[]", '{"run": 5}', '{"run": "../x"}', ""])
async def test_a_record_that_is_not_ours_is_nobodys(device: WorktreeDirectories, checkout: Checkout, word: str) -> None:
    await made(device, checkout)
    (record_file,) = device.store.path.glob(".records/*.json")
    record_file.write_text(word)
    assert device.store.all() == []
    assert await device.settle(RUN, "x") is None
    assert device.leftovers() == ()
    device.leave(RUN, alone=True)


async def test_a_record_that_names_anothers_branch_is_nobodys(device: WorktreeDirectories, checkout: Checkout) -> None:
    await made(device, checkout)
    (record_file,) = device.store.path.glob(".records/*.json")
    record_file.write_text(record_file.read_text().replace(BRANCH, "main"))
    assert await device.settle(RUN, "x") is None
    assert "main" in checkout.branches()
    device.leave(RUN, alone=True)


@pytest.mark.parametrize("written", [True, False])
async def test_a_lock_that_a_killed_git_has_left_at_its_branch_does_not_keep_it_from_being_settled(
    device: WorktreeDirectories, checkout: Checkout, written: bool
) -> None:
    worktree = await made(device, checkout)
    if written:
        (worktree.path / "new").write_text("x")
    (checkout.path / ".git" / f"refs/heads/{BRANCH}.lock").touch()
    found = await settled(device)
    assert (found.kept, found.rescued) == (("1 commit that main does not contain", 1) if written else (None, 0))
    assert (BRANCH in checkout.branches()) == written
    assert checkout.branches().get(BRANCH) is None or checkout.files(BRANCH)["new"] == "x"


def test_cancelled_at_any_step_it_can_be_settled_afterwards(checkout: Checkout, tmp_path: Path) -> None:
    before = state_of(checkout)
    ends = set()

    async def life(run: str, cancel: CancelAtStep) -> None:
        device = device_in(tmp_path)
        with cancel.scope:
            await made(device, checkout, run)
            (device.store.files(run) / "new").write_text(run)
            await device.settle(run, "x")
        await device.settle(run, "y")
        assert device._held == {}

    for step in itertools.count(1, 11):  # every one of them would take minutes
        run = f"it-20260105-000000-{step:06x}"
        cancel = CancelAtStep(step)
        trio.run(life, run, cancel, instruments=[cancel])
        kept = f"darkfactory/it/{run}" in checkout.branches()
        ends.add(kept)
        if kept:
            assert checkout.files(f"darkfactory/it/{run}")["new"] == run
        else:
            assert not (tmp_path / "state" / "worktrees" / run).exists()
        assert state_of(checkout) == before
        if cancel.at is None or not cancel.scope.cancelled_caught:
            break
    assert step > 50
    assert ends == {True, False}


async def test_one_that_its_run_could_not_settle_is_left_to_others_unless_something_of_it_lives(
    device: WorktreeDirectories, checkout: Checkout
) -> None:
    other = "it-20260105-000000-bbbbbb"
    for run in (RUN, other):
        await made(device, checkout, run)
    assert (device.leftovers(), device.kept()) == ((), 0)
    device.leave(RUN, alone=True)
    device.leave(other, alone=False)
    assert (device.leftovers(), device.kept()) == ((other,), 2)
    assert device.leftovers() == ()
    for run in (RUN, other):
        await settled(device, run)


class TestOddRepositories:
    async def work(self, device: WorktreeDirectories, where: Path) -> Settled:
        worktree = await device.make(RUN, "it", where, NOW)
        (worktree.cwd / "new").write_text("work")
        return await settled(device)

    async def test_a_bare_one_with_a_worktree_of_a_persons_own(
        self, device: WorktreeDirectories, checkout: Checkout, tmp_path: Path
    ) -> None:
        checkout.git("clone", "--quiet", "--bare", str(checkout.path), str(tmp_path / "bare"))
        bare = Checkout(tmp_path / "bare")
        bare.git("worktree", "add", "--quiet", "-b", "mine", str(tmp_path / "mine"))
        found = await self.work(device, tmp_path / "mine" / "sub")
        assert found.kept == "1 commit that mine does not contain"
        assert bare.files(BRANCH)["sub/new"] == "work"

    async def test_one_that_is_checked_out_in_part(self, device: WorktreeDirectories, checkout: Checkout) -> None:
        checkout.write("other/file", "x")
        checkout.commit("another directory")
        checkout.git("sparse-checkout", "set", "--cone", "sub")
        found = await self.work(device, checkout.path)
        assert found.rescued == 1
        assert (found.path / "other" / "file").exists()
        assert checkout.files(BRANCH)["other/file"] == "x"
        assert not (checkout.path / "other").exists()

    async def test_one_with_longer_names(self, device: WorktreeDirectories, tmp_path: Path) -> None:
        (tmp_path / "long").mkdir()
        long = Checkout(tmp_path / "long")
        long.git("init", "--quiet", "--object-format=sha256", "--initial-branch=main")
        long.commit("empty")
        assert (await self.work(device, long.path)).rescued == 1
        assert long.files(BRANCH) == {"new": "work"}

    async def test_one_whose_configuration_lies_about_where_it_is(
        self, device: WorktreeDirectories, checkout: Checkout, tmp_path: Path
    ) -> None:
        worktree = await made(device, checkout)
        (worktree.path / "new").write_text("work")
        checkout.git("config", "core.worktree", str(tmp_path))
        assert (await settled(device)).rescued == 1

    async def test_one_that_changes_the_ends_of_lines(self, device: WorktreeDirectories, checkout: Checkout) -> None:
        checkout.write(".gitattributes", "* text eol=crlf\n")
        checkout.commit("ends of lines")
        checkout.git("config", "core.safecrlf", "true")
        worktree = await made(device, checkout)
        assert (worktree.path / "README").read_bytes() == b"read me\r\n"
        (worktree.path / "new").write_bytes(b"mixed\nends\r\n")
        assert (await settled(device)).rescued == 1

    async def test_one_from_a_system_where_case_and_modes_mean_nothing(
        self, device: WorktreeDirectories, checkout: Checkout
    ) -> None:
        for key in ("core.ignoreCase", "core.precomposeUnicode"):
            checkout.git("config", key, "true")
        for key in ("core.fileMode", "core.symlinks"):
            checkout.git("config", key, "false")
        worktree = await made(device, checkout)
        (worktree.path / "readme").write_text("not the README")
        (worktree.path / "sub" / "file").chmod(0o755)
        assert (await settled(device)).rescued == 2
        assert checkout.files(BRANCH)["readme"] == "not the README"
        assert checkout.git("ls-tree", BRANCH, "sub/file").startswith("100755")

    async def test_one_in_which_history_is_replaced(self, device: WorktreeDirectories, checkout: Checkout) -> None:
        """Replaced, the work looks as if main had it."""
        worktree = await made(device, checkout)
        commit = Checkout(worktree.path).commit("its work")
        told = checkout.git("commit-tree", "HEAD^{tree}", "-p", commit, "-m", "what main is said to be")
        checkout.git("replace", checkout.branches()["main"], told)
        assert checkout.git("rev-list", BRANCH, "--not", "main") == ""
        assert (await settled(device)).commits == 1

    async def test_one_with_submodules(self, device: WorktreeDirectories, checkout: Checkout, tmp_path: Path) -> None:
        inner = Checkout.begun(tmp_path / "inner")
        checkout.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(inner.path), "part")
        checkout.commit("a submodule")
        await made(device, checkout)
        assert (await settled(device)).kept is None, "nobody filled it"
        other = "it-20260105-000000-bbbbbb"
        worktree = await made(device, checkout, other)
        inside = Checkout(worktree.path)
        inside.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "update", "--init")
        Checkout(worktree.path / "part").commit("only here")
        Checkout(worktree.path / "part").git("checkout", "--quiet", "HEAD~")
        assert (await settled(device, other)).kept == "it has submodules with files"
        third = "it-20260105-000000-cccccc"
        worktree = await made(device, checkout, third)
        (worktree.path / "part").rmdir()
        inner.git("clone", "--quiet", str(inner.path), str(worktree.path / "part"))
        assert "it has a repository inside: part" in str((await settled(device, third)).kept)


async def test_all_that_a_person_does_not_want_goes_whatever_it_is(
    device: WorktreeDirectories, checkout: Checkout, tmp_path: Path
) -> None:
    worktree = await made(device, checkout)
    closed = worktree.path / "closed" / "inner"
    closed.mkdir(parents=True)
    (closed / "file").write_text("x")
    (closed / "link").symlink_to(tmp_path)
    os.mkfifo(closed / "pipe")
    for path in (closed / "file", closed, closed.parent):
        path.chmod(0)
    await settled(device)
    (record,) = device.store.all()
    assert await device.remove(record, await device.loss(record))
    assert await device.bury() is None
    assert not list(device.store.path.rglob("closed"))
    assert checkout.path.exists()


class TestLoss:
    async def test_all_that_would_be_lost_is_told(self, device: WorktreeDirectories, checkout: Checkout) -> None:
        worktree = await made(device, checkout)
        inside = Checkout(worktree.path)
        inside.write("sub/file", "changed")
        inside.commit("a subject")
        checkout.commit("others go on")
        inside.write("README", "dirty")
        inside.write("new", "dirty")
        (record,) = device.store.all()
        loss = await device.loss(record)
        assert [subject for _, subject in loss.commits] == ["a subject"]
        assert loss.files == ("M sub/file",)
        assert set(loss.dirty) == {"M README", "? new"}
        assert loss
        await settled(device)

    async def test_a_merged_one_loses_nothing(self, device: WorktreeDirectories, checkout: Checkout) -> None:
        worktree = await made(device, checkout)
        Checkout(worktree.path).write("new", "x")
        await settled(device)
        (record,) = device.store.all()
        assert await device.loss(record)
        checkout.git("merge", "--quiet", BRANCH)
        loss = await device.loss(record)
        assert not loss
        assert await device.remove(record, loss)
        assert checkout.branches().keys() == {"main"}

    async def test_a_repository_inside_is_lost_with_it_though_its_commit_is_merged(
        self, device: WorktreeDirectories, checkout: Checkout
    ) -> None:
        worktree = await made(device, checkout)
        Checkout.begun(worktree.path / "inner")
        await settled(device)
        checkout.git("merge", "--quiet", BRANCH)
        (record,) = device.store.all()
        loss = await device.loss(record)
        assert (loss.commits, loss.oddity) == ((), "it has a repository inside: inner")

    async def test_what_a_person_removed_by_git_is_forgotten(
        self, device: WorktreeDirectories, checkout: Checkout
    ) -> None:
        worktree = await made(device, checkout)
        Checkout(worktree.path).write("new", "x")
        await settled(device)
        checkout.git("worktree", "remove", str(worktree.path))
        checkout.git("branch", "--quiet", "-D", BRANCH)
        (record,) = device.store.all()
        loss = await device.loss(record)
        assert not loss
        assert await device.remove(record, loss)
        assert device.kept() == 0

    async def test_a_branch_that_moved_after_it_was_told_stays(
        self, device: WorktreeDirectories, checkout: Checkout
    ) -> None:
        worktree = await made(device, checkout)
        Checkout(worktree.path).write("new", "x")
        await settled(device)
        (record,) = device.store.all()
        loss = await device.loss(record)
        Checkout(worktree.path).commit("more")
        with pytest.raises(Exception, match="update-ref"):
            await device.remove(record, loss)
        assert BRANCH in checkout.branches()
        assert worktree.path.exists()


async def test_one_reviews_worktree_that_cannot_be_had_does_not_keep_the_others_from_being_retired(
    device: WorktreeDirectories, checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [f"it-20260105-00000{number}-abcdef" for number in range(2)]
    for run in runs:
        head = checkout.git("rev-parse", "HEAD")
        branch = f"darkfactory/review/{run}"
        worktree = await device.make(run, "it", checkout.path, NOW, Start(head, "main", branch))
        Checkout(worktree.path).commit("what it found")
        assert (await settled(device, run)).kept is not None
        checkout.git("merge", "--quiet", "--no-edit", branch)
    holding = WorktreeDirectories._hold

    def hold(self: WorktreeDirectories, run: str) -> bool:
        if run == runs[0]:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return holding(self, run)

    monkeypatch.setattr(WorktreeDirectories, "_hold", hold)
    await device.retire()
    assert [record.run for record in device.store.all()] == runs[:1]
