"""How long from a message to an agent until its program has read its prompt: cold, and with one that waits?

Each program writes down the monotonic clock when it has read its prompt; the factory's own is the same clock. What a
run costs before that is the message's way to the supervisor, the durable record of its admission, the start of a
process where there is none, and what the program does before it reads.

    python benchmarks/warm.py [RUNS]
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import trio
from common import percentile, print_table, silence

import darkfactory

PYTHON = """
{imports}
import sys, time
print("up", flush=True)
sys.stdin.buffer.read()
print(time.monotonic())
"""
NODE = """
{imports}
console.log('up')
let chunks = []
process.stdin.on('data', chunk => chunks.push(chunk))
process.stdin.on('end', () => console.log(Number(process.hrtime.bigint()) / 1e9))
"""
PROGRAMS = {
    "Python, no imports": (sys.executable, "-I", "-S", "-c", PYTHON.format(imports="")),
    "Python, standard library": (
        sys.executable,
        "-c",
        PYTHON.format(imports="import argparse, asyncio, http.client, json, logging, ssl, subprocess, urllib.request"),
    ),
    "Python, Trio and more": (
        sys.executable,
        "-c",
        PYTHON.format(imports="import trio, attrs, cattrs, structlog, croniter"),
    ),
} | (
    {
        "Node": ("node", "-e", NODE.format(imports="")),
        "Node, standard library": (
            "node",
            "-e",
            NODE.format(
                imports="for (const name of ['http', 'https', 'crypto', 'fs', 'path', 'zlib', 'child_process', "
                "'worker_threads', 'readline']) require(name)"
            ),
        ),
    }
    if shutil.which("node")
    else {}
)


async def measure(argv: tuple[str, ...], runs: int) -> tuple[list[float], list[float]]:
    """Seconds from each message to the prompt read, cold and warm; the runs come one after the other, in turn."""
    found: dict[str, list[float]] = {"cold": [], "warm": []}
    with tempfile.TemporaryDirectory(prefix="darkfactory-warm-") as name:
        directory = Path(name)
        agents = [
            darkfactory.AgentDefinition(
                each, darkfactory.AgentLayer.GROWTH, "program", "the prompt", warm=each == "warm"
            )
            for each in found
        ]
        fleet = darkfactory.OrchestratorConfig(
            working_dir=directory,
            state_dir=directory / "state",
            agents=tuple(agents),
            tools={"program": darkfactory.ToolConfig(argv)},
            min_free_bytes=0,
        )
        async with darkfactory.open_factory(fleet) as factory:
            for _ in range(runs):
                for agent, secs in found.items():
                    await factory.wait_statuses(lambda agents: agents[1].warm == 1)
                    await _until_it_is_up(directory)
                    asked = time.monotonic()
                    admission = (await factory.send("the message", to=agent)).outcome
                    assert isinstance(admission, darkfactory.Admit)
                    await factory.wait_statuses(lambda agents: not any(each.running for each in agents))
                    said = (directory / "state" / "runs" / admission.run_id / "stdout").read_text()
                    secs.append(float(said.splitlines()[-1]) - asked)
    return found["cold"], found["warm"]


async def _until_it_is_up(directory: Path) -> None:
    """The one process that has no prompt yet has come to where it waits for it."""
    await trio.lowlevel.checkpoint()
    while not _is_up(directory):  # noqa: ASYNC110 - another process is
        await trio.sleep(0.01)


def _is_up(directory: Path) -> bool:
    (waiting,) = (run for run in directory.glob("state/runs/warm-*") if not (run / "prompt.md").exists())
    return bool((waiting / "stdout").read_bytes())


def main() -> None:
    """Measure all programs."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    rows = []
    for name, argv in PROGRAMS.items():
        cold, warm = trio.run(measure, argv, runs)
        rows.append(
            (
                name,
                *(f"{1000 * figure(secs):.3g}" for secs in (cold, warm) for figure in (median, _p90)),
                f"{median(cold) / median(warm):.3g}",
            )
        )
    print_table(
        f"From the message to the prompt read, ms, {runs} runs each",
        ("program", "cold p50", "p90", "warm p50", "p90", "cold / warm"),
        rows,
    )


def _p90(secs: list[float]) -> float:
    return percentile(secs, 0.9)


if __name__ == "__main__":
    silence()
    main()
