"""Hostile surroundings: programs that will not start, descriptors that run out, output made to do harm, no stderr.

Whatever it is, it is an event with a reason, or a clear refusal at the start; never an exception that ends the factory.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from darkfactory import AgentDefinition, AgentLayer, LayerConfig, OrchestratorConfig, ToolConfig, open_factory
from darkfactory.devices import capture, disk, procfs, runstore, spawning
from darkfactory.devices.birth import Unborn
from darkfactory.devices.containment import Kin, ProcessTable
from darkfactory.devices.statedir import StateDir
from darkfactory.errors import StateDirError
from darkfactory.model.fleet import Containment

from .test_behaviours import ended, journal, one_agent, output, run_once
from .test_command import darkfactory, running, write
from .test_command import journal as journal_of
from .test_disk import mounted

pytestmark = pytest.mark.real

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to other users")
EXHAUSTED = [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN]


# Agents that do odd things with their output.


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo early; exec >&- 2>&-; sleep 0.2; exit 0", b"early\n"),
        ("echo held; trap '' TERM; sleep 1000 & setsid sleep 1000 & exit 0", b"held\n"),
        ("echo gone; rm -f $OLDPWD/nothing; exec > /dev/null; sleep 0.2", b"gone\n"),
    ],
    ids=["closes it early", "leaves others who hold it", "sends the rest elsewhere"],
)
async def test_the_end_of_a_run_is_its_exit_and_not_that_of_its_output(
    tmp_path: Path, script: str, said: bytes
) -> None:
    fleet = one_agent(tmp_path, tool="bash", task=script)
    assert (await run_once(fleet))["reason"] == "succeeded"
    assert output(fleet) == said


@pytest.mark.parametrize("then", ["exit 0", "sleep 1000"])
async def test_a_sparse_terabyte_is_over_the_output_limit_and_is_not_read(tmp_path: Path, then: str) -> None:
    limit = 5_000_000
    script = f"truncate -s 1T /dev/stdout; {then}"
    line = await run_once(one_agent(tmp_path, tool="bash", task=script, max_output_bytes=limit, grace_secs=0.5))
    assert line["reason"] == "output_limit"
    assert "max_output_bytes" in line["detail"]
    assert line["output_bytes"] == 2**40


async def test_output_that_is_cut_again_and_again_does_not_fill_the_journal(tmp_path: Path) -> None:
    # Each round leaves less than the one before: a file refilled to the same size between two looks looks untouched.
    script = "for i in $(seq 50 -1 5); do printf '%*d\\n' $i $i; sleep 0.04; : > /dev/stdout; done; echo end"
    line = await run_once(one_agent(tmp_path, tool="bash", task=script))
    assert line["reason"] == "succeeded"
    assert len([line for line in journal(tmp_path / "state") if line["kind"] == "output_truncated"]) == 1


async def test_output_that_takes_too_long_to_read_costs_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("darkfactory.runtime.body.DRAIN_SECS", 0.0)
    line = await run_once(one_agent(tmp_path, tool="bash", task="echo x"))
    assert (line["reason"], line["detail"]) == ("succeeded", "its output was not read to the end")


async def test_without_inotify_the_whole_factory_polls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(capture.Inotify, "__init__", refuse)
    line = await run_once(one_agent(tmp_path, args=("--behaviour", "succeed", "--steps", "3", "--pause", "0.1")))
    assert (line["reason"], line["detail"]) == ("succeeded", "the task is done")


# Programs that will not start.


@pytest.mark.parametrize(
    ("level", "program", "word"),
    [
        (Containment.GUARD, "#!/not/there\n", "enoent"),
        (Containment.GUARD, "#!/etc/passwd\n", "eacces"),
        (Containment.GUARD, "\0\1\2 no program at all", "enoexec"),
        (Containment.AUTO, "#!/not/there\n", ""),  # where a shell takes it into its cgroup, that says what is wrong
        (Containment.AUTO, "#!/etc/passwd\n", ""),
        (Containment.AUTO, "\0\1\2 no program at all", ""),
    ],
)
async def test_what_the_kernel_will_not_run_is_backed_off_from_and_runs_once_it_is_mended(
    tmp_path: Path, level: Containment, program: str, word: str
) -> None:
    (tmp_path / "work").mkdir()
    tool = tmp_path / "tool"
    tool.write_text(program)
    tool.chmod(0o700)
    fleet = OrchestratorConfig(
        working_dir=tmp_path / "work",
        state_dir=tmp_path / "state",
        agents=(AgentDefinition("agent", AgentLayer.SAFETY, "own", "x"),),
        tools={"own": ToolConfig((str(tool),))},
        layers=dict.fromkeys(AgentLayer, LayerConfig(backoff_secs=0.05, max_restarts=100)),
        containment=level,
    )
    with trio.fail_after(20):
        async with open_factory(fleet) as factory:
            await factory.wait_statuses(lambda statuses: statuses[0].restart_count > 2)
            tool.write_text("#!/bin/sh\nsleep 1000\n")
            await factory.wait_statuses(lambda statuses: statuses[0].condition == "running")
    ends = [line for line in journal(tmp_path / "state") if line["kind"] == "run_ended"]
    assert {line["reason"] for line in ends[:-1]} == {"failed"}
    if word:
        assert {line["detail"].split(":")[0] for line in ends[:-1]} == {word}
    assert ends[-1]["reason"] == "shutdown"


async def test_a_program_on_a_mount_without_execution_is_backed_off_from(tmp_path: Path) -> None:
    for room in mounted(tmp_path / "disk", "size=1m,noexec"):
        tool = room / "tool"
        tool.write_text("#!/bin/sh\n")
        tool.chmod(0o700)
        fleet = attrs.evolve(one_agent(tmp_path, tool="own"), tools={"own": ToolConfig((str(tool),))})
        with trio.fail_after(20):
            async with open_factory(fleet) as factory:
                (status,) = factory.agent_statuses()
    assert status.condition == "refused"


@pytest.mark.parametrize("number", EXHAUSTED)
async def test_a_system_that_has_nothing_left_to_start_from_is_backed_off_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    def refuse_clone(*_: object) -> int:
        raise Unborn(os.strerror(number))

    fleet = one_agent(tmp_path, tool="bash", task="true")
    with trio.fail_after(20):
        async with open_factory(fleet) as factory:
            with monkeypatch.context() as patched:
                patched.setattr(spawning.subprocess, "Popen", refuse)
                patched.setattr(spawning.Starter, "start", refuse_clone)
                await factory.start("agent")
                await factory.wait_statuses(lambda statuses: not statuses[0].running)
    line = ended(fleet)
    assert line["reason"] == "failed"
    assert line["detail"].startswith(errno.errorcode[number].lower())


async def test_a_system_without_threads_is_backed_off_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true_run = trio.to_thread.run_sync

    async def run_sync(function: Any, *args: Any, **options: Any) -> Any:
        if function in {spawning.start, disk._look, runstore.prune}:
            raise RuntimeError("can't start new thread")
        return await true_run(function, *args, **options)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    fleet = attrs.evolve(one_agent(tmp_path, tool="bash", task="true"), min_free_bytes=0)
    line = await run_once(fleet)
    assert line["reason"] == "failed"
    assert line["detail"].startswith("eagain")


async def test_without_a_thread_to_look_at_the_disk_with_nothing_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run_sync(*_: Any, **__: Any) -> Any:
        await trio.lowlevel.checkpoint()
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    room = await disk.Mounts((tmp_path,)).room(tmp_path)
    assert (room.free_bytes, "no thread" in room.what) == (0, True)
    pruned = await runstore.RunDirectories(tmp_path).prune(
        runstore.Keep(0, datetime(2026, 1, 1, tzinfo=UTC), 0), living=()
    )
    assert "no thread" in str(pruned.problem)


async def test_a_run_directory_that_cannot_be_made_is_backed_off_from(tmp_path: Path) -> None:
    fleet = one_agent(tmp_path, tool="bash", task="true")
    with trio.fail_after(20):
        async with open_factory(fleet) as factory:
            (tmp_path / "state" / "runs").rmdir()
            (tmp_path / "state" / "runs").write_text("in its place")
            await factory.start("agent")
            await factory.wait_statuses(lambda statuses: not statuses[0].running)
    (line,) = [line for line in journal(tmp_path / "state") if line["kind"] == "run_ended"]
    assert line["reason"] == "failed"
    assert line["detail"].startswith("run_directory")


# Descriptors that run out, under the factory itself.

FEW_DESCRIPTORS = """
import resource, sys
from pathlib import Path
import trio
from darkfactory import AgentDefinition, AgentLayer, LayerConfig, OrchestratorConfig, open_factory

