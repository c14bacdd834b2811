"""How late does the supervisor decide, idle and with 10 and 100 children that flood it with output?

A real factory with real children, each of which writes lines of 100 bytes, one write(2) each, as fast as it can.
The lag of an event is the time from its stamp to its decision; to have events also when nothing happens, a probe asks
the supervisor something every 10 ms. The same probe tells how late its own sleep ended. With 100 busy processes on a
few cores the kernel's scheduler alone makes a process late: a Trio loop in a process of its own, measured at the same
time, shows by how much.

    python benchmarks/lag.py [SECS]
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import trio
from common import print_table, silence, spread

import darkfactory
from darkfactory.model.events import Event, Tick
from darkfactory.runtime import supervisor

FLOOD = """
import os, sys, time
line, parent, end = b'x' * 99 + b'\\n', os.getppid(), time.monotonic() + float(sys.argv[1])
while os.getppid() == parent and time.monotonic() < end:  # no disk is large enough for floods without end
    for _ in range(1000): os.write(1, line)
while os.getppid() == parent: time.sleep(0.1)
"""
PROBE = """
import sys, time, trio
async def main():
    late, end = [], trio.current_time() + float(sys.argv[1])
    while trio.current_time() < end:
        wake = trio.current_time() + 0.01
        await trio.sleep_until(wake)
        late.append(trio.current_time() - wake)
    print(late)
trio.run(main)
"""
PROBE_SECS = 0.01


def fleet(children: int, directory: Path, secs: float) -> darkfactory.OrchestratorConfig:
    """So many floods, and an agent to ask about."""
    flood = darkfactory.ToolConfig((sys.executable, "-S", "-c", FLOOD, str(secs)))
    agents = [
        darkfactory.AgentDefinition(
            f"flood-{number}", darkfactory.AgentLayer.SAFETY, "flood", "write", max_output_bytes=1024**4
        )
        for number in range(children)
    ]
    asked = darkfactory.AgentDefinition("asked", darkfactory.AgentLayer.GROWTH, "flood", "nothing")
    return darkfactory.OrchestratorConfig(
        working_dir=directory,
        state_dir=directory / "state",
        agents=(*agents, asked),
        tools={"flood": flood},
        max_concurrent_runs=children + 1,
    )


async def measure(children: int, secs: float) -> tuple[list[float], list[float], list[float]]:
    """Seconds: lags of events, delays of the probe's sleep, delays of the bystander's."""
    lags: list[float] = []
    delays: list[float] = []
    bystander: list[float] = []
    decide = supervisor.decide

    def timed(state: object, event: Event) -> object:
        if not isinstance(event, Tick):
            lags.append(trio.current_time() - event.when.at)
        return decide(state, event)

    with tempfile.TemporaryDirectory(prefix="darkfactory-lag-") as name:
        async with darkfactory.open_factory(fleet(children, Path(name), secs + 2)) as factory:
            await factory.wait_statuses(lambda all_of_them: sum(one.running for one in all_of_them) == children)
            await trio.sleep(1)
            supervisor.decide = timed
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stand_by, secs, bystander)
                end = trio.current_time() + secs
                while trio.current_time() < end:
                    wake = trio.current_time() + PROBE_SECS
                    await trio.sleep_until(wake)
                    delays.append(trio.current_time() - wake)
                    await factory.resume("asked")
                supervisor.decide = decide
    return lags, delays, bystander


async def stand_by(secs: float, delays: list[float]) -> None:
    """Have a process that does nothing but sleep say how late it woke."""
    done = await trio.run_process([sys.executable, "-c", PROBE, str(secs)], capture_stdout=True, start_new_session=True)
    delays += json.loads(done.stdout)


def main() -> None:
    """Print the table."""
    secs = float(sys.argv[1]) if len(sys.argv) > 1 else 5.0
    silence()
    rows = []
    for children in (0, 10, 100):
        lags, delays, bystander = trio.run(measure, children, secs)
        rows.append((children, len(lags), *spread(lags), *spread(delays), *spread(bystander)))
    columns = ("p50", "p99", "max")
    head = ["flooding children", "events"]
    head += [f"{what} {column}" for what in ("event to decision", "probe", "bystander") for column in columns]
    print_table(f"Lag of the supervisor, ms ({secs:g} s each)", head, rows)


if __name__ == "__main__":
    main()
