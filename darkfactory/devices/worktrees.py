"""A worktree for a run: a directory and a branch of its own, and what becomes of both when the run is over.

Agents that share a checkout undo each other's work. Supervisors that isolate them have lost work when they took a
worktree away, have spoilt refs by running git in parallel, and have fallen back on the shared checkout when isolation
failed. So: a branch with a name for each run; whatever was left uncommitted is committed to it; nothing is deleted
that another branch does not contain; one at a time changes a repository's refs; and what cannot be made is refused.

The agent is not to be trusted with any of it. It may rewrite the `.git` file in its worktree, its HEAD, its index and
its branch, leave locks and half a rebase, or put links where directories were. So its own git state is read, as text,
for one thing only: which commits its work is on. What its files amount to is found with an index of ours. Where
anything is not as it should be, the worktree is kept.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final, Protocol, TypeVar

import trio
from attrs import define, evolve, field, frozen

from darkfactory.devices import place, threads
from darkfactory.devices.git import NOBODY, OBJECT, Git, GitError, Repository
from darkfactory.devices.place import NoRepository
from darkfactory.devices.worktree_store import Record, WorktreeStore, branch_of, delete, opened
from darkfactory.errors import CompoundReviewFailed, SpawnFailed
from darkfactory.model.review import BRANCH_PREFIX

MAKE_SECS: Final = 60.0
"""The longest that making one may take, with the wait for the repository's lock and the checkout of its files."""
LOCK_SECS: Final = 20.0
"""The longest that anybody waits for a repository's lock; it is held for a few commands that take milliseconds."""
LOCK: Final = "darkfactory.lock"
"""The lock's file, in the repository's common directory."""
_LOCK_PAUSE_SECS: Final = 0.02
_SMALL_BYTES: Final = 64 * 1024
"""Of a file that git writes and an agent may have rewritten, no more is read."""
_LOOK: Final = "look at the branch {} and the worktree"
_BRANCH: Final = re.compile(r"refs/heads/[^\x00-\x20~^:?*\[\\\x7f]+")

_Run = Callable[..., Awaitable[bytes]]
_T = TypeVar("_T")


@frozen
class Worktree:
    """Where a run works."""

    path: Path
    """Its top."""
    cwd: Path
    """The directory in it that `working_dir` is in the shared checkout."""
    branch: str
    commit: str
    """Where it began."""


@frozen
class Start:
    """Where a worktree begins, if not at HEAD on a branch that is named after its run."""

    commit: str
    base: str
    """The branch that its work is measured against; without `refs/heads/`."""
    branch: str
    """A new one, below `model.review.BRANCH_PREFIX`."""


@frozen
class Settled:
    """What became of a worktree when its run was over."""

    run_id: str
    agent: str
    path: Path
    branches: tuple[str, ...]
    """Where its work is now; empty when there is none."""
    kept: str | None
    """Why it was kept; None: it was removed, and nothing was lost by that."""
    commits: int = 0
    """Those on its branches that the branch that it began on does not contain."""
    rescued: int = 0
    """Files that had been changed and not committed; that was done for it."""
    commit: str | None = None
    """Where these commits end; None where there are none."""


class Worktrees(Protocol):
    """Makes worktrees, and settles them."""

    async def make(
        self, run_id: str, agent: str, working_dir: Path, created: datetime, start: Start | None = None
    ) -> Worktree:
        """A worktree on a new branch, from the commit that HEAD is at in the repository of `working_dir`.

        SpawnFailed("worktree") if there is none to be had, SpawnFailed("branch_taken") if `start` names a branch that
        is there. Whether it was made or not, `settle` or `leave` follows.
        """
        ...

    async def settle(self, run_id: str, why: str) -> Settled | None:
        """Commit what was left uncommitted; remove the worktree if nothing is lost by that. `why` is how the run ended.

        None if there is none of that run, or somebody else is at it. Cancelled, it can be repeated, and will be by the
        next who asks for `leftovers`. Raises nothing: what goes wrong is why it was kept.
        """
        ...

    def leave(self, run_id: str, *, alone: bool) -> None:
        """The run is over. If its worktree was not settled, it becomes one of the `leftovers`.

        `alone`: not in this life, since something of the run may live. After `settle` it does nothing.
        """
        ...

    def leftovers(self) -> tuple[str, ...]:
        """Runs that are over, and whose worktrees were not settled yet; each is named once in a life."""
        ...

    def kept(self) -> int:
        """How many there are besides those of the runs that live. A glance at a directory."""
        ...

    async def retire(self) -> None:
        """Remove the worktrees that reviews have left and whose work is on its branch; the branches stay.

        Whatever was made there since they were settled, by a gate, goes with them.
        """
        ...

    async def check_out(self, run_id: str, commit: str) -> None:
        """Have the worktree of a review's run that is settled hold the files of that commit, and nothing else.

        What is checked there is what is handed in then: what git ignores is gone. CompoundReviewFailed if the commit is
        not what its branch is at, does not go on from where that began, or the worktree is not as it was made.
        """
        ...

    async def bury(self) -> str | None:
        """Delete what was removed; what would not be deleted, if anything."""
        ...


