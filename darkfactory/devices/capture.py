"""Output by file, not by pipe: following what children append to their stdout and stderr files.

With a pipe, a reader that stalls for seconds costs four of six real agent CLIs the rest of their output, the result
line included. So the children write regular files themselves, and nothing that happens here can hold them up; all that
is left to do is to hear of growth soon and cheaply. A watch that fires at every write doubles the child's time. So a
watch fires once (IN_ONESHOT) and is armed again at most every 30 ms, and an idle file costs nothing. Where inotify
cannot be had, for all files or for some, those are polled.

What cannot be seen: a file that was cut and has already grown past what was read of it.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from time import perf_counter

import trio
from attrs import Factory, define

from darkfactory.devices.process import Sink
from darkfactory.model.signals import Stream

ROUND_SECS = 0.03
"""No file is looked at more often than this."""
POLL_SECS = 0.05
"""How often a file without a watch is looked at."""
CHUNK_BYTES = 64 * 1024
ROUND_BYTES = 4 * 1024 * 1024
"""The most that is read of one file before its sink is flushed."""

RESTS = 0.25
"""A turn is followed by a rest of its own length times this for each who waits for the next one."""

_IN_MODIFY = 0x0000_0002
_IN_Q_OVERFLOW = 0x0000_4000
_IN_IGNORED = 0x0000_8000
_IN_ONESHOT = 0x8000_0000
_EVENT = struct.Struct("iIII")


class Inotify:
    """One inotify instance of the kernel; OSError when there are no more to be had."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd = self._checked(self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))

    def arm(self, fd: int) -> int:
        """Watch an open file for its next change; the watch's number. OSError (ENOSPC) when there are none left."""
        path = f"/proc/self/fd/{fd}".encode()  # the file itself, whatever has become of its name
        return self._checked(self._libc.inotify_add_watch(self.fd, path, ctypes.c_uint32(_IN_MODIFY | _IN_ONESHOT)))

    def disarm(self, watch: int) -> None:
        """Forget a watch; it may have fired already."""
        self._libc.inotify_rm_watch(self.fd, watch)

    def ended(self) -> Iterator[int | None]:
        """The watches that have fired since the last call; None: events were lost, it may have been any. Does not wait.

        A watch has fired when it reports IN_IGNORED, not yet at IN_MODIFY: in between the kernel takes it down, and a
        file armed again in that moment would get the dying watch.
        """
        try:
            events = os.read(self.fd, 64 * 1024)
        except BlockingIOError:
            return
        offset = 0
        while offset < len(events):
            watch, mask, _cookie, name_length = _EVENT.unpack_from(events, offset)
            offset += _EVENT.size + name_length
            if mask & _IN_Q_OVERFLOW:
                yield None
            elif mask & _IN_IGNORED:
                yield watch

    def close(self) -> None:
        """Give it back, with all its watches."""
        os.close(self.fd)

    @staticmethod
    def _checked(result: int) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result


@define(eq=False)
class _File:
    stream: Stream
    fd: int
    offset: int = 0
    watch: int | None = None
    """The armed watch; None while nothing will tell us of a change."""

    def read(self, sink: Sink) -> int:
        """Feed the next chunk; how many bytes it had, 0 at the end."""
        data = os.pread(self.fd, CHUNK_BYTES, self.offset)
        if not data and os.fstat(self.fd).st_size < self.offset:
            self.offset = 0
            sink.truncated(self.stream)
            data = os.pread(self.fd, CHUNK_BYTES, 0)
        if data:
            self.offset += len(data)
            sink.feed(self.stream, data)
        return len(data)

    def size(self) -> int:
        return os.fstat(self.fd).st_size

    def at_end(self) -> bool:
        return self.size() == self.offset


@define(eq=False)
class _Watches:
    """Which watch belongs to which file, and whom its end concerns."""

    _inotify: Inotify | None
    """None: there is none to be had."""
    _armed: dict[int, tuple[_File, Callable[[], None]]] = Factory(dict)

    def arm(self, file: _File, wake: Callable[[], None]) -> bool:
        """See to it that `wake` is called at the file's next change; False if that is not to be had."""
        if file.watch is None and self._inotify is not None:
            try:
                file.watch = self._inotify.arm(file.fd)
            except OSError:
                return False  # no watches left (ENOSPC); there may be some the next time
            self._armed[file.watch] = (file, wake)
        return file.watch is not None

    def disarm(self, file: _File) -> None:
        if file.watch is not None and self._inotify is not None:
            self._inotify.disarm(file.watch)
            del self._armed[file.watch]
            file.watch = None

    async def serve(self) -> None:
        """Wake whoever's watch has fired, until cancelled."""
        if self._inotify is None:
            await trio.sleep_forever()
        while True:
            await trio.lowlevel.wait_readable(self._inotify.fd)
            for ended in self._inotify.ended():
                for watch in list(self._armed) if ended is None else [ended]:
                    if watch in self._armed:  # else it was disarmed
                        file, wake = self._armed.pop(watch)
                        file.watch = None
                        wake()

    def close(self) -> None:
        if self._inotify is not None:
            self._inotify.close()


