"""Real factories killed with SIGKILL, again and again, whenever their journal has grown by some bytes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from darkfactory.devices import segments

pytestmark = pytest.mark.real

FLEET = """
working_dir = "{work}"
state_dir = "{state}"
shutdown_grace_secs = 2
[layers.Safety]
max_restarts = 1000
backoff_secs = 0.02
backoff_max_secs = 0.02
success_cooldown_secs = 0.01
[[agents]]
name = "restless"
layer = "Safety"
cli_tool = "bash"
task = "echo once"
[[agents]]
name = "failing"
layer = "Safety"
cli_tool = "bash"
task = "exit 3"
[[agents]]
name = "lasting"
layer = "Safety"
cli_tool = "bash"
task = "sleep 1000"
"""
SMALL_SEGMENTS = """
import darkfactory.devices.journal as room
true = room.FileJournal._take
def small(self, number, snapshot, size):
    true(self, number, snapshot, size)
    self._full_at = size + 4000
room.FileJournal._take = small
from darkfactory.cli import main
main()
"""


def size_of(state: Path) -> int:
    """Of all that was ever journalled and not deleted."""
    found = 0
    for path in segments.paths(state / "journal"):
        found += path.stat().st_size
    return found


def test_killed_at_any_moment_the_next_start_goes_on_from_there(tmp_path: Path) -> None:
    work, state = tmp_path / "work", tmp_path / "state"
    work.mkdir()
    file = tmp_path / "fleet.toml"
    file.write_text(FLEET.format(work=work, state=state))
    chance = random.Random(1)
    command = [sys.executable, "-c", SMALL_SEGMENTS, str(file)]
    lives = 8
    for life in range(lives):
        goal = size_of(state) + chance.randrange(1, 6000)
        with (tmp_path / "log").open("wb") as log:
            factory = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log, env=os.environ)
        deadline = time.monotonic() + 30
        while size_of(state) < goal:
            assert factory.poll() is None, (life, (tmp_path / "log").read_text())
            assert time.monotonic() < deadline
            time.sleep(0.001)  # noqa: TID251 - polls another process
        factory.send_signal(signal.SIGTERM if life == lives - 1 else signal.SIGKILL)
        assert factory.wait(20) == (0 if life == lives - 1 else -signal.SIGKILL)
    lines = []
    for path in segments.paths(state / "journal"):
        _, *rest = path.read_bytes().splitlines(keepends=True)
        lines += rest[segments._repeated(lines, rest) :]
    records = [json.loads(line) for line in lines]
    begun = Counter(record["run"] for record in records if record["kind"] == "run_begun")
    ended = Counter(record["run"] for record in records if record["kind"] == "run_ended")
    assert begun == ended
    assert set(begun.values()) == {1}
    kinds = Counter(record["kind"] for record in records)
    assert kinds["factory_started"] == lives
    lost = [record for record in records if record.get("reason") == "lost" and record["agent"] == "lasting"]
    assert lost
    launched = {path.name for path in (state / "runs").iterdir()}
    assert launched <= begun.keys()
    assert len(segments.paths(state / "journal")) > 2