@frozen
class Loss:
    """What a worktree and its branches hold that the branch that it began on does not."""

    branches: Mapping[str, str]
    """Its branches, whole names, and where they are."""
    commits: tuple[tuple[str, str], ...]
    """Each with its subject, the newest first."""
    files: tuple[str, ...]
    """Changed by these commits: `M path`."""
    dirty: tuple[str, ...]
    """Changed and not committed: `M path`, or `? path` for what git does not know."""
    oddity: str | None = None
    """What else is not as we left it."""

    def __bool__(self) -> bool:
        return bool(self.commits or self.dirty or self.oddity)


@define(eq=False)
class WorktreeDirectories:
    """Real worktrees, in the state directory."""

    git: Git
    store: WorktreeStore
    _held: dict[str, int] = field(factory=dict)
    """The locks of those that are in use or being settled, by run."""
    _seen: set[str] = field(factory=set)
    """Those that `leftovers` has named or shall not name."""
    _locks: dict[Path, trio.Lock] = field(factory=dict)
    """By common directory: of the tasks of this process one at a time tries the lock that all processes share."""
    _limiter: trio.CapacityLimiter = field(factory=lambda: trio.CapacityLimiter(4))
    _number: count[int] = field(factory=lambda: count(1))

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
        files, own = self.store.files(run_id), _own_directory(record)
        async with self._locked(repository):
            add = ("worktree", "add", "--quiet", "--no-track", "--no-checkout", "-b", record.branch)
            await repository.run(*add, str(files), commit)
        if not _points_to(own, files):
            raise GitError(("worktree",), None, f"{own} is not what git made for it")
        inside = await self.git.open(common, own)
        await inside.run("reset", "--hard", "--quiet", "--no-recurse-submodules", work_tree=files)
        cwd = files / prefix
        await self._in_thread(partial(_begin, cwd, files, own / "index", self.store.index(run_id)))
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
        return commit, head if _BRANCH.fullmatch(head) else None

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

    async def _settle(self, record: Record, why: str) -> Settled | None:
        repository = await self.git.open(Path(record.common))
        state = await self._look(repository, record)
        if not record.made:  # nobody was ever in it
            ours = {ref: at for ref, at in state.ours.items() if at == record.commit}
            await self._remove(repository, record, ours)
            return _settled(record, self.store, None)
        rescued, unread = 0, None
        tip = state.tip
        if state.files:
            async with self._index(record) as index:
                tree, unread = await self._tree(repository, record, index, tip)
                with suppress(OSError):  # so that a person who looks at it sees what was committed as committed
                    await self._in_thread(partial(_give_index, index, record))
            before = _text(await repository.run("rev-parse", "--verify", f"{tip}^{{tree}}"))
            if tree != before:
                names = await repository.run("diff-tree", "-r", "--name-only", "-z", before, tree)
                rescued = names.count(b"\0")
                message = f"{record.agent}: what run {record.run} left uncommitted\n\nThe run ended as {why}.\n"
                tip = _text(await repository.run("commit-tree", tree, "-p", tip, "-m", message))
        async with self._locked(repository):
            ours = await self._name(repository, record, state, tip)
        since = state.base
        commits = int(await repository.run("rev-list", "--count", *ours.values(), "--not", since)) if ours else 0
        oddity = state.oddity or (f"git could not take all of its files: {unread}" if unread else None)
        if oddity is None and commits == 0 and state.files:
            oddity = await self._repository_inside(repository, record, tip)
        if oddity is None and commits == 0:
            oddity = await _left_behind(repository, record, tip)
        if oddity is None and commits == 0:
            await self._remove(repository, record, ours)
            return _settled(record, self.store, None)
        base = (record.base or record.commit).removeprefix("refs/heads/")
        reasons = [f"{counted(commits)} that {base} does not contain"] if commits else []
        kept = "; ".join([*reasons, *([oddity] if oddity is not None else [])])
        self.store.write(evolve(record, kept=kept))
        branches = tuple(name.removeprefix("refs/heads/") for name in ours)
        settled = _settled(record, self.store, kept)
        return evolve(settled, branches=branches, commits=commits, rescued=rescued, commit=tip if commits else None)

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
            if record.kept is None or not record.branch.startswith(BRANCH_PREFIX) or not self._hold(record.run):
                continue
            try:
                repository = await self.git.open(Path(record.common))
                state = await self._look(repository, record)
                oddity = state.oddity
                if oddity is None and state.files:
                    oddity = await self._repository_inside(repository, record, state.tip)
                if oddity is None and state.tip in state.ours.values():
                    await self._remove(repository, record, {})
            except (GitError, OSError):
                continue
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
        files, own = self.store.files(record.run), _own_directory(record)
        repository = await self.git.open(Path(record.common))
        state = await self._look(repository, record)
        oddity = state.oddity
        if oddity is None and not state.tip == state.ours.get(record.ref) == commit:
            oddity = f"its branch is not at {commit[:12]}"
        if oddity is None and not await _contains(repository, commit, record.commit):
            oddity = f"its work does not go on from {record.commit[:12]}, where its branch began"
        if oddity is None and await _contains(repository, state.base, commit):
            oddity = "its HEAD is not at its work"
        if oddity is None:
            oddity = await self._repository_inside(repository, record, commit)
        if oddity is not None:
            raise _not_handed_in(oddity, _LOOK.format(record.branch))
        inside = await self.git.open(repository.common, own)
        self.store.renew(record.run, f"gitdir: {own}\n")
        async with self._new_index(record) as index:
            ask = ("read-tree", "--reset", "-u", "--no-recurse-submodules", commit)
            await inside.run(*ask, work_tree=files, index=index)
            await self._in_thread(partial(_give_index, index, record))
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
        state = await self._look(repository, record)
        tips = tuple(dict.fromkeys((*state.ours.values(), state.tip)))
        log = await repository.run("log", "-z", "--encoding=UTF-8", "--format=%H %s", *tips, "--not", state.base)
        commits = [os.fsdecode(line).partition(" ") for line in log.split(b"\0") if line]
        files: list[str] = []
        for tip in tips if commits else ():
            begun = await _fork_point(repository, tip, record.commit)
            told = await repository.run("diff-tree", "-r", "--name-status", "--no-renames", "-z", begun, tip)
            files += [line for line in _pairs(told) if line not in files]
        dirty, oddity = list[str](), state.oddity
        if state.files:
            async with self._index(record) as index:
                run = partial(repository.run, work_tree=self.store.files(record.run), index=index)
                await _read_tree(run, index, state.tip)
                with suppress(GitError):  # 1: some are changed
                    await run("update-index", "-q", "--refresh")
                dirty += _pairs(await run("diff-files", "--name-status", "--ignore-submodules=dirty", "-z"))
                try:
                    others = await run("ls-files", "--others", "--exclude-standard", "-z", silent=True)
                except GitError as error:
                    if error.exit_code != 0:
                        raise
                    others, oddity = error.output, f"git could not look at all of its files: {error.tail}"
                dirty += [f"? {os.fsdecode(name)}" for name in others.split(b"\0") if name]
                if oddity is None:
                    oddity = await self._repository_inside(repository, record, state.tip)
        if oddity is None:
            oddity = await _left_behind(repository, record, state.tip)
        told_commits = tuple((sha, subject) for sha, _, subject in commits)
        return Loss(state.ours, told_commits, tuple(files), tuple(dirty), oddity)

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

    async def _look(self, repository: Repository, record: Record) -> _State:
        """What the agent left behind, as far as it can be told without trusting it."""
        own = _own_directory(record)
        head = _line(own / "HEAD") or ""
        branch = head.removeprefix("ref: ") if head.startswith("ref: ") else ""
        wanted = [record.ref, f"{record.ref}-[0-9]*", *filter(_BRANCH.fullmatch, (branch, record.base or ""))]
        told = await repository.run("for-each-ref", "--format=%(refname) %(objectname) %(symref)", *wanted)
        refs, links = {}, set()
        for line in os.fsdecode(told).split("\n")[:-1]:
            name, at, link = line.split(" ", 2)
            refs[name] = at
            if link:
                links.add(name)
        extra = re.compile(re.escape(record.ref) + r"(-[0-9]+)?")
        ours = {name: at for name, at in refs.items() if extra.fullmatch(name) and name not in links}
        tip = refs.get(branch)
        for sha in (head, _last_of_log(own / "logs" / "HEAD")) if tip is None else ():
            if OBJECT.fullmatch(sha) and await _is_commit(repository, sha):
                tip = sha
                break
        files = self.store.files(record.run)
        return _State(
            tip=tip if tip is not None else ours.get(record.ref, record.commit),
            ours=ours,
            links=frozenset(name for name in links if extra.fullmatch(name)),
            base=refs.get(record.base or "", record.commit),
            files=_is_directory(files),
            oddity=_oddity(files, own),
        )

    async def _tree(self, repository: Repository, record: Record, index: Path, tip: str) -> tuple[str, str | None]:
        """Its files as a tree object, and what git had to say, if it could not take all of them."""
        run = partial(repository.run, work_tree=self.store.files(record.run), index=index)
        await _read_tree(run, index, tip)
        unread = None
        try:
            await run("add", "--all", "--ignore-errors", "--", ".", silent=True)
        except GitError as error:
            if error.exit_code not in (0, 1):
                raise
            unread = error.tail
        return _text(await run("write-tree")), unread

    @asynccontextmanager
    async def _index(self, record: Record) -> AsyncIterator[Path]:
        """An index of our own: what it knows of files that have not changed since the beginning need not be read."""
        async with self._new_index(record) as index:
            await self._in_thread(partial(_copy, self.store.index(record.run), index))
            yield index

    @asynccontextmanager
    async def _new_index(self, record: Record) -> AsyncIterator[Path]:
        """The path of an index of our own that is not there yet."""
        await trio.lowlevel.checkpoint()
        index = self.store.scratch / f"{record.run}-{os.getpid()}-{next(self._number)}.index"
        try:
            yield index
        finally:
            _drop(index)

    async def _repository_inside(self, repository: Repository, record: Record, tip: str) -> str | None:
        """What to say if one of its commit's directories is a repository: that may have commits of its own.

        Git sees none in a directory whose files it has already. What is elsewhere is new to it, and no longer clean.
        """
        told = os.fsdecode(await repository.run("ls-tree", "-r", "-d", "--name-only", "-z", "--full-tree", tip))
        return _filled(self.store.files(record.run), filter(None, told.split("\0")))

    async def _name(self, repository: Repository, record: Record, state: _State, tip: str) -> dict[str, str]:
        """See to it that a branch of ours has the tip; our branches and where they are. For the holder of the lock."""
        update = partial(repository.run, "update-ref", "--no-deref")  # else a link would have another branch changed
        for link in state.links:
            await update("-d", link)
        ours = dict(state.ours)
        at = ours.get(record.ref)
        if tip in ours.values():
            return ours  # noqa: ASYNC910 - git is one
        if at is None or await _contains(repository, tip, at):
            await update(record.ref, tip, at or NOBODY * len(tip))
            return ours | {record.ref: tip}
        for other in ours.values():
            if await _contains(repository, other, tip):
                return ours
        name = next(name for number in count(2) if (name := f"{record.ref}-{number}") not in ours)
        await update(name, tip, NOBODY * len(tip))
        return ours | {name: tip}

    async def _remove(self, repository: Repository, record: Record, branches: Mapping[str, str]) -> None:
        """Delete branches that are where they are said to be, and then the worktree.

        One that somebody has checked out elsewhere stays: without it that checkout would be of nothing.
        """
        async with self._locked(repository):
            elsewhere = await self._in_thread(partial(_checked_out, record))
            for name, at in branches.items():
                if name not in elsewhere:
                    await repository.run("update-ref", "--no-deref", "-d", name, at)
            self.store.doom(record.run)
            await self._in_thread(partial(_delete_own_directory, record))
        self.store.forget(record.run)

    @asynccontextmanager
    async def _locked(self, repository: Repository) -> AsyncIterator[None]:
        """Be the only one of us, in any process, who changes the repository. GitError after `LOCK_SECS`."""
        lock = self._locks.setdefault(repository.common, trio.Lock())
        held: int | None = None
        with trio.move_on_after(LOCK_SECS):
            await lock.acquire()
            try:
                held = await _flock(repository.common)
            finally:
                if held is None:
                    lock.release()
        if held is None:
            detail = f"{repository.common / LOCK} was held by others for {LOCK_SECS:g} s (fuser -v tells by whom)"
            raise GitError(("lock",), None, detail)
        try:
            yield
        finally:
            os.close(held)
            lock.release()

    async def _in_thread(self, work: partial[_T]) -> _T:
        return await threads.run_sync(work, limiter=self._limiter)


