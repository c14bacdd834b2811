"""The command as a person or systemd runs it: signals, exit codes, and what bad input gets."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from darkfactory.devices import procfs

pytestmark = pytest.mark.real

FLEET = """
working_dir = "{work}"
state_dir = "{state}"
shutdown_grace_secs = 2

[[agents]]
name = "watch"
layer = "Safety"
cli_tool = "bash"
task = "{task}"

[[agents]]
name = "nightly"
layer = "Core"
cli_tool = "demo"
task = "x"
schedule = "0 3 * * *"

[[agents]]
name = "helper"
layer = "Growth"
cli_tool = "demo"
task = "x"
"""


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    return write(tmp_path, "echo ready; sleep 1000")


def write(directory: Path, task: str, more: str = "") -> Path:
    (directory / "work").mkdir(exist_ok=True)
    file = directory / "fleet.toml"
    file.write_text(FLEET.format(work=directory / "work", state=directory / "state", task=task) + more)
    return file


def darkfactory(*words: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "darkfactory", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=30,
        stdin=subprocess.DEVNULL,
        env=os.environ | env,
        check=False,
    )


@contextmanager
def running(file: Path, *words: str, code: str = "from darkfactory.cli import main") -> Iterator[subprocess.Popen[str]]:
    """The command, until its first agent has printed something; killed at the end if it has not ended."""
    command = [sys.executable, "-c", f"{code}\nmain()", str(file), *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True) as process:
        try:
            until(lambda: any(path.stat().st_size for path in file.parent.glob("state/runs/*/stdout")), process)
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)  # noqa: TID251 - polls another process


def journal(file: Path, kind: str) -> list[dict[str, Any]]:
    return [line for line in lines_of(file) if line["kind"] == kind]


def lines_of(file: Path) -> list[dict[str, Any]]:
    """The journal as it is now; a factory may be writing its last line."""
    segments = [path.read_bytes() for path in sorted(file.parent.glob("state/journal/*.jsonl"))]
    return [
        json.loads(line) for segment in segments for line in segment.splitlines(keepends=True) if line[-1:] == b"\n"
    ]


def test_it_may_open_all_the_files_there_are_for_it_and_its_agents_as_many_as_before(tmp_path: Path) -> None:
    task = "until [ $(ulimit -Sn) = 200 ]; do sleep 0.01; done; ulimit -Sn; ulimit -Hn; sleep 1000"
    file = write(tmp_path, task)
    file.write_text("max_concurrent_runs = 100\n" + file.read_text())
    limits = "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (200, 300)); from darkfactory.cli import main"
    with running(file, code=limits) as process:
        assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE) == (300, 300)
        (stdout,) = tmp_path.glob("state/runs/*/stdout")
        until(lambda: stdout.read_text() == "200\n300\n", process)
        process.terminate()
        _, log = process.communicate(timeout=20)
    assert "max_concurrent_runs = 100 takes 428 open files, we may have 300" in log


def test_processes_that_wait_for_a_run_count_among_the_open_files(tmp_path: Path) -> None:
    file = write(tmp_path, "echo up; sleep 1000")
    patient = '[[agents]]\nname = "patient"\nlayer = "Growth"\ncli_tool = "demo"\ntask = "t"\nwarm = 5\n'
    file.write_text("max_concurrent_runs = 50\n" + file.read_text() + patient)
    limits = "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (200, 290)); from darkfactory.cli import main"
    with running(file, code=limits) as process:
        process.terminate()
        _, log = process.communicate(timeout=20)
    assert "max_concurrent_runs = 50 with 5 warm processes takes 298 open files, we may have 290" in log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_the_factory_in_order(fleet: Path, number: signal.Signals) -> None:
    with running(fleet) as process:
        process.send_signal(number)
        _, log = process.communicate(timeout=20)
    assert process.returncode == 0
    assert journal(fleet, "factory_stopping")[0]["why"] == number.name
    assert journal(fleet, "run_ended")[0]["reason"] == "shutdown"
    assert [json.loads(line)["event"] for line in log.splitlines()][-1] == "factory_stopped"


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_kills_at_once(tmp_path: Path, number: signal.Signals, exit_code: int) -> None:
    file = write(tmp_path, "trap '' TERM; echo ready; while :; do sleep 1000; done")
    with running(file) as process:
        process.send_signal(number)
        until(lambda: bool(journal(file, "factory_stopping")), process)
        process.send_signal(number)
        process.communicate(timeout=20)
    assert process.returncode == exit_code
    assert journal(file, "run_ended")[0]["exit_code"] == -9


def test_one_factory_to_a_state_directory(fleet: Path) -> None:
    with running(fleet) as process:
        second = darkfactory(fleet)
        assert second.returncode == 3
        assert f"pid {process.pid}" in second.stderr
        process.terminate()
        process.communicate(timeout=20)


def test_a_state_directory_belongs_to_one_fleet_file(fleet: Path, tmp_path: Path) -> None:
    with running(fleet) as process:
        process.terminate()
        process.communicate(timeout=20)
    other = tmp_path / "other.toml"
    other.write_text(fleet.read_text())
    refused = darkfactory(other)
    assert refused.returncode == 2
    assert str(fleet) in refused.stderr
    assert "--state-dir" in refused.stderr


def test_another_state_directory_can_be_named(fleet: Path, tmp_path: Path) -> None:
    fleet.write_text(fleet.read_text().replace("sleep 1000", "true"))
    elsewhere = tmp_path / "elsewhere"
    command = [sys.executable, "-m", "darkfactory", str(fleet), "--state-dir", str(elsewhere)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True) as process:
        until(lambda: bool(list(elsewhere.glob("runs/*/run.json"))), process)
        process.terminate()
        process.communicate(timeout=20)
    assert process.returncode == 0
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ('layer = "Safety"', 'layer = "Safty"', ("fleet.toml:8: ", "Safety")),
        ('schedule = "0 3 * * *"', "", ("agents[1]", "schedule")),
        ('cli_tool = "bash"', 'cli_tool = "bsh"', ("fleet.toml:9: ", "bash")),
        ('name = "helper"', 'name = "helper"\ntimeout = 5', ("fleet.toml:21: ", "timeout_secs")),
        ('working_dir = "', 'working_dir = "/no/such/place', ("fleet.toml:2: ", "working_dir", "directory")),
        ("[[agents]]", "[[agents", ("TOML",)),
    ],
)
def test_bad_input_is_told_with_its_line_and_nothing_is_started_or_written(
    fleet: Path, before: str, after: str, told: tuple[str, ...]
) -> None:
    fleet.write_text(fleet.read_text().replace(before, after))
    commands: list[tuple[str | Path, ...]] = [(fleet,), ("check", fleet)]
    for command in commands[: 1 if "working_dir" in told else 2]:
        refused = darkfactory(*command)
        assert refused.returncode == 2
        assert "Traceback" not in refused.stderr
        for word in told:
            assert word in refused.stderr
    assert not (fleet.parent / "state").exists()


@pytest.mark.parametrize("words", [("no-such-file.toml",), ("--no-such-option", "x"), ()])
def test_bad_usage_exits_2_without_a_traceback(words: tuple[str, ...]) -> None:
    refused = darkfactory(*words)
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr


def test_a_held_group_stays_down_until_resume_brings_it_back_in_order(tmp_path: Path) -> None:
    """The second agent fails, once the first is up, until there is a file; the first is restarted with it."""
    group = '[layers.Safety]\nstrategy = "one_for_all"\nmax_restarts = 0\n'
    task = "until test -e up; do sleep 0.01; done; test -e mended && sleep 1000"
    second = f'[[agents]]\nname = "second"\nlayer = "Safety"\ncli_tool = "bash"\ntask = "{task}"\n'
    file = write(tmp_path, "echo ready; touch up; sleep 1000", group + second)
    with running(file) as process:
        until(lambda: len(journal(file, "run_ended")) == 2, process)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
    assert [line["agent"] for line in journal(file, "held")] == ["second"]
    assert sorted(line["reason"] for line in journal(file, "run_ended")) == ["failed", "sibling"]

    (tmp_path / "work" / "mended").touch()
    with running(file) as process:
        until(lambda: len(journal(file, "queued")) > 1, process)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
    assert journal(file, "queued")[-1]["detail"] == "until second is resumed"
    assert len(journal(file, "run_begun")) == 2

    with running(file, "--resume", "second") as process:
        until(lambda: len(journal(file, "run_started")) == 4, process)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
    assert [line["agent"] for line in journal(file, "run_begun")[2:]] == ["watch", "second"]


def test_an_unknown_agent_to_resume_exits_2_and_writes_nothing(fleet: Path) -> None:
    refused = darkfactory(fleet, "--resume", "watch", "--resume", "wotch")
    assert refused.returncode == 2
    assert "'wotch'" in refused.stderr
    assert "did you mean 'watch'?" in refused.stderr
    assert not (fleet.parent / "state").exists()


def test_a_damaged_journal_is_named_and_nothing_is_started(fleet: Path) -> None:
    with running(fleet) as process:
        process.terminate()
        process.communicate(timeout=20)
    (segment,) = fleet.parent.glob("state/journal/*.jsonl")
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(b"".join([lines[0], b"{broken\n", *lines[2:]]))
    refused = darkfactory(fleet)
    assert refused.returncode == 1
    assert f"{segment}:2" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert len(segment.read_bytes().splitlines()) == len(lines)


def test_a_torn_last_line_is_ignored_and_cut(fleet: Path) -> None:
    with running(fleet) as process:
        process.terminate()
        process.communicate(timeout=20)
    (segment,) = fleet.parent.glob("state/journal/*.jsonl")
    whole = segment.read_bytes()
    segment.write_bytes(whole + b'{"utc":"2026-01-01T00:00:0')
    with running(fleet) as process:
        until(lambda: len(journal(fleet, "factory_started")) == 2, process)
        process.terminate()
        process.communicate(timeout=20)
    assert process.returncode == 0
    assert segment.read_bytes().startswith(whole + b'{"utc"')


def test_repair_makes_a_damaged_journal_readable_and_tells_the_price(fleet: Path) -> None:
    with running(fleet) as process:
        busy = darkfactory(fleet, "--repair")
        assert (busy.returncode, busy.stdout) == (3, "")
        process.terminate()
        process.communicate(timeout=20)
    (segment,) = fleet.parent.glob("state/journal/*.jsonl")
    whole = segment.read_bytes()
    lines = whole.splitlines(keepends=True)
    damaged = b"".join([lines[0], b"{broken\n", *lines[1:], b"{torn"])
    segment.write_bytes(damaged)
    assert "--repair" in darkfactory(fleet).stderr
    repaired = darkfactory(fleet, "--repair")
    assert repaired.returncode == 0
    assert f"{segment}:2: left out '{{broken'" in repaired.stdout
    assert "'{torn'" in repaired.stdout
    (kept,) = segment.parent.glob("*.damaged-*")
    assert str(kept) in repaired.stdout
    assert kept.read_bytes() == damaged
    assert segment.read_bytes() == whole, "and nothing was started"
    again = darkfactory(fleet, "--repair")
    assert (again.returncode, "nothing to repair" in again.stdout) == (0, True)
    with running(fleet) as process:
        until(lambda: len(journal(fleet, "factory_started")) == 2, process)
        process.terminate()
        process.communicate(timeout=20)
    assert process.returncode == 0


def test_repair_of_a_fleet_that_never_ran_makes_nothing(fleet: Path) -> None:
    assert darkfactory(fleet, "--repair").returncode == 0
    assert not (fleet.parent / "state").exists()
    assert darkfactory(fleet, "--repair", "--resume", "watch").returncode == 2


def test_what_a_factory_left_that_was_killed_with_its_guard_is_ended_before_anything_starts(fleet: Path) -> None:
    with running(fleet) as process:
        until(lambda: bool(journal(fleet, "run_started")), process)  # it may print before we have written that down
        process.send_signal(signal.SIGSTOP)  # so that it cannot start another guard
        os.waitpid(process.pid, os.WUNTRACED)
        instance = json.loads((fleet.parent / "state" / "fleet.json").read_text())["instance"]
        (guard,) = procfs.scan().carrying(f"{instance}/guard")
        os.kill(guard.pid, signal.SIGKILL)
        until(lambda: not procfs.scan().processes[guard.pid].alive, process)
        process.kill()
        process.communicate(timeout=20)
    (first,) = journal(fleet, "run_begun")
    with running(fleet) as process:
        until(lambda: len(journal(fleet, "run_started")) == 2, process)
        process.terminate()
        process.communicate(timeout=20)
    kinds = [line["kind"] for line in lines_of(fleet)]
    assert kinds.index("leftovers_ended") < len(kinds) - kinds[::-1].index("run_begun")
    assert journal(fleet, "run_ended")[0] | {"utc": ""} == {
        "utc": "",
        "kind": "run_ended",
        "run": first["run"],
        "agent": "watch",
        "reason": "lost",
    }


def test_a_missing_tool_refuses_its_agent_and_the_others_run(fleet: Path, tmp_path: Path) -> None:
    more = '[[agents]]\nname = "coder"\nlayer = "Safety"\ncli_tool = "/no/such/codex"\ntask = "x"\n'
    write(tmp_path, "echo ready; sleep 1000", more)
    with running(fleet) as process:
        process.terminate()
        _, log = process.communicate(timeout=20)
    missing = [line for line in map(json.loads, log.splitlines()) if line.get("agent") == "coder"]
    assert [(line["event"], line["level"]) for line in missing] == [("tool_missing", "warning")]
    assert process.returncode == 0
    assert darkfactory("check", fleet).returncode == 0
    strict = darkfactory("check", fleet, "--tools")
    assert strict.returncode == 4
    assert "coder" in strict.stderr


def test_check_shows_layer_tool_program_and_the_next_starts_in_the_fleets_zone(fleet: Path) -> None:
    fleet.write_text('timezone = "Asia/Tokyo"\n' + fleet.read_text())
    shown = darkfactory("check", fleet, "--tools")
    assert shown.returncode == 0
    watch, nightly, helper = shown.stdout.splitlines()[1:4]
    assert watch.split()[:3] == ["watch", "Safety", "bash"]
    assert "/bash" in watch
    assert nightly.count("03:00 JST") == 3
    assert "on demand" in helper
    assert not (fleet.parent / "state").exists()


BUGS = {
    "decide": """
