"""The guard: a small process that outlives a factory which was killed, and ends what that left.

    python -I -S guard_program.py INSTANCE FACTORY_PID [CGROUP]      (stdin: the read end of the death pipe)

A program of its own, on the standard library alone: it must be up in a moment, cost little while it waits, and work
when everything else is broken. It is told by the factory, a line each:

    +PID START     this process leads a run, or is an orphan of one
    -PID START     no longer
    quit           the factory ends in order, and so may you

When the pipe closes or the factory has gone without `quit`, it kills the factory's cgroup and whoever carries the
instance's mark, is known by pid and start time, shares a session with a member, or descends from one, until two looks
in a row find nobody; then it ends itself.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Iterator

MARK = b"DARKFACTORY_RUN="
GUARD = b"guard"
"""Stands for the run id in the marks of guards themselves."""
LIMIT_SECS = 30.0
"""What could not be ended by then hangs in the kernel."""
_PAUSE_MS = 10

Known = dict[int, int]
"""Start time by pid."""


def main(instance: str, factory: str, cgroup: str = "") -> None:
    """Wait for the factory's end; then do what it can no longer do."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    known: Known = {}
    if not listen(0, int(factory), known):
        end(f"{instance}/".encode(), known, cgroup)


def listen(pipe: int, factory: int, known: Known) -> bool:
    """Take messages until the factory is gone; whether it said goodbye."""
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    # Besides the pipe, whose other end a fork of the factory may hold open.
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(factory)
        if os.getppid() == factory:
            poll.register(pidfd, select.POLLIN)
    os.set_blocking(pipe, False)
    rest = b""
    gone = os.getppid() != factory
    while True:
        if not gone:
            gone = any(descriptor != pipe for descriptor, _ in poll.poll())
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
    with contextlib.suppress(OSError), open(f"{path}/cgroup.kill", "w", encoding="ascii") as file:  # noqa: PTH123
        file.write("1")
    for directory, _, _ in os.walk(path, topdown=False):
        with contextlib.suppress(OSError):
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
            with contextlib.suppress(OSError, IndexError):
                fields = read(f"/proc/{entry}/stat").rpartition(b") ")[2].split()
                if fields[0] in (b"Z", b"X") and int(fields[17]) <= 1:
                    continue
                environ = None
                with contextlib.suppress(PermissionError):
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
    with contextlib.suppress(OSError):
        pidfd = os.pidfd_open(pid)
        try:
            if int(read(f"/proc/{pid}/stat").rpartition(b") ")[2].split()[19]) == start:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            os.close(pidfd)


if __name__ == "__main__":
    main(*sys.argv[1:])
