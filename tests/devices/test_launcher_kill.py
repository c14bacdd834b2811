"""A run's cgroup is killed also where descriptors are short."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from darkfactory.devices import launcher
from darkfactory.devices.cgroup import Cgroup
from darkfactory.devices.containment import SWEEP_LIMIT_SECS


class Short(Cgroup):
    """No descriptor is to be had for the file that kills, so many times."""

    refusals = 0
    killed = False

    def kill(self) -> None:
        if self.refusals:
            type(self).refusals -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        type(self).killed = True


@pytest.mark.parametrize(("refusals", "killed"), [(0, True), (3, True), (10**6, False)])
async def test_a_descriptor_is_waited_for_within_a_bound(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, refusals: int, killed: bool
) -> None:
    monkeypatch.setattr(Short, "refusals", refusals)
    monkeypatch.setattr(Short, "killed", False)
    assert await launcher._kill(Short(Path("/nowhere"), limits_memory=False)) is killed
    assert Short.killed is killed
    assert trio.current_time() <= SWEEP_LIMIT_SECS