import darkfactory.runtime.supervisor as room
true_decide = room.decide
def decide(state, event):
    if type(event).__name__ == "OutputSeen":
        raise ZeroDivisionError("a bug of ours in decide")
    return true_decide(state, event)
room.decide = decide
""",
    "journal": """
from darkfactory.devices.journal import FileJournal
true_append = FileJournal.append
def append(self, lines, *, durable):
    lines = list(lines)
    if any(line["kind"] == "run_started" for line in lines):
        raise OSError(28, "No space left: a bug of ours in the journal")
    return true_append(self, lines, durable=durable)
FileJournal.append = append
""",
    "run task": """
from darkfactory.runtime.intake import Intake
def feed(self, stream, data):
    raise ZeroDivisionError("a bug of ours in a run task")
Intake.finish = feed
true_terminate = None
import darkfactory.runtime.agent_run as room
true_prompt = room._LiveRun._prompt
def _prompt(self, told):
    if self.handle.order.agent == "second":
        raise ZeroDivisionError("a bug of ours in a run task")
    return true_prompt(self, told)
room._LiveRun._prompt = _prompt
Intake.finish = lambda self: None
""",
}


@pytest.mark.parametrize("room", BUGS)
def test_a_bug_of_ours_stops_everything_in_order_and_is_told(tmp_path: Path, room: str) -> None:
    more = '[[agents]]\nname = "second"\nlayer = "Safety"\ncli_tool = "bash"\ntask = "echo ready; sleep 1000"\n'
    file = write(tmp_path, "echo ready; sleep 1000", more)
    command = [sys.executable, "-c", f"{BUGS[room]}\nfrom darkfactory.cli import main\nmain()", str(file)]
    failed = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, env=os.environ)
    assert failed.returncode == 1
    assert "a bug of ours in" in failed.stderr
    assert "its agents were stopped" in failed.stderr


def test_the_seeds_example_checks_on_a_machine_that_lacks_its_directories() -> None:
    shown = darkfactory("check", Path(__file__).parents[1] / "data" / "seed_example.toml")
    assert shown.returncode == 0
    assert [line.split()[0] for line in shown.stdout.splitlines()[1:4]] == [
        "security-sentinel",
        "upstream-synchronizer",
        "code-reviewer",
    ]
    assert "working_dir: is not an existing directory" in shown.stderr


def test_logs_are_for_people_on_a_terminal_and_json_otherwise(fleet: Path) -> None:
    leader, follower = os.openpty()
    try:
        command = [sys.executable, "-m", "darkfactory", str(fleet)]
        with subprocess.Popen(command, stderr=follower, stdin=subprocess.DEVNULL) as process:
            os.close(follower)
            said = b""
            while b"run_started" not in said:
                said += os.read(leader, 4096)
            process.terminate()
            process.wait(timeout=20)
    finally:
        os.close(leader)
    assert b"agent=" in said.replace(b"\x1b[36m", b"").replace(b"\x1b[0m", b"")
    assert b'{"' not in said


CHATTY = """
[[agents]]
name = "chatty"
layer = "Safety"
cli_tool = "bash"
task = "echo x"
"""


@pytest.mark.parametrize("reader", ["closed", "gone", "stuck"])
def test_logs_that_nobody_takes_neither_end_nor_hold_up_the_factory(tmp_path: Path, reader: str) -> None:
    file = write(tmp_path, "echo ready; sleep 1000", CHATTY)
    file.write_text(file.read_text() + "\n[layers.Safety]\nsuccess_cooldown_secs = 0.01\n")
    reading, writing = os.pipe()
    try:
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
        if reader == "gone":
            os.close(reading)
        close = "exec 2>&-; " if reader == "closed" else ""
        command = ["sh", "-c", f'{close}exec "$0" -m darkfactory "$1"', sys.executable, str(file)]
        with subprocess.Popen(command, stderr=writing, stdin=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + 20
            while len(list(tmp_path.glob("state/runs/chatty-*/run.json"))) < 40:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)  # noqa: TID251 - polls another process
            process.terminate()
            assert process.wait(timeout=20) == 0
    finally:
        os.close(writing)
        if reader != "gone":
            os.close(reading)
    assert journal(file, "factory_stopped")[0]["exit_code"] == 0


def test_a_sync_that_hangs_in_the_kernel_does_not_keep_the_command_alive(fleet: Path) -> None:
    hang = """
