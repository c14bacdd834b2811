"""What /proc tells: who is there, whose child, in which session, with which mark.

A scan costs about 12 us a process. The marks of a process are read once: it is born with its parent's, and whoever has
been seen with one keeps it for good. The kernel's own threads, on a small machine the most of what is there, are passed
over.
"""

from __future__ import annotations

import errno
import os
import signal
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache

from attrs import frozen

MARK = "DARKFACTORY_RUN"
"""The environment variable that says to which run a process belongs: INSTANCE/RUN, more of them joined by colons."""
_KTHREADD = 2
"""The pid of the parent of all kernel threads, where we see them: elsewhere it is anybody's."""
_PF_KTHREAD = 0x0020_0000
"""Among the flags of a kernel thread, in its stat."""
_READ_BYTES = 16 * 1024
_GONE = (FileNotFoundError, ProcessLookupError, PermissionError)
"""What reading of a process raises that has ended or is another user's. Nothing else (EMFILE!) may pass for "gone"."""


@frozen
class ProcessInfo:
    """One line of /proc, as it was when it was read."""

    pid: int
    ppid: int
    session: int
    start: int
    """Clock ticks since boot: with the pid, the identity of a process."""
    alive: bool
    """False for a zombie: it holds its pid until it is reaped and can do nothing any more."""
    name: str
    marks: tuple[str, ...]
    """INSTANCE/RUN of each factory around it, the outermost first; empty where there is none or it cannot be read."""

    def __str__(self) -> str:
        return f"{self.pid} {self.name}"


@frozen
class Snapshot:
    """All processes at one moment, found by pid, parent, session and mark."""

    own_pid: int
    processes: dict[int, ProcessInfo]
    children: dict[int, list[ProcessInfo]]
    sessions: dict[int, list[ProcessInfo]]
    marked: dict[str, list[ProcessInfo]]
    protected: frozenset[int]
    """Ourselves and our ancestors: a factory inside another one's run carries its mark, and must not end itself."""
    protected_sessions: frozenset[int]
    """The sessions of the protected, and 0 (kernel threads, and whoever is outside our PID namespace)."""
    in_exec: frozenset[int] = frozenset()
    """Processes between two programs: for that moment they show no environment, so whose they are is still open."""

    @classmethod
    def of(cls, processes: Iterable[ProcessInfo], own_pid: int, in_exec: Iterable[int] = ()) -> Snapshot:
        """Index the processes."""
        by_pid = {process.pid: process for process in processes}
        children: dict[int, list[ProcessInfo]] = defaultdict(list)
        sessions: dict[int, list[ProcessInfo]] = defaultdict(list)
        marked: dict[str, list[ProcessInfo]] = defaultdict(list)
        for process in by_pid.values():
            children[process.ppid].append(process)
            sessions[process.session].append(process)
            for mark in process.marks:
                marked[mark].append(process)
        protected = set()
        ancestor: int | None = own_pid
        while ancestor is not None and ancestor not in protected:
            protected.add(ancestor)
            ancestor = by_pid[ancestor].ppid if ancestor in by_pid else None
        return cls(
            own_pid=own_pid,
            processes=by_pid,
            children=dict(children),
            sessions=dict(sessions),
            marked=dict(marked),
            protected=frozenset(protected),
            protected_sessions=frozenset({0} | {by_pid[pid].session for pid in protected if pid in by_pid}),
            in_exec=frozenset(in_exec),
        )

    def carrying(self, mark: str) -> Iterator[ProcessInfo]:
        """Whoever carries the mark, or any mark that begins with it if it ends in a slash."""
        if mark.endswith("/"):
            for whole, processes in self.marked.items():
                if whole.startswith(mark):
                    yield from processes
        else:
            yield from self.marked.get(mark, ())


def own_children() -> set[int]:
    """The pids of our children, zombies included; none where the kernel was built without the files that tell.

    Orphans go to the first thread of a subreaper, and so do the children of threads that end: hence that one last.
    """
    found: set[int] = set()
    for thread in reversed(os.listdir("/proc/self/task")):  # noqa: PTH208 -- as in `scan`
        found.update(map(int, (_read(f"/proc/self/task/{thread}/children") or b"").split()))
    return found


