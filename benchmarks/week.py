"""How long does a simulated week take, and how does that grow with weeks and with agents?

The fleet has, of twenty agents: four always on, which print for some minutes, fall silent, and are stopped when their
stall limit has come; twelve by cron, from every half hour to every night; four on demand, asked every two hours. Every
run prints six times; of those that are not stopped one in ten fails.

    python benchmarks/week.py [WEEKS AGENTS]
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from time import process_time

import trio
from common import print_table, silence

import darkfactory
from darkfactory.devices.process import LaunchSpec
from darkfactory.testing import LeapingClock, Script, SimulatedMachine, says

WEEK = 7 * 86400.0
ROOT = Path(__file__).resolve().parents[1]
SCHEDULES = ("*/30 * * * *", "15 * * * *", "0 */4 * * *", "30 2 * * *", "0 6 * * 1-5", "0 3 * * 0")


def fleet(agents: int) -> darkfactory.OrchestratorConfig:
    """A fifth always on, a fifth on demand, the others by cron."""
    definitions = []
    for number in range(agents):
        kind = number % 5
        layer = {0: darkfactory.AgentLayer.SAFETY, 1: darkfactory.AgentLayer.GROWTH}.get(
            kind, darkfactory.AgentLayer.CORE
        )
        schedule = SCHEDULES[number % len(SCHEDULES)] if layer is darkfactory.AgentLayer.CORE else None
        definitions.append(
            darkfactory.AgentDefinition(f"agent-{number}", layer, "demo", "work", schedule=schedule, retries=1)
        )
    return darkfactory.OrchestratorConfig(
        working_dir=Path("/"), agents=tuple(definitions), max_concurrent_runs=max(10, agents)
    )


def script_of(chance: random.Random, *, hangs: bool) -> Script:
    """One run: it prints six times, and mostly succeeds unless it hangs."""
    secs = chance.uniform(60, 600)
    ok = chance.random() < 0.9
    printed = tuple((secs * part / 6, b"working\n") for part in range(6))
    return Script(
        secs=3600.0 if hangs else secs, exit_code=0 if ok else 1, output=printed, last_words=says(ok=ok, text="done")
    )


async def live(config: darkfactory.OrchestratorConfig, weeks: float) -> SimulatedMachine:
    """Simulate; the machine, whose journal tells of it."""
    chance = random.Random(1)

    def script(spec: LaunchSpec) -> Script:
        number = int(spec.run_id.split("-")[1]) if spec.run_id.startswith("agent-") else 1
        return script_of(chance, hangs=number % 5 == 0)

    machine = SimulatedMachine(script)
    on_demand = [agent.name for agent in config.agents if agent.layer is darkfactory.AgentLayer.GROWTH]
    async with darkfactory.open_factory(config, machine=machine.open, seed=1) as factory:
        for _ in range(round(weeks * WEEK / 7200)):
            for name in on_demand:
                await factory.start(name)
            await trio.sleep(7200)
    return machine


def measure(config: darkfactory.OrchestratorConfig, weeks: float) -> tuple[int, float]:
    """Runs, and seconds of processor time."""
    begun = process_time()
    machine = trio.run(live, config, weeks, clock=LeapingClock())
    secs = process_time() - begun
    return len(machine.records("run_ended")), secs


def main() -> None:
    """Print the table."""
    silence()
    given = [float(word) for word in sys.argv[1:3]]
    cells = [(given[0], int(given[1]))] if given else [(1, 20), (4, 20), (12, 20), (1, 100), (1, 500)]
    rows = []
    for weeks, agents in cells:
        runs, secs = measure(fleet(agents), weeks)
        rows.append((agents, weeks, runs, f"{secs:.1f}", f"{1e6 * secs / runs:.0f}"))
    if not given:
        example = darkfactory.load_config(ROOT / "fleet.example.toml", {})
        runs, secs = measure(example, 1)
        rows.append(("fleet.example.toml", 1, runs, f"{secs:.1f}", f"{1e6 * secs / runs:.0f}"))
    print_table("Simulated weeks", ("agents", "weeks", "runs", "processor s", "us a run"), rows)


if __name__ == "__main__":
    main()