@frozen
class _State:
    """What an agent left behind."""

    tip: str
    """The commit that its files are changes of."""
    ours: Mapping[str, str]
    """The branches of this run, by whole name."""
    links: frozenset[str]
    """Those that are no branches but links to others."""
    base: str
    """Where the branch that it began on is now; where it began, if that is gone."""
    files: bool
    """There is a directory of files in its place."""
    oddity: str | None
    """What keeps us from removing it, whatever its commits are."""


def counted(commits: int) -> str:
    """So many commits, in words."""
    return "1 commit" if commits == 1 else f"{commits} commits"


def _not_handed_in(why: str, remedy: str) -> CompoundReviewFailed:
    return CompoundReviewFailed("agent_failed", f"what the agent left cannot be handed in: {why}", remedy)


def _settled(record: Record, store: WorktreeStore, kept: str | None) -> Settled:
    branches = () if kept is None else (record.branch,)
    return Settled(record.run, record.agent, store.files(record.run), branches, kept)


def _own_directory(record: Record) -> Path:
    """What git keeps of this worktree alone: HEAD, index, logs."""
    return Path(record.common) / "worktrees" / record.run


def _give_index(index: Path, record: Record) -> None:
    """Put an index in the place of the worktree's own. Blocks."""
    with (
        opened(record.common) as common,
        opened("worktrees", common) as worktrees,
        opened(record.run, worktrees) as own,
    ):
        copy = Path(f"/proc/self/fd/{own}")
        shutil.copy2(index, copy / "index.settled", follow_symlinks=False)
        os.rename("index.settled", "index", src_dir_fd=own, dst_dir_fd=own)


