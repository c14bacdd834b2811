"""How much memory does an agent take, all of its state, tasks and channels included?

Two factories on a simulated machine that differ by 1,000 agents, each of which has a run that lives and has printed;
what the simulated machine itself remembers (scripts, journal, prompts) is not counted.

    python benchmarks/memory.py
"""

from __future__ import annotations

import gc
import tracemalloc
from functools import partial
from pathlib import Path

import trio
from common import print_table, silence
from trio.testing import MockClock

import darkfactory
from darkfactory import testing
from darkfactory.testing import HANGS, Script, SimulatedMachine

MORE = 1000
FEW = 20


def fleet(agents: int, layer: darkfactory.AgentLayer) -> darkfactory.OrchestratorConfig:
    """So many agents in one layer."""
    definitions = tuple(
        darkfactory.AgentDefinition(
            f"agent-{number}",
            layer,
            "demo",
            f"task {number}",
            schedule="*/5 * * * *" if layer is darkfactory.AgentLayer.CORE else None,
            stall_timeout_secs=7000.0,
        )
        for number in range(agents)
    )
    return darkfactory.OrchestratorConfig(working_dir=Path("/"), agents=definitions, max_concurrent_runs=agents)


async def used(agents: int, layer: darkfactory.AgentLayer, *, running: bool) -> tuple[int, int]:
    """Bytes after a while of a factory's life: all, and those of Trio's own tasks, scopes and channels."""
    machine = SimulatedMachine(lambda _spec: HANGS if running else Script())
    gc.collect()
    tracemalloc.start()
    async with darkfactory.open_factory(fleet(agents, layer), machine=machine.open, seed=1) as factory:
        await trio.sleep(600 if running else 3700)
        gc.collect()
        snapshot = tracemalloc.take_snapshot()
        assert sum(status.running for status in factory.agent_statuses()) == (agents if running else 0)
    tracemalloc.stop()
    ours = snapshot.filter_traces([tracemalloc.Filter(False, testing.__file__), tracemalloc.Filter(False, "*json*")])
    sizes = [(Path(line.traceback[0].filename), line.size) for line in ours.statistics("filename")]
    trios = sum(size for path, size in sizes if "trio" in path.parts)
    return sum(size for _, size in sizes), trios


def main() -> None:
    """Print the table."""
    silence()
    rows = []
    for layer, running in (
        (darkfactory.AgentLayer.GROWTH, False),
        (darkfactory.AgentLayer.SAFETY, True),
        (darkfactory.AgentLayer.CORE, True),
    ):
        (few, few_of_trio), (many, many_of_trio) = (
            trio.run(partial(used, agents, layer, running=running), clock=MockClock(autojump_threshold=0))
            for agents in (FEW, FEW + MORE)
        )
        what = "a run that lives" if running else "none yet"
        trios = many_of_trio - few_of_trio
        rows.append((layer.value, what, *(f"{size / MORE / 1024:.1f}" for size in (many - few - trios, trios))))
    print_table(
        f"Memory of an agent, KiB (between {FEW} and {FEW + MORE} agents)",
        ("layer", "run", "ours", "Trio's tasks, scopes, channels"),
        rows,
    )


if __name__ == "__main__":
    main()
