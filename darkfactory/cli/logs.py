"""Logs on stderr: for people on a terminal, one JSON object a line otherwise.

Nobody promises that stderr works: the other end of the pipe dies, the disk under the file is full. What cannot be
written is dropped and the factory goes on; what matters is in the journal.
"""

from __future__ import annotations

import contextlib
import logging
import os
from typing import Final, TextIO, cast

import structlog

STDERR: Final = 2


class _Stderr:
    """Writes to descriptor 2, past Python's buffer: what that cannot get rid of, it would try again at the exit."""

    def write(self, text: str) -> None:
        data = memoryview(text.encode(errors="backslashreplace"))
        with contextlib.suppress(OSError):
            while data:
                data = data[os.write(STDERR, data) :]

    def flush(self) -> None:
        pass


def tell(text: str) -> None:
    """Say something to whoever reads stderr, if somebody does."""
    _Stderr().write(f"{text}\n")


def open_standard_streams() -> None:
    """Put /dev/null in the place of standard streams that are closed: else the journal might become our stderr."""
    for descriptor in range(STDERR + 1):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


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
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, _Stderr())),
        cache_logger_on_first_use=False,
    )
