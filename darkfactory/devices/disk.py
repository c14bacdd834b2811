"""Room on the disks: how many bytes can still be written, where the factory and its agents write.

A percentage says nothing on a disk of terabytes, and the root's free space nothing about the others: so it is bytes,
on the very directories that are written to. A file system without inodes left is full too.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from math import inf
from pathlib import Path
from typing import Final, Protocol

import trio
from attrs import Factory, define, frozen

from darkfactory.devices import threads

ANSWER_SECS: Final = 10.0
"""A file system (of the network, mostly) that says nothing for so long is not one to start runs on."""
ONE_SECS: Final = 60.0
"""How long directories that were on one file system are taken to be: a look at it costs less than a thread."""
LOCAL: Final = frozenset({"ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "tmpfs", "xfs", "zfs"})
"""File systems that answer by themselves, out of memory."""
MIN_INODES: Final = 64
"""With fewer left a file system counts as full; a run takes five."""


@frozen
class Room:
    """How much can still be written."""

    free_bytes: int
    """To users without privileges; 0 as well where there are no inodes left or there was no answer."""
    what: str
    """Where that is, and what was found, for a person."""


class Disk(Protocol):
    """Knows where the factory writes."""

    async def room(self, working_dir: Path) -> Room:
        """The least room on any of the file systems that are written to. A checkpoint; bounded by `ANSWER_SECS`."""
        ...

    def room_at_once(self, working_dir: Path) -> Room | None:
        """The same without waiting; None where it takes a thread."""
        ...


@define(eq=False)
class Mounts:
    """The file systems of the state directory's rooms, and of the working directory."""

    directories: tuple[Path, ...]
    """What the factory writes to."""
    # of its own: a mount that hangs holds its thread for as long as it likes, and must hold up nothing else
    _limiter: trio.CapacityLimiter = Factory(lambda: trio.CapacityLimiter(1))
    _one_until: tuple[Path | None, float] = (None, -inf)
    """With this working directory, and until then, the first stands for all, and is asked without a thread: they were
    found on one file system, which is no network's, and does not hang."""

    async def room(self, working_dir: Path) -> Room:
        """Ask them all, in a thread, or what stands for them; see `Disk.room`."""
        known = self.room_at_once(working_dir)
        if known is not None:
            await trio.lowlevel.checkpoint()
            return known
        try:
            with trio.move_on_after(ANSWER_SECS):
                everywhere = (*self.directories, working_dir)
                room, one = await trio.to_thread.run_sync(
                    _look, everywhere, limiter=self._limiter, abandon_on_cancel=True
                )
                if one:
                    self._one_until = working_dir, trio.current_time() + ONE_SECS
                return room
        except RuntimeError as error:
            if not threads.none_left(error):
                raise
            await trio.lowlevel.checkpoint()
            return Room(0, "the system has no thread left to ask from")
        return Room(0, f"the file systems did not answer within {ANSWER_SECS:g} s")

    def room_at_once(self, working_dir: Path) -> Room | None:
        """Ask what stands for them all, if that is known; see `Disk.room_at_once`."""
        with_this, until = self._one_until
        if working_dir != with_this or trio.current_time() >= until:
            return None
        return tightest(self.directories[:1])


def tightest(directories: Iterable[Path]) -> Room:
    """The least room in any of these directories. Blocks.

    One that is not there (any more) is passed over: what is wrong with it is better told when a run wants it.
    """
    rooms = [room for directory in directories if (room := _room(directory)) is not None]
    return min(rooms, key=lambda room: room.free_bytes, default=Room(0, "none of the directories is there"))


def _look(directories: Collection[Path]) -> tuple[Room, bool]:
    return tightest(directories), _are_one(directories)


def _are_one(directories: Iterable[Path]) -> bool:
    """Whether all of them are there, on one local file system and with the same share (quota) of it. Blocks."""
    try:
        found = {(directory.stat().st_dev, os.statvfs(directory)) for directory in directories}
        return len(found) == 1 and all(is_local(device) for device, _ in found)
    except OSError:
        return False


def is_local(device: int) -> bool:
    """Whether the file system with that device number is one of `LOCAL`. OSError if the mounts cannot be read."""
    where = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
        before, _, after = line.partition(" - ")
        if before.split(" ")[2] == where:
            return after.split(" ")[0] in LOCAL
    return False


def _room(directory: Path) -> Room | None:
    try:
        found = os.statvfs(directory)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return Room(0, f"{directory}: {error.strerror}")
    if found.f_files and found.f_favail < MIN_INODES:  # some file systems count none at all
        return Room(0, f"{directory}: {found.f_favail} inodes are free")
    free = found.f_bavail * found.f_frsize
    return Room(free, f"{directory}: {free / 1024**2:.1f} MiB are free")
