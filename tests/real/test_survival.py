"""What survives what: every cell of the tables in docs/containment.md, with a real factory and real processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from attrs import define, field

from darkfactory.devices import procfs
from darkfactory.devices.cgroup import Cgroups, NoCgroup, own_directory

pytestmark = pytest.mark.real

PAGE = Path(__file__).parents[2] / "docs" / "containment.md"
COMMAND = "from darkfactory.cli import main; main()"
PROGRAM = """
import signal, sys, trio, darkfactory
async def main():
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with darkfactory.open_factory(sys.argv[1]):
            async for _ in signals:
                break
trio.run(main)
"""
LEVELS = {
    "Level cgroup": ("cgroup", COMMAND),
    "Level cgroup, in a program": ("cgroup", PROGRAM),
    "Level guard, the command": ("guard", COMMAND),
    "Level guard, in a program": ("guard", PROGRAM),
}
TABLE_OF = {"Level cgroup, in a program": "Level cgroup"}
AGENT = """
cd {place}
sleep 1000 & echo $! > child
setsid sleep 1000 & echo $! > setsid_child
(setsid sleep 1000 & echo $! > daemon)
env -i sleep 1000 & echo $! > bare_child
(env -i setsid sleep 1000 & echo $! > ghost)
echo $$ > leader
echo ready
while [ ! -e go ]; do sleep 0.02; done
cat go
[ ! -s go ] || sleep 1000
"""
FLEET = """
working_dir = "{place}"
state_dir = "{place}/state"
containment = "{level}"
[layers.Safety]
backoff_secs = "1h"
backoff_max_secs = "1h"
success_cooldown_secs = "1h"
[[agents]]
name = "family"
layer = "Safety"
cli_tool = "bash"
max_output_bytes = 1000
task = '''{agent}'''
"""


def tables() -> dict[str, dict[str, dict[str, str]]]:
    """By heading, column and row."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    heading, columns = "", []
    for line in PAGE.read_text().splitlines():
        if line.startswith("#"):
            heading, columns = line.lstrip("# "), []
        elif line.startswith("|") and not line.startswith("|--"):
            row, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            if not columns:
                columns = cells
            else:
                for column, cell in zip(columns, cells, strict=True):
                    found.setdefault(heading, {}).setdefault(column, {})[row.replace(" ", "_")] = cell
    return found


TABLES = tables()


@define(eq=False)
class Factory:
    place: Path
    process: subprocess.Popen[bytes]
    family: dict[str, tuple[int, int]] = field(factory=dict)
    """(pid, start time) by row."""

    @property
    def instance(self) -> str:
        return str(json.loads((self.place / "state" / "fleet.json").read_text())["instance"])

    def meet_the_family(self) -> None:
        """Wait until all of them are what they will be."""
        stdouts = self.place.glob
        self.until(lambda: any(path.read_bytes() for path in stdouts("state/runs/*/stdout")))
        pids = {row: int((self.place / row).read_text()) for row in TABLES["Level cgroup"]["stop"]}
        self.until(lambda: all(comm(pid) == "sleep" for row, pid in pids.items() if row != "leader"))
        self.until(lambda: not Path(f"/proc/{pids['ghost']}/environ").read_bytes())
        self.family = {row: (pid, procfs.start_time(pid)) for row, pid in pids.items()}

    def fates(self) -> dict[str, str]:
        table = procfs.scan().processes
        return {
            row: "lives on" if pid in table and table[pid].start == start and table[pid].alive else "ended"
            for row, (pid, start) in self.family.items()
        }

    def go(self, output: str) -> None:
        (self.place / "new").write_text(output)
        (self.place / "new").rename(self.place / "go")

    def ended(self) -> bool:
        return '"kind":"run_ended"' in self.journal()

    def journal(self) -> str:
        return "".join(path.read_text() for path in self.place.glob("state/journal/*"))

    def guards(self) -> list[int]:
        return [found.pid for found in procfs.scan().carrying(f"{self.instance}/guard") if found.alive]

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, (self.fates(), (self.place / "log").read_text())
            time.sleep(0.01)  # noqa: TID251 - polls other processes

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(20) == 0, (self.place / "log").read_text()

    def nothing_is_left_of_it(self) -> bool:
        own = own_directory(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())
        return not self.guards() and not (own / f"darkfactory-{self.instance}").exists()


