"""What the runtime relies on, checked of every launcher there is.

A bench starts programs by what they do, not by their command line, so that a scripted launcher can offer the same: add
its bench to BENCHES.
"""

from __future__ import annotations

import math
import os
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from enum import Enum
from pathlib import Path
from typing import Protocol

import pytest
import trio
from attrs import define, evolve, field

from darkfactory.devices.launcher import RealLauncher
from darkfactory.devices.process import Launcher, LaunchSpec, Process
from darkfactory.errors import SpawnFailed
from darkfactory.model.signals import Stream
from darkfactory.testing import Script, ScriptedLauncher

pytestmark = pytest.mark.real


class Program(Enum):
    SAYS_HELLO = "prints 'hello' and 'world' without a newline, 'oops' on stderr, and exits 0"
    EXITS_3 = "exits 3 and prints nothing"
    STAYS = "prints 'ready' and stays until a signal ends it"
    IGNORES_SIGTERM = "prints 'ready' and stays until SIGKILL"
    READS = "prints 'ready', reads its input to the end, prints 'read' and exits 0"
    IS_MISSING = "is not there"


@define(eq=False)
class Recorder:
    """A sink that keeps what it is given."""

    out: bytearray = field(factory=bytearray)
    err: bytearray = field(factory=bytearray)
    truncations: int = 0
    dirty: bool = False

    def feed(self, stream: Stream, data: bytes) -> None:
        (self.out if stream is Stream.STDOUT else self.err).extend(data)
        self.dirty = True

    def written(self, size: int) -> None:
        pass

    def truncated(self, stream: Stream) -> None:
        self.truncations += 1
        self.dirty = True

    async def flush(self) -> None:
        self.dirty = False
        await trio.lowlevel.checkpoint()

    async def until(self, expected: bytes) -> None:
        with trio.fail_after(10):
            while expected not in self.out:  # noqa: ASYNC110 -- short, and simple to read
                await trio.sleep(0.005)


class Bench(Protocol):
    launcher: Launcher

    def spec(self, program: Program, run_id: str = "run") -> LaunchSpec: ...


SCRIPTS = {
    Program.SAYS_HELLO: "echo hello; printf world; echo oops >&2",
    Program.EXITS_3: "exit 3",
    Program.STAYS: "echo ready; exec sleep 1000",
    Program.IGNORES_SIGTERM: "trap '' TERM; echo ready; sleep 1000; sleep 1000",
    Program.READS: "echo ready; cat >/dev/null; echo read",
}


class RealBench:
    def __init__(self, directory: Path) -> None:
        self.launcher: Launcher = RealLauncher(uuid.uuid4().hex, outer_mark=os.environ["DARKFACTORY_RUN"])
        self._directory = directory

    def spec(self, program: Program, run_id: str = "run") -> LaunchSpec:
        script = SCRIPTS.get(program)
        return LaunchSpec(
            run_id=run_id,
            argv=("sh", "-c", script) if script else ("no-such-program",),
            env={"PATH": os.defpath},
            cwd=self._directory,
            stdin=None,
            stdout=self._directory / f"{run_id}.out",
            stderr=self._directory / f"{run_id}.err",
        )


class ScriptedBench:
    def __init__(self, directory: Path) -> None:
        stays = Script(output=((0.0, b"ready\n"),), secs=math.inf)
        self._scripts = {
            Program.SAYS_HELLO: Script(
                output=((0.0, b"hello\nworld"),), errors=((0.0, b"oops\n"),), secs=0.0, last_words=b""
            ),
            Program.EXITS_3: Script(output=(), secs=0.0, exit_code=3, last_words=b""),
            Program.STAYS: stays,
            Program.IGNORES_SIGTERM: evolve(stays, dies_after=None),
            Program.READS: Script(banner=b"ready\n", output=(), secs=0.0, last_words=b"read\n"),
            Program.IS_MISSING: Script(refuses="tool_missing"),
        }
        launcher = ScriptedLauncher(lambda spec: self._scripts[Program[spec.argv[0]]])
        launcher.missing.add(Program.IS_MISSING.name)
        self.launcher: Launcher = launcher
        self._directory = directory

    def spec(self, program: Program, run_id: str = "run") -> LaunchSpec:
        out, err = (self._directory / f"{run_id}.{stream}" for stream in ("out", "err"))
        return LaunchSpec(run_id, (program.name,), {}, self._directory, None, out, err)


BENCHES: dict[str, Callable[[Path], Bench]] = {"real": RealBench, "scripted": ScriptedBench}


@pytest.fixture(params=sorted(BENCHES))
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    return BENCHES[request.param](tmp_path)


