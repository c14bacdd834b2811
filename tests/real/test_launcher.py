"""The real launcher: what programs do to those who start them."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from attrs import define, evolve, field

from darkfactory.devices import containment, procfs
from darkfactory.devices.launcher import RealLauncher, RealProcess
from darkfactory.devices.process import LaunchSpec
from darkfactory.errors import SpawnFailed
from darkfactory.model.signals import Stream

pytestmark = pytest.mark.real


@define(eq=False)
class Recorder:
    """A sink that keeps what it is given and takes its time to flush."""

    slow_secs: float = 0
    streams: dict[Stream, bytearray] = field(factory=lambda: {stream: bytearray() for stream in Stream})
    truncations: list[Stream] = field(factory=list)

    def feed(self, stream: Stream, data: bytes) -> None:
        self.streams[stream] += data

    def written(self, size: int) -> None:
        pass

    def truncated(self, stream: Stream) -> None:
        self.truncations.append(stream)

    async def flush(self) -> None:
        await trio.sleep(self.slow_secs)

    @property
    def out(self) -> bytes:
        return bytes(self.streams[Stream.STDOUT])

    @property
    def err(self) -> bytes:
        return bytes(self.streams[Stream.STDERR])

    async def lines(self, count: int) -> list[str]:
        """Wait for so many lines of stdout."""
        await condition(lambda: self.out.count(b"\n") >= count)
        return self.out.decode().splitlines()


@define(eq=False)
class Bench:
    """A launcher and a directory for its runs."""

    launcher: RealLauncher
    directory: Path
    _runs: int = 0

    def spec(self, *argv: str, **changes) -> LaunchSpec:
        self._runs += 1
        run_id = f"run-{self._runs}"
        spec = LaunchSpec(
            run_id=run_id,
            argv=argv,
            env={"PATH": os.environ["PATH"]},
            cwd=self.directory,
            stdin=None,
            stdout=self.directory / f"{run_id}.out",
            stderr=self.directory / f"{run_id}.err",
        )
        return evolve(spec, **changes)

    @asynccontextmanager
    async def run(self, spec: LaunchSpec, sink: Recorder | None = None) -> AsyncIterator[tuple[RealProcess, Recorder]]:
        """Launch; sweep and drain at the end."""
        sink = sink or Recorder()
        with trio.fail_after(30):
            process = await self.launcher.launch(spec, sink)
            try:
                yield process, sink
            finally:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + 20):
                    assert await process.sweep() == ()
                    await process.drain()

    async def outcome(self, spec: LaunchSpec, sink: Recorder | None = None) -> tuple[int, Recorder]:
        """Its exit code and its whole output."""
        async with self.run(spec, sink) as (process, recorder):
            code = await process.wait()
        return code, recorder


@pytest.fixture(autouse=True)
def plain_signals() -> Iterator[None]:
    """The tests themselves may run under nohup, or in the background of a script, which ignores SIGINT."""
    ignored = [number for number in signal.valid_signals() if signal.getsignal(number) is signal.SIG_IGN]
    ignored = [number for number in ignored if number not in (signal.SIGPIPE, signal.SIGXFSZ)]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    launcher = RealLauncher(uuid.uuid4().hex, outer_mark=os.environ["DARKFACTORY_RUN"])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(launcher.serve)
        yield Bench(launcher, tmp_path)
        nursery.cancel_scope.cancel()


def sh(script: str) -> tuple[str, ...]:
    return ("sh", "-c", script)


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-S", "-c", code)


async def condition(holds: Callable[[], bool]) -> None:
    with trio.fail_after(20):
        while not holds():  # noqa: ASYNC110 -- the condition is in other hands
            await trio.sleep(0.005)


def alive(pid: int) -> bool:
    found = procfs.scan().processes.get(pid)
    return found is not None and found.alive


# Output


async def test_both_streams_are_whole_with_the_last_line_that_has_no_newline(bench):
    code, sink = await bench.outcome(bench.spec(*sh("echo one; echo two >&2; printf three")))
    assert (code, sink.out, sink.err) == (0, b"one\nthree", b"two\n")


async def test_megabytes_are_whole(bench):
    code, sink = await bench.outcome(bench.spec(*python("for n in range(400_000): print('%019d' % n)")))
    assert code == 0
    assert sink.out == b"".join(b"%019d\n" % n for n in range(400_000))


async def test_twenty_at_once_lose_no_line(bench):
    sinks = [Recorder() for _ in range(20)]
    async with trio.open_nursery() as nursery:
        for sink in sinks:
            nursery.start_soon(
                bench.outcome, bench.spec(*sh("i=0; while [ $i -lt 3000 ]; do echo $i; i=$((i+1)); done")), sink
            )
    for sink in sinks:
        assert sink.out == b"".join(b"%d\n" % n for n in range(3000))


async def test_a_sink_that_is_slow_to_flush_loses_nothing_and_does_not_slow_the_child(bench):
    spec = bench.spec(*python("for n in range(100_000): print('%09d' % n, flush=n % 1000 == 0)"))
    code, sink = await bench.outcome(spec, Recorder(slow_secs=0.2))
    assert code == 0
    assert sink.out == b"".join(b"%09d\n" % n for n in range(100_000))


async def test_a_child_may_truncate_its_own_file(bench):
    os.mkfifo(bench.directory / "gate")
    spec = bench.spec(*sh("echo a long line >&2; read line < gate; echo x > /dev/stderr; echo rest >&2"))
    async with bench.run(spec) as (process, sink):
        await condition(lambda: bool(sink.err))
        (bench.directory / "gate").write_text("go\n")
        await process.wait()
    assert sink.truncations == [Stream.STDERR]
    assert sink.err == b"a long line\nx\nrest\n"


async def test_the_files_are_ours_alone_and_appended_to(bench):
    spec = bench.spec(*sh("grep flags /proc/$$/fdinfo/1"))
    _, sink = await bench.outcome(spec)
    assert (spec.stdout.stat().st_mode & 0o777, spec.stderr.stat().st_mode & 0o777) == (0o600, 0o600)
    assert int(sink.out.split()[1], 8) & os.O_APPEND


async def test_a_grandchild_that_holds_the_output_does_not_delay_the_exit(bench):
    async with bench.run(bench.spec(*sh("sleep 1000 & echo $!; exit 5"))) as (process, sink):
        assert await process.wait() == 5
        holder = int((await sink.lines(1))[0])
        assert alive(holder)
    assert not alive(holder)


# What the child is given


async def test_stdin_is_the_file_or_nothing(bench):
    (bench.directory / "prompt").write_text("do this")
    _, sink = await bench.outcome(bench.spec("cat", stdin=bench.directory / "prompt"))
    assert sink.out == b"do this"
    _, sink = await bench.outcome(bench.spec(*sh("cat; readlink /proc/$$/fd/0")))
    assert sink.out == b"/dev/null\n"


async def test_the_environment_is_what_was_given_and_the_mark_and_there_are_no_other_descriptors(bench):
    code = (
        "import os; print(sorted(os.environ)); print(os.environ['DARKFACTORY_RUN']);"
        "print(sorted(os.listdir('/proc/self/fd')))"
    )
    leaked = os.open(os.devnull, os.O_RDONLY)
    os.set_inheritable(leaked, True)
    try:
        env = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "DARKFACTORY_RUN": "forged"}
        _, sink = await bench.outcome(bench.spec(*python(code), env=env))
    finally:
        os.close(leaked)
    names, mark, descriptors = sink.out.decode().splitlines()
    assert names == "['DARKFACTORY_RUN', 'LC_ALL', 'PATH']"
    assert mark == f"{os.environ['DARKFACTORY_RUN']}:{bench.launcher.instance}/run-1"
    assert descriptors == "['0', '1', '2', '3']"  # 3 lists them


async def test_without_an_outer_factory_the_mark_is_ours_alone(bench):
    bench.launcher.outer_mark = None
    _, sink = await bench.outcome(bench.spec(*sh("echo $DARKFACTORY_RUN")))
    assert sink.out.decode() == f"{bench.launcher.instance}/run-1\n"


async def test_it_leads_a_session_in_its_directory(bench):
    async with bench.run(bench.spec(*sh("pwd; exec sleep 1000"))) as (process, sink):
        assert await sink.lines(1) == [str(bench.directory)]
        assert (os.getsid(process.pid), os.getpgid(process.pid)) == (process.pid, process.pid)


async def test_a_program_is_looked_up_as_the_child_would_do_it(bench):
    for place, word in (("tool", "here"), ("bin/tool", "bin")):
        path = bench.directory / place
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\necho {word}\n")
        path.chmod(0o700)
    for argv, path, expected in (
        ("./tool", "/bin", b"here\n"),
        (str(bench.directory / "tool"), "/bin", b"here\n"),
        ("tool", "bin:/bin", b"bin\n"),
        ("tool", ":/bin", b"here\n"),
    ):
        _, sink = await bench.outcome(bench.spec(argv, env={"PATH": path}))
        assert sink.out == expected
    assert bench.launcher.locate("tool", {"PATH": f"{bench.directory}/bin"}, bench.directory) == str(
        bench.directory / "bin/tool"
    )
    assert bench.launcher.locate("./tool", {}, bench.directory) == str(bench.directory / "tool")


@pytest.fixture
def unfit_signals(plain_signals: None) -> Iterator[None]:
    """What a factory under nohup, or a program that takes its signals by signalfd, would bequeath."""
    ignored = (signal.SIGHUP, signal.SIGINT, signal.SIGUSR1)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ignored}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR2})
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("name", ["grep", "with=sign"])
async def test_ignored_and_blocked_signals_are_not_inherited(bench, unfit_signals, name):
    program = bench.directory / name
    program.symlink_to("/bin/grep")
    code, sink = await bench.outcome(bench.spec(str(program), "-E", "^Sig(Ign|Blk)", "/proc/self/status"))
    assert code == 0
    assert {int(line.split()[1], 16) for line in sink.out.splitlines()} == {0}


async def test_without_unfit_signals_nothing_stands_before_the_program(bench):
    async with bench.run(bench.spec(*sh("grep -E '^Sig(Ign|Blk)' /proc/self/status; exec sleep 1000"))) as (_, sink):
        lines = await sink.lines(2)
    assert {int(line.split()[1], 16) for line in lines} == {0}


async def test_where_exit_statuses_would_be_lost_nothing_starts(bench):
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with pytest.raises(SpawnFailed, match="SIGCHLD"):
            await bench.launcher.launch(bench.spec("true"), Recorder())
    finally:
        signal.signal(signal.SIGCHLD, before)


async def test_memory_over_the_limit_is_refused_to_one_process(bench):
    code = """if True:
        import re
        while "unlimited" in re.search("Max data size.*", open("/proc/self/limits").read())[0]:
            pass
        bytearray(300 << 20)
    """
    code_of_it, sink = await bench.outcome(bench.spec(*python(code), max_memory_bytes=200 << 20))
    assert code_of_it == 1
    assert b"MemoryError" in sink.err
    assert resource.getrlimit(resource.RLIMIT_DATA)[0] == resource.RLIM_INFINITY


# What cannot be started


@pytest.mark.parametrize(
    ("argv", "changes", "reason"),
    [
        (("no-such-program",), {}, "tool_missing"),
        (("./no-such-program",), {}, "tool_missing"),
        (("./not-executable",), {}, "tool_missing"),
        (("true",), {"env": {"PATH": "/nowhere", "KEY": "s3cret"}}, "tool_missing"),
        (("true",), {"cwd": Path("/nowhere")}, "working_dir_missing"),
        (("true",), {"stdin": Path("/nowhere/prompt")}, "enoent"),
        (("./no-interpreter",), {}, "enoent"),
        (("true", "x" * (1 << 20)), {}, "e2big"),
        (("true", "a\0b"), {}, "invalid_argument"),
        (("true",), {"env": {"PATH": os.defpath, "KEY": "s3cret\0"}}, "invalid_argument"),
    ],
)
async def test_a_start_that_fails_says_why_and_leaves_nothing(bench, argv, changes, reason):
    (bench.directory / "not-executable").write_text("#!/bin/sh\n")
    (bench.directory / "no-interpreter").write_text("#!/nowhere/python\n")
    (bench.directory / "no-interpreter").chmod(0o700)
    before = set(bench.directory.iterdir())
    with pytest.raises(SpawnFailed) as caught:
        await bench.launcher.launch(bench.spec(*argv, **changes), Recorder())
    assert caught.value.reason == reason
    assert "s3cret" not in caught.value.detail
    assert set(bench.directory.iterdir()) == before


async def test_a_file_that_is_already_there_is_not_touched(bench):
    spec = bench.spec("true")
    spec.stderr.write_text("of an earlier run")
    with pytest.raises(SpawnFailed) as caught:
        await bench.launcher.launch(spec, Recorder())
    assert caught.value.reason == "eexist"
    assert spec.stderr.read_text() == "of an earlier run"
    assert not spec.stdout.exists()


async def test_a_start_that_fails_after_the_fork_leaves_no_process(bench, monkeypatch):
    started = []

    def no_descriptors(pid: int) -> int:
        started.append(pid)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pidfd_open", no_descriptors)
        with pytest.raises(SpawnFailed) as caught:
            await bench.launcher.launch(bench.spec("sleep", "1000"), Recorder())
    assert caught.value.reason == "emfile"
    assert not alive(started[0])


# Its end


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", -9), ("ulimit -c 0; kill -SEGV $$", -11)]
)
async def test_the_exit_code_or_minus_the_signal(bench, script, code):
    assert (await bench.outcome(bench.spec(*sh(script))))[0] == code


async def test_a_status_that_someone_else_took_is_a_bug_and_told_as_one(bench):
    async with bench.run(bench.spec("true")) as (process, _):
        await trio.to_thread.run_sync(os.waitpid, process.pid, 0)
        with pytest.raises(RuntimeError, match="not known"):
            await process.wait()
    with pytest.raises(RuntimeError, match="not known"):
        await process.wait()


async def test_a_stopped_child_ends_on_terminate(bench):
    async with bench.run(bench.spec(*sh("echo ready; kill -STOP $$; sleep 1000"))) as (process, sink):
        await sink.lines(1)
        await trio.to_thread.run_sync(os.waitid, os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        await process.terminate()
        assert await process.wait() == -signal.SIGTERM


async def test_the_leader_is_reaped_by_the_drain_and_not_before(bench):
    async with bench.run(bench.spec("true")) as (process, _):
        await process.wait()
        await process.sweep()
        assert process.pid in procfs.scan().processes
    assert process.pid not in procfs.scan().processes


async def test_a_drain_that_is_cancelled_releases_everything(bench):
    process = await bench.launcher.launch(bench.spec("true"), Recorder(slow_secs=1000))
    await process.wait()
    await process.sweep()
    with trio.move_on_after(0.05) as scope:
        await process.drain()
    assert scope.cancelled_caught
    assert process.pid not in procfs.scan().processes
    assert await process.wait() == 0


DAEMON = """if True:
    import os, sys, time
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            print(os.getpid(), flush=True)
            time.sleep(1000)
        os._exit(0)
    os.wait()
    %s