def _checked_out(record: Record) -> frozenset[str]:
    """The branches, by whole name, that HEAD is on in the repository's other checkouts. Blocks."""
    common, own = Path(record.common), _own_directory(record)
    heads = [common, *(each for each in (common / "worktrees").glob("*") if each != own)]
    return frozenset((_line(each / "HEAD") or "").removeprefix("ref: ") for each in heads)


def _points_to(own: Path, files: Path) -> bool:
    return _line(own / "gitdir") == os.path.realpath(files / ".git")


def _delete_own_directory(record: Record) -> None:
    """As `git worktree prune` would, but of this one alone. Blocks."""
    problems: list[str] = []
    with suppress(FileNotFoundError), opened(record.common) as common, opened("worktrees", common) as worktrees:
        delete(record.run, worktrees, problems)
    if problems:
        raise OSError(problems[0])


def _begin(cwd: Path, files: Path, index: Path, copy: Path) -> None:
    """Blocks. The copy has the original's time: by that git knows which entries are too young to be relied on."""
    _enter(cwd, files)
    _copy(index, copy)


def _enter(cwd: Path, files: Path) -> None:
    """See to it that a directory is there, and in the worktree. Blocks."""
    if not cwd.resolve().is_relative_to(files.resolve()):
        raise OSError(f"{cwd} is outside of the worktree: a link leads there")
    cwd.mkdir(parents=True, exist_ok=True)  # git knows no empty directories


