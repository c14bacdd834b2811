"""One at a time changes a repository: of the tasks of this process, and of all processes of ours on the machine.

Git's own locks make the second one fail, not wait, and fleets that ran it in parallel have spoilt their refs.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio
from attrs import define, field

from darkfactory.devices.git import GitError
from darkfactory.devices.worktree_store import opened

LOCK_SECS: Final = 20.0
"""The longest that anybody waits for a repository's lock; it is held for a few commands that take milliseconds."""
LOCK: Final = "darkfactory.lock"
"""The lock's file, in the repository's common directory."""
_LOCK_PAUSE_SECS: Final = 0.02


@define(eq=False)
class RepositoryLocks:
    """The locks of repositories, by their common directories."""

    _ours: dict[Path, trio.Lock] = field(factory=dict)
    """Of the tasks of this process one at a time tries the lock that all processes share."""

    @asynccontextmanager
    async def held(self, common: Path) -> AsyncIterator[None]:
        """Be the only one of us, in any process, who changes the repository. GitError after `LOCK_SECS`."""
        lock = self._ours.setdefault(common, trio.Lock())
        held: int | None = None
        with trio.move_on_after(LOCK_SECS):
            await lock.acquire()
            try:
                held = await _flock(common)
            finally:
                if held is None:
                    lock.release()
        if held is None:
            detail = f"{common / LOCK} was held by others for {LOCK_SECS:g} s (fuser -v tells by whom)"
            raise GitError(("lock",), None, detail)
        try:
            yield
        finally:
            os.close(held)
            lock.release()


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