async def main(work, state, limit):
    agents = [AgentDefinition(f"a{n}", AgentLayer.GROWTH, "bash", "sleep 0.3; (setsid sleep 1000 &) ; echo done",
                              retries=1000) for n in range(30)]
    config = OrchestratorConfig(
        working_dir=Path(work), state_dir=Path(state), agents=tuple(agents), max_concurrent_runs=30, min_free_bytes=0,
        layers=dict.fromkeys(AgentLayer, LayerConfig(backoff_secs=0.1, backoff_max_secs=0.5, max_restarts=10**6)),
    )
    async with open_factory(config) as factory:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        for agent in agents:
            await factory.start(agent.name)
        await factory.wait_statuses(lambda statuses: all(status.condition == "idle" for status in statuses))

trio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]))
"""


def test_a_factory_that_runs_out_of_descriptors_recovers_and_loses_no_run(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", FEW_DESCRIPTORS, str(tmp_path / "work"), str(tmp_path / "state"), "40"],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ends = [line for line in journal(tmp_path / "state") if line["kind"] == "run_ended"]
    assert sum(line["reason"] == "succeeded" for line in ends) == 30
    failed = {line["detail"].split(":")[0] for line in ends if line["reason"] == "failed"}
    assert failed, "there were descriptors enough, so this test shows nothing"
    assert failed <= {"emfile", "run_directory"}


# Processes that run out, under a factory of another user: root has as many as it likes.

FEW_PROCESSES = """
import resource, sys
from pathlib import Path
import trio
from darkfactory import AgentDefinition, AgentLayer, LayerConfig, OrchestratorConfig, open_factory

