"""Programs that the guard starts in their cgroup: what they are born with, and what if the guard does not deliver."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from attrs import evolve

from darkfactory.devices import birth, procfs
from darkfactory.devices.birth import Unborn
from darkfactory.devices.cgroup import Cgroups, NoCgroup
from darkfactory.devices.guard import Guard
from darkfactory.devices.launcher import RealLauncher
from darkfactory.errors import SpawnFailed

from .test_launcher import Bench, Recorder, condition, sh

pytestmark = pytest.mark.real

PLAIN = {"PATH": os.defpath}


@pytest.fixture
def instance() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def cgroups(instance: str) -> Iterator[Cgroups]:
    try:
        opened = Cgroups.open(instance)
    except NoCgroup as reason:
        pytest.skip(f"NOT TRIED, this machine has no cgroup for us: {reason}")
    yield opened
    opened.close()
    assert not opened.path.exists()


@pytest.fixture
def guard(instance: str, cgroups: Cgroups) -> Iterator[Guard]:
    guard = Guard(instance, os.environ["DARKFACTORY_RUN"], cgroups.path)
    guard.start()
    yield guard
    guard.close()


@pytest.fixture
def bench(guard: Guard, cgroups: Cgroups, tmp_path: Path) -> Bench:
    """Nobody serves, so a guard that is lost stays lost."""
    outer = os.environ["DARKFACTORY_RUN"]
    return Bench(RealLauncher(guard.instance, outer, cgroups=cgroups, guard=guard), tmp_path)


async def test_it_is_our_child_in_its_own_session_and_cgroup_from_the_start(bench, cgroups):
    async with bench.run(bench.spec("cat", "/proc/self/stat", "/proc/self/cgroup")) as (process, sink):
        assert await process.wait() == 0
    stat, *own = sink.out.decode().splitlines()
    pid, _, _, parent, _, session = stat.split()[:6]
    assert (int(pid), int(parent), int(session)) == (process.pid, os.getpid(), process.pid)
    assert any(line.endswith(f"/{cgroups.path.name}/run-1") for line in own)


async def test_it_has_nothing_of_the_guard_but_its_parents_limits(bench):
    script = "ls /proc/self/fd; grep -E '^Sig(Blk|Ign)' /proc/self/status; pwd; cat /proc/self/environ"
    code, sink = await bench.outcome(bench.spec(*sh(script), env=PLAIN))
    assert code == 0
    *lines, environ = sink.out.decode().splitlines()
    assert lines == ["0", "1", "2", "3", "SigBlk:\t0000000000000000", "SigIgn:\t0000000000000000", str(bench.directory)]
    names = {variable.partition("=")[0] for variable in environ.split("\0") if variable}
    assert names == {"PATH", "PWD", procfs.MARK}  # the second is the shell's


def held_by(guard: Guard) -> list[str]:
    return sorted(str(fd.readlink()).partition(":")[0] for fd in Path(f"/proc/{guard.pid}/fd").iterdir())


async def test_the_guard_keeps_nothing_of_an_order(bench, guard):
    for _ in range(3):
        await bench.outcome(bench.spec("true"))
    await condition(lambda: held_by(guard) == ["/dev/null", "anon_inode", "pipe", "socket"])  # a pidfd: ours


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
async def test_what_we_ignore_it_does_not(instance, cgroups, tmp_path, number):
    before = signal.signal(number, signal.SIG_IGN)
    guard = Guard(instance, os.environ["DARKFACTORY_RUN"], cgroups.path)
    try:
        guard.start()
        bench = Bench(RealLauncher(instance, os.environ["DARKFACTORY_RUN"], cgroups=cgroups, guard=guard), tmp_path)
        code, _ = await bench.outcome(bench.spec(*sh(f"kill -{int(number)} $$; echo survived")))
        assert code == -number
    finally:
        signal.signal(number, before)
        guard.close()


async def test_a_long_command_and_odd_words_arrive_to_the_byte(bench):
    words = ("-n", "", " ", "a=b", "\udcff", "x" * 100_000, "y" * 100_000, "z" * 100_000)
    code, sink = await bench.outcome(bench.spec("printf", "%s|", *words))
    assert (code, sink.out) == (0, b"".join(os.fsencode(word) + b"|" for word in words))


@pytest.mark.parametrize(
    ("content", "reason"), [("no program", "enoexec"), ("#!/no/such/interpreter\n", "enoent")], ids=["text", "script"]
)
async def test_what_the_kernel_will_not_run_is_a_failed_start_that_leaves_nothing(bench, cgroups, content, reason):
    program = bench.directory / "program"
    program.write_text(content)
    program.chmod(0o700)
    spec = bench.spec(str(program))
    with pytest.raises(SpawnFailed) as failure:
        await bench.launcher.launch(spec, Recorder())
    assert failure.value.reason == reason
    assert str(program) in failure.value.detail
    assert not spec.stdout.exists()
    assert not (cgroups.path / spec.run_id).exists()
    assert procfs.own_children() == {bench.launcher.guard.pid}


WRONG = [(("true", "a\0b"), {}), (("true",), {"A": "\0"}), (("true",), {"A=B": ""})]


@pytest.mark.parametrize(("command", "env"), WRONG)
async def test_what_cannot_be_handed_over_is_a_failed_start(bench, cgroups, command, env):
    with pytest.raises(SpawnFailed) as failure:
        await bench.launcher.launch(bench.spec(*command, env=PLAIN | env), Recorder())
    assert failure.value.reason == "invalid_argument"
    assert cgroups.all() == []


def test_a_clone_that_is_refused_is_told(guard, tmp_path):
    starter = guard.starter()
    try:
        with pytest.raises(Unborn, match=os.strerror(errno.EBADF)):
            starter.start(("/bin/true",), {}, tmp_path, (0, 1, 2), tmp_path)  # which is no cgroup
    finally:
        starter.close()


async def guard_ended(guard: Guard) -> int:
    """As whoever keeps it sees it."""
    await trio.lowlevel.wait_readable(guard._pidfd)
    assert guard._popen is not None
    return guard._popen.wait()


async def started_once(bench: Bench, cgroups: Cgroups) -> None:
    """A program that joins its cgroup by itself."""
    code, sink = await bench.outcome(bench.spec(*sh("echo once >> times; cat times /proc/self/cgroup")))
    assert code == 0
    assert sink.out.startswith(b"once\n")
    assert b"once\nonce" not in sink.out
    assert f"{cgroups.path.name}/run-1\n".encode() in sink.out
    assert cgroups.all() == []


async def test_without_a_guard_it_is_started_all_the_same(bench, cgroups, guard):
    os.kill(guard.pid, signal.SIGKILL)
    await guard_ended(guard)
    await started_once(bench, cgroups)


async def test_a_guard_that_hangs_is_killed_and_the_program_started_without_it(bench, cgroups, guard, monkeypatch):
    monkeypatch.setattr(birth, "ANSWER_SECS", 0.05)
    os.kill(guard.pid, signal.SIGSTOP)
    await started_once(bench, cgroups)
    assert await guard_ended(guard) == -signal.SIGKILL


async def test_one_born_unheard_of_is_ended_before_it_is_started_again(bench, cgroups, monkeypatch):
    """As it is when the guard dies between the clone and its answer."""
    real, born = birth.Starter.start, []

    def start(*args) -> int:
        born.append(real(*args))
        raise Unborn("no answer")

    monkeypatch.setattr(birth.Starter, "start", start)
    async with bench.run(bench.spec("sleep", "1000")) as (process, _):
        assert procfs.own_children() == {process.pid, bench.launcher.guard.pid}
        assert process.pid not in born
        await condition(lambda: cgroups.all()[0].pids() == [process.pid])


async def test_whatever_goes_wrong_after_a_birth_ends_what_was_born(bench, cgroups, monkeypatch):
    real = birth.Starter.start

    def start(*args) -> int:
        real(*args)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(birth.Starter, "start", start)
    with pytest.raises(SpawnFailed, match="open files"):
        await bench.launcher.launch(bench.spec("sleep", "1000"), Recorder())
    assert procfs.own_children() == {bench.launcher.guard.pid}
    assert cgroups.all() == []


def test_a_guard_that_was_lost_and_reaped_meanwhile_is_no_fault_of_the_program(guard, cgroups, monkeypatch):
    """Several starts wait for the same guard; the first that loses patience kills it."""
    monkeypatch.setattr(birth, "ANSWER_SECS", 0.05)
    os.kill(guard.pid, signal.SIGSTOP)
    starter, group = guard.starter(), cgroups.make("run", None)
    gone = subprocess.Popen(["true"])
    lost = evolve(starter, guard=os.pidfd_open(gone.pid))
    gone.wait()
    try:
        with pytest.raises(Unborn, match="in time"):
            lost.start(("/bin/true",), {}, group.path, (0, 1, 2), group.path)
    finally:
        os.close(lost.guard)
        starter.close()
        os.kill(guard.pid, signal.SIGKILL)
        group.remove()
