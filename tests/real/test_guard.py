"""The guard: what it bears, whom it ends, whom it spares, and that it is not lost unnoticed."""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from darkfactory.devices import procfs
from darkfactory.devices.guard import Guard
from darkfactory.devices.launcher import RealLauncher

from .test_command import running, until, write
from .test_launcher import alive

pytestmark = pytest.mark.real

OUTER = "DARKFACTORY_RUN"


@pytest.fixture
def instance() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def guard(instance: str) -> Iterator[Guard]:
    """One that is up; ended at the end."""
    guard = Guard(instance, os.environ[OUTER])
    guard.start()
    wait_for(lambda: bears(guard.pid, signal.SIGUSR2))
    yield guard
    guard._known.clear()
    guard.close()


def bears(pid: int, number: signal.Signals) -> bool:
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt")]
    return bool(int(line.split()[1], 16) & 1 << (number - 1))


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)  # noqa: TID251 - polls another process


@pytest.fixture
def sleeper() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []

    def sleeper(mark: str = "", *argv: str) -> subprocess.Popen[bytes]:
        env = {"PATH": os.defpath, OUTER: os.environ[OUTER] + mark}
        started.append(subprocess.Popen(argv or ("sleep", "1000"), env=env, start_new_session=True))
        return started[-1]

    yield sleeper
    for popen in started:
        popen.kill()
        popen.wait()


def dies(guard: Guard) -> None:
    """What the guard sees when its factory is killed: the pipe closes, and nobody has said goodbye."""
    assert guard._popen is not None
    os.close(guard._pipe)
    guard._pipe = -1
    guard._popen.wait(20)


def test_signals_to_us_do_not_reach_it_and_those_to_itself_it_bears(guard: Guard):
    assert guard.pid is not None
    assert os.getsid(guard.pid) == guard.pid != os.getsid(0)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        os.kill(guard.pid, number)
    assert not select.select([guard._pidfd], [], [], 0.05)[0]


def test_it_holds_nothing_of_ours_but_the_pipe(instance: str):
    inheritable = os.dup(1)
    os.set_inheritable(inheritable, True)
    guard = Guard(instance, os.environ[OUTER])
    guard.start()
    try:
        wait_for(lambda: bears(guard.pid, signal.SIGUSR2))
        held = {int(fd.name): str(fd.readlink()) for fd in Path(f"/proc/{guard.pid}/fd").iterdir()}
        assert held.pop(0).startswith("pipe:")
        assert held.pop(1) == held.pop(2) == "/dev/null"
        assert [target for target in held.values() if target != "anon_inode:[pidfd]"] == []
        assert Path(f"/proc/{guard.pid}/cwd").readlink() == Path("/")
        assert not os.get_inheritable(guard._pipe)
    finally:
        guard.close()
        os.close(inheritable)


def test_at_an_orderly_end_it_goes_home_and_touches_nobody(guard: Guard, instance: str, sleeper):
    marked = sleeper(f":{instance}/run")
    popen = guard._popen
    guard.close()
    assert popen is not None
    assert popen.returncode == 0
    assert guard.pid is None
    assert marked.poll() is None
    guard.close()  # once is enough, twice does no harm


def test_after_a_death_it_ends_the_marked_the_known_and_their_kin_and_nobody_else(guard: Guard, instance: str, sleeper):
    marked = sleeper(f":{instance}/run")
    known = sleeper("", "sh", "-c", "sleep 1000 & wait; kill -9 $$")
    strangers = [sleeper(), sleeper(f":{uuid.uuid4().hex}/run"), sleeper(f":{instance}x/run")]
    wait_for(lambda: len(procfs.scan().children.get(known.pid, ())) == 1)
    (child,) = procfs.scan().children[known.pid]
    reused, forgotten = sleeper(), sleeper()
    guard.add(known.pid, procfs.start_time(known.pid))
    guard.add(reused.pid, procfs.start_time(reused.pid) - 1)
    guard.add(forgotten.pid, procfs.start_time(forgotten.pid))
    guard.discard(forgotten.pid, procfs.start_time(forgotten.pid))
    dies(guard)
    assert marked.wait(20) == known.wait(20) == -9
    assert not alive(child.pid)
    assert [popen.poll() for popen in (*strangers, reused, forgotten)] == [None] * 5


def test_it_does_not_give_up_on_a_family_that_goes_on_forking(guard: Guard, instance: str, sleeper):
    sleeper(f":{instance}/run", "sh", "-c", "while :; do setsid sleep 1000 & sleep 0.002; done")
    wait_for(lambda: len(list(procfs.scan().carrying(f"{instance}/run"))) > 5)
    dies(guard)
    assert [found for found in procfs.scan().carrying(f"{instance}/run") if found.alive] == []


