"""For all tests: each leaves behind neither process nor descriptor.

A test marked `real` runs under a mark of its own in DARKFACTORY_RUN, which whatever it starts inherits, so that also
daemons whose parents are gone are found, and other people's processes are left alone.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
import structlog

MARK = "DARKFACTORY_RUN"


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """No test prints logs; `structlog.testing.capture_logs` still sees them."""

    def drop(*_: object) -> NoReturn:
        raise structlog.DropEvent

    structlog.configure(processors=[drop])
    yield
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def _leaves_nothing_behind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    real = request.node.get_closest_marker("real") is not None
    mark = f"test-{uuid.uuid4().hex}"
    if real:
        outer = os.environ.get(MARK)
        monkeypatch.setenv(MARK, f"{outer}:{mark}/test" if outer else f"{mark}/test")
    before = open_descriptors()
    children_before = children() if real else {}
    yield
    left = {}
    if real:
        left = {pid: name for pid, name in children().items() if pid not in children_before} | marked(mark)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
    leaked = new_descriptors(before)
    assert not left, f"processes left behind: {left}"
    assert not leaked, f"descriptors left open: {leaked}"


def open_descriptors() -> dict[int, str]:
    """What our descriptors stand for, by number."""
    found = {}
    for entry in os.listdir("/proc/self/fd"):  # noqa: PTH208 -- before and after every test
        with contextlib.suppress(FileNotFoundError):  # the one that lists them
            found[int(entry)] = os.readlink(f"/proc/self/fd/{entry}")  # noqa: PTH115
    return found


def new_descriptors(before: dict[int, str]) -> dict[int, str]:
    """Those that were not open before. What only the garbage collector holds is collected first."""
    leaked = {fd: target for fd, target in open_descriptors().items() if before.get(fd) != target}
    if leaked:
        gc.collect()
        leaked = {fd: target for fd, target in open_descriptors().items() if before.get(fd) != target}
    return leaked


def children() -> dict[int, str]:
    """The names of our children by pid, zombies included."""
    found = {}
    for tasks in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            for pid in (tasks / "children").read_text().split():
                found[int(pid)] = name_of(int(pid))
    return found


def marked(instance: str) -> dict[int, str]:
    """The names of all living processes with a mark of this instance in their environment, by pid; never ourselves."""
    found = {}
    for directory in Path("/proc").iterdir():
        if directory.name.isdecimal() and int(directory.name) != os.getpid():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                if f"{instance}/".encode() in (directory / "environ").read_bytes():
                    found[int(directory.name)] = name_of(int(directory.name))
    return found


def name_of(pid: int) -> str:
    """What it runs, and its state; enough to tell which of ours it is."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1]
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        return f"{Path(f'/proc/{pid}/comm').read_text().strip()} ({state}) {words[:300]}"
    except (FileNotFoundError, ProcessLookupError):
        return "?"