def _copy(path: Path, copy: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.copy2(path, copy, follow_symlinks=False)


def _drop(index: Path) -> None:
    for path in (index, index.with_name(f"{index.name}.lock")):
        path.unlink(missing_ok=True)


def _oddity(files: Path, own: Path) -> str | None:
    """What is not as we left it, so that we do not know what would be lost with it."""
    if not os.path.lexists(files):
        gone = _line(own / "gitdir") is None or _points_to(own, files)
        return None if gone else "git says that its directory was moved"
    if not _is_directory(files):
        return "something else is in the place of its directory"
    if _line(files / ".git") != f"gitdir: {own}":
        return "its .git is not the one that it was given"
    if os.path.lexists(own / "modules"):
        return "it has submodules with files"
    return None


def _filled(files: Path, places: Iterable[str]) -> str | None:
    for each in places:
        if os.path.lexists(files / each / ".git"):
            return f"it has a repository inside: {each}"
    return None


def _is_directory(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False


def _line(path: Path) -> str | None:
    """A small file's text without the end of its line; None if it is none. Never waits, and follows no link."""
    data = _end_of(path)
    return None if data is None else os.fsdecode(data).removesuffix("\n")


def _last_of_log(path: Path) -> str:
    """The newest commit that a log of HEAD knows; empty where it knows none."""
    lines = (_end_of(path) or b"").splitlines()
    words = lines[-1].split(b" ", 2) if lines else []
    if len(words) < 2:
        return ""
    before, after = words[:2]
    return os.fsdecode(after if after.strip(NOBODY.encode()) else before)  # a branch that was deleted goes to nobody


def _end_of(path: Path) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            return None
        return os.pread(descriptor, _SMALL_BYTES, max(0, found.st_size - _SMALL_BYTES))
    finally:
        os.close(descriptor)


async def _flock(common: Path) -> int:
    """Wait for the lock that all processes share; its descriptor, to be closed. OSError if there can be none."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with opened(common) as directory:
        descriptor = os.open(LOCK, flags, 0o600, dir_fd=directory)
    try:
        while True:
            await trio.lowlevel.checkpoint()
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                await trio.sleep(_LOCK_PAUSE_SECS)
            else:
                return descriptor
    except BaseException:
        os.close(descriptor)
        raise


async def _read_tree(run: _Run, index: Path, tip: str) -> None:
    try:
        await run("read-tree", "-m", tip)
    except GitError:
        _drop(index)
        await run("read-tree", tip)


async def _is_commit(repository: Repository, sha: str) -> bool:
    try:
        await repository.run("rev-parse", "--verify", "--quiet", f"{sha}^{{commit}}")
    except GitError:
        return False  # noqa: ASYNC910 - git is one
    return True


async def _contains(repository: Repository, commit: str, other: str) -> bool:
    """Whether the other commit is the same, or one of its ancestors."""
    try:
        await repository.run("merge-base", "--is-ancestor", other, commit)
    except GitError as error:
        if error.exit_code != 1:
            raise
        return False  # noqa: ASYNC910 - git is one
    return True


async def _left_behind(repository: Repository, record: Record, tip: str) -> str | None:
    """What to say of commits that its HEAD was at once and no branch or tag has: they would go with its log."""
    await trio.lowlevel.checkpoint()
    log = _logged(_own_directory(record) / "logs" / "HEAD")
    if not log:
        return None
    stay = ("--not", tip, record.commit, "--branches", "--tags", "--remotes")
    told = await repository.run("rev-list", "--ignore-missing", "--count", *log, *stay)
    return f"{counted(int(told))} that its HEAD was at and no branch has" if int(told) else None


def _logged(path: Path) -> tuple[str, ...]:
    """The commits that a log of HEAD knows, each once, of those that stand at its end."""
    words = (word for line in (_end_of(path) or b"").splitlines() for word in line.split(b" ", 2)[:2])
    found = dict.fromkeys(os.fsdecode(word) for word in words)
    return tuple(sha for sha in found if OBJECT.fullmatch(sha) and sha.strip(NOBODY))


async def _fork_point(repository: Repository, commit: str, begun: str) -> str:
    """Since when a commit is a way of its own: what others did since must not look as if it were undone there."""
    try:
        return _text(await repository.run("merge-base", commit, begun)).split("\n")[0]
    except GitError:
        return begun  # noqa: ASYNC910 - git is one


def _text(output: bytes) -> str:
    return os.fsdecode(output).strip()


def _pairs(output: bytes) -> list[str]:
    """What `--name-status -z` prints, as `M path`."""
    words = [os.fsdecode(word) for word in output.split(b"\0")]
    return [f"{status} {path}" for status, path in zip(words[::2], words[1::2], strict=False)]
