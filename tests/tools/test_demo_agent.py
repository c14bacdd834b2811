"""The demo agent as the program that it is: real processes, output to files as in a real run."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from darkfactory.model.fleet import AgentDefinition, AgentLayer
from darkfactory.model.signals import Finished, Started, Stream
from darkfactory.tools import tool_for
from darkfactory.tools.demo import DEMO_AGENT
from darkfactory.tools.lines import LineSplitter
from darkfactory.tools.tool import Prompt

pytestmark = pytest.mark.real

TASK = "tidy up\nthe second line"

LIMIT_SECS = 60
"""A run that takes longer hangs; the tests assert nothing about time."""


class Run:
    """One run of the demo agent in a session of its own."""

    def __init__(self, directory: Path, *args: str) -> None:
        self.stdout = directory / "stdout"
        self.stderr = directory / "stderr"
        prompt = directory / "prompt.md"
        prompt.write_text(TASK)
        self.definition = AgentDefinition(
            name="demo", layer=AgentLayer.GROWTH, cli_tool="demo", task=TASK, args=("--pause", "0", *args)
        )
        self.tool = tool_for(self.definition, {})
        with prompt.open() as stdin, self.stdout.open("ab") as stdout, self.stderr.open("ab") as stderr:
            self.process = subprocess.Popen(
                self.tool.argv(self.definition, Prompt(TASK, prompt)),
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                cwd=directory,
                start_new_session=True,
            )

    def wait(self) -> int:
        return self.process.wait(LIMIT_SECS)

    def lines(self) -> list[bytes]:
        splitter = LineSplitter()
        return splitter.feed(self.stdout.read_bytes()) + splitter.finish()

    def events(self) -> list[dict]:
        return [json.loads(line) for line in self.lines()]

    def signals(self) -> list[Started | Finished]:
        """How it began and ended."""
        said = [signal for line in self.lines() for signal in self.tool.signals(Stream.STDOUT, line, None)]
        return [signal for signal in said if isinstance(signal, Started | Finished)]

    def wait_for(self, kind: str) -> None:
        """Until an event of that kind was printed; the agent prints whole lines."""
        start_of_line = b'{"type": "%s"' % kind.encode()
        self.wait_until(lambda: any(line.startswith(start_of_line) for line in self.lines()))

    def wait_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LIMIT_SECS
        while not condition():
            assert time.monotonic() < deadline, f"{self.lines()} {self.stderr.read_text()}"
            time.sleep(0.005)  # noqa: TID251 - between two looks

    def children(self) -> list[int]:
        """The pids of what it left behind."""
        return [json.loads(line)["pid"] for line in self.lines() if line.startswith(b'{"type": "child"')]

    def end(self) -> None:
        """Nothing of it is left after this."""
        self.process.kill()
        self.process.wait()
        for pid in self.children():
            with suppress(ProcessLookupError, FileNotFoundError):
                end_child(os.pidfd_open(pid), pid)


def end_child(descriptor: int, pid: int) -> None:
    """Kill a child that was left behind and wait for its end; not another process that got its pid since."""
    try:
        if os.fsencode(DEMO_AGENT) in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            assert select.select([descriptor], [], [], LIMIT_SECS)[0], f"{pid} lives on"
    finally:
        os.close(descriptor)


@pytest.fixture
def start(tmp_path):
    runs = []

    def start_one(*args: str) -> Run:
        runs.append(Run(tmp_path, *args))
        return runs[-1]

    yield start_one
    for run in runs:
        run.end()


def test_a_run_that_goes_well_says_what_it_does_and_how_it_ended(start):
    run = start("--steps", "2")
    assert run.wait() == 0
    events = run.events()
    assert [event["type"] for event in events] == ["started", "say", "say", "say", "tool", "result"]
    assert events[1]["text"] == "task: tidy up"
    tool = events[4]
    assert (tool["name"], tool["exit_code"], tool["output"]) == ("shell", 0, os.uname().sysname + "\n")
    began, ended = run.signals()
    assert isinstance(began, Started)
    assert began.session
    assert ended == Finished(ok=True, detail="the task is done", answer="the task is done")
    assert run.stderr.read_bytes() == b""


@pytest.mark.parametrize(
    ("behaviour", "exit_code", "last"),
    [("fail", 1, Finished(ok=False, detail="the task could not be done")), ("crash", 3, None)],
)
def test_a_run_that_goes_badly(start, behaviour, exit_code, last):
    run = start("--behaviour", behaviour)
    assert run.wait() == exit_code
    assert [signal for signal in run.signals() if isinstance(signal, Finished)] == ([last] if last else [])


def test_a_run_without_output_exits_0(start):
    run = start("--behaviour", "no-output")
    assert run.wait() == 0
    assert run.stdout.read_bytes() + run.stderr.read_bytes() == b""


@pytest.mark.parametrize(("behaviour", "last_word"), [("hang", "say"), ("result-then-hang", "result")])
def test_a_hanging_run_is_ended_by_sigterm(start, behaviour, last_word):
    run = start("--behaviour", behaviour)
    run.wait_for(last_word)
    run.process.terminate()
    assert run.wait() == -signal.SIGTERM
    assert run.events()[-1]["type"] == last_word


def test_a_run_that_ignores_sigterm_needs_sigkill(start):
    run = start("--behaviour", "ignore-term")
    run.wait_for("started")
    status = Path(f"/proc/{run.process.pid}/status").read_text()
    ignored = int(next(line for line in status.splitlines() if line.startswith("SigIgn:")).split()[1], 16)
    assert ignored & 1 << (signal.SIGTERM - 1)
    run.process.terminate()
    run.process.kill()
    assert run.wait() == -signal.SIGKILL


def test_a_silent_run_reads_its_task_and_says_nothing(start):
    run = start("--behaviour", "silent")
    run.wait_until(lambda: f"pos:\t{len(TASK)}\n" in Path(f"/proc/{run.process.pid}/fdinfo/0").read_text())
    assert run.process.poll() is None
    assert run.stdout.read_bytes() + run.stderr.read_bytes() == b""


@pytest.mark.parametrize(
    ("behaviour", "belongs_to"),
    [
        ("fork", "the agent's group"),
        ("setsid", "a session of its own"),
        ("daemonise", "another session, not as leader"),
    ],
)
def test_a_child_is_left_behind_after_a_success(start, behaviour, belongs_to):
    run = start("--behaviour", behaviour)
    assert run.wait() == 0
    assert [event["type"] for event in run.events()][-2:] == ["child", "result"]
    [pid] = run.children()
    session = os.getsid(pid)
    assert belongs_to == {
        run.process.pid: "the agent's group",
        pid: "a session of its own",
    }.get(session, "another session, not as leader")
    assert os.getpgid(pid) == session


def test_a_flood_is_lines_of_100_bytes(start):
    run = start("--behaviour", "flood", "--flood-lines", "2500")
    assert run.wait() == 0
    lines = run.stdout.read_bytes().splitlines(keepends=True)
    flood = lines[2:-1]
    assert len(flood) == 2500
    assert {len(line) for line in flood} == {100}
    assert isinstance(run.signals()[-1], Finished)


def test_bytes_that_are_no_text_do_not_cost_the_result(start):
    run = start("--behaviour", "bad-utf8")
    assert run.wait() == 0
    odd = run.lines()[2]
    assert b"\x00" in odd
    with pytest.raises(UnicodeDecodeError):
        odd.decode()
    assert [type(signal) for signal in run.signals()] == [Started, Finished]


def test_a_huge_line_does_not_cost_the_result(start):
    run = start("--behaviour", "huge-line", "--huge-bytes", "3000000")
    assert run.wait() == 0
    raw = run.stdout.read_bytes().split(b"\n")[2]
    assert len(raw) == 3_000_000
    assert json.loads(raw)["type"] == "say"
    assert [type(signal) for signal in run.signals()] == [Started, Finished]


def test_stderr_is_truncated_under_the_hands_of_its_reader(start):
    run = start("--behaviour", "truncate-stderr")
    assert run.wait() == 0
    assert run.stderr.read_text() == "truncated\nafter\n"
    assert run.signals()[-1] == Finished(ok=True, detail="the task is done", answer="the task is done")


def test_a_wrong_option_is_a_usage_error(start):
    run = start("--behaviour", "sulk")
    assert run.wait() == 2
    assert b"sulk" in run.stderr.read_bytes()


def test_it_needs_nothing_but_the_standard_library(start, tmp_path):
    (tmp_path / "json.py").write_text("raise SystemExit('a module of the working directory was imported')")
    run = start()
    assert run.tool.program == sys.executable
    assert run.wait() == 0
