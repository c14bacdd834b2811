"""Being born in a cgroup: a program that is in it before it can do anything, and costs no grace period.

Whoever moves a process into a cgroup waits until the kernel has let a grace period pass, some 10 ms; a process that is
cloned into one (`clone3` with CLONE_INTO_CGROUP, Linux 5.7) does not. The C library offers that from glibc 2.39 on, and
a bare `clone3` is not safe where there are other threads. But the guard has a single one. So it gets an order with
everything that the program needs, and clones it with CLONE_PARENT: as our child, for us to wait for and to reap.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from attrs import frozen

ANSWER_SECS = 5.0
"""A guard that takes longer to answer hangs, and is of no use for its other duty either."""


class Unborn(Exception):
    """There is no telling what became of the order, or it was refused. It will not be carried out any more."""


@frozen
class Starter:
    """A way to the guard for one start, in any thread; `close` it."""

    orders: socket.socket
    guard: int
    """A pidfd."""

    def start(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        cwd: Path,
        streams: tuple[int, int, int],
        cgroup: Path,
    ) -> int:
        """Start a program, the path of which comes first in the command, in a session and a cgroup; its pid. Blocks.

        It is our child, with no signal ignored or blocked. OSError or ValueError if it cannot be executed, as
        `subprocess` has it; then there is none. Unborn: there may be one in the cgroup all the same.
        """
        with ExitStack() as stack:
            order = os.memfd_create("order")
            stack.callback(os.close, order)
            with open(order, "wb", closefd=False) as file:
                file.write(_encoded(command, env, cwd))
            into = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, into)
            answer, answering = os.pipe()
            stack.callback(os.close, answer)
            try:
                socket.send_fds(self.orders, [b"start"], [answering, order, into, *streams])
            except OSError as error:
                raise Unborn(f"the guard takes no orders: {error.strerror}") from error
            finally:
                os.close(answering)
            words = self._whole(answer).split()
        said = {word[:1]: int(word[1:]) for word in words}
        pid = said.get(b"+")
        if pid is None:
            number = said.get(b"-")
            raise Unborn("no answer" if number is None else os.strerror(number))
        if (number := said.get(b"!")) is not None:
            os.waitpid(pid, 0)
            raise OSError(number, os.strerror(number), command[0])
        return pid

    def _whole(self, answer: int) -> bytes:
        """What the guard and the program's process say before the program runs: then nobody holds the pipe any more."""
        poll = select.poll()
        poll.register(answer, select.POLLIN)
        said, until = b"", time.monotonic() + ANSWER_SECS
        while True:
            if not poll.poll(max(0.0, until - time.monotonic()) * 1000):
                with suppress(ProcessLookupError):  # it was lost meanwhile, and reaped
                    signal.pidfd_send_signal(self.guard, signal.SIGKILL)  # so that nothing comes of it later
                raise Unborn("no answer in time")
            part = os.read(answer, 64)
            if not part:
                return said
            said += part

    def close(self) -> None:
        """Let go of the guard."""
        self.orders.close()
        os.close(self.guard)


def _encoded(command: Sequence[str], env: Mapping[str, str], cwd: Path) -> bytes:
    """The order as `guard_program` reads it: words that end in NUL."""
    if any("=" in name for name in env):
        raise ValueError("illegal environment variable name")
    words = [str(cwd), str(len(command)), *command, *(f"{name}={value}" for name, value in env.items())]
    encoded = [os.fsencode(word) for word in words]
    if any(b"\0" in word for word in encoded):
        raise ValueError("embedded null byte")
    return b"\0".join(encoded)
