"""An append-only journal of JSON lines: the only memory that outlives the process.

What was handed to the kernel survives the death of the factory; what was synced survives the death of the machine.
So `append` writes at once, and whoever is about to act on a record waits until it was synced. One task syncs for
everybody who waits at the time (group commit).

A journal that only grows is read more slowly each day. So it comes in segments, each beginning with a snapshot of what
the lines before it amount to, and old ones can go. Who knows what they amount to is asked for a snapshot when one is
due, and goes on appending to the old segment at once. The new one gets the snapshot under a temporary name, is synced
in a thread, is given whatever was appended meanwhile, and is renamed; until then the old one is the journal. Nobody is
told that anything is durable in between, so nothing that was acknowledged is in the old segment alone.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from datetime import date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final, Protocol, TypeVar

import structlog
import trio
from attrs import define, field
from trio_util import AsyncValue

from darkfactory.devices import segments, threads
from darkfactory.devices.reserve import Reserve
from darkfactory.devices.segments import Line, Segment, decode, encode

SEGMENT_BYTES: Final = 16 * 1024**2
"""A segment that has grown by this much since its snapshot is full."""
RETRY_SECS: Final = 60.0
"""How long nothing is tried again that failed because the disk refused and can wait."""

T = TypeVar("T")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_log = structlog.get_logger("darkfactory")


class Journal(Protocol):
    """Where records go."""

    def append(self, lines: Iterable[Line], *, durable: bool) -> int:
        """Write these lines, one at least, together or not at all; a number for `wait_durable`. No checkpoint.

        OSError when the disk refuses.
        """
        ...

    def wants_snapshot(self, utc: datetime) -> bool:
        """A new segment is due at `utc`: whoever appends is to call `begin_segment` before the next line."""
        ...

    def begin_segment(self, snapshot: Line) -> None:
        """Begin a segment with the line that stands for everything appended so far. No checkpoint."""
        ...

    async def wait_durable(self, number: int) -> None:
        """Wait until everything up to `number` is on the disk."""
        ...

    async def serve(self) -> None:
        """The sync service: runs until it is cancelled; OSError when the disk refuses, or the file was deleted."""
        ...

    def close(self) -> None:
        """Sync what is left and let go of the file. No checkpoint."""
        ...


class Offload(Protocol):
    """Does what may take long where it does not hold the loop."""

    def __call__(self, work: Callable[[], T], /) -> Awaitable[T]:
        """Call it, and wait for its end; once it was called, also under cancellation."""
        ...


@define(eq=False)
class FileJournal:
    """The journal in a directory. One at a time may have it open: the state directory's lock sees to it.

    Opening reads the newest segment. JournalDamaged or StateDirError when it cannot be used; then nothing is held.
    """

    directory: Path
    now: datetime
    """UTC, for the first segment of all."""
    keep: timedelta = timedelta(days=30)
    """How long older segments are kept when the newest no longer needs them."""
    segment_bytes: int = SEGMENT_BYTES
    offload: Offload = field(default=threads.run_sync, repr=False)
    """On a mock clock, threads are not waited for: simulations do the work in place."""
    _past: list[Segment] = field(init=False, repr=False)
    _fd: int = field(init=False)
    _number: int = field(init=False)
    _day: date | None = field(init=False)
    """Of the segment's snapshot; None when it has none that is ours."""
    _size: int = field(init=False)
    _full_at: int = field(init=False)
    """The size from which on a new segment is due."""
    _reserve: Reserve = field(init=False)
    _written: int = field(init=False, default=0)
    _wanted: int = field(init=False, default=0)
    """The newest line that somebody wants on the disk."""
    _synced: AsyncValue[int] = field(init=False, factory=lambda: AsyncValue(0))
    _due: trio.Event = field(init=False, factory=trio.Event)
    _next: tuple[Line, int] | None = field(init=False, default=None)
    """The snapshot of the segment that is to be begun, and the old one's size when it was taken."""
    _unnamed: bool = field(init=False, default=False)
    """The segment's name is not durable yet."""
    _rotate_at: float = field(init=False, default=0.0)
    _fill_at: float = field(init=False, default=0.0)

    def __attrs_post_init__(self) -> None:
        self._past = segments.recover(self.directory)
        self._reserve = Reserve(self.directory / "reserve")
        self._reserve.fill()
        if self._past:
            last = self._past[-1]
            self._fd = os.open(last.path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
            self._take(last.number, last.snapshot, last.size)
        else:
            nothing = {
                "utc": f"{self.now:%Y-%m-%dT%H:%M:%S.%fZ}",
                "kind": segments.SNAPSHOT,
                "version": segments.VERSION,
            }
            first = segments.path_of(self.directory, 1)
            self._fd = segments.create(segments.temporary(first), encode(nothing))
            segments.temporary(first).rename(first)
            self._take(1, nothing, len(encode(nothing)))
        segments.sync_directory(self.directory)
        self._prune()

    def _take(self, number: int, snapshot: Line | None, size: int) -> None:
        """The descriptor is that of this segment now."""
        ours = snapshot is not None and snapshot["version"] == segments.VERSION
        self._number, self._size = number, size
        self._day = datetime.fromisoformat(snapshot["utc"]).date() if snapshot is not None and ours else None
        self._full_at = self.segment_bytes + (len(encode(snapshot)) if snapshot is not None else 0)

    def history(self) -> Iterator[Line]:
        """What the journal held when it was opened, from the newest snapshot on."""
        for segment in self._past:
            for raw in segment.records():
                line = decode(raw)
                assert line is not None
                yield line

    def append(self, lines: Iterable[Line], *, durable: bool) -> int:
        """Write these lines, one at least; a number for `wait_durable`. No checkpoint.

        OSError when the disk refuses, also what was kept for this case; then none of them was written. None of them is
        there at the next start, too, if the machine or the factory dies within them.
        """
        encoded = segments.encode_together(lines)
        data = b"".join(encoded)
        self._write(data)
        self._size += len(data)
        self._written += len(encoded)
        if durable:
            self._wanted = self._written
            self._due.set()
        return self._written

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                try:
                    rest = rest[os.write(self._fd, rest) :]
                except OSError as error:
                    if error.errno not in _FULL or not self._reserve.give_up():
                        raise
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._fd, self._size)  # half a line must not become the beginning of the next
            raise self._named(error) from error

    def _named(self, error: OSError) -> OSError:
        """The same, which came of a descriptor, with the file's name."""
        return OSError(error.errno, error.strerror, str(segments.path_of(self.directory, self._number)))

    def wants_snapshot(self, utc: datetime) -> bool:
        """A new segment is due: this one is full, or of another day, or begins with no snapshot of ours."""
        if self._next is not None or (self._size < self._full_at and self._day == utc.date()):
            return False
        return trio.current_time() >= self._rotate_at

    def begin_segment(self, snapshot: Line) -> None:
        """Begin a segment with the line that stands for everything appended so far; the sync service does it."""
        line = {"utc": snapshot["utc"], "kind": segments.SNAPSHOT, "version": segments.VERSION, **snapshot}
        self._next = line, self._size
        self._due.set()

    async def wait_durable(self, number: int) -> None:
        """Wait until everything up to `number` is on the disk."""
        if number > self._wanted:
            self._wanted = number
            self._due.set()
        await self._synced.wait_value(lambda synced: synced >= number)

    async def serve(self) -> None:
        """Sync whenever somebody wants it, once for all who want it by then; begin segments, and end old ones."""
        while True:
            await self._due.wait()
            self._due = trio.Event()
            rotated = self._next is not None and await self._rotate(*self._next)
            number = self._written
            await self.offload(self._sync)
            if not os.fstat(self._fd).st_nlink:  # what is written there nobody will ever read
                deleted = segments.path_of(self.directory, self._number)
                raise FileNotFoundError(errno.ENOENT, "the journal was deleted under the factory", str(deleted))
            self._unnamed = False
            self._synced.value = number
            if rotated:
                await self.offload(self._prune)
            if not self._reserve.whole and trio.current_time() >= self._fill_at:
                self._fill_at = trio.current_time() + RETRY_SECS
                await self.offload(self._reserve.fill)

    async def _rotate(self, snapshot: Line, since: int) -> bool:
        """Make the next segment and go on in it; False, and the old one goes on, when the disk refuses."""
        path = segments.path_of(self.directory, self._number + 1)
        new = segments.temporary(path)
        data = encode(snapshot)
        fd = -1
        try:
            fd = await self.offload(partial(segments.create, new, data))
            # no checkpoint from here on: what is appended is in the new one, or comes to it
            meanwhile = os.pread(self._fd, self._size - since, since)
            segments.write_all(fd, meanwhile)
            new.rename(path)
        except OSError as error:
            self._next, self._rotate_at = None, trio.current_time() + RETRY_SECS
            _log.warning("journal_segment_failed", detail=str(error))
            if fd >= 0:
                os.close(fd)
                with suppress(OSError):  # the next attempt writes over it
                    new.unlink()
            return False  # noqa: ASYNC910 - what failed came after the checkpoint, or was it
        os.close(self._fd)
        self._fd, self._next, self._unnamed = fd, None, True
        self._take(self._number + 1, snapshot, len(data) + len(meanwhile))
        return True

    def _sync(self) -> None:
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise self._named(error) from error
        if self._unnamed:
            segments.sync_directory(self.directory)

    def _prune(self) -> None:
        try:
            for path in segments.expired(self.directory, self.keep):
                path.unlink()
        except OSError as error:
            _log.warning("journal_not_pruned", detail=str(error))

    def close(self) -> None:
        """Sync what is left and let go of the file."""
        if self._fd >= 0:
            try:
                self._sync()
            finally:
                os.close(self._fd)
                self._fd = -1
