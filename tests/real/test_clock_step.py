"""The clock on the wall of a running command is stepped, by libfaketime, which leaves the monotonic one alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.real

LIBRARIES = [path for root in ("/usr/lib", "/usr/lib64") for path in Path(root).glob("**/faketime/libfaketime.so.1")]

FLEET = """
working_dir = "{work}"
state_dir = "{state}"

[[agents]]
name = "minutely"
layer = "Core"
cli_tool = "bash"
task = "echo it is done"
schedule = "* * * * *"
"""


# Where it looks at the clock once a minute the test would take minutes.
COMMAND = """
import darkfactory.runtime.beat
from darkfactory.cli import main
darkfactory.runtime.beat.BEAT_SECS = 0.1
main()
"""


@pytest.mark.skipif(not LIBRARIES, reason="NO CLOCK IS STEPPED: libfaketime is missing (apt-get install faketime)")
def test_a_stepped_clock_fires_nothing_twice_and_misses_nothing_in_silence(tmp_path: Path) -> None:
    """Three hours forward, three hours back."""
    (tmp_path / "work").mkdir()
    fleet = tmp_path / "fleet.toml"
    fleet.write_text(FLEET.format(work=tmp_path / "work", state=tmp_path / "state"))
    clock, log = tmp_path / "clock", tmp_path / "log"
    start = 57.0 - time.time() % 60  # noqa: TID251 - so that it starts three seconds before a minute
    set_clock(clock, start)
    env = os.environ | {
        "LD_PRELOAD": str(LIBRARIES[0]),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, str(fleet)], stderr=stderr, stdin=subprocess.DEVNULL, env=env
        )
    with process:
        try:
            until(lambda: len(records(tmp_path, "run_ended")) == 1, process, log)
            set_clock(clock, start + 3 * 3600)
            until(lambda: len(records(tmp_path, "run_ended")) == 2, process, log)
            set_clock(clock, start)
            until(lambda: log.read_text().count("clock_stepped") == 2, process, log)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=20) == 0
        finally:
            if process.poll() is None:
                process.kill()
    first, second = records(tmp_path, "occurrence")
    assert "first_missed" not in first
    assert instant(second["first_missed"]) == instant(first["occurrence"]) + timedelta(minutes=1)
    jumped = instant(second["occurrence"]) - instant(first["occurrence"])
    assert timedelta(hours=3) <= jumped <= timedelta(hours=3, minutes=1)
    begun = records(tmp_path, "run_begun")
    assert [run["occurrence"] for run in begun] == [first["occurrence"], second["occurrence"]]
    steps = [json.loads(line)["secs"] for line in log.read_text().splitlines() if "clock_stepped" in line]
    assert [round(secs / 3600, 2) for secs in steps] == [3.0, -3.0]


def set_clock(file: Path, secs: float) -> None:
    """Have the programs that look there see a clock that is so much ahead of ours; replaced, never half written."""
    new = file.with_suffix(".new")
    new.write_text(f"{secs:+.3f}s\n")
    new.replace(file)


def records(directory: Path, kind: str) -> list[dict[str, Any]]:
    """The journal's records of one kind; the factory may be writing its last line."""
    segments = [path.read_bytes() for path in sorted((directory / "state" / "journal").glob("*"))]
    lines = [line for segment in segments for line in segment.splitlines(keepends=True) if line[-1:] == b"\n"]
    return [record for record in map(json.loads, lines) if record.get("kind") == kind]


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


def until(condition: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)  # noqa: TID251 - polls another process
