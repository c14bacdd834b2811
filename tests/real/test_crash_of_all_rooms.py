"""Real factories with every room at work, killed with SIGKILL at random writes of their journal, guard and all.

Cron, worktrees, warm processes, messages, leases and a review that acts, with real git and real processes; the clock
alone is not: a minute takes three seconds, so that there are occurrences enough.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from darkfactory.devices import procfs, segments

from .repositories import ENV, Checkout

pytestmark = pytest.mark.real

RATE = 20.0
KILLS = 8
MORNING = datetime(2026, 3, 1, tzinfo=UTC)

PROGRAM = """
import json, os, signal, sys
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
import attrs, trio
from trio.testing import MockClock
from darkfactory import load_config, open_factory
from darkfactory.devices.containment import adopt_orphans
from darkfactory.devices.forge import PullRequest
from darkfactory.runtime.factory import this_machine
from darkfactory.testing import SimulatedClock, SimulatedForge

fleet, now, rate, drafts = sys.argv[1:]

class Forge(SimulatedForge):
    async def open_draft(self, target, **how):
        opened = await super().open_draft(target, **how)
        Path(drafts + ".new").write_text(json.dumps([attrs.asdict(draft) for draft in self.opened]))
        Path(drafts + ".new").rename(drafts)
        await trio.sleep(0.5)
        return opened

@contextmanager
def machine(config):
    forge = Forge()
    if Path(drafts).exists():
        forge.opened = [PullRequest(**draft) for draft in json.loads(Path(drafts).read_text())]
    with this_machine(config, adopts=True) as real:
        clock = SimulatedClock(datetime.fromisoformat(now))
        yield attrs.evolve(real, clock=clock, review=attrs.evolve(real.review, forge=forge))

async def main():
    adopt_orphans()
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with open_factory(load_config(Path(fleet), os.environ), machine=machine) as factory:
            order = f"order-{os.getpid()}"
            await factory.send(order, "told", message_id=order)
            async for _ in signals:
                break

