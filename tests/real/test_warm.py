"""Real processes that wait for their prompt: what they see of their input, and what is left of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import evolve

from darkfactory import Admit, AgentDefinition, AgentLayer, OrchestratorConfig, ToolConfig, open_factory
from darkfactory.devices import launcher as room
from darkfactory.model.fleet import Containment

from .test_behaviours import journal
from .test_command import until
from .test_launcher import Bench, Recorder, alive, bench, plain_signals, python, sh

pytestmark = pytest.mark.real

__all__ = ["bench", "plain_signals"]  # fixtures

QUICK = ("--pause", "0", "--steps", "1")
TOOLS = {
    "reader": ToolConfig(("sh", "-c", "cat; echo; echo read")),
    "told": ToolConfig(("sh", "-c", 'cat >/dev/null; cat "$DARKFACTORY_MESSAGES" || echo nothing')),
}


async def test_it_reads_its_prompt_and_then_the_end_of_its_input(bench: Bench):
    spec = bench.spec(*sh("echo up; cat; echo over"), prompt_later=True)
    async with bench.run(spec) as (process, sink):
        await sink.lines(1)
        assert process.deliver("grüß\n".encode())
        assert await process.wait() == 0
    assert sink.out.decode() == "up\ngrüß\nover\n"


async def test_a_prompt_that_is_larger_than_a_pipe_usually_is_arrives_whole(bench: Bench):
    prompt = os.urandom(1024**2)
    async with bench.run(bench.spec("cat", prompt_later=True)) as (process, sink):
        assert process.deliver(prompt)
        assert await process.wait() == 0
    assert sink.out == prompt


async def test_a_prompt_that_no_pipe_can_hold_is_refused_and_nothing_of_it_is_read(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(room.fcntl, "F_SETPIPE_SZ", -1)  # who it is that may have how large a pipe, the system says
    code = """
import os, signal
signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
print("up", flush=True)
print("read", os.read(0, 1), flush=True)
"""
    async with bench.run(bench.spec(*python(code), prompt_later=True)) as (process, sink):
        await sink.lines(1)
        assert not process.deliver(b"x" * 100_000)
        await process.terminate()
        assert await process.wait() == 7
    assert sink.out == b"up\n"


async def test_a_prompt_that_is_cut_is_not_taken_for_a_whole_one(bench: Bench):
    """Whoever runs as the same user can write into the pipe, and there may be no room for all of ours."""
    code = """
import os, signal
signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
signal.signal(signal.SIGUSR1, lambda *_: None)
print("up", flush=True)
signal.pause()
read = 0
while data := os.read(0, 100_000):
    read += len(data)
    if read == 65_536:
        print("full", flush=True)
print("over", flush=True)
"""
    async with bench.run(bench.spec(*python(code), prompt_later=True)) as (process, sink):
        await sink.lines(1)
        with Path(f"/proc/{process.pid}/fd/0").open("wb", buffering=0) as theirs:  # noqa: ASYNC230 - it is a pipe
            theirs.write(b"x" * 61_440)
        assert not process.deliver(b"y" * 10_000)
        os.kill(process.pid, signal.SIGUSR1)
        await sink.lines(2)
        await process.terminate()
        assert await process.wait() == 7
    assert sink.out == b"up\nfull\n"


async def test_one_that_has_closed_its_input_takes_no_prompt(bench: Bench):
    async with bench.run(bench.spec(*sh("exec <&-; echo up; sleep 1000"), prompt_later=True)) as (process, sink):
        await sink.lines(1)
        assert not process.deliver(b"do it")


async def test_one_that_is_dead_and_not_reaped_takes_no_prompt_even_if_a_child_of_it_still_would(bench: Bench):
    async with bench.run(bench.spec(*sh("exec 3<&0; cat <&3 & echo up; exit 3"), prompt_later=True)) as (process, sink):
        await sink.lines(1)
        await process.wait()
        assert not process.deliver(b"do it")
    assert sink.out == b"up\n"


async def test_the_pipe_blocks_for_its_reader_and_no_other_descriptor_is_passed_on(bench: Bench):
    code = """
