"""Whose process is it? Finding and ending everything that a run started, wherever it has hidden.

A process group is not enough: real agent CLIs start each tool command in a session of its own, daemons fork twice, and
some programs overwrite their environment. So a process belongs to a run by any of: the mark in its environment, a
session in which a member was seen, being a member's child, or having been noted as a member before (by pid and start
time, since pids come back). Never by name.

Where we are a child subreaper (`adopt_orphans`), one more sign is left to a process that has thrown all of these away:
when its parent dies it becomes our child. Which run it came from nobody can tell then, so it is ended with the last of
the runs that were alive when it began.

All of it is read from /proc (`procfs`), which takes its time, so all runs of a round share one scan; and a subreaper
mostly needs none. What a run leaves has become its child by the time that the leader's exit is known, and if there is
no child that it does not know, nothing was left (`left_nobody`).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Collection, Iterator, Set
from functools import partial
from time import perf_counter

import trio
from attrs import Factory, define, frozen

from darkfactory.devices import procfs, threads
from darkfactory.devices.procfs import KnownMarks, ProcessInfo, Snapshot

SWEEP_LIMIT_SECS = 5.0
NO_THREAD_SECS = 0.003
"""A scan that was shorter is not worth a thread: to get there and back takes up to 1 ms, for which a restart waits."""
_PR_SET_CHILD_SUBREAPER = 36
_FIRST_PAUSE_SECS = 0.001
_LAST_PAUSE_SECS = 0.05
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN})
"""What passes when other runs have ended: then it is tried again, since nobody may be called dead unseen."""


@define(eq=False)
class Kin:
    """What is known of one run's processes; it learns with every snapshot that it is shown."""

    mark: str
    """INSTANCE/RUN; one that ends in a slash stands for all runs of the instance."""
    leader: int | None = None
    """The pid of our own child, which leads the run's first session; None where that is no child of ours."""
    start: int = 0
    """The leader's."""
    over: bool = False
    """It was swept: it can make no orphans any more."""
    _noted: dict[int, int] = Factory(dict)
    """Start time by pid, of the members in the latest snapshot."""
    _sessions: dict[int, int | None] = Factory(dict)
    """The start time of the session's leader when the session was first seen; None: it had gone by then."""

    @classmethod
    def of_leader(cls, mark: str, pid: int, start: int) -> Kin:
        """The kin of a child of ours that leads a session and has not been reaped."""
        return cls(mark, pid, start, noted={pid: start}, sessions={pid: start})

    def adopt(self, process: ProcessInfo) -> None:
        """Count a process in that nothing else gives away."""
        self._noted[process.pid] = process.start

    def members(self, snapshot: Snapshot) -> list[ProcessInfo]:
        """Who belongs to the run, zombies included; also note them for the next time."""
        members: dict[int, ProcessInfo] = {}
        found = [*snapshot.carrying(self.mark), *self._still_there(snapshot)]
        while found:
            process = found.pop()
            if process.pid in members or process.pid in snapshot.protected:
                continue
            members[process.pid] = process
            found += snapshot.children.get(process.pid, ())
            session = process.session
            if session not in self._sessions and session not in snapshot.protected_sessions:
                leader = snapshot.processes.get(session)
                self._sessions[session] = leader.start if leader else None
                found += snapshot.sessions[session]
        self._noted = {process.pid: process.start for process in members.values()}
        return list(members.values())

    def _still_there(self, snapshot: Snapshot) -> Iterator[ProcessInfo]:
        for pid, start in self._noted.items():
            process = snapshot.processes.get(pid)
            if process is not None and process.start == start:
                yield process
        for session, leader_start in self._sessions.items():
            leader = snapshot.processes.get(session)
            # A leader that was not there before means that the session died out and its number was given away.
            if leader is None or leader.start == leader_start:
                yield from snapshot.sessions.get(session, ())


@frozen
class Swept:
    """What a sweep came to, "PID NAME" each."""

    found: tuple[str, ...]
    left: tuple[str, ...]
    """Those of `found` that were still alive at the limit; empty when all is well."""


