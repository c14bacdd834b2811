"""The guard: a small process that outlives a factory which was killed, and ends what that left.

    python -I -S guard_program.py INSTANCE FACTORY_PID [CGROUP]

stdin is the read end of the death pipe and, where there is a cgroup, stdout a socket that orders come from.

A program of its own, on the standard library alone: it must be up in a moment, cost little while it waits, and work
when everything else is broken. Where there is C behind a module, it does without what is around that: of `signal`,
`contextlib` and `collections.abc` this would be a fifth of its memory. It is told by the factory, a line each:

    +PID START     this process leads a run, or is an orphan of one
    -PID START     no longer
    quit           the factory ends in order, and so may you

When the pipe closes or the factory has gone without `quit`, it kills the factory's cgroup and whoever carries the
instance's mark, is known by pid and start time, shares a session with a member, or descends from one, until two looks
in a row find nobody; then it ends itself.

Having a single thread, it can do one thing that the factory cannot: clone a process into a cgroup. So where there are
cgroups it starts the factory's programs, as children of the factory (`birth` has the reasons, and the other side).
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]
import os
import select
import sys
import time
from _collections_abc import Callable, Iterator

MARK = b"DARKFACTORY_RUN="
ORDERS = 1
"""The descriptor that orders come from."""
GUARD = b"guard"
"""Stands for the run id in the marks of guards themselves."""
LIMIT_SECS = 30.0
"""What could not be ended by then hangs in the kernel."""
_PAUSE_MS = 10
_CLONE3 = 435
"""The number of the system call, the same on all architectures that came after it, and on those that matter."""
_CLONE_INTO_CGROUP = 0x2_0000_0000
_CLONE_PARENT = 0x8000

Known = dict[int, int]
"""Start time by pid."""


class Suppressed:
    """`contextlib.suppress`."""

    def __init__(self, *errors: type[BaseException]) -> None:
        self._errors = errors

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        """Have none of these errors go on."""
        return kind is not None and issubclass(kind, self._errors)


def main(instance: str, factory: str, cgroup: str = "") -> None:
    """Wait for the factory's end; then do what it can no longer do."""
    bear_signals()
    known: Known = {}
    if not listen(0, int(factory), known, starter() if cgroup else None):
        end(f"{instance}/".encode(), known, cgroup)


def bear_signals() -> None:
    """Do nothing at any of them, and have what we start do with them what it likes.

    Ignored and blocked ones would be so for a program, too; those that something is done at, though it be nothing, are
    reset by the kernel.
    """
    inherited = (number for number in range(1, signal.NSIG) if signal.getsignal(number) is signal.SIG_IGN)
    meant = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
    for number in (*inherited, *meant):
        signal.signal(number, lambda _number, _frame: None)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def listen(pipe: int, factory: int, known: Known, obey: Callable[[], None] | None) -> bool:
    """Take messages, and orders, until the factory is gone; whether it said goodbye."""
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    if obey is not None:
        poll.register(ORDERS, select.POLLIN)
    # Besides the pipe, whose other end a fork of the factory may hold open.
    with Suppressed(ProcessLookupError):
        pidfd = os.pidfd_open(factory)
        if os.getppid() == factory:
            poll.register(pidfd, select.POLLIN)
    os.set_blocking(pipe, False)
    rest = b""
    gone = os.getppid() != factory
    while True:
        ordered = False
        if not gone:
            ready = {descriptor for descriptor, _ in poll.poll()}
            ordered = ORDERS in ready
            gone = not ready <= {pipe, ORDERS}
        while True:
            try:
                data = os.read(pipe, 65536)
            except BlockingIOError:
                break
            if not data:
                return False
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if line == b"quit":
                    return True
                pid, start = map(int, line[1:].split())
                if line.startswith(b"+"):
                    known[pid] = start
                elif known.get(pid) == start:
                    del known[pid]
        if gone:
            return False
        if ordered and obey is not None:
            obey()


def starter() -> Callable[[], None]:
    """What takes one order and carries it out; it answers with +PID, or -ERRNO for a clone that was refused.

    The program's process adds !ERRNO if it cannot be executed; and when all ends of the answer's pipe are closed, it
    was told everything.
    """
    from _socket import CMSG_LEN, MSG_CMSG_CLOEXEC, socket
    from ctypes import PyDLL, c_int, c_long, c_uint64, get_errno, sizeof

    orders = socket(fileno=ORDERS)
    # PyDLL: the interpreter goes on in the child as if nothing had been, which with one thread is as it must be
    syscall = PyDLL(None, use_errno=True).syscall
    syscall.restype = c_long

    def obey() -> None:
        descriptors: list[int] = []
        try:
            _, ancillary, _, _ = orders.recvmsg(16, CMSG_LEN(6 * sizeof(c_int)), MSG_CMSG_CLOEXEC)
            descriptors = [number for _, _, data in ancillary for number in memoryview(data).cast("i")]
            answering, order, cgroup, *streams = descriptors
            command, env, cwd = decoded(os.pread(order, os.fstat(order).st_size, 0))
            # flags, pidfd, child_tid, parent_tid, exit_signal, stack, its size, tls, set_tid, its size, cgroup
            wanted = (c_uint64 * 11)(_CLONE_INTO_CGROUP | _CLONE_PARENT, *[0] * 9, cgroup)
            pid = syscall(_CLONE3, wanted, sizeof(wanted))
            if pid == 0:
                become(command, env, cwd, streams, answering)
            os.write(answering, b"+%d " % pid if pid > 0 else b"-%d " % get_errno())
        except (OSError, ValueError):
            pass  # no descriptors are left for the order, or nobody waits for the answer: the end of the pipe tells
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    return obey


