"""Logs on stderr: for people on a terminal, one JSON object a line otherwise."""

from __future__ import annotations

import logging
import os
import select
import sys
from typing import Final

import structlog
from attrs import define, field

SAFE_BYTES: Final = 4096
"""What a pipe that is said to be writable takes without blocking (PIPE_BUF on Linux; see pipe(7))."""


def configure() -> None:
    """Set up structlog for the command; the library leaves it to the embedding program."""
    if sys.stderr is None:  # started with it closed: the next file that is opened must not become it
        os.open(os.devnull, os.O_WRONLY)
    terminal = os.isatty(2)
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
        logger_factory=structlog.WriteLoggerFactory(_Unblocking()),  # type: ignore[arg-type]
        cache_logger_on_first_use=False,
    )


@define(eq=False)
class _Unblocking:
    """Standard error for a program that must not wait for whoever reads its logs, nor die of it.

    The supervisor writes these lines. A terminal that was stopped by Ctrl-S, a collector that hangs and a pipe without
    a reader would hold it up, or end it; so what cannot be written now is counted and left out. The journal has it all.
    """

    lost: int = 0
    """Lines left out since the last one that was written."""
    _poll: select.poll = field(factory=select.poll)

    def __attrs_post_init__(self) -> None:
        self._poll.register(2, select.POLLOUT)

    def write(self, text: str) -> None:
        """Write a line if that can be done at once."""
        told = f'{{"event": "log_lines_lost", "level": "warning", "lines": {self.lost}}}\n' if self.lost else ""
        if self._write((told + text).encode(errors="replace")):
            self.lost = 0
        else:
            self.lost += 1

    def _write(self, data: bytes) -> bool:
        try:
            while data:
                if not any(state & select.POLLOUT for _, state in self._poll.poll(0)):
                    return False
                data = data[os.write(2, data[:SAFE_BYTES]) :]
        except OSError:
            return False
        return True

    def flush(self) -> None:
        """Nothing is held back."""