def test_another_guard_of_the_instance_is_spared(guard: Guard, instance: str):
    other = Guard(instance, os.environ[OUTER])
    other.start()
    try:
        dies(guard)
        assert other.pid is not None
        assert alive(other.pid)
    finally:
        other.close()


async def test_our_own_sweeps_spare_it_also_those_by_its_mark(instance: str):
    guard = Guard(instance, os.environ[OUTER])
    guard.start()
    launcher = RealLauncher(instance, os.environ[OUTER], guard=guard)
    try:
        assert await launcher.sweep_leftovers() == ()
        assert guard.pid is not None
        assert alive(guard.pid)
    finally:
        launcher.close()


async def test_a_new_life_waits_until_the_guard_of_the_former_has_finished(guard: Guard, instance: str, monkeypatch):
    launcher = RealLauncher(instance, os.environ[OUTER])
    popen = guard._popen
    assert popen is not None
    swept: list[tuple[str, ...]] = []

    async def sweep() -> None:
        swept.append(await launcher.sweep_leftovers())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sweep)
        await trio.sleep(0.05)
        assert swept == []
        guard.close()
    assert swept == [()]
    assert popen.returncode == 0  # it went by itself


async def test_one_that_hangs_is_not_waited_for_for_ever(guard: Guard, instance: str, monkeypatch):
    monkeypatch.setattr("darkfactory.devices.launcher.FORMER_GUARD_SECS", 0.05)
    (ended,) = await RealLauncher(instance, os.environ[OUTER]).sweep_leftovers()
    assert ended.startswith(f"{guard.pid} ")


def test_one_that_cannot_be_watched_is_not_left_behind(instance: str, monkeypatch: pytest.MonkeyPatch):
    started: list[subprocess.Popen[bytes]] = []

    def refuse(pid: int) -> int:
        started.append(guard._popen)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    guard = Guard(instance)
    monkeypatch.setattr(os, "pidfd_open", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        guard.start()
    assert guard.pid is None
    assert started[0].returncode == -signal.SIGKILL
    monkeypatch.undo()
    guard.start()  # the next attempt finds nothing in its way
    guard.close()


def test_one_that_does_not_listen_is_given_up(guard: Guard):
    assert guard.pid is not None
    os.kill(guard.pid, signal.SIGSTOP)
    for number in range(100_000):
        guard.add(number, 10**12)
        if select.select([guard._pidfd], [], [], 0)[0]:
            break
    else:
        pytest.fail("it was told more than a pipe can hold")


def guard_of(file: Path) -> list[int]:
    instance = json.loads((file.parent / "state" / "fleet.json").read_text())["instance"]
    return [found.pid for found in procfs.scan().carrying(f"{instance}/guard") if found.alive]


def test_a_lost_guard_is_told_and_replaced_and_the_new_one_knows_all(tmp_path: Path):
    """The agent hides from everything but being known by its pid."""
    file = write(tmp_path, f"cd {tmp_path}; echo $$ > pid; echo ready; exec env -i sleep 1000")
    file.write_text(f'containment = "guard"\n{file.read_text()}')
    with running(file) as process:
        (first,) = guard_of(file)
        os.kill(first, signal.SIGKILL)
        until(lambda: guard_of(file) not in ([], [first]), process)
        (second,) = guard_of(file)
        os.kill(second, signal.SIGKILL)
        until(lambda: guard_of(file) not in ([], [second]), process)
        pid = int((tmp_path / "pid").read_text())
        until(lambda: not Path(f"/proc/{pid}/environ").read_bytes(), process)
        process.kill()
        process.wait()
        wait_for(lambda: not guard_of(file))
        assert not alive(pid)
        _, log = process.communicate()
    lost = [line for line in map(json.loads, log.splitlines()) if line["event"] == "guard_lost"]
    assert [line["exit_code"] for line in lost] == [-9, -9]


def test_a_signal_to_the_whole_group_stops_in_order_and_the_guard_last(tmp_path: Path):
    file = write(tmp_path, "echo ready; sleep 1000")
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "darkfactory", file], stdin=subprocess.DEVNULL, stderr=log, start_new_session=True
        )
        wait_for(lambda: any(path.stat().st_size for path in tmp_path.glob("state/runs/*/stdout")))
        assert len(guard_of(file)) == 1
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(20) == 0
    assert guard_of(file) == []
    assert "guard_lost" not in (tmp_path / "log").read_text()