trio.run(main, clock=MockClock(rate=float(rate)))
"""
IMPROVER = f"""#!{sys.executable} -IS
import json, sys
task = sys.stdin.read()
print(json.dumps({{"type": "started", "session": "s"}}), flush=True)
finding = task.partition('"finding": "')[2].partition('"')[0]
open("src/engine_test.py", "w").write("assert True\\n")
report = json.dumps({{"finding": finding, "outcome": "improved", "summary": "did what was asked"}})
print(json.dumps({{"type": "result", "ok": True, "text": "```json\\n" + report + "\\n```\\n"}}), flush=True)
"""
FLEET = """
working_dir = "{place}/repository"
state_dir = "{place}/state"
containment = "{level}"
min_free_bytes = 0
shutdown_grace_secs = "60s"
[tools.reader]
argv = ["sh", "-c", '''
[ -n "$(cat)" ] || exit 3  # it waited for a prompt, and its factory died
echo $DARKFACTORY_RUN >> {place}/ran
cat $DARKFACTORY_MESSAGES >> {place}/heard
''']
[layers.Safety]
max_restarts = 1000
success_cooldown_secs = 1
[compound_review]
schedule = "* * * * *"
repo_path = "{place}/repository"
create_prs = true
max_open_prs = 1000
max_duration_secs = "20m"
agent = "improver"
gate = ["sh", "-c", "setsid sleep 0.1; test -e src/engine_test.py"]
[[agents]]
name = "improver"
layer = "Growth"
cli_tool = "{place}/bin/demo"
task = "x"
[[agents]]
name = "family"
layer = "Safety"
cli_tool = "bash"
task = "(setsid sleep 1000 &); trap '' TERM; sleep 0.5; echo $DARKFACTORY_RUN >> {place}/ran"
[[agents]]
name = "told"
layer = "Growth"
cli_tool = "reader"
task = "listen"
warm = 1
"""
CORE = """
[[agents]]
name = "{name}"
layer = "Core"
cli_tool = "bash"
schedule = "* * * * *"
task = '''echo $DARKFACTORY_RUN >> {place}/ran; {task}'''
"""
ALONE = "mkdir {place}/alone || touch {place}/not_alone; sleep 0.1; rmdir {place}/alone"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    checkout = Checkout.begun(tmp_path / "repository")
    for number in range(5):
        checkout.write("src/engine.py", "".join(f"line_{line} = {number}\n" for line in range(60)))
        checkout.commit(f"fix: the engine, once more ({number})")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "demo").write_text(IMPROVER)
    (tmp_path / "bin" / "demo").chmod(0o755)
    return tmp_path


def write(place: Path, level: str) -> None:
    fleet = FLEET.format(place=place, level=level)
    for name in ("one", "other"):
        fleet += CORE.format(name=name, place=place, task=ALONE.format(place=place)) + 'reserve = ["src/**"]\n'
    isolated = "case $((RANDOM % 3)) in 0) echo x > dirty;; 1) echo x > new; git add new; git commit -qm new;; esac"
    fleet += CORE.format(name="isolated", place=place, task=isolated) + 'isolation = "worktree"\n'
    fleet += "".join(f'env.{name} = "a"\n' for name in ENV if name.startswith(("GIT_AUTHOR", "GIT_COMMITTER")))
    (place / "fleet.toml").write_text(fleet)


def size_of(journal: Path) -> int:
    return sum(path.stat().st_size for path in segments.paths(journal))


def records(journal: Path) -> list[dict[str, Any]]:
    """Each once, without the snapshots; the factory may be writing the last one."""
    told: list[bytes] = []
    for path in segments.paths(journal):
        _, *rest = (line for line in path.read_bytes().splitlines(keepends=True) if line[-1:] == b"\n")
        told += rest[segments._repeated(told, rest) :]
    return [json.loads(line) for line in told]


def reviewed(journal: Path) -> int:
    return sum(line["kind"] == "review_ended" for line in records(journal))


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.002)  # noqa: TID251 - polls other processes


def live(place: Path, now: datetime, enough: Callable[[], bool], end: signal.Signals) -> None:
    """One life, until there is enough; then nothing of it may be left."""
    argv = [sys.executable, "-c", PROGRAM, place / "fleet.toml", now.isoformat(), str(RATE), place / "drafts"]
    with (place / "log").open("wb") as log:
        factory = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        until(lambda: factory.poll() is not None or enough(), "it does too little")
        assert factory.poll() is None, (place / "log").read_text()[-3000:]
        factory.send_signal(end)
        assert factory.wait(60) == (0 if end is signal.SIGTERM else -end)
    finally:
        factory.kill()
        factory.wait()
    instance = json.loads((place / "state" / "fleet.json").read_text())["instance"]
    until(lambda: not any(each.alive for each in procfs.scan().carrying(f"{instance}/")), "somebody is left")


@pytest.mark.parametrize("level", ["auto", "guard"])
def test_killed_while_every_room_is_at_work_nothing_is_left_doubled_or_forgotten(place: Path, level: str) -> None:
    write(place, level)
    chance, journal = random.Random(1), place / "state" / "journal"
    began = time.monotonic()
    for _ in range(KILLS):
        goal = size_of(journal) + chance.randrange(1000, 12000)
        now = MORNING + timedelta(seconds=RATE * (time.monotonic() - began))
        live(place, now, lambda goal=goal: size_of(journal) >= goal, signal.SIGKILL)  # type: ignore[misc]
        with suppress(FileNotFoundError):
            (place / "alone").rmdir()
    now, before = MORNING + timedelta(seconds=RATE * (time.monotonic() - began)), reviewed(journal)
    live(place, now, lambda: reviewed(journal) > before + 2, signal.SIGTERM)  # the lost one, and two of its own
    check(place, records(journal))


def check(place: Path, lines: list[dict[str, Any]]) -> None:
    """The promises."""

    def count(kind: str, *keys: str) -> Counter[tuple[Any, ...]]:
        found = [line for line in lines if line["kind"] == kind]
        return Counter(tuple(line.get(key) for key in keys) for line in found)

    begun = count("run_begun", "run")
    assert begun == count("run_ended", "run")
    assert set(begun.values()) == {1}
    crons = Counter(
        (line["agent"], line["occurrence"], line["attempt"])
        for line in lines
        if line["kind"] == "run_begun" and line["cause"] == "cron"
    )
    assert set(crons.values()) == {1}
    assert set(count("occurrence", "agent", "occurrence").values()) == {1}
    assert {("lost",), ("succeeded",)} <= count("run_ended", "reason").keys()

    reviews = count("review_begun", "review")
    assert reviews == count("review_ended", "review")
    assert set((count("review_begun", "occurrence") + count("review_skipped", "occurrence")).values()) == {1}
    drafts = json.loads((place / "drafts").read_text())
    assert set(Counter(draft["branch"] for draft in drafts).values()) == {1}

    ran = Counter(mark.rpartition("/")[2] for mark in (place / "ran").read_text().split())
    assert set(ran.values()) == {1}, "a run is one process"
    assert {(run,) for run in ran} <= begun.keys()
    assert not (place / "not_alone").exists(), "two had the same lease"

    texts = {line["id"]: line["text"] for line in lines if line["kind"] == "message"}
    heard = (place / "heard").read_text()
    assert len(texts) > 1
    assert all(text in heard for text in texts.values())
    assert {message for line in lines if line["kind"] == "messages_done" for message in line["ids"]} == texts.keys()

    # what a life that was killed has left is settled; what the last one was stopped at is left to the next
    late = {line["run"] for line in lines if line["kind"] == "run_ended" and line["reason"] == "shutdown"}
    room, checkout = place / "state" / "worktrees", Checkout(place / "repository")
    known = {path.stem: json.loads(path.read_text()) for path in (room / ".records").glob("*.json")}
    assert {run for run, record in known.items() if not record["kept"]} <= late
    assert {path.name for path in room.iterdir() if path.name[0] != "."} - late == known.keys() - late
    listed = checkout.git("worktree", "list", "--porcelain").splitlines()
    paths = {Path(line).name for line in listed if line.startswith("worktree ")}
    assert paths - late == {*known, "repository"} - late
    checkout.git("fsck", "--connectivity-only")
