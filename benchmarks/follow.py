"""What does following output cost the children, and how many lines a second are counted?

Ten children write 200,000 lines of 100 bytes, one write(2) each; once with nobody reading, once as runs of a real
factory, in turns; each in a session of its own, since the kernel shares processors out by session (autogroup). The
children's time is from the common start to the last one's end. Lines a second: until the last
of them was counted.

    python benchmarks/follow.py [ROUNDS]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import ClassVar

import trio
from common import print_table, silence

import darkfactory
from darkfactory.model.signals import Counts, Stream
from darkfactory.runtime import agent_run
from darkfactory.runtime.intake import Intake

CHILDREN = 10
LINES = 200_000
CHILD = """
import os, sys, time
directory, lines = sys.argv[1], int(sys.argv[2])
line = b'x' * 99 + b'\\n'
def stamp(name):
    fd = os.open(directory + name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, b'%f\\n' % time.monotonic())
stamp('/ready')
patience = time.monotonic() + 60
while not os.path.exists(directory + '/go') and time.monotonic() < patience: time.sleep(0.002)
for _ in range(lines): os.write(1, line)
stamp('/ends')
"""


class Counting(Intake):
    """The run's own sink, that remembers when it was fed last."""

    made: ClassVar[list[Counting]] = []

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.observe = self.count
        self.lines = 0
        self.fed_at = 0.0
        self.made.append(self)

    def feed(self, stream: Stream, data: bytes) -> None:
        """Count, and look at the clock."""
        super().feed(stream, data)
        self.fed_at = time.monotonic()

    def count(self, counts: Counts) -> None:
        """Count the lines."""
        self.lines += counts.lines


def command(directory: Path) -> tuple[str, ...]:
    """A child that says when it is ready, waits for the file `go`, writes, and says when it has ended."""
    return (sys.executable, "-S", "-c", CHILD, str(directory), str(LINES))


def times(directory: Path, what: str) -> list[float]:
    """What the children have stamped so far into the file `ready` or `ends`."""
    file = directory / what
    return [float(line) for line in file.read_text().splitlines()] if file.exists() else []


async def go(directory: Path) -> float:
    """Wait until all children are ready, and let them begin; the time."""
    await trio.lowlevel.checkpoint()
    while len(times(directory, "ready")) < CHILDREN:  # noqa: ASYNC110 - other processes tell by file
        await trio.sleep(0.01)
    begun = time.monotonic()
    (directory / "go").touch()
    return begun


async def unread(directory: Path) -> float:
    """The children's time with nobody reading."""
    async with trio.open_nursery() as nursery:
        for number in range(CHILDREN):
            output = (directory / f"out-{number}").open("ab")  # closed with its child
            nursery.start_soon(partial(trio.run_process, command(directory), stdout=output, start_new_session=True))
        begun = await go(directory)
    return max(times(directory, "ends")) - begun


async def followed(directory: Path) -> tuple[float, float, int]:
    """The children's time as runs of a factory; the time until the last line was counted; the lines counted."""
    Counting.made.clear()
    agents = tuple(
        darkfactory.AgentDefinition(f"writer-{number}", darkfactory.AgentLayer.GROWTH, "writer", "write")
        for number in range(CHILDREN)
    )
    fleet = darkfactory.OrchestratorConfig(
        working_dir=directory,
        state_dir=directory / "state",
        agents=agents,
        tools={"writer": darkfactory.ToolConfig(command(directory))},
        max_concurrent_runs=CHILDREN,
    )
    async with darkfactory.open_factory(fleet) as factory:
        for agent in agents:
            await factory.start(agent.name)
        begun = await go(directory)
        await factory.wait_statuses(lambda statuses: not any(status.running for status in statuses))
    counted = max(sink.fed_at for sink in Counting.made) - begun
    return max(times(directory, "ends")) - begun, counted, sum(sink.lines for sink in Counting.made)


def main() -> None:
    """Print the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    silence()
    agent_run.Intake = Counting
    rows, ratios, rates = [], [], []
    for number in range(1, rounds + 1):
        with tempfile.TemporaryDirectory(prefix="darkfactory-follow-") as name:
            alone = trio.run(unread, Path(name))
        with tempfile.TemporaryDirectory(prefix="darkfactory-follow-") as name:
            children, counted, lines = trio.run(followed, Path(name))
        ratios.append(children / alone)
        rates.append(lines / counted)
        lost = CHILDREN * LINES - lines
        rows.append(
            (number, f"{alone:.2f}", f"{children:.2f}", f"{ratios[-1]:.2f}", f"{rates[-1] / 1e6:.2f}", lines, lost)
        )
    rows.append(("median", "", "", f"{statistics.median(ratios):.2f}", f"{statistics.median(rates) / 1e6:.2f}", "", ""))
    head = ("round", "unread, s", "followed, s", "ratio", "M lines/s", "lines counted", "lost")
    print_table(f"Following {CHILDREN} children x {LINES:,} lines of 100 bytes", head, rows)


if __name__ == "__main__":
    main()