async def main(state, limit):
    agents = [AgentDefinition(f"a{n}", AgentLayer.GROWTH, "bash", "exec sleep 1", retries=1000,
                              max_memory_bytes=2**30) for n in range(30)]
    config = OrchestratorConfig(
        working_dir=Path("/"), state_dir=Path(state), agents=tuple(agents), max_concurrent_runs=30, min_free_bytes=0,
        layers=dict.fromkeys(AgentLayer, LayerConfig(backoff_secs=0.1, backoff_max_secs=0.5, max_restarts=10**6)),
    )
    async with open_factory(config) as factory:
        resource.setrlimit(resource.RLIMIT_NPROC, (limit, limit))
        for agent in agents:
            await factory.start(agent.name)
        await factory.wait_statuses(lambda statuses: all(status.condition == "idle" for status in statuses))

trio.run(main, sys.argv[1], int(sys.argv[2]))
"""
STRANGER = 61234
"""A user that nobody is, who may find the way to this Python wherever that is installed."""
BECOME = f"setpriv --reuid {STRANGER} --regid {STRANGER} --clear-groups --inh-caps +dac_read_search"
BECOME += " --ambient-caps +dac_read_search"


@root_only
def test_a_user_who_runs_out_of_processes_recovers_and_loses_no_run() -> None:
    with tempfile.TemporaryDirectory(prefix="darkfactory-nproc-") as name:
        os.chown(name, STRANGER, STRANGER)
        done = subprocess.run(
            [*BECOME.split(), sys.executable, "-c", FEW_PROCESSES, name, "15"],
            capture_output=True,
            text=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
            env={"PATH": os.defpath, "HOME": name, procfs.MARK: os.environ[procfs.MARK]},
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        ends = [line for line in journal(Path(name)) if line["kind"] == "run_ended"]
    assert sum(line["reason"] == "succeeded" for line in ends) == 30
    failed = {line["detail"].split(":")[0] for line in ends if line["reason"] == "failed"}
    assert failed == {"eagain"}


@pytest.mark.parametrize("number", EXHAUSTED)
async def test_a_sweep_waits_for_what_it_needs_to_look_and_to_kill(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Nobody is called dead because there was no descriptor to look with."""
    failures = iter([True, True, False])
    kills = iter([True, False])
    true_scan, true_kill = procfs.scan, procfs.kill

    def refuse() -> None:
        raise OSError(number, os.strerror(number))

    def scan(known: procfs.KnownMarks) -> procfs.Snapshot:
        if next(failures, False):
            refuse()
        return true_scan(known)

    def kill(process: procfs.ProcessInfo) -> None:
        if next(kills, False):
            refuse()
        true_kill(process)

    monkeypatch.setattr(procfs, "scan", scan)
    monkeypatch.setattr(procfs, "kill", kill)
    env = os.environ | {procfs.MARK: "hostile/run"}
    with subprocess.Popen(["sleep", "1000"], env=env, start_new_session=True) as child:  # noqa: ASYNC220
        with trio.fail_after(20):
            swept = await ProcessTable().sweep(Kin("hostile/run"))
        child.wait()  # at once; its status went to the sweep, which reaps orphans
    assert (swept.found, swept.left) == ((f"{child.pid} sleep",), ())