import os, time
true_fdatasync = os.fdatasync
def fdatasync(fd):
    if os.path.exists(HANG):
        time.sleep(1000)
    true_fdatasync(fd)
os.fdatasync = fdatasync
from darkfactory.cli import main
"""
    fleet.write_text(fleet.read_text().replace("sleep 1000", "true"))
    fleet.write_text(fleet.read_text() + "\n[layers.Safety]\nsuccess_cooldown_secs = 1.5\n")
    with running(fleet, code=f"HANG = {str(fleet.parent / 'hang')!r}\n{hang}") as process:
        (fleet.parent / "hang").touch()
        until(lambda: len(journal(fleet, "run_begun")) == 2, process)  # its admission waits for the disk for ever
        process.terminate()
        assert process.wait(timeout=30) == 1
    until_nothing_is_left(fleet)


def until_nothing_is_left(fleet: Path) -> None:
    """A factory that could not stop in order leaves the rest to its guard, which takes a moment for it."""
    instance = json.loads((fleet.parent / "state" / "fleet.json").read_text())["instance"]
    deadline = time.monotonic() + 20
    while any(process.alive for process in procfs.scan().carrying(f"{instance}/")):
        assert time.monotonic() < deadline
        time.sleep(0.01)  # noqa: TID251 - polls other processes


def test_a_directory_that_holds_other_things_is_no_state_directory(fleet: Path, tmp_path: Path) -> None:
    (tmp_path / "things").mkdir(mode=0o755)
    (tmp_path / "things" / "thing").write_text("mine")
    refused = darkfactory(fleet, "--state-dir", tmp_path / "things")
    assert refused.returncode == 2
    assert "holds other things" in refused.stderr
    assert (tmp_path / "things").stat().st_mode & 0o777 == 0o755


def test_without_a_home_a_state_directory_must_be_named(fleet: Path) -> None:
    fleet.write_text(fleet.read_text().replace("state_dir", "# state_dir"))
    for home in ("", "relative"):
        refused = darkfactory(fleet, HOME=home, XDG_STATE_HOME="")
        assert refused.returncode == 2
        assert "--state-dir" in refused.stderr
        assert "Traceback" not in refused.stderr


STOPPED = """
[[agents]]
name = "brief"
layer = "Safety"
cli_tool = "bash"
task = "echo begun; until test -e stopped; do sleep 0.02; done; echo done"
stall_timeout_secs = 3
timeout_secs = 4
"""


def test_a_factory_that_was_stopped_for_a_while_holds_none_of_that_against_its_agents(tmp_path: Path) -> None:
    talks = "while :; do echo on; touch printed; sleep 0.1; done"
    file = write(tmp_path, talks, STOPPED)
    file.write_text(file.read_text().replace('name = "watch"', 'name = "watch"\nstall_timeout_secs = 3'))
    printed = tmp_path / "work" / "printed"
    with running(file) as process:
        until(lambda: len(journal(file, "run_started")) == 2 and printed.exists(), process)
        process.send_signal(signal.SIGSTOP)
        began = printed.stat().st_mtime
        (tmp_path / "work" / "stopped").touch()
        until(lambda: printed.stat().st_mtime > began + 5, process)  # longer than any of the limits
        process.send_signal(signal.SIGCONT)
        until(lambda: bool(journal(file, "run_ended")), process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    ends = {line["agent"]: line["reason"] for line in journal(file, "run_ended")}
    assert ends == {"brief": "succeeded", "watch": "shutdown"}
    assert len(journal(file, "held_up")) == 1