def decoded(order: bytes) -> tuple[list[bytes], dict[bytes, bytes], bytes]:
    """Command, environment and directory of an order: the directory, the command's length, the command, NAME=VALUE."""
    cwd, length, *words = order.split(b"\0")
    command, variables = words[: int(length)], words[int(length) :]
    return command, dict(variable.split(b"=", 1) for variable in variables), cwd


def become(command: list[bytes], env: dict[bytes, bytes], cwd: bytes, streams: list[int], answering: int) -> None:
    """In the new process: become the program, or end; never returns.

    What is open closes itself then, but for the three streams.
    The less it does the better: each page that it touches is copied first.
    """
    try:
        os.setsid()
        for standard, stream in enumerate(streams):
            os.dup2(stream, standard)
        os.chdir(cwd)
        os.execve(command[0], command, env)
    except OSError as error:
        os.write(answering, b"!%d " % (error.errno or 0))
    finally:
        os._exit(127)


def end(mark: bytes, known: Known, cgroup: str) -> None:
    """Kill until two looks in a row find nobody."""
    sessions: dict[int, int | None] = dict(known)
    noted = known
    deadline = time.monotonic() + LIMIT_SECS
    clean = 0
    while clean < 2 and time.monotonic() < deadline:
        emptied = not cgroup or end_cgroup(cgroup)
        found, undecided = members(mark, noted, sessions)
        for pid, start in found.items():
            kill(pid, start)
        noted = found
        clean = clean + 1 if emptied and not found and not undecided else 0
        select.poll().poll(_PAUSE_MS)


def end_cgroup(path: str) -> bool:
    """Kill all that are in it, and remove it; whether it is gone."""
    with Suppressed(OSError), open(f"{path}/cgroup.kill", "w", encoding="ascii") as file:  # noqa: PTH123
        file.write("1")
    for directory, _, _ in os.walk(path, topdown=False):
        with Suppressed(OSError):
            os.rmdir(directory)  # noqa: PTH106
    return not os.path.isdir(path)  # noqa: PTH112


def members(mark: bytes, noted: Known, sessions: dict[int, int | None]) -> tuple[Known, bool]:
    """The living who belong to the instance, and whether somebody is in the middle of an exec.

    Learns sessions. (The same rules as `containment.Kin`, which has them with their reasons.)
    """
    table = dict(scan())
    children: dict[int, list[int]] = {}
    by_session: dict[int, list[int]] = {}
    for pid, (parent, session, _, _) in table.items():
        children.setdefault(parent, []).append(pid)
        by_session.setdefault(session, []).append(pid)
    undecided = any(marks is None for _, _, _, marks in table.values())
    todo = [
        pid
        for pid, (_, _, start, marks) in table.items()
        if noted.get(pid) == start or any(each.startswith(mark) for each in marks or ())
    ]
    for session, leader_start in sessions.items():
        if session not in table or table[session][2] == leader_start:
            todo += by_session.get(session, ())
    us = {os.getpid(), 1} | {pid for pid, row in table.items() if mark + GUARD in (row[3] or ())}
    found: Known = {}
    while todo:
        pid = todo.pop()
        if pid in found or pid in us:
            continue
        _, session, start, _ = table[pid]
        found[pid] = start
        todo += children.get(pid, ())
        if session not in sessions and session not in (0, os.getsid(0)):
            sessions[session] = table[session][2] if session in table else None
            todo += by_session.get(session, ())
    return found, undecided


def scan() -> Iterator[tuple[int, tuple[int, int, int, list[bytes] | None]]]:
    """Every living process: pid -> (parent, session, start, marks); marks None for one that has no environment yet."""
    for entry in os.listdir("/proc"):  # noqa: PTH208
        if entry.isdecimal():
            with Suppressed(OSError, IndexError):
                fields = read(f"/proc/{entry}/stat").rpartition(b") ")[2].split()
                if fields[0] in (b"Z", b"X") and int(fields[17]) <= 1:
                    continue
                environ = None
                with Suppressed(PermissionError):
                    environ = read(f"/proc/{entry}/environ")
                in_exec = environ == b"" and fields[20] != b"0" and fields[48] == b"0"
                words = environ.split(b"\0") if environ and MARK in environ else []
                marks = [m for word in words if word.startswith(MARK) for m in word[len(MARK) :].split(b":")]
                yield int(entry), (int(fields[1]), int(fields[3]), int(fields[19]), None if in_exec else marks)


def read(path: str) -> bytes:
    """A file of /proc; OSError when its process is gone."""
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123
        return file.read()


def kill(pid: int, start: int) -> None:
    """SIGKILL exactly this process."""
    with Suppressed(OSError):
        pidfd = os.pidfd_open(pid)
        try:
            if int(read(f"/proc/{pid}/stat").rpartition(b") ")[2].split()[19]) == start:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            os.close(pidfd)


if __name__ == "__main__":
    main(*sys.argv[1:])