def test_processes_that_vanish_while_they_are_read_are_no_error() -> None:
    storm = "while :; do /bin/true & /bin/true & /bin/true & /bin/true & wait; done"
    with subprocess.Popen(["sh", "-c", storm], start_new_session=True) as process:
        try:
            for _ in range(200):
                assert os.getpid() in procfs.scan().processes
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            wait_until_gone(process.pid)


def wait_until_gone(session: int) -> None:
    """Wait for the end of those whom only another process can wait for: a kill returns before they have died."""
    deadline = time.monotonic() + 20
    while any(process.alive and process.session == session for process in procfs.scan().processes.values()):
        assert time.monotonic() < deadline


# A state directory that is not ours, or of no use.


@root_only
def test_a_state_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    with pytest.raises(StateDirError, match="belongs to another user"):
        StateDir.open(tmp_path, None)


@root_only
def test_a_link_that_another_user_made_is_refused_and_one_of_our_own_is_not(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    link = tmp_path / "link"
    link.symlink_to("real")
    StateDir.open(link, None).close()
    os.chown(link, 65534, 65534, follow_symlinks=False)
    with pytest.raises(StateDirError, match="link belongs to another user"):
        StateDir.open(link, None)


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_a_state_directory_that_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    directory = tmp_path / "state"
    directory.mkdir()
    directory.chmod(mode)
    with pytest.raises(StateDirError, match="others may write"):
        StateDir.open(directory, None)
    assert not list(directory.iterdir())


def test_one_that_others_may_read_is_closed_to_them(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    directory.mkdir(mode=0o755)
    StateDir.open(directory, None).close()
    assert directory.stat().st_mode & 0o777 == 0o700


def _file(path: Path) -> Iterator[None]:
    path.write_text("x")
    yield


def _dangling(path: Path) -> Iterator[None]:
    path.symlink_to(path.parent / "nowhere")
    yield


def _file_for_a_room(path: Path) -> Iterator[None]:
    path.mkdir(mode=0o700)
    (path / "journal").write_text("x")
    yield


def _directory_for_the_journal(path: Path) -> Iterator[None]:
    (path / "journal" / "00000001.jsonl").mkdir(parents=True)
    path.chmod(0o700)
    yield


def _read_only(path: Path) -> Iterator[None]:
    for _ in mounted(path, "size=1m,mode=700,ro"):
        yield


def _without_inodes(path: Path) -> Iterator[None]:
    for _ in mounted(path, "size=1m,mode=700,nr_inodes=2"):
        yield


def _full(path: Path) -> Iterator[None]:
    for _ in mounted(path, "size=16k,mode=700"):
        (path / "taken").write_bytes(b"x" * 16 * 1024)
        yield


@pytest.mark.parametrize(
    "made",
    [_file, _dangling, _file_for_a_room, _directory_for_the_journal, _read_only, _without_inodes, _full],
    ids=lambda made: made.__name__.strip("_"),
)
def test_a_state_directory_that_cannot_be_used_is_named_and_nothing_is_started(tmp_path: Path, made: Any) -> None:
    file = write(tmp_path, "echo ready; sleep 1000")
    for _ in made(tmp_path / "state"):
        refused = darkfactory(file)
        assert (refused.returncode, refused.stdout) == (2, "")
        *_, told = refused.stderr.splitlines()  # after the warnings
        assert told.startswith(str(tmp_path / "state"))
        assert "Traceback" not in refused.stderr


# No stderr to log to.


@pytest.mark.parametrize("where", ["closed", "broken pipe", "full disk"])
def test_a_log_that_cannot_be_written_costs_the_log_and_nothing_else(tmp_path: Path, where: str) -> None:
    file = write(tmp_path, "echo ready; sleep 1000")
    read_end, write_end = os.pipe()
    os.close(read_end)
    full = os.open("/dev/full", os.O_WRONLY)
    command = [sys.executable, "-m", "darkfactory", str(file)]
    if where == "closed":
        command = ["sh", "-c", 'exec "$@" 0<&- 1>&- 2>&-', "sh", *command]
    stderr = {"closed": subprocess.DEVNULL, "broken pipe": write_end, "full disk": full}[where]
    try:
        with subprocess.Popen(command, stderr=stderr, stdin=subprocess.DEVNULL) as process:
            try:
                deadline = 400
                while not journal_of(file, "run_started"):
                    assert process.poll() is None
                    deadline -= 1
                    assert deadline
                    signal.sigtimedwait([], 0.05)
                process.terminate()
                assert process.wait(timeout=20) == 0
            finally:
                process.kill()
    finally:
        os.close(write_end)
        os.close(full)
    assert journal_of(file, "factory_stopped")
    assert all(
        json.loads(line)["kind"] for line in (tmp_path / "state/journal/00000001.jsonl").read_text().splitlines()
    )


def test_a_log_whose_reader_dies_while_the_factory_runs_costs_the_log_and_nothing_else(tmp_path: Path) -> None:
    file = write(tmp_path, "echo ready; sleep 1000")
    with running(file) as process:
        assert process.stderr is not None
        process.stderr.close()
        process.terminate()
        assert process.wait(timeout=20) == 0
    assert journal_of(file, "factory_stopped")


def test_a_terminal_that_is_read_gets_the_whole_of_a_long_account() -> None:
    program = """
from darkfactory.cli import logs
logs.open_standard_streams()
logs.tell("\\n".join(f"{number:08d} " + "x" * 70 for number in range(1000)))
"""
    master, slave = os.openpty()
    said = b""
    with subprocess.Popen([sys.executable, "-c", program], stderr=slave, stdin=subprocess.DEVNULL) as process:
        os.close(slave)
        with suppress(OSError):  # EIO: the other end was closed
            while part := os.read(master, 4096):
                said += part
        assert process.wait(timeout=20) == 0
    os.close(master)
    assert said.count(b"x\r\n") == 1000


def test_a_terminal_that_nobody_reads_costs_the_log_and_nothing_else(tmp_path: Path) -> None:
    """As one at the other end of a connection that hangs. It is the shell's too, which must not find it changed."""
    restless = "[layers.Safety]\nsuccess_cooldown_secs = 0.01\n"
    file = write(tmp_path, "echo " + "x" * 100, restless)
    master, slave = os.openpty()
    command = [sys.executable, "-m", "darkfactory", str(file)]
    try:
        with subprocess.Popen(command, stderr=slave, stdin=subprocess.DEVNULL) as process:
            try:
                deadline = 400
                while len(journal_of(file, "run_ended")) < 40:  # its log is several times what the terminal takes
                    assert process.poll() is None
                    deadline -= 1
                    assert deadline, "it is held up"
                    signal.sigtimedwait([], 0.05)
                assert not fcntl.fcntl(slave, fcntl.F_GETFL) & os.O_NONBLOCK
                process.terminate()
                assert process.wait(timeout=20) == 0
            finally:
                process.kill()
    finally:
        os.close(master)
        os.close(slave)
    assert journal_of(file, "factory_stopped")
