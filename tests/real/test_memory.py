"""The memory of real trees of processes: sums that count, shared pages that count once, and Node, which must start."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from darkfactory import Admit, AgentDefinition, AgentLayer, Containment, OrchestratorConfig, open_factory
from darkfactory.devices import procfs
from darkfactory.devices.cgroup import Cgroup

from .test_behaviours import ended

pytestmark = pytest.mark.real

MIB = 1024**2
TREE = """
import mmap, os, sys, time
{before}
for _ in range(3):
    if os.fork() == 0:
        break
{after}
print("ready", flush=True)
time.sleep(1000)
"""
PRIVATE = TREE.format(before="", after="block = b'x' * (60 << 20)")
SHARED = TREE.format(
    before="block = mmap.mmap(-1, 200 << 20)", after="for page in range(0, len(block), 4096): block[page] = 1"
)


def fleet(path: Path, code: str, limit: int) -> OrchestratorConfig:
    (path / "program.py").write_text(code)
    task = f"exec {sys.executable} -S program.py"
    agent = AgentDefinition("agent", AgentLayer.GROWTH, "bash", task, max_memory_bytes=limit, grace_secs=0.2)
    return OrchestratorConfig(path, (agent,), state_dir=path / "state", containment=Containment.GUARD)


@pytest.fixture
def samples(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What each look came to, and how many processes it was of."""
    seen: list[tuple[int, int]] = []
    true_memory_of = procfs.memory_of

    def memory_of(pids: list[int]) -> int:
        taken = true_memory_of(pids)
        seen.append((taken, len(pids)))
        return taken

    monkeypatch.setattr(procfs, "memory_of", memory_of)
    return seen


async def test_four_processes_each_under_the_limit_are_stopped_for_their_sum(tmp_path: Path, samples: Any):
    config = fleet(tmp_path, PRIVATE, 150 * MIB)
    with trio.fail_after(30):
        async with open_factory(config) as factory:
            assert isinstance(await factory.start("agent"), Admit)
            await factory.wait_statuses(lambda statuses: not statuses[0].running)
    assert ended(config)["reason"] == "memory"
    taken, processes = samples[-1]
    assert 150 * MIB < taken < 330 * MIB
    assert 2 < processes <= 4


async def test_four_processes_that_share_200_mib_take_them_once(tmp_path: Path, samples: Any):
    config = fleet(tmp_path, SHARED, 300 * MIB)
    with trio.fail_after(30):
        async with open_factory(config) as factory:
            admission = await factory.start("agent")
            assert isinstance(admission, Admit)
            output = tmp_path / "state" / "runs" / admission.run_id / "stdout"
            while not (output.exists() and output.read_bytes() == b"ready\n" * 4):  # noqa: ASYNC110
                await trio.sleep(0.01)
            samples.clear()
            while len(samples) < 3:  # noqa: ASYNC110 - looks begun before that, and looks after it
                await trio.sleep(0.05)
            assert factory.agent_statuses()[0].running
    taken, processes = samples[-1]
    assert processes == 4
    assert 200 * MIB < taken < 300 * MIB
    assert ended(config)["reason"] == "shutdown"


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN])
async def test_a_look_waits_for_what_it_needs_to_look_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, samples: Any
):
    """Descriptors that ran out for a moment, while a run's memory was looked at, once ended the factory."""
    failures = iter([True, True, False])
    true_memory_of = procfs.memory_of

    def memory_of(pids: list[int]) -> int:
        if next(failures, False):
            raise OSError(number, os.strerror(number))
        return true_memory_of(pids)

    monkeypatch.setattr(procfs, "memory_of", memory_of)
    config = fleet(tmp_path, "import time; time.sleep(1000)", 1024 * MIB)
    with trio.fail_after(20):
        async with open_factory(config) as factory:
            assert isinstance(await factory.start("agent"), Admit)
            while not samples:  # noqa: ASYNC110
                await trio.sleep(0.01)
            assert factory.agent_statuses()[0].running
    assert ended(config)["reason"] == "shutdown"


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-S", "-c", "b = b'x' * (50 << 20); print(flush=True); import time; time.sleep(1000)"],
        stdout=subprocess.PIPE,
    ) as popen:
        assert popen.stdout
        popen.stdout.readline()
        yield popen
        popen.kill()


def test_where_shares_may_not_be_seen_the_resident_size_is_taken(sleeper: Any, monkeypatch: pytest.MonkeyPatch):
    shares = procfs.memory_of([sleeper.pid])
    true_read = procfs._read
    monkeypatch.setattr(procfs, "_read", lambda path: None if "smaps" in path else true_read(path))
    resident = procfs.memory_of([sleeper.pid])
    assert 50 * MIB < shares < resident < 80 * MIB


def test_who_has_gone_takes_nothing(sleeper: Any):
    sleeper.kill()
    sleeper.wait()
    assert procfs.memory_of([sleeper.pid]) == 0


async def test_node_starts_under_two_gibibytes(tmp_path: Path):
    node = shutil.which("node")
    if node is None:
        pytest.skip("NOT TRIED, there is no node here: whether it starts under max_memory_bytes")
    code = "const m = new WebAssembly.Memory({initial: 256}); console.log(process.version, m.buffer.byteLength)"
    agent = AgentDefinition("agent", AgentLayer.GROWTH, "bash", f'{node} -e "{code}"', max_memory_bytes=2048 * MIB)
    config = OrchestratorConfig(tmp_path, (agent,), state_dir=tmp_path / "state")
    with trio.fail_after(60):
        async with open_factory(config) as factory:
            admission = await factory.start("agent")
            assert isinstance(admission, Admit)
            await factory.wait_statuses(lambda statuses: not statuses[0].running)
    line = ended(config)
    assert (line["reason"], line["exit_code"]) == ("succeeded", 0)
    output = (tmp_path / "state" / "runs" / admission.run_id / "stdout").read_text()
    assert output.startswith("v")
    assert output.endswith(" 16777216\n")


@pytest.mark.parametrize(
    ("events", "told"), [("low 0\noom 3\noom_kill 0\n", False), ("oom 1\noom_kill 2\n", True), ("", False)]
)
def test_the_kernels_word_for_out_of_memory_is_heard(tmp_path: Path, events: str, told: bool):
    (tmp_path / "memory.events").write_text(events)
    assert Cgroup(tmp_path, limits_memory=True).out_of_memory() is told
    assert not Cgroup(tmp_path, limits_memory=False).out_of_memory()


def test_a_cgroup_that_has_gone_tells_of_no_memory(tmp_path: Path):
    assert not Cgroup(tmp_path / "gone", limits_memory=True).out_of_memory()
    assert not (tmp_path / "gone").exists()
