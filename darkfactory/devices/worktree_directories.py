"""Real worktrees: made, looked after and taken away with the real git, in the state directory.

Who is in a worktree holds its lock, from when it is made until it is settled, and so does whoever settles or removes
it. What comes of one that is half made, or was left by a factory that was killed, is decided by the same steps as at
the end of a run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import trio
from attrs import Factory, define, evolve, field

from darkfactory.devices import place, threads, worktree_left, worktree_work
from darkfactory.devices.git import Git, GitError, Repository
from darkfactory.devices.place import NoRepository
from darkfactory.devices.repository_lock import RepositoryLocks
from darkfactory.devices.worktree_index import Indexes
from darkfactory.devices.worktree_left import BRANCH, checked_out_elsewhere, points_to
from darkfactory.devices.worktree_store import Record, WorktreeStore, branch_of, delete, opened
from darkfactory.devices.worktree_work import Rescued
from darkfactory.devices.worktrees import Loss, Settled, Start, Worktree, counted
from darkfactory.errors import CompoundReviewFailed, SpawnFailed
from darkfactory.model.review import BRANCH_PREFIX

MAKE_SECS: Final = 60.0
"""The longest that making one may take, with the wait for the repository's lock and the checkout of its files."""
_LOOK: Final = "look at the branch {} and the worktree"

_T = TypeVar("_T")


