"""Logs on stderr: for people on a terminal, one JSON object a line otherwise.

Nobody promises that stderr works: the other end of the pipe dies, the disk under the file is full. What cannot be
written is dropped and the factory goes on; what matters is in the journal.
"""

from __future__ import annotations

import logging
import math
import os
import select
import time
from contextlib import suppress
from typing import Final, TextIO, cast

import structlog
from attrs import define, field

SAFE_BYTES: Final = 4096
"""What a pipe that is said to be writable takes without blocking (PIPE_BUF on Linux; see pipe(7))."""

STDERR: Final = 2
TELL_SECS: Final = 2.0
"""A terminal takes a few KiB at a time; one that is read has long taken a traceback by then."""


def tell(text: str) -> None:
    """Say something to whoever reads stderr, if somebody does; waits for them, but no longer than `TELL_SECS`."""
    _Unblocking(time.monotonic() + TELL_SECS).write(f"{text}\n")


def open_standard_streams() -> None:
    """Put /dev/null in the place of standard streams that are closed: else the journal might become our stderr.

    A terminal is opened anew as stderr, so as not to block: one that nobody reads is said to be writable as long as it
    has room for a byte, and then holds whoever writes more. As it was, it is the shell's too, and stays as it is.
    """
    for descriptor in range(STDERR + 1):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    if os.isatty(STDERR):
        with suppress(OSError):
            own = os.open(f"/proc/self/fd/{STDERR}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            os.dup2(own, STDERR)
            os.close(own)


def configure() -> None:
    """Set up structlog for the command; the library leaves it to the embedding program."""
    terminal = os.isatty(STDERR)
    render: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S" if terminal else "iso", utc=not terminal),
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, _Unblocking())),
        cache_logger_on_first_use=False,
    )


@define(eq=False)
class _Unblocking:
    """Standard error for a program that must not wait for whoever reads its logs, nor die of it.

    The supervisor writes these lines. A terminal that was stopped by Ctrl-S, a collector that hangs and a pipe without
    a reader would hold it up, or end it; so what cannot be written now is counted and left out. The journal has it all.
    """

    _until: float = -math.inf
    """On the monotonic clock: till then it does wait."""
    lost: int = 0
    """Lines left out since the last one that was written."""
    _poll: select.poll = field(factory=select.poll)

    def __attrs_post_init__(self) -> None:
        self._poll.register(STDERR, select.POLLOUT)

    def write(self, text: str) -> None:
        """Write a line if that can be done at once."""
        told = f'{{"event": "log_lines_lost", "level": "warning", "lines": {self.lost}}}\n' if self.lost else ""
        if self._write((told + text).encode(errors="backslashreplace")):
            self.lost = 0
        else:
            self.lost += 1

    def _write(self, data: bytes) -> bool:
        try:
            while data:
                patience = max(0.0, self._until - time.monotonic())
                if not any(state & select.POLLOUT for _, state in self._poll.poll(patience * 1000)):
                    return False
                data = data[os.write(STDERR, data[:SAFE_BYTES]) :]
        except OSError:
            return False
        return True

    def flush(self) -> None:
        """Nothing is held back."""