def comm(pid: int) -> str:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


@contextlib.contextmanager
def running(place: Path, level: str, code: str) -> Iterator[Factory]:
    if level == "cgroup":
        try:
            Cgroups.open("test-of-survival").close()
        except NoCgroup as reason:
            pytest.skip(f"NOT TRIED, this machine has no cgroup for us: {reason}")
    (place / "fleet.toml").write_text(FLEET.format(place=place, level=level, agent=AGENT.format(place=place)))
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", code, place / "fleet.toml"], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    factory = Factory(place, process)
    try:
        factory.meet_the_family()
        yield factory
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for row, fate in factory.fates().items():  # those that are documented to live on
            if fate == "lives on":
                with contextlib.suppress(ProcessLookupError):
                    os.kill(factory.family[row][0], signal.SIGKILL)
        factory.until(lambda: set(factory.fates().values()) <= {"ended"} and not factory.guards())


def normal_end(factory: Factory, expected: dict[str, str]) -> None:
    factory.go("")
    factory.until(lambda: factory.ended() and factory.fates() == expected)
    assert '"reason":"succeeded"' in factory.journal()
    factory.stop()


def cancel(factory: Factory, expected: dict[str, str]) -> None:
    factory.go("x" * 2000)
    factory.until(lambda: factory.ended() and factory.fates() == expected)
    assert '"reason":"output_limit"' in factory.journal()
    factory.stop()


def stop(factory: Factory, expected: dict[str, str]) -> None:
    factory.stop()


def sigkill(factory: Factory, expected: dict[str, str]) -> None:
    factory.process.kill()
    factory.process.wait()


def sigstop(factory: Factory, expected: dict[str, str]) -> None:
    factory.process.send_signal(signal.SIGSTOP)
    os.waitpid(factory.process.pid, os.WUNTRACED)
    factory.go("")
    pid, _ = factory.family["leader"]
    factory.until(lambda: not procfs.scan().processes[pid].alive)  # it ends, and nobody notices
    assert not factory.ended()
    assert set((factory.fates() | {"leader": "lives on"}).values()) == {"lives on"}
    factory.process.send_signal(signal.SIGCONT)
    factory.until(factory.ended)
    assert '"reason":"succeeded"' in factory.journal()
    factory.stop()


EVENTS = {"normal end": normal_end, "cancel": cancel, "stop": stop, "SIGKILL": sigkill, "SIGSTOP": sigstop}


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("level", LEVELS)
def test_survival(tmp_path: Path, level: str, event: str):
    forced, code = LEVELS[level]
    cells = TABLES[TABLE_OF.get(level, level)]
    column = cells[event]
    if event == "SIGSTOP":  # afterwards all is as if it had not been
        assert set(column.values()) == {"goes on"}
        column = cells["normal end"]
    with running(tmp_path, forced, code) as factory:
        if (forced, code, event) == ("guard", COMMAND, "SIGKILL"):
            ghost = factory.family["ghost"][0]
            factory.until(lambda: f'"process": "{ghost} sleep"' in (tmp_path / "log").read_text())
        EVENTS[event](factory, column)
        factory.until(lambda: factory.nothing_is_left_of_it() and factory.fates() == column)


def test_the_tables_have_a_row_for_each_of_the_family_and_a_column_for_each_event():
    assert set(TABLES) == {TABLE_OF.get(level, level) for level in LEVELS}
    for cells in TABLES.values():
        assert set(cells) == set(EVENTS)
        for column in cells.values():
            assert set(column) == {"leader", "child", "setsid_child", "daemon", "bare_child", "ghost"}