"""


async def test_a_daemon_is_swept_after_a_normal_end(bench):
    async with bench.run(bench.spec(*python(DAEMON % ""))) as (process, sink):
        assert await process.wait() == 0
        daemon = int((await sink.lines(1))[0])
        assert alive(daemon)
    assert not alive(daemon)


async def test_a_child_in_a_session_of_its_own_without_the_mark_is_swept_when_it_was_noted(bench):
    script = "env -i /usr/bin/setsid /bin/sh -c 'echo $$; exec /bin/sleep 1000' & wait"
    async with bench.run(bench.spec(*sh(script))) as (process, sink):
        hidden = int((await sink.lines(1))[0])
        await process.terminate()
        await process.wait()
        assert alive(hidden)
    assert not alive(hidden)


async def test_who_is_not_ours_survives_the_sweep(bench):
    stranger = await trio.lowlevel.open_process(["sleep", "1000"], env={"PATH": os.defpath}, start_new_session=True)
    other = RealLauncher(uuid.uuid4().hex)
    neighbour = await other.launch(bench.spec("sleep", "1000"), Recorder())
    try:
        async with bench.run(bench.spec("sleep", "1000")) as (sibling, _):
            await bench.outcome(bench.spec(*sh("sleep 1000 & exit 0")))
            assert alive(sibling.pid)
        assert (stranger.poll(), alive(neighbour.pid)) == (None, True)
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 20):
            stranger.kill()
            await stranger.wait()
            assert await neighbour.sweep() == ()
            await neighbour.drain()


async def test_who_cannot_be_killed_is_named(bench, monkeypatch):
    async with bench.run(bench.spec(*sh("setsid sh -c 'echo ready; exec sleep 1000' & wait"))) as (process, sink):
        await sink.lines(1)
        with monkeypatch.context() as patch:
            patch.setattr(procfs, "kill", lambda found: None)
            patch.setattr(containment.ProcessTable.sweep, "__kwdefaults__", {"limit_secs": 1.0})
            (left,) = await process.sweep()
        assert left.endswith(" sleep")


# Orphans that come to us, where we are a subreaper


@pytest.fixture
def _subreaper(monkeypatch) -> Iterator[None]:
    monkeypatch.setattr("darkfactory.devices.launcher.LOOK_SECS", 0.02)
    containment.adopt_orphans()
    yield
    ctypes.CDLL(None).prctl(containment._PR_SET_CHILD_SUBREAPER, 0)


@pytest.fixture
async def adopting(tmp_path: Path, _subreaper: None) -> AsyncIterator[Bench]:
    async with adopting_bench(tmp_path) as bench:
        yield bench


@asynccontextmanager
async def adopting_bench(directory: Path) -> AsyncIterator[Bench]:
    launcher = RealLauncher(uuid.uuid4().hex, outer_mark=os.environ["DARKFACTORY_RUN"], adopts=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(launcher.serve)  # noqa: ASYNC113
        yield Bench(launcher, directory)
        nursery.cancel_scope.cancel()
    launcher.close()


GHOST = "(env -i setsid sleep 1000 & echo $!); "


async def ghost(sink: Recorder) -> int:
    """The pid that a script with a GHOST in front has printed, once nothing gives it away any more."""
    pid = int((await sink.lines(1))[0])

    def hidden() -> bool:
        found = procfs.scan().processes[pid]
        return (found.ppid, found.session, found.name, found.marks) == (os.getpid(), pid, "sleep", ())

    await condition(hidden)
    return pid


async def test_an_orphan_that_hides_from_everything_is_ended_with_its_run(adopting):
    async with adopting.run(adopting.spec(*sh(GHOST + "sleep 1000"))) as (process, sink):
        hidden = await ghost(sink)
        process.kill()
        assert await process.sweep() == ()
        assert not alive(hidden)


async def test_whose_orphan_it_is_nobody_knows_so_it_lives_as_long_as_the_oldest_run_that_it_may_be_of(adopting):
    async with adopting.run(adopting.spec("sleep", "1000")) as (older, _):  # noqa: SIM117
        async with adopting.run(adopting.spec(*sh(GHOST + "exit 0"))) as (process, sink):
            hidden = await ghost(sink)
            tick = procfs.start_time(hidden)
            younger = adopting.spec(*sh("echo; sleep 1000"))
            await condition(lambda: _now_in_ticks() > tick)
            async with adopting.run(younger) as (_, recorder):
                await recorder.lines(1)
                await process.wait()
                await process.sweep()
                assert alive(hidden)
                older.kill()
                await older.sweep()
                assert not alive(hidden)


def _now_in_ticks() -> int:
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))


async def test_dead_orphans_are_reaped_while_their_run_goes_on_and_nobody_elses_status_is_taken(adopting):
    own = await trio.lowlevel.open_process(["false"])
    await condition(lambda: not procfs.scan().processes[own.pid].alive)
    script = "(env -i setsid true & echo $!); sleep 1000"
    async with adopting.run(adopting.spec(*sh(script))) as (_, sink):
        orphan = int((await sink.lines(1))[0])
        await condition(lambda: orphan not in procfs.scan().processes)
    assert await own.wait() == 1


@pytest.mark.usefixtures("_subreaper")
async def test_what_we_started_ourselves_is_no_orphan_nor_what_we_found_at_the_start(tmp_path):
    own = await trio.lowlevel.open_process(["sleep", "1000"], env={"PATH": os.defpath})
    found = await trio.lowlevel.open_process(["sleep", "1000"], env={"PATH": os.defpath}, start_new_session=True)
    try:
        async with adopting_bench(tmp_path) as bench:
            async with bench.run(bench.spec(*sh(GHOST + "exit 0"))) as (_, sink):
                hidden = await ghost(sink)
                assert [orphan.pid for orphan in bench.launcher._table.adopted()] == [hidden]
            assert not alive(hidden)
        assert (own.poll(), found.poll()) == (None, None)
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 20):
            for process in (own, found):
                process.kill()
                await process.wait()


async def test_an_orphan_that_no_sweep_has_met_is_ended_by_the_next_look(adopting):
    async with adopting.run(adopting.spec(*sh(GHOST + "sleep 1000"))) as (process, sink):
        hidden = await ghost(sink)
        with adopting.launcher._table.starting():  # as if a start were under way
            process.kill()
            assert adopting.launcher._table.adopted() is None
            await process.sweep()
            assert alive(hidden)
    await condition(lambda: not alive(hidden))


async def test_a_look_for_orphans_waits_for_descriptors(adopting, monkeypatch):
    refused, looking = trio.Event(), procfs.own_children

    def own_children() -> set[int]:
        try:
            return looking()
        except OSError:
            refused.set()
            raise

    monkeypatch.setattr(procfs, "own_children", own_children)
    async with adopting.run(adopting.spec(*sh(GHOST + "exit 0"))) as (process, sink):
        hidden = await ghost(sink)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))  # those that are open stay so
        try:
            with trio.fail_after(20):
                await refused.wait()
                assert not adopting.launcher._table.left_nobody(process._kin)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not alive(hidden)


# Ends that take no scan


@pytest.fixture
def scans(monkeypatch) -> list[None]:
    """One for each scan."""
    counted: list[None] = []
    scan = procfs.scan

    def counting(*args) -> procfs.Snapshot:
        counted.append(None)
        return scan(*args)

    monkeypatch.setattr(procfs, "scan", counting)
    return counted


async def test_a_subreapers_run_that_ended_by_itself_and_left_nobody_takes_no_scan(adopting, scans, monkeypatch):
    monkeypatch.setattr("darkfactory.devices.launcher.LOOK_SECS", 1000)
    ours = await trio.lowlevel.open_process(["sleep", "1000"])  # a child of our own is no run's
    async with adopting.run(adopting.spec("sleep", "1000")), adopting.run(adopting.spec("true")) as (process, _):
        await process.wait()
        assert await process.sweep() == ()
        assert scans == []
    ours.kill()
    await ours.wait()


@pytest.mark.parametrize("left", ["sleep 1000 &", "setsid sleep 1000 &", "env -i setsid sleep 1000 &"])
async def test_what_such_a_run_has_left_is_ended_with_it(adopting, left):
    async with adopting.run(adopting.spec(*sh(f"{left} echo $!; exit 0"))) as (process, sink):
        pid = int((await sink.lines(1))[0])
        await process.wait()
        assert await process.sweep() == ()
        assert not alive(pid)


async def test_a_kernel_that_does_not_tell_of_children_is_asked_for_all_processes(adopting, scans, monkeypatch):
    monkeypatch.setattr(procfs, "own_children", set)
    async with adopting.run(adopting.spec(*sh("setsid sleep 1000 & echo $!"))) as (process, sink):
        pid = int((await sink.lines(1))[0])
        await process.wait()
        assert await process.sweep() == ()
        assert scans
        assert not alive(pid)


async def test_a_run_that_begins_again_under_its_mark_is_not_ended_for_the_one_before(adopting):
    spec = adopting.spec("true")
    async with adopting.run(spec) as (process, _):  # as of what waited for it, and has ended
        await process.wait()
    assert adopting.launcher._table.unseen
    again = evolve(
        spec, argv=("sleep", "1000"), stdout=spec.stdout.with_suffix(".2"), stderr=spec.stderr.with_suffix(".3")
    )
    async with adopting.run(again) as (process, _):
        await condition(lambda: not adopting.launcher._table.unseen)
        assert alive(process.pid)


async def test_a_mark_that_was_noted_while_a_scan_was_under_way_waits_for_the_next_one(monkeypatch):
    table = containment.ProcessTable()
    looking = procfs.scan

    def scan(known: procfs.KnownMarks) -> procfs.Snapshot:
        table.unseen.add("later")
        return looking(known)

    table.unseen.add("sooner")
    monkeypatch.setattr(procfs, "scan", scan)
    await table.end_unseen()
    assert table.unseen == {"later"}


@contextmanager
def strangers_child(mark: str) -> Iterator[subprocess.Popen[str]]:
    """A process that carries a mark and is a child of nobody of ours, as a daemon's that was given an environment."""
    parent = ["sh", "-c", "DARKFACTORY_RUN=$0 setsid sleep 1000 & echo $!; wait", mark]
    with subprocess.Popen(parent, stdout=subprocess.PIPE, text=True) as popen:
        assert popen.stdout is not None
        yield popen
        popen.kill()