def memory_of(pids: Iterable[int]) -> int:
    """What these processes take together, in bytes: resident or swapped, shared pages in fair shares (PSS).

    Where the kernel does not let us see that, it is the resident size, which counts shared pages for each. Blocks for
    about 50 us a process, and longer for large ones; so call it in a thread.
    """
    total = 0
    for pid in pids:
        rollup = _read(f"/proc/{pid}/smaps_rollup")
        if rollup:
            for line in rollup.splitlines():
                if line.startswith((b"Pss:", b"SwapPss:")):
                    total += int(line.split()[1]) * 1024
        elif statm := _read(f"/proc/{pid}/statm"):
            total += int(statm.split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return total


KnownMarks = dict[tuple[int, int], tuple[str, ...]]
"""The marks of processes by pid and start time."""


def scan(known: KnownMarks | None = None) -> Snapshot:
    """Read all of /proc. Blocks for about 12 us a process, so call it in a thread.

    With `known`, the marks that were read before are not read again; it becomes those of the processes found.
    """
    known = {} if known is None else known
    found: KnownMarks = {}
    processes, in_exec = [], []
    entries = os.listdir("/proc")  # noqa: PTH208 -- twice as fast as Path.iterdir
    kernels = _kernels_own()  # after the listing: if somebody else had one of these pids then, he has ended
    for entry in entries:
        if not entry.isdecimal() or entry in kernels or (stat := _read(f"/proc/{entry}/stat")) is None:
            continue
        pid, fields = int(entry), _stat_fields(stat)
        identity = pid, int(fields[19])
        marks = known.get(identity)
        if marks is None:
            environ = _read(f"/proc/{entry}/environ") if fields[20] != b"0" else b""  # a kernel thread or a zombie
            if environ == b"" and (again := _read(f"/proc/{entry}/stat")) is not None:
                environ = _read(f"/proc/{entry}/environ")
                if environ == b"" and _has_no_environment_yet(again):
                    in_exec.append(pid)
            marks = _marks(environ or b"")
        if pid not in in_exec:
            found[identity] = marks
        processes.append(_parse(pid, _stat_name(stat), fields, marks))
    known.clear()
    known.update(found)
    return Snapshot.of(processes, os.getpid(), in_exec)


def _kernels_own() -> frozenset[str]:
    """The pids of kernel threads and of what those start: no process of a run is a child of theirs, nor becomes one."""
    if not _sees_kthreadd():
        return frozenset()
    children = _read(f"/proc/{_KTHREADD}/task/{_KTHREADD}/children") or b""  # none: a kernel built without this file
    return frozenset(children.decode().split())


@cache
def _sees_kthreadd() -> bool:
    """Whether it is there under its pid; it does not come or go."""
    stat = _read(f"/proc/{_KTHREADD}/stat")
    return stat is not None and bool(int(_stat_fields(stat)[6]) & _PF_KTHREAD)


def look(pid: int) -> ProcessInfo | None:
    """One process, as it is now; None when there is none of that pid."""
    stat, environ = _read(f"/proc/{pid}/stat"), _read(f"/proc/{pid}/environ")
    return None if stat is None else _parse(pid, _stat_name(stat), _stat_fields(stat), _marks(environ or b""))


def start_time(pid: int) -> int:
    """When the process began, in clock ticks since boot. ProcessLookupError when there is none of that pid."""
    stat = _read(f"/proc/{pid}/stat")
    if stat is None:
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
    return int(_stat_fields(stat)[19])


def kill(process: ProcessInfo) -> None:
    """SIGKILL exactly this process; nothing happens when it has ended, though its pid may have a new owner."""
    try:
        pidfd = os.pidfd_open(process.pid)
    except OSError as error:
        if error.errno in (errno.ESRCH, errno.EINVAL):  # EINVAL: of it there is its session's number left, or a thread
            return
        raise
    try:
        # The descriptor holds on to one process for good: if that one has the right start time, no other can be hit.
        if start_time(process.pid) == process.start:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # ended meanwhile, or it changed its user: the next scan tells, and the sweep names who is left
    finally:
        os.close(pidfd)


def _read(path: str) -> bytes | None:
    """A file of /proc; None when its process is gone or not ours to read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except _GONE:
        return None
    try:
        whole = os.read(descriptor, _READ_BYTES)
        while part := os.read(descriptor, _READ_BYTES):  # a list of children comes a page at a time
            whole += part
    except _GONE:
        return None
    finally:
        os.close(descriptor)
    return whole


def _stat_fields(stat: bytes) -> list[bytes]:
    """What follows the name (which may hold spaces and parentheses): proc_pid_stat(5), counted from state as 0."""
    return stat[stat.rindex(b")") + 2 :].split()


def _has_no_environment_yet(stat: bytes) -> bool:
    """Whether it has memory (kernel threads have none) and the end of its environment in there is not set."""
    fields = _stat_fields(stat)
    return fields[20] != b"0" and fields[48] == b"0"


def _stat_name(stat: bytes) -> str:
    name = stat[stat.index(b"(") + 1 : stat.rindex(b")")].decode(errors="replace")
    return name if name.isprintable() else "".join(char if char.isprintable() else "?" for char in name)


def _parse(pid: int, name: str, fields: list[bytes], marks: tuple[str, ...]) -> ProcessInfo:
    return ProcessInfo(
        pid=pid,
        ppid=int(fields[1]),
        session=int(fields[3]),
        start=int(fields[19]),
        # A process whose first thread has ended while others go on is shown as a zombie too, but with more threads.
        alive=fields[0] not in (b"Z", b"X") or int(fields[17]) > 1,
        name=name,
        marks=marks,
    )


def _marks(environ: bytes) -> tuple[str, ...]:
    key = f"{MARK}=".encode()
    if key not in environ:
        return ()
    for word in environ.split(b"\0"):
        if word.startswith(key):
            return tuple(os.fsdecode(word[len(key) :]).split(":"))
    return ()