import fcntl, os
print(fcntl.fcntl(0, fcntl.F_GETFL) & os.O_NONBLOCK, os.listdir("/proc/self/fd"), flush=True)
print(len(os.read(0, 100)), os.read(0, 100))
"""
    other = bench.spec("cat", prompt_later=True)
    async with bench.run(other) as (waiting, _), bench.run(bench.spec(*python(code), prompt_later=True)) as (one, sink):
        (line,) = await sink.lines(1)
        assert line == "0 ['0', '1', '2', '3']", "the last one lists them"
        assert one.deliver(b"do it")
        await one.wait()
        assert waiting.deliver(b"")
        assert await waiting.wait() == 0, "nobody else holds its pipe"
    assert sink.out.splitlines()[1] == b"5 b''"


async def test_it_costs_four_descriptors_while_it_waits_and_three_afterwards(bench: Bench):
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    async with bench.run(bench.spec(*sh("echo up")), Recorder()) as (process, sink):  # whatever is made once
        await sink.lines(1)
    before = descriptors()
    async with bench.run(bench.spec(*sh("echo up; cat; sleep 1000"), prompt_later=True)) as (process, sink):
        await sink.lines(1)
        assert descriptors() - before == 4
        assert process.deliver(b"do it\n")
        assert descriptors() - before == 3
    assert descriptors() == before


def one_agent(path: Path, *, tool: str = "demo", warm: int = 1, **fields: Any) -> OrchestratorConfig:
    agent = AgentDefinition("agent", AgentLayer.GROWTH, tool, "do it", warm=warm, **fields)
    (path / "work").mkdir()
    return OrchestratorConfig(working_dir=path / "work", state_dir=path / "state", agents=(agent,), tools=TOOLS)


@pytest.mark.parametrize("containment", [Containment.AUTO, Containment.GUARD])
@pytest.mark.parametrize(("tool", "args", "said"), [("demo", QUICK, b"task: do it"), ("reader", (), b"do it\nread")])
async def test_runs_take_over_the_processes_that_wait_and_leave_nothing_of_the_others(
    tmp_path: Path, tool: str, args: tuple[str, ...], said: bytes, containment: Containment
):
    fleet = evolve(one_agent(tmp_path, tool=tool, warm=2, args=args), containment=containment)
    runs = []
    with trio.fail_after(30):
        async with open_factory(fleet) as factory:
            for _ in range(3):
                await factory.wait_statuses(lambda agents: agents[0].warm == 2)
                admission = await factory.start("agent")
                assert isinstance(admission, Admit)
                runs.append(admission.run_id)
                await factory.wait_statuses(lambda agents: not agents[0].running)
    lines = journal(tmp_path / "state")
    waited = {line["run"]: line["pid"] for line in lines if line["kind"] == "warm_started"}
    started = {line["run"]: line["pid"] for line in lines if line["kind"] == "run_started"}
    assert [*started] == runs
    assert started.items() <= waited.items()
    assert [line["reason"] for line in lines if line["kind"] == "run_ended"] == ["succeeded"] * 3
    assert [line["reason"] for line in lines if line["kind"] == "warm_ended"] == ["shutdown"] * 2
    kept = {path.name for path in (tmp_path / "state" / "runs").iterdir() if not path.name.startswith(".")}
    assert kept == set(runs)
    for run in runs:
        directory = tmp_path / "state" / "runs" / run
        assert (directory / "prompt.md").read_text() == "do it"
        assert said in (directory / "stdout").read_bytes()
        assert json.loads((directory / "run.json").read_text())["reason"] == "succeeded"


async def test_a_process_that_was_killed_just_before_it_was_wanted_costs_no_run(tmp_path: Path):
    """The factory does not know yet that it is dead: nothing else runs between its death and the request."""
    fleet = one_agent(tmp_path, args=QUICK)
    with trio.fail_after(30):
        async with open_factory(fleet) as factory:
            await factory.wait_statuses(lambda agents: agents[0].warm == 1)
            (waited,) = [line for line in journal(tmp_path / "state") if line["kind"] == "warm_started"]
            os.kill(waited["pid"], signal.SIGKILL)
            while alive(waited["pid"]):
                pass
            admission = await factory.start("agent")
            assert isinstance(admission, Admit)
            await factory.wait_statuses(lambda agents: not agents[0].running)
    (end,) = [line for line in journal(tmp_path / "state") if line["kind"] == "run_ended"]
    assert (end["run"], end["reason"]) == (admission.run_id, "succeeded")
    (run,) = (path for path in (tmp_path / "state" / "runs").iterdir() if not path.name.startswith("."))
    assert (run / "prompt.md").read_text() == "do it"


async def test_a_plain_program_that_waits_finds_what_it_is_told_in_its_file(tmp_path: Path):
    fleet = one_agent(tmp_path, tool="told")
    said = []
    with trio.fail_after(30):
        async with open_factory(fleet) as factory:
            for text in ("look at main.py", None):
                await factory.wait_statuses(lambda agents: agents[0].warm == 1)
                outcome = (await factory.send(text, "agent")).outcome if text else await factory.start("agent")
                assert isinstance(outcome, Admit)
                await factory.wait_statuses(lambda agents: not agents[0].running)
                said.append((tmp_path / "state" / "runs" / outcome.run_id / "stdout").read_text())
    assert "look at main.py" in said[0]
    assert said[1] == "nothing\n"
    lines = journal(tmp_path / "state")
    waited = {line["run"]: line["pid"] for line in lines if line["kind"] == "warm_started"}
    assert {line["run"]: line["pid"] for line in lines if line["kind"] == "run_started"}.items() <= waited.items()


async def test_one_that_is_killed_while_it_waits_is_replaced(tmp_path: Path):
    fleet = one_agent(tmp_path, tool="reader")
    with trio.fail_after(30):
        async with open_factory(fleet) as factory:
            for _ in range(2):
                await factory.wait_statuses(lambda agents: agents[0].warm == 1)
                *_, waited = [line for line in journal(tmp_path / "state") if line["kind"] == "warm_started"]
                os.kill(waited["pid"], signal.SIGKILL)
                await factory.wait_statuses(lambda agents: agents[0].warm == 0)
    died = [line for line in journal(tmp_path / "state") if line["kind"] == "warm_ended" and line["reason"] == "died"]
    assert [line["exit_code"] for line in died] == [-9, -9]


FLEET = """
working_dir = "{work}"
state_dir = "{state}"
[tools.patient]
argv = ["sh", "-c", "echo $$ >> pids; cat >> prompts; echo read"]
[[agents]]
name = "agent"
layer = "Growth"
cli_tool = "patient"
task = "do it"
warm = 3
"""


def test_of_a_killed_factory_none_is_left_and_the_next_one_starts_its_own(tmp_path: Path):
    work, state, file = tmp_path / "work", tmp_path / "state", tmp_path / "fleet.toml"
    work.mkdir()
    file.write_text(FLEET.format(work=work, state=state))
    for life, how in enumerate((signal.SIGKILL, signal.SIGTERM), 1):
        with subprocess.Popen(
            [sys.executable, "-m", "darkfactory", file], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as factory:
            try:
                until(partial(has_started, work, 3 * life), factory)
                factory.send_signal(how)
                assert factory.wait(20) == (0 if how is signal.SIGTERM else -how)
            finally:
                factory.kill()
        deadline = time.monotonic() + 20
        while any(map(alive, pids(work))):  # the guard takes a moment
            assert time.monotonic() < deadline
            time.sleep(0.005)  # noqa: TID251 - polls other processes
        assert (work / "prompts").read_bytes() == b""


def has_started(work: Path, count: int) -> bool:
    return len(pids(work)) == count


def pids(work: Path) -> list[int]:
    file = work / "pids"
    return [int(line) for line in file.read_text().splitlines()] if file.exists() else []