@asynccontextmanager
async def launched(
    bench: Bench, program: Program, run_id: str = "run", *, prompt_later: bool = False
) -> AsyncIterator[tuple[Process, Recorder]]:
    """A run under the service, swept and drained at the end."""
    sink = Recorder()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.launcher.serve)  # noqa: ASYNC113 -- a launch may come before the service
        with trio.fail_after(20):
            spec = evolve(bench.spec(program, run_id), prompt_later=prompt_later)
            process = await bench.launcher.launch(spec, sink)
            try:
                yield process, sink
            finally:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + 20):
                    assert await process.sweep() == ()
                    await process.drain()
        nursery.cancel_scope.cancel()


async def test_the_output_is_whole_after_the_drain_and_the_last_flush_came_last(bench):
    async with launched(bench, Program.SAYS_HELLO) as (process, sink):
        assert await process.wait() == 0
    assert sink.out == b"hello\nworld"
    assert sink.err == b"oops\n"
    assert not sink.dirty


async def test_the_exit_code_is_told_as_often_as_asked(bench):
    async with launched(bench, Program.EXITS_3) as (process, _):
        assert [await process.wait(), await process.wait()] == [3, 3]
    assert await process.wait() == 3


async def test_output_is_fed_while_it_lives(bench):
    async with launched(bench, Program.STAYS) as (process, sink):
        await sink.until(b"ready\n")
        process.kill()


async def test_terminate_ends_what_does_not_object(bench):
    async with launched(bench, Program.STAYS) as (process, sink):
        await sink.until(b"ready\n")
        await process.terminate()
        assert await process.wait() == -15


async def test_kill_ends_what_ignores_sigterm(bench):
    async with launched(bench, Program.IGNORES_SIGTERM) as (process, sink):
        await sink.until(b"ready\n")
        await process.terminate()
        with trio.move_on_after(0.05) as politely:
            await process.wait()
        assert politely.cancelled_caught
        process.kill()
        assert await process.wait() == -9


async def test_a_sweep_ends_the_leader_too(bench):
    async with launched(bench, Program.IGNORES_SIGTERM) as (process, sink):
        await sink.until(b"ready\n")
        assert await process.sweep() == ()
        assert await process.wait() == -9


async def test_signals_after_the_end_do_nothing(bench):
    async with launched(bench, Program.EXITS_3) as (process, _):
        await process.wait()
        await process.terminate()
        process.kill()
    await process.terminate()
    process.kill()
    assert await process.wait() == 3


async def test_waiting_can_be_cancelled_and_begun_again_and_several_may_wait(bench):
    codes = []

    async def wait(process: Process) -> None:
        codes.append(await process.wait())

    async with launched(bench, Program.STAYS) as (process, sink):
        await sink.until(b"ready\n")
        with trio.move_on_after(0):
            await process.wait()
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(wait, process)
            process.kill()
    assert codes == [-9, -9, -9]


async def test_one_that_is_prompted_later_waits_for_that_and_goes_on_when_it_has_come(bench):
    async with launched(bench, Program.READS, prompt_later=True) as (process, sink):
        await sink.until(b"ready\n")
        with trio.move_on_after(0.05) as waiting:
            await process.wait()
        assert waiting.cancelled_caught
        assert process.deliver(b"do it")
        assert await process.wait() == 0
    assert sink.out == b"ready\nread\n"


async def test_one_that_has_ended_takes_no_prompt(bench):
    async with launched(bench, Program.READS, prompt_later=True) as (process, sink):
        await sink.until(b"ready\n")
        process.kill()
        assert await process.wait() == -9
        assert not process.deliver(b"do it")
    assert sink.out == b"ready\n"


async def test_one_that_waits_for_its_prompt_is_ended_as_any_other(bench):
    async with launched(bench, Program.READS, prompt_later=True) as (process, sink):
        await sink.until(b"ready\n")
        await process.terminate()
        assert await process.wait() == -15
    assert sink.out == b"ready\n", "it has not seen the end of its input before"


async def test_a_missing_program_is_told_as_such_and_leaves_nothing(bench):
    spec = bench.spec(Program.IS_MISSING)
    with pytest.raises(SpawnFailed) as caught:
        await bench.launcher.launch(spec, Recorder())
    assert caught.value.reason == "tool_missing"
    assert spec.argv[0] in caught.value.detail
    assert not spec.stdout.exists()
    assert bench.launcher.locate(spec.argv[0], spec.env, spec.cwd) is None


def test_a_program_that_is_there_is_located(bench):
    spec = bench.spec(Program.SAYS_HELLO)
    assert bench.launcher.locate(spec.argv[0], spec.env, spec.cwd) is not None


async def test_a_process_that_nobody_serves_is_drained_whole(tmp_path):
    """Of real processes: scripted ones live in the service itself."""
    bench = RealBench(tmp_path)
    sink = Recorder()
    process = await bench.launcher.launch(bench.spec(Program.SAYS_HELLO), sink)
    await process.wait()
    await process.sweep()
    await process.drain()
    assert sink.out == b"hello\nworld"


async def test_leftovers_of_an_instance_that_left_none(bench):
    assert await bench.launcher.sweep_leftovers() == ()