@pytest.mark.usefixtures("_subreaper")
@pytest.mark.parametrize("at_the_end", [False, True])
async def test_what_a_stranger_has_started_with_a_runs_mark_is_ended_by_the_next_look(
    tmp_path, monkeypatch, at_the_end
):
    if at_the_end:
        monkeypatch.setattr("darkfactory.devices.launcher.LOOK_SECS", 1000)
    async with adopting_bench(tmp_path) as bench:
        spec = bench.spec("true")
        with strangers_child(f"{bench.launcher.instance}/{spec.run_id}") as stranger:
            pid = int(stranger.stdout.readline())
            async with bench.run(spec) as (process, _):
                await process.wait()
                assert await process.sweep() == ()
            if not at_the_end:
                await condition(lambda: not alive(pid))
                await condition(lambda: not bench.launcher._table.unseen)
            bench.launcher.close()
            await condition(lambda: not alive(pid))


# Leftovers


async def test_leftovers_of_our_instance_are_ended_and_named_and_nobody_elses(bench):
    # As a crash leaves them: our instance's run, whose tool shed the mark, and another's; orphans all.
    run = "env DARKFACTORY_RUN=%s setsid sh -c 'sleep 1000 & env -u DARKFACTORY_RUN sleep 1000 & wait' &"
    outer = os.environ["DARKFACTORY_RUN"]
    other = RealLauncher(uuid.uuid4().hex)
    ours, theirs = f"{bench.launcher.instance}/old", f"{other.instance}/old"
    await trio.run_process(sh(run % f"{outer}:{ours}" + run % f"{outer}:{theirs}"))

    def sessions(mark: str) -> list[procfs.ProcessInfo]:
        snapshot = procfs.scan()
        leaders = [found for found in snapshot.carrying(mark) if found.pid == found.session]
        return [found for leader in leaders for found in snapshot.sessions[leader.pid] if found.name == "sleep"]

    await condition(lambda: len(sessions(ours)) == len(sessions(theirs)) == 2)
    found = await bench.launcher.sweep_leftovers()
    assert sorted(name.split()[1] for name in found) == ["sh", "sleep", "sleep"]
    assert not sessions(ours)
    assert len(sessions(theirs)) == 2
    assert len(await other.sweep_leftovers()) == 3
    assert await bench.launcher.sweep_leftovers() == ()
