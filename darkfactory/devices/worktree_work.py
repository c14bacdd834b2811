"""A worktree's work: what was left uncommitted is committed, all of it gets a branch, and what it amounts to is told.

What its files amount to is found with an index of ours, and the commits and branches are made in the repository: the
worktree's own HEAD and index, which the agent may have rewritten, have no part in it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path

from attrs import frozen

from darkfactory.devices import threads, worktree_left
from darkfactory.devices.git import NOBODY, GitError, Repository
from darkfactory.devices.worktree_index import Indexes, read_tree
from darkfactory.devices.worktree_left import Left
from darkfactory.devices.worktree_store import Record
from darkfactory.devices.worktrees import Loss


@frozen
class Rescued:
    """What a worktree's files came to."""

    tip: str
    """The commit that they are at now."""
    files: int = 0
    """Those that had been changed and not committed."""
    unread: str | None = None
    """What git had to say, if it could not take all of them."""


async def rescue(repository: Repository, indexes: Indexes, record: Record, files: Path, tip: str, why: str) -> Rescued:
    """Commit what was left uncommitted on top of `tip`. `why` is how the run ended."""
    async with indexes.copied(record) as index:
        tree, unread = await _tree(repository, files, index, tip)
        with suppress(OSError):  # so that a person who looks at it sees what was committed as committed
            await indexes.give(index, record)
    before = _text(await repository.run("rev-parse", "--verify", f"{tip}^{{tree}}"))
    if tree == before:
        return Rescued(tip, 0, unread)
    names = await repository.run("diff-tree", "-r", "--name-only", "-z", before, tree)
    message = f"{record.agent}: what run {record.run} left uncommitted\n\nThe run ended as {why}.\n"
    commit = _text(await repository.run("commit-tree", tree, "-p", tip, "-m", message))
    return Rescued(commit, names.count(b"\0"), unread)


async def _tree(repository: Repository, files: Path, index: Path, tip: str) -> tuple[str, str | None]:
    """The files as a tree object, and what git had to say, if it could not take all of them."""
    run = partial(repository.run, work_tree=files, index=index)
    await read_tree(run, index, tip)
    unread = None
    try:
        await run("add", "--all", "--ignore-errors", "--", ".", silent=True)
    except GitError as error:
        if error.exit_code not in (0, 1):
            raise
        unread = error.tail
    return _text(await run("write-tree")), unread


async def name(repository: Repository, record: Record, left: Left, tip: str) -> dict[str, str]:
    """See to it that a branch of ours has the tip; our branches and where they are. For the holder of the lock."""
    for link in left.links:
        await update_ref(repository, link, delete=True)
    ours = dict(left.ours)
    at = ours.get(record.ref)
    if tip in ours.values():
        return ours  # noqa: ASYNC910 - git is one
    if at is None or await repository.contains(tip, at):
        await update_ref(repository, record.ref, tip, at or NOBODY * len(tip))
        return ours | {record.ref: tip}
    for other in ours.values():
        if await repository.contains(other, tip):
            return ours
    new = next(new for number in count(2) if (new := f"{record.ref}-{number}") not in ours)
    await update_ref(repository, new, tip, NOBODY * len(tip))
    return ours | {new: tip}


async def update_ref(repository: Repository, name: str, *values: str, delete: bool = False) -> None:
    """Have git set or delete a branch of ours, past a lock that a git of ours has left there when it was killed.

    For the holder of the repository's lock: no other git of ours is at that branch then, and git itself has waited for
    a tenth of a second for anybody else's.
    """
    # without --no-deref a link would have another branch changed
    update = partial(repository.run, "update-ref", "--no-deref", *(["-d"] if delete else []), name, *values)
    try:
        await update()
    except GitError as error:
        lock = repository.common / f"{name}.lock"
        try:
            await threads.run_sync(lock.unlink)
        except OSError:
            raise error from None  # that was not why
        await update()


async def loss(repository: Repository, indexes: Indexes, record: Record, files: Path) -> Loss:
    """What would be lost with a worktree. GitError or OSError if that cannot be told."""
    left = await worktree_left.look(repository, record, files)
    tips = tuple(dict.fromkeys((*left.ours.values(), left.tip)))
    log = await repository.run("log", "-z", "--encoding=UTF-8", "--format=%H %s", *tips, "--not", left.base)
    commits = [os.fsdecode(line).partition(" ") for line in log.split(b"\0") if line]
    changed: list[str] = []
    for tip in tips if commits else ():
        begun = await _fork_point(repository, tip, record.commit)
        told = await repository.run("diff-tree", "-r", "--name-status", "--no-renames", "-z", begun, tip)
        changed += [line for line in _pairs(told) if line not in changed]
    dirty, oddity = list[str](), left.oddity
    if left.files:
        dirty, unread = await _dirty(repository, indexes, record, files, left.tip)
        oddity = unread or oddity
        if oddity is None:
            oddity = await worktree_left.repository_inside(repository, files, left.tip)
    if oddity is None:
        oddity = await worktree_left.off_branches(repository, record, left.tip)
    told_commits = tuple((sha, subject) for sha, _, subject in commits)
    return Loss(left.ours, told_commits, tuple(changed), tuple(dirty), oddity)


async def _dirty(
    repository: Repository, indexes: Indexes, record: Record, files: Path, tip: str
) -> tuple[list[str], str | None]:
    """What is changed and not committed, as `Loss` has it; and what to say if git could not look at all of it."""
    unread = None
    async with indexes.copied(record) as index:
        run = partial(repository.run, work_tree=files, index=index)
        await read_tree(run, index, tip)
        with suppress(GitError):  # 1: some are changed
            await run("update-index", "-q", "--refresh")
        dirty = _pairs(await run("diff-files", "--name-status", "--ignore-submodules=dirty", "-z"))
        try:
            others = await run("ls-files", "--others", "--exclude-standard", "-z", silent=True)
        except GitError as error:
            if error.exit_code != 0:
                raise
            others, unread = error.output, f"git could not look at all of its files: {error.tail}"
    return [*dirty, *(f"? {os.fsdecode(name)}" for name in others.split(b"\0") if name)], unread


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
