"""Indexes of our own for worktrees.

An index is what git knows of a worktree's files, so that it need not read those that have not changed. The worktree's
own is the agent's to rewrite: by one that says that a file is unchanged its work would be overlooked. So a copy is kept
of what it was when the worktree began, and git is given copies of that copy.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import trio
from attrs import frozen

from darkfactory.devices import threads
from darkfactory.devices.git import GitError
from darkfactory.devices.worktree_store import Record, WorktreeStore, opened

_Run = Callable[..., Awaitable[bytes]]


@frozen
class Indexes:
    """Makes them. Those of the moment are gone when they were used."""

    store: WorktreeStore
    limiter: trio.CapacityLimiter

    def keep(self, record: Record) -> None:
        """Keep a copy of the worktree's own, which is as git made it. Blocks.

        The copy has the original's time: by that git knows which entries are too young to be relied on.
        """
        _copy(record.own / "index", self.store.index(record.run))

    @asynccontextmanager
    async def copied(self, record: Record) -> AsyncIterator[Path]:
        """An index of our own: what it knows of files that have not changed since the beginning need not be read."""
        async with self.new(record) as index:
            await self._in_thread(partial(_copy, self.store.index(record.run), index))
            yield index

    @asynccontextmanager
    async def new(self, record: Record) -> AsyncIterator[Path]:
        """The path of an index of our own that is not there yet."""
        await trio.lowlevel.checkpoint()
        index = self.store.scratch / f"{record.run}-{os.urandom(4).hex()}.index"
        try:
            yield index
        finally:
            _drop(index)

    async def give(self, index: Path, record: Record) -> None:
        """Put a copy of an index in the place of the worktree's own. OSError, for example where a link is there."""
        await self._in_thread(partial(_give, index, record))

    async def _in_thread(self, work: Callable[[], None]) -> None:
        await threads.run_sync(work, limiter=self.limiter)


async def read_tree(run: _Run, index: Path, tip: str) -> None:
    """Have an index be of that commit, and go on knowing what it knew of files. `run` runs git with it."""
    try:
        await run("read-tree", "-m", tip)
    except GitError:
        _drop(index)
        await run("read-tree", tip)


def _give(index: Path, record: Record) -> None:
    with (
        opened(record.common) as common,
        opened("worktrees", common) as worktrees,
        opened(record.run, worktrees) as own,
    ):
        copy = Path(f"/proc/self/fd/{own}")
        shutil.copy2(index, copy / "index.settled", follow_symlinks=False)
        os.rename("index.settled", "index", src_dir_fd=own, dst_dir_fd=own)


def _copy(path: Path, copy: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.copy2(path, copy, follow_symlinks=False)


def _drop(index: Path) -> None:
    for path in (index, index.with_name(f"{index.name}.lock")):
        path.unlink(missing_ok=True)