@define(eq=False)
class ProcessTable:
    """Takes snapshots, and shares each among all who asked before it was begun."""

    instance: str = ""
    adopts: bool = False
    """We are a child subreaper, and the orphans that come to us are those of runs."""
    strangers: dict[int, int] = Factory(dict)
    """Children of ours that are nobody's to end, whatever they carry: start time by pid."""
    unseen: set[str] = Factory(set)
    """The marks of runs that were called over without a scan since the last `end_unseen`."""
    limiter: trio.CapacityLimiter = Factory(lambda: trio.CapacityLimiter(1))
    """Its own: other work in threads must not hold up the end of a run."""
    _lock: trio.Lock = Factory(trio.Lock)
    _kin: dict[int, Kin] = Factory(dict)
    """By leader's pid: whose leader has not been reaped."""
    _starting: int = 0
    """Leaders that exist, maybe, and are not in `_kin` yet."""
    _starts: int = 0
    _begun: int = 0
    _taken: int = 0
    """The number of the scan in `_latest`."""
    _latest: Snapshot | None = None
    _orphans: tuple[ProcessInfo, ...] = ()
    """Those in `_latest`, if it is settled."""
    _marks: KnownMarks = Factory(dict)
    _scan_secs: float = 0.0
    """What the latest scan took."""

    async def snapshot(self) -> Snapshot:
        """Read /proc, in a thread if that takes long; what is returned was begun after the call. A checkpoint.

        Waits while there are no descriptors, threads or memory for it.
        """
        asked = self._begun
        async with self._lock:
            if self._latest is None or self._taken <= asked:
                self._begun += 1
                number = self._begun
                quiet, starts = self._starting == 0, self._starts
                self._latest = await self._scan()
                settled = quiet and self._starts == starts
                self._orphans = tuple(self._unmarked_orphans(self._latest)) if settled and self.adopts else ()
                self._taken = number
            return self._latest

    async def _scan(self) -> Snapshot:
        while True:
            began = perf_counter()
            try:
                if self._scan_secs < NO_THREAD_SECS:
                    snapshot = procfs.scan(self._marks)
                else:
                    snapshot = await trio.to_thread.run_sync(procfs.scan, self._marks, limiter=self.limiter)
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
            except RuntimeError as error:
                if not threads.none_left(error):
                    raise
            else:
                self._scan_secs = perf_counter() - began
                return snapshot  # noqa: ASYNC910 - the lock was a checkpoint
            await trio.sleep(_LAST_PAUSE_SECS)

    async def memory_of(self, pids: Collection[int]) -> int:
        """What these processes take, see `procfs.memory_of`; in a thread. A checkpoint.

        Waits while there are no descriptors or memory for it.
        """
        while True:
            try:
                return await threads.run_sync(partial(procfs.memory_of, pids), limiter=self.limiter)
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
            await trio.sleep(_LAST_PAUSE_SECS)

    async def sweep(self, kin: Kin, *, limit_secs: float = SWEEP_LIMIT_SECS) -> Swept:
        """Kill the members until a scan finds none alive, at most `limit_secs` long.

        A checkpoint. Cancelled, it leaves alive whom it did not get to; whoever wants the promise kept shields it.
        """
        found: dict[tuple[int, int], str] = {}
        pause = _FIRST_PAUSE_SECS
        snapshot = await self.snapshot()  # before the limit: nobody is called dead unseen
        alive = self._living(kin, snapshot)
        with trio.move_on_after(limit_secs):  # noqa: ASYNC912 -- nothing to wait for if nobody is alive
            while alive or snapshot.in_exec:
                for process in alive:
                    found[process.pid, process.start] = str(process)
                    kill(process)
                await trio.sleep(pause)
                pause = min(pause * 2, _LAST_PAUSE_SECS)
                snapshot = await self.snapshot()
                alive = self._living(kin, snapshot)
        return Swept(tuple(found.values()), tuple(str(process) for process in alive))

    def left_nobody(self, kin: Kin) -> bool:
        """Whether a run whose leader has ended surely has left no descendant; to be asked before the leader is reaped.

        About 50 us, no checkpoint. What carries its mark and is no descendant, since a stranger has started it with the
        run's environment (as `at` does), is left to `end_unseen`.
        """
        if not self.adopts:
            return False
        with contextlib.suppress(OSError):  # no descriptor is left, or somebody else has reaped a child of ours
            children = procfs.own_children()
            # the leader is one of them, or the kernel does not tell
            if kin.leader in children and all(map(self._is_for_ourselves, children - self._kin.keys())):
                self.unseen.add(kin.mark)
                return True
        return False

    def _is_for_ourselves(self, child: int) -> bool:
        """Whether it is not of a run: what we have started for ourselves shares our session, or is known."""
        return os.getsid(child) == os.getsid(0) or self.strangers.get(child) == procfs.start_time(child)

    async def end_unseen(self) -> None:
        """See `end_carriers`, with a scan if there are any such marks. A checkpoint."""
        marks = frozenset(self.unseen)
        if marks:
            self.end_carriers(marks, await self.snapshot())
        else:
            await trio.lowlevel.checkpoint()

    def end_carriers(self, marks: Set[str], snapshot: Snapshot) -> None:
        """Kill what carries one of these marks, of runs that were called over without a scan. No checkpoint.

        They are forgotten when nobody is seen to carry them; for a snapshot that was begun after they were noted. A run
        may have begun again under its mark: what waited for it has ended, and it was started afresh.
        """
        if self._starting:
            return
        carried = set()
        for mark in marks - {kin.mark for kin in self._kin.values() if not kin.over}:
            for process in snapshot.carrying(mark):
                if process.alive:
                    carried.add(mark)
                    kill(process)
        if not snapshot.in_exec:
            self.unseen -= marks - carried

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """For as long as a leader is being started: a child that is not known yet may be that one."""
        self._starting += 1
        self._starts += 1
        try:
            yield
        finally:
            self._starting -= 1

    def add(self, kin: Kin) -> None:
        """A run lives."""
        assert kin.leader is not None
        self._kin[kin.leader] = kin

    def discard(self, kin: Kin) -> None:
        """It is over, and its leader was reaped."""
        assert kin.leader is not None
        del self._kin[kin.leader]

    def adopted(self) -> list[ProcessInfo] | None:
        """Orphans that have come to us and carry no mark of ours; the dead ones are reaped. About 50 us, no checkpoint.

        Only known pids are ever reaped: a child that we started to wait for it is in our own session (then it is none
        of our business), leads a run, or is being started: then nothing can be told now, and the answer is None, as it
        is while there are no descriptors.
        """
        if not self.adopts:
            return []
        if self._starting:
            return None
        try:
            return self._adopted()
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                raise
        return None

    def _adopted(self) -> list[ProcessInfo]:
        found: list[ProcessInfo] = []
        for pid in procfs.own_children() - self._kin.keys():
            process = procfs.look(pid)
            if process is None or not self._is_orphan(process, frozenset({os.getsid(0)})):
                continue
            if process.alive:
                found.append(process)
            else:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
        return found

    def is_nobodys(self, orphan: ProcessInfo, *, but: Kin | None = None) -> bool:
        """Whether every run is over that was alive when it began, the one that is being swept left aside."""
        return all(kin is but or kin.over or kin.start > orphan.start for kin in self._kin.values())

    def _unmarked_orphans(self, snapshot: Snapshot) -> Iterator[ProcessInfo]:
        """The runs' orphans that have come to us without a mark; for a snapshot in which every leader is known."""
        for process in snapshot.children.get(snapshot.own_pid, ()):
            if process.pid not in snapshot.in_exec and self._is_orphan(process, snapshot.protected_sessions):
                yield process

    def _is_orphan(self, process: ProcessInfo, own_sessions: Collection[int]) -> bool:
        """Whether a child of ours is a run's orphan without a mark.

        Whatever a run starts is in sessions that the run made; what we start for ourselves shares ours.
        """
        return not (
            process.pid in self._kin
            or process.session in own_sessions
            or self._is_stranger(process)
            or any(mark.startswith(f"{self.instance}/") for mark in process.marks)
        )

    def _living(self, kin: Kin, snapshot: Snapshot) -> list[ProcessInfo]:
        """The members that are alive; the dead among them are reaped if that has fallen to us.

        Where we are a subreaper (or PID 1), a run's orphans become our children, and nobody else waits for them. The
        leader stays: its launcher reaps it, and until then holds its pid and so its group.
        """
        if kin.leader is not None and snapshot is self._latest:
            for process in self._orphans:
                if self.is_nobodys(process, but=kin):
                    kin.adopt(process)
        members = [member for member in kin.members(snapshot) if not self._is_stranger(member)]
        for process in members:
            if not process.alive and process.ppid == snapshot.own_pid and process.pid != kin.leader:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(process.pid, os.WNOHANG)
        return [process for process in members if process.alive]

    def _is_stranger(self, process: ProcessInfo) -> bool:
        return self.strangers.get(process.pid) == process.start


def kill(process: ProcessInfo) -> None:
    """End it, or leave that to the next look where there is no descriptor for it just now."""
    try:
        procfs.kill(process)
    except OSError as error:
        if error.errno not in _EXHAUSTED:
            raise


def adopt_orphans() -> None:
    """Make this process a child subreaper, for good: orphaned descendants become its children, not those of init."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
