"""A command of our own: its limits bite, and nothing of it is left, however it ends."""

from __future__ import annotations

import os
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
import trio

from darkfactory.devices.command import TAIL_BYTES, Completed, run_command
from darkfactory.devices.launcher import RealLauncher
from darkfactory.devices.process import LaunchSpec
from darkfactory.errors import SpawnFailed

pytestmark = pytest.mark.real


async def run(tmp_path: Path, *argv: str, secs: float = 60.0, grace_secs: float = 5.0, **more: Any) -> Completed:
    """What became of it."""
    how = {name: more.pop(name, None) for name in ("patience", "last_bytes")}
    spec = LaunchSpec(
        run_id="command",
        argv=argv,
        env={"PATH": os.environ["PATH"]},
        cwd=tmp_path,
        stdin=None,
        stdout=tmp_path / "out",
        stderr=tmp_path / "err",
        **{"max_output_bytes": 10_000} | more,
    )
    launcher = RealLauncher(f"test-{uuid.uuid4().hex}", os.environ["DARKFACTORY_RUN"])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(launcher.serve)
        done = await run_command(launcher, spec, secs=secs, grace_secs=grace_secs, **how)
        nursery.cancel_scope.cancel()
    assert not spec.stdout.exists()
    assert not spec.stderr.exists()
    return done


async def test_what_it_prints_and_how_it_ends_is_told(tmp_path: Path) -> None:
    done = await run(tmp_path, "sh", "-c", "echo out; echo err >&2; exit 3")
    assert done == Completed(3, b"out\n", b"err\n")
    done = await run(tmp_path, "sh", "-c", "kill -9 $$")
    assert (done.exit_code, done.ended) == (-9, None)
    done = await run(tmp_path, "sh", "-c", "seq 1000", last_bytes=9)
    assert done.stdout == b"999\n1000\n"[-9:]
    done = await run(tmp_path, "sh", "-c", "seq 10000 >&2", max_output_bytes=100_000)
    assert (len(done.stderr), done.stderr[-6:]) == (TAIL_BYTES, b"10000\n")


async def test_one_that_does_not_end_is_ended_with_all_that_it_has_started(tmp_path: Path) -> None:
    script = "trap '' TERM; setsid sleep 1000 & sleep 1000 & sleep 1000"
    done = await run(tmp_path, "sh", "-c", script, secs=0.3, grace_secs=0.2)
    assert (done.exit_code, done.ended) == (None, "did not end within 0.3 s")


async def test_one_that_prints_without_end_is_ended(tmp_path: Path) -> None:
    done = await run(tmp_path, "yes")
    assert done.ended == "printed more than we take"
    assert done.too_much
    assert len(done.stdout) <= 10_000


async def test_one_that_takes_too_much_memory_is_ended(tmp_path: Path) -> None:
    greedy = "import time; x = bytearray(300_000_000); x[::4096] = b'1' * len(x[::4096]); time.sleep(1000)"
    done = await run(tmp_path, sys.executable, "-c", greedy, max_memory_bytes=100_000_000)
    assert done.exit_code != 0
    assert b"MemoryError" in done.stderr or done.exit_code == -9 or "of memory" in (done.ended or "")


async def test_whoever_loses_patience_cuts_the_grace_short(tmp_path: Path) -> None:
    patience, took, ready = trio.CancelScope(), 0.0, trio.Path(tmp_path / "ready")

    async def cut_off(scope: trio.CancelScope) -> None:
        nonlocal took
        began = trio.current_time()
        with scope:
            script = f"trap '' TERM; touch {ready}; while :; do sleep 0.05; done"
            await run(tmp_path, "sh", "-c", script, grace_secs=1000.0, patience=patience)
        took = trio.current_time() - began

    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()
        nursery.start_soon(cut_off, scope)
        while not await ready.exists():  # noqa: ASYNC110 - another process makes it
            await trio.sleep(0.01)
        scope.cancel()
        await trio.sleep(0.2)
        assert took == 0.0, "it is given its grace"
        patience.deadline = trio.current_time()
    assert 0.0 < took < 900.0


async def test_what_cannot_be_started_leaves_nothing(tmp_path: Path) -> None:
    with pytest.RaisesGroup(SpawnFailed):
        await run(tmp_path, "no-such-program")
    assert not any(os.scandir(tmp_path))