@define(eq=False)
class WorktreeDirectories:
    """Real worktrees, in the state directory."""

    git: Git
    store: WorktreeStore
    _held: dict[str, int] = field(factory=dict)
    """The locks of those that are in use or being settled, by run."""
    _seen: set[str] = field(factory=set)
    """Those that `leftovers` has named or shall not name."""
    _locks: RepositoryLocks = field(factory=RepositoryLocks)
    _limiter: trio.CapacityLimiter = field(factory=lambda: trio.CapacityLimiter(4))
    _indexes: Indexes = Factory(lambda self: Indexes(self.store, self._limiter), takes_self=True)

    async def make(
        self, run_id: str, agent: str, working_dir: Path, created: datetime, start: Start | None = None
    ) -> Worktree:
        """See `Worktrees.make`; within `MAKE_SECS`."""
        try:
            with trio.fail_after(MAKE_SECS):
                return await self._make(run_id, agent, working_dir, created, start)
        except trio.TooSlowError:
            why = f"it was not made within {MAKE_SECS:g} s: is the repository very large, or its disk slow?"
        except NoRepository as error:
            remedy = 'make it one and commit to it, or set isolation = "shared"'
            why = f"{error}; {remedy}" if start is None else str(error)
        except (GitError, OSError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not threads.none_left(error):
                raise
            why = str(error)
        raise SpawnFailed("worktree", f"{why} (it is never run in the shared checkout instead)")

    async def _make(
        self, run_id: str, agent: str, working_dir: Path, created: datetime, start: Start | None
    ) -> Worktree:
        found = await place.find(self.git, working_dir)
        common, prefix = found.common, found.prefix
        if start is None:
            if found.top is None:
                raise NoRepository(working_dir, "none that is checked out there")
            commit, base = await self._head(working_dir)
            branch = branch_of(agent, run_id)
        else:
            commit, base, branch = start.commit, f"refs/heads/{start.base}", start.branch
        repository = await self.git.open(common)
        if start is not None and await repository.run("for-each-ref", f"refs/heads/{branch}"):
            remedy = "merge it or delete it: git branch -D"
            raise SpawnFailed("branch_taken", f"there is a branch {branch} already; {remedy} {branch}")
        self.store.prepare()
        if (held := self.store.hold(run_id)) is None:
            raise GitError(("worktree",), None, "somebody else has a worktree of that name")
        self._held[run_id] = held
        record = Record(
            run=run_id,
            agent=agent,
            common=str(common),
            prefix=prefix,
            branch=branch,
            commit=commit,
            base=base,
            created=created.isoformat(),
        )
        self.store.write(record)
        files, own = self.store.files(run_id), record.own
        async with self._locks.held(repository.common):
            add = ("worktree", "add", "--quiet", "--no-track", "--no-checkout", "-b", record.branch)
            await repository.run(*add, str(files), commit)
        if not points_to(own, files):
            raise GitError(("worktree",), None, f"{own} is not what git made for it")
        inside = await self.git.open(common, own)
        await inside.run("reset", "--hard", "--quiet", "--no-recurse-submodules", work_tree=files)
        cwd = files / prefix
        await self._in_thread(partial(_enter, cwd, files))
        await self._in_thread(partial(self._indexes.keep, record))
        self.store.write(evolve(record, made=True))
        return Worktree(files, cwd, record.branch, commit)

    async def _head(self, checkout: Path) -> tuple[str, str | None]:
        """The commit that HEAD is at in a checkout, and the branch that it is on."""
        try:
            told = await self.git.run("rev-parse", "HEAD^{commit}", "--symbolic-full-name", "HEAD", cwd=checkout)
        except GitError as error:
            if error.exit_code is None:
                raise
            raise NoRepository(checkout, f"none that has a commit ({error.tail})") from error
        commit, head = os.fsdecode(told).split("\n")[:2]
        return commit, head if BRANCH.fullmatch(head) else None

    async def settle(self, run_id: str, why: str) -> Settled | None:
        """See `Worktrees.settle`."""
        await trio.lowlevel.checkpoint()
        record = self.store.read(run_id)
        if record is None:
            return None
        try:
            try:
                if not self._hold(run_id):
                    return None
                return await self._settle(record, why)
            except (GitError, OSError, RuntimeError) as error:
                if isinstance(error, RuntimeError) and not threads.none_left(error):
                    raise
                return _settled(record, self.store, f"it could not be looked at: {error}")  # not noted: tried again
        finally:
            self._let_go(run_id)

    async def _settle(self, record: Record, why: str) -> Settled:
        repository = await self.git.open(Path(record.common))
        files = self.store.files(record.run)
        left = await worktree_left.look(repository, record, files)
        if not record.made:  # nobody was ever in it
            ours = {ref: at for ref, at in left.ours.items() if at == record.commit}
            await self._remove(repository, record, ours)
            return _settled(record, self.store, None)
        rescued = Rescued(left.tip)
        if left.files:
            rescued = await worktree_work.rescue(repository, self._indexes, record, files, left.tip, why)
        tip = rescued.tip
        async with self._locks.held(repository.common):
            ours = await worktree_work.name(repository, record, left, tip)
        commits = int(await repository.run("rev-list", "--count", *ours.values(), "--not", left.base)) if ours else 0
        oddity = left.oddity
        if oddity is None and rescued.unread is not None:
            oddity = f"git could not take all of its files: {rescued.unread}"
        if oddity is None and commits == 0 and left.files:
            oddity = await worktree_left.repository_inside(repository, files, tip)
        if oddity is None and commits == 0:
            oddity = await worktree_left.off_branches(repository, record, tip)
        if oddity is None and commits == 0:
            await self._remove(repository, record, ours)
            return _settled(record, self.store, None)
        base = (record.base or record.commit).removeprefix("refs/heads/")
        reasons = [f"{counted(commits)} that {base} does not contain"] if commits else []
        kept = "; ".join([*reasons, *([oddity] if oddity is not None else [])])
        self.store.write(evolve(record, kept=kept))
        branches = tuple(name.removeprefix("refs/heads/") for name in ours)
        settled = _settled(record, self.store, kept)
        commit = tip if commits else None
        return evolve(settled, branches=branches, commits=commits, rescued=rescued.files, commit=commit)

    def leave(self, run_id: str, *, alone: bool) -> None:
        """See `Worktrees.leave`."""
        if alone:
            self._seen.add(run_id)
        self._let_go(run_id)

    def leftovers(self) -> tuple[str, ...]:
        """See `Worktrees.leftovers`."""
        found = []
        for run_id in self.store.run_ids():
            if run_id not in self._seen and run_id not in self._held:
                self._seen.add(run_id)
                record = self.store.read(run_id)
                if record is not None and record.kept is None:
                    found.append(run_id)
        return tuple(found)

    def kept(self) -> int:
        """See `Worktrees.kept`."""
        return sum(run_id not in self._held for run_id in self.store.run_ids())

    async def retire(self) -> None:
        """See `Worktrees.retire`. Cancelled, the next one goes on; what cannot be looked at stays, and is listed."""
        await trio.lowlevel.checkpoint()
        for record in self.store.all():
            if record.kept is not None and record.branch.startswith(BRANCH_PREFIX):
                with suppress(GitError, OSError):
                    await self._retire(record)

    async def _retire(self, record: Record) -> None:
        if not self._hold(record.run):
            return  # noqa: ASYNC910 - the caller's was one
        try:
            repository = await self.git.open(Path(record.common))
            files = self.store.files(record.run)
            left = await worktree_left.look(repository, record, files)
            oddity = left.oddity
            if oddity is None and left.files:
                oddity = await worktree_left.repository_inside(repository, files, left.tip)
            if oddity is None and left.tip in left.ours.values():
                await self._remove(repository, record, {})
        finally:
            self._let_go(record.run)

    async def check_out(self, run_id: str, commit: str) -> None:
        """See `Worktrees.check_out`; within `MAKE_SECS`."""
        await trio.lowlevel.checkpoint()
        record = self.store.read(run_id)
        if record is None or not self._hold(run_id):
            raise _not_handed_in(
                "its worktree is gone, or somebody else is at it", "see what `darkfactory worktrees` says of it"
            )
        try:
            with trio.fail_after(MAKE_SECS):
                await self._check_out(record, commit)
        except trio.TooSlowError:
            raise _not_handed_in(
                f"its files were not checked out within {MAKE_SECS:g} s", "is the disk slow?"
            ) from None
        except (GitError, OSError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not threads.none_left(error):
                raise
            raise _not_handed_in(f"its files cannot be checked out: {error}", _LOOK.format(record.branch)) from error
        finally:
            self._let_go(run_id)

    async def _check_out(self, record: Record, commit: str) -> None:
        files = self.store.files(record.run)
        repository = await self.git.open(Path(record.common))
        left = await worktree_left.look(repository, record, files)
        oddity = left.oddity
        if oddity is None and not left.tip == left.ours.get(record.ref) == commit:
            oddity = f"its branch is not at {commit[:12]}"
        if oddity is None and not await repository.contains(commit, record.commit):
            oddity = f"its work does not go on from {record.commit[:12]}, where its branch began"
        if oddity is None and await repository.contains(left.base, commit):
            oddity = "its HEAD is not at its work"
        if oddity is None:
            oddity = await worktree_left.repository_inside(repository, files, commit)
        if oddity is not None:
            raise _not_handed_in(oddity, _LOOK.format(record.branch))
        inside = await self.git.open(repository.common, record.own)
        self.store.renew(record.run, f"gitdir: {record.own}\n")
        async with self._indexes.new(record) as index:
            ask = ("read-tree", "--reset", "-u", "--no-recurse-submodules", commit)
            await inside.run(*ask, work_tree=files, index=index)
            await self._indexes.give(index, record)
        await self._in_thread(partial(_enter, files / record.prefix, files))

    async def bury(self) -> str | None:
        """See `Worktrees.bury`. Cancelled, the deletion goes on until the process ends, and then by the next life."""
        try:
            await trio.to_thread.run_sync(self.store.bury, limiter=self._limiter, abandon_on_cancel=True)
        except (OSError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not threads.none_left(error):
                raise
            return str(error)  # noqa: ASYNC910 - git is one
        return None

    async def loss(self, record: Record) -> Loss:
        """What would be lost with a worktree. GitError or OSError if that cannot be told."""
        repository = await self.git.open(Path(record.common))
        return await worktree_work.loss(repository, self._indexes, record, self.store.files(record.run))

    async def remove(self, record: Record, loss: Loss) -> bool:
        """Remove a worktree and its branches whatever is lost; False if its run lives, or somebody else is at it.

        A branch that has moved since the loss was told stays, and so does the worktree: GitError.
        """
        await trio.lowlevel.checkpoint()
        if not self._hold(record.run):
            return False
        try:
            await self._remove(await self.git.open(Path(record.common)), record, loss.branches)
        finally:
            self._let_go(record.run)
        return True

    def lives(self, run_id: str) -> bool:
        """Whether a run is in it, or somebody settles it now."""
        if run_id in self._held:
            return True
        held = self.store.hold(run_id)
        if held is not None:
            os.close(held)
        return held is None

    def _hold(self, run_id: str) -> bool:
        if run_id not in self._held:
            held = self.store.hold(run_id)
            if held is None:
                return False
            self._held[run_id] = held
        return True

    def _let_go(self, run_id: str) -> None:
        held = self._held.pop(run_id, None)
        if held is not None:
            os.close(held)

    async def _remove(self, repository: Repository, record: Record, branches: Mapping[str, str]) -> None:
        """Delete branches that are where they are said to be, and then the worktree.

        One that somebody has checked out elsewhere stays: without it that checkout would be of nothing.
        """
        async with self._locks.held(repository.common):
            elsewhere = await self._in_thread(partial(checked_out_elsewhere, record))
            for name, at in branches.items():
                if name not in elsewhere:
                    await worktree_work.update_ref(repository, name, at, delete=True)
            self.store.doom(record.run)
            await self._in_thread(partial(_delete_own_directory, record))
        self.store.forget(record.run)

    async def _in_thread(self, work: partial[_T]) -> _T:
        return await threads.run_sync(work, limiter=self._limiter)


def _not_handed_in(why: str, remedy: str) -> CompoundReviewFailed:
    return CompoundReviewFailed("agent_failed", f"what the agent left cannot be handed in: {why}", remedy)


def _settled(record: Record, store: WorktreeStore, kept: str | None) -> Settled:
    branches = () if kept is None else (record.branch,)
    return Settled(record.run, record.agent, store.files(record.run), branches, kept)


def _delete_own_directory(record: Record) -> None:
    """As `git worktree prune` would, but of this one alone. Blocks."""
    problems: list[str] = []
    with suppress(FileNotFoundError), opened(record.common) as common, opened("worktrees", common) as worktrees:
        delete(record.run, worktrees, problems)
    if problems:
        raise OSError(problems[0])


def _enter(cwd: Path, files: Path) -> None:
    """See to it that a directory is there, and in the worktree. Blocks."""
    if not cwd.resolve().is_relative_to(files.resolve()):
        raise OSError(f"{cwd} is outside of the worktree: a link leads there")
    cwd.mkdir(parents=True, exist_ok=True)  # git knows no empty directories
