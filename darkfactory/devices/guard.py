"""The factory's side of its guard, the process that ends what a killed factory leaves (`guard_program`).

The promise "no process outlives the factory, however it ends" cannot be kept by the factory alone: SIGKILL gives it no
time for anything. So another process waits for its death. That one must not be lost unnoticed either, or the promise
is: hence `wait_lost`.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import sys
from pathlib import Path

import trio
from attrs import Factory, define

from darkfactory.devices import guard_program
from darkfactory.devices.birth import ANSWER_SECS, Starter
from darkfactory.devices.procfs import MARK

QUIT_SECS = 2.0
"""How long the guard may take to end when it is told to; it takes a millisecond."""


@define(eq=False)
class Guard:
    """One guard after the other; from `start` until `close` there is one, but for the moments after one was lost."""

    instance: str
    outer_mark: str | None = None
    cgroup: Path | None = None
    """Killed and removed as a whole after the factory's death; with one, the guard starts programs in those below."""
    _known: set[tuple[int, int]] = Factory(set)
    _popen: subprocess.Popen[bytes] | None = None
    _pipe: int = -1
    _pidfd: int = -1
    _orders: socket.socket | None = None
    """Where it takes orders to start something; None where it does not."""

    @property
    def mark(self) -> str:
        """A guard carries a mark as a run does: so the next life finds it, and an outer factory ends it."""
        return f"{self.instance}/{guard_program.GUARD.decode()}"

    @property
    def pid(self) -> int | None:
        """None while there is none."""
        return self._popen.pid if self._popen else None

    def start(self) -> None:
        """Start it, or start another one, and tell it what it must know. OSError when it cannot be started.

        It takes a session of its own, so that no signal to our group reaches it, and of our descriptors nothing but
        the pipe and the socket for orders. Returns in about 2 ms; the guard listens 15 ms later, and what it is told
        meanwhile waits for it.
        """
        marks = f"{self.outer_mark}:{self.mark}" if self.outer_mark else self.mark
        env = {MARK: marks} | {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
        cgroup = (str(self.cgroup),) if self.cgroup else ()
        reading, self._pipe = os.pipe()
        taking: socket.socket | None = None
        try:
            if self.cgroup is not None:
                taking, self._orders = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._popen = subprocess.Popen(
                (sys.executable, "-I", "-S", guard_program.__file__, self.instance, str(os.getpid()), *cgroup),
                stdin=reading,
                stdout=subprocess.DEVNULL if taking is None else taking.fileno(),
                stderr=subprocess.DEVNULL,
                cwd="/",
                env=env,
                start_new_session=True,
            )
            self._pidfd = os.pidfd_open(self._popen.pid)
        except OSError:
            if self._popen is not None:
                self._popen.kill()
                self._popen.wait()
            self._let_go()
            raise
        finally:
            os.close(reading)
            if taking is not None:
                taking.close()
        os.set_blocking(self._pipe, False)
        for pid, start in self._known:
            self._tell(f"+{pid} {start}\n")

    def add(self, pid: int, start: int) -> None:
        """It must end this process, and what belongs to it, if we die. No checkpoint."""
        self._known.add((pid, start))
        self._tell(f"+{pid} {start}\n")

    def starter(self) -> Starter | None:
        """A way to start programs in cgroups; None where that is not to be had, or there is no guard just now."""
        if self._orders is None:
            return None
        with contextlib.suppress(OSError), contextlib.ExitStack() as undo:  # else no descriptors are left
            orders = undo.enter_context(self._orders.dup())
            orders.settimeout(ANSWER_SECS)
            starter = Starter(orders, os.dup(self._pidfd))
            undo.pop_all()
            return starter
        return None

    def discard(self, pid: int, start: int) -> None:
        """It need not care for this process any more."""
        if (pid, start) in self._known:
            self._known.discard((pid, start))
            self._tell(f"-{pid} {start}\n")

    def _tell(self, message: str) -> None:
        try:
            if self._pipe >= 0:
                os.write(self._pipe, message.encode())
        except BrokenPipeError:
            pass  # it has died: `wait_lost` will tell
        except BlockingIOError:  # it does not listen; another one will
            if self._popen:
                self._popen.kill()

    async def wait_lost(self) -> int:
        """Wait until the guard has ended although nobody told it to; its exit code. Then `start` another one."""
        assert self._popen is not None
        await trio.lowlevel.wait_readable(self._pidfd)
        code = self._popen.wait()
        self._let_go()
        return code

    def _let_go(self) -> None:
        for descriptor in (self._pipe, self._pidfd):
            if descriptor >= 0:
                os.close(descriptor)
        if self._orders is not None:
            self._orders.close()
        self._pipe = self._pidfd = -1
        self._popen = self._orders = None

    def close(self) -> None:
        """Send it home and wait for it. If processes are still known, it is left to end those, and itself."""
        popen = self._popen
        if popen is None:
            return
        if self._known:
            popen.returncode = 0  # it is no longer ours to wait for
        else:
            self._tell("quit\n")
            poll = select.poll()  # select bears no descriptor over 1023
            poll.register(self._pidfd, select.POLLIN)
            poll.poll(QUIT_SECS * 1000)
            popen.kill()
            popen.wait()
        self._let_go()
