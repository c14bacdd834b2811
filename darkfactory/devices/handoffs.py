"""Where the contexts of handoffs lie: a file each, whole or not there."""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import datetime
from functools import partial
from operator import eq
from pathlib import Path
from typing import Any, Protocol

import trio
from attrs import frozen

from darkfactory.devices import threads
from darkfactory.devices.segments import sync_directory
from darkfactory.devices.statedir import write_atomically

Same = Callable[[str, str], bool]
"""Whether the text that an id has and the one that it is to have amount to the same."""


class HandoffStore(Protocol):
    """Keeps the contexts of handoffs, by their ids, which are safe as file names."""

    async def write(self, handoff_id: str, text: str, same: Same = eq) -> str:
        """Write a context; the file's path, where it is whole and durable now.

        What is written again stays as it was, if it is the `same`. FileExistsError when the id has another text
        already, OSError when the disk refuses.
        """
        ...

    async def remove(self, handoff_id: str) -> None:
        """Take it back, if it is there."""
        ...

    async def prune(self, since: datetime, waiting: Collection[str]) -> None:
        """Delete those that were written earlier, but for those of `waiting`: ids whose receiver was not told yet."""
        ...


@frozen
class HandoffFiles:
    """Files `<id>.json` in one directory (mode 0700), which is made when it is needed."""

    path: Path
    in_thread: threads.InThread = threads.in_thread

    async def write(self, handoff_id: str, text: str, same: Same = eq) -> str:
        """See `HandoffStore`."""
        file: str = await self._in_thread(partial(self._write, handoff_id, text, same))
        return file

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        try:
            return await self.in_thread(work)
        except RuntimeError as error:
            if not threads.none_left(error):
                raise
            raise OSError(errno.EAGAIN, "the system has no thread left to work in") from None

    def _write(self, handoff_id: str, text: str, same: Same) -> str:
        self.path.mkdir(mode=0o700, exist_ok=True)
        file = self.path / f"{handoff_id}.json"
        if file.exists():
            if not same(file.read_text(encoding="utf-8", errors="replace"), text):
                raise FileExistsError(f"{file}: there is another handoff of this id")
        else:
            write_atomically(file, text, sync=True)
            sync_directory(self.path)
        return str(file)

    async def remove(self, handoff_id: str) -> None:
        """See `HandoffStore`."""
        await trio.lowlevel.checkpoint()
        with suppress(OSError):
            await self._in_thread((self.path / f"{handoff_id}.json").unlink)

    async def prune(self, since: datetime, waiting: Collection[str]) -> None:
        """See `HandoffStore`."""
        await trio.lowlevel.checkpoint()
        with suppress(OSError):  # what cannot be deleted now can be at the next look
            await self._in_thread(partial(self._prune, since.timestamp(), waiting))

    def _prune(self, since: float, waiting: Collection[str]) -> None:
        for file in self.path.glob("*.json"):
            if file.stem not in waiting and file.stat().st_mtime < since:
                file.unlink()