@define(eq=False)
class _Turns:
    """Whose turn it is to read a chunk: one live run's and one ended run's at a time, first come, first served.

    When a hundred runs flood, all their tasks are ready at once, and whoever else is ready would wait until each had
    read its chunk; so between any two chunks everybody else has a go. And reading is all that this process does then:
    it takes what the kernel gives to one busy session among a hundred, and a decision waits until it is given more. So
    the more runs wait for a turn, the longer nobody reads after one, and the process is seldom the one that has used up
    its share. What is not read waits in the files. For the rest of an ended run's output its verdict waits, so that is
    read without rests.
    """

    _live: trio.Lock = Factory(trio.Lock)
    _ended: trio.Lock = Factory(trio.Lock)

    @asynccontextmanager
    async def live(self) -> AsyncIterator[None]:
        """The body reads one chunk; none of the live reads for a while afterwards, if others wait. A checkpoint."""
        async with self._live:
            begun = perf_counter()
            yield
            crowd = self._live.statistics().tasks_waiting
            if crowd:
                await trio.sleep((perf_counter() - begun) * crowd * RESTS)

    def ended(self) -> trio.Lock:
        """The body reads one chunk."""
        return self._ended


@define(eq=False)
class Followed:
    """The output of one run, from its launch until `finish`."""

    _files: tuple[_File, ...]
    _sink: Sink
    _turns: _Turns
    """One for all runs."""
    _forget: Callable[[Followed], None]
    _max_bytes: int | None = None
    """Fed more than this, it does not read on at the end; None: whatever there is."""
    _fed_bytes: int = 0
    _lock: trio.Lock = Factory(trio.Lock)
    """Held by whoever feeds the sink: the reading task, at last `finish`."""
    _changed: trio.Event = Factory(trio.Event)
    _reading: trio.CancelScope = Factory(trio.CancelScope)
    _finished: bool = False
    """`finish` was called."""
    _in_line: trio.CancelScope = Factory(trio.CancelScope)
    """Where the task that holds the lock waits for its turn."""

    async def finish(self) -> None:
        """Feed the sink the rest, flush it, and close the files; for when nobody writes any more.

        To be called once, also while nobody serves. A checkpoint. It takes as long as there is something to read and
        it may be read. Cancelled, it closes the files all the same.
        """
        self._finished = True
        self._in_line.cancel()
        try:
            async with self._lock:
                self._reading.cancel()
                await self._read(limit=None)
                await self._sink.flush()  # also what a cancelled round has fed
        finally:
            # Should the reading task still hold the lock: it sees `_finished` before it touches a file again.
            self._reading.cancel()
            self._forget(self)
            for file in self._files:
                os.close(file.fd)

    async def serve(self, watches: _Watches) -> None:
        """The reading task: feed what comes, until finished. A sink that makes us wait holds up nobody else."""
        with trio.CancelScope() as self._reading:
            if self._finished:
                self._reading.cancel()
            try:
                while True:
                    async with self._lock:
                        if await self._read(limit=ROUND_BYTES):
                            await self._sink.flush()
                    await trio.sleep(ROUND_SECS)
                    self._changed = trio.Event()
                    watched = [watches.arm(file, self._wake) for file in self._files]
                    # What was written between the reading and the arming has fired no watch: look once more.
                    if all(file.at_end() for file in self._files):
                        if all(watched):
                            await self._changed.wait()
                        else:
                            await trio.sleep(POLL_SECS - ROUND_SECS)
            finally:
                for file in self._files:
                    watches.disarm(file)

    def _wake(self) -> None:
        self._changed.set()

    async def _read(self, limit: int | None) -> bool:
        """Read each file to its end, or about `limit` bytes of it; whether the sink was told anything.

        With a limit it is the reading task that reads, and it stops as soon as `finish` is called. The lock that the
        caller holds was a checkpoint.
        """
        told = False
        sizes = [file.size() for file in self._files]
        self._sink.written(sum(sizes))
        for file, whole in zip(self._files, sizes, strict=True):
            if whole == file.offset:
                continue
            count = 0
            while limit is None or (count < limit and not self._finished):
                if limit is None and self._max_bytes is not None and self._fed_bytes > self._max_bytes:
                    break
                offset, size = file.offset, 0
                with trio.CancelScope() as self._in_line:
                    async with self._turns.ended() if limit is None else self._turns.live():
                        if limit is None or not self._finished:  # else the files may be closed
                            size = file.read(self._sink)
                self._fed_bytes += size
                told = told or size > 0 or file.offset != offset
                if not size:
                    break
                count += size
        return told  # noqa: ASYNC910 - see above


@define(eq=False)
class Follower:
    """The follower service of a factory: one inotify instance, and a task for each run while it is served.

    The tasks take turns, a chunk each.
    """

    _open_inotify: Callable[[], Inotify] = Inotify
    _turns: _Turns = Factory(_Turns)
    _all: set[Followed] = Factory(set)
    _serving: tuple[trio.Nursery, _Watches] | None = None

    def follow(self, files: Mapping[Stream, int], sink: Sink, max_bytes: int | None = None) -> Followed:
        """Begin to feed a sink from open, readable descriptors, which from now on are ours to close.

        May be called before, while and after it is served; `Followed.finish` must follow.
        """
        opened = tuple(_File(stream, fd) for stream, fd in files.items())
        followed = Followed(opened, sink, self._turns, forget=self._all.discard, max_bytes=max_bytes)
        self._all.add(followed)
        if self._serving is not None:
            nursery, watches = self._serving
            nursery.start_soon(followed.serve, watches)
        return followed

    async def serve(self) -> None:
        """Read until cancelled. What a sink raises ends it. At most one at a time."""
        try:
            inotify = self._open_inotify()
        except OSError:
            inotify = None  # this user's instances or our descriptors are used up: poll
        watches = _Watches(inotify)
        try:
            async with trio.open_nursery() as nursery:
                self._serving = nursery, watches
                try:
                    for followed in self._all:
                        nursery.start_soon(followed.serve, watches)
                    await watches.serve()
                finally:
                    self._serving = None  # before the nursery closes: nothing is started in it any more
        finally:
            watches.close()
