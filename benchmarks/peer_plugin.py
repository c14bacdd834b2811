"""darkfactory as a peer of peerbench, a harness that measures process supervisors on identical work.

    export DARKFACTORY_PYTHON=.venv/bin/python      # one that has our dependencies; the code is that of this checkout
    python peerbench.py --plugin benchmarks/peer_plugin.py:DarkFactory --peers supervisord,runit,darkfactory

`DarkFactoryGuard` is the same without cgroups. Start it in the foreground: a shell gives its background jobs an ignored
SIGINT, and each agent would then be started through `env`, which takes that away.

Each program becomes a Safety agent with a tool of its own. What is no policy and no limit of the harness's work is
left at its default.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from peers import Peer, Prog, Work

ROOT = Path(__file__).resolve().parents[1]
PYTHON = os.environ.get("DARKFACTORY_PYTHON", "python3")

FAST = """
[layers.Safety]
backoff_secs = 0
success_cooldown_secs = 0
max_restarts = 1000000000
period_secs = 1
"""


class DarkFactory(Peer):
    """This program."""

    name = "darkfactory"
    notes = {  # noqa: RUF012 - the base class has it so
        "policy": "default: back-off 1 s doubling to 300 s, held after 5 bad ends in 600 s; fast: back-off 0, no limit",
        "tree": "default = best: sweep by mark, session and descent after every end",
        "stop": "SIGTERM",
        "log": "the child writes its file itself; we read it as it grows",
        "set besides": "max_concurrent_runs, min_free_bytes 256 KiB, max_output_bytes 1 TiB, "
        "grace_secs = the harness's kill timeout",
    }

    def available(self) -> str:
        """Whether its dependencies are there."""
        probe = subprocess.run(
            [PYTHON, "-c", "import darkfactory"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=30
        )
        return "" if probe.returncode == 0 else probe.stderr.strip().rpartition("\n")[2]

    def version(self) -> str:
        """Name and commit."""
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        return f"darkfactory {commit.stdout.strip()}"

    def config(self, work: Work) -> None:
        """The fleet file. The state directory, with the runs' output, lies where the harness wants its logs."""
        head = f"""
name = "bench"
working_dir = {json.dumps(str(work.dir))}
state_dir = {json.dumps(str(work.logdir / "state"))}
max_concurrent_runs = {len(work.progs) + 10}
min_free_bytes = "256KiB"
"""
        policy = FAST if work.policy == "fast" else ""
        agents = "".join(_agent(program, work.kill_timeout) for program in work.progs)
        (work.dir / "fleet.toml").write_text(head + policy + agents, encoding="utf-8")

    def argv(self, work: Work) -> list[str]:
        """The command."""
        return [PYTHON, "-m", "darkfactory", str(work.dir / "fleet.toml")]

    def env(self, work: Work) -> dict[str, str]:  # noqa: ARG002 - the interface's
        """Run this checkout."""
        return {"PYTHONPATH": str(ROOT)}

    def logs(self, work: Work, name: str) -> list[Path]:
        """The stdout of each of its runs."""
        runs = (work.logdir / "state" / "runs").glob(f"{name}-*/stdout")
        return sorted(runs, key=lambda path: path.parent.stat().st_ctime_ns)


class DarkFactoryGuard(DarkFactory):
    """This program where there are no cgroups to be had."""

    name = "darkfactory-guard"

    def config(self, work: Work) -> None:
        """The same fleet file, with another means of containment."""
        super().config(work)
        file = work.dir / "fleet.toml"
        file.write_text('containment = "guard"\n' + file.read_text(encoding="utf-8"), encoding="utf-8")


def _agent(program: Prog, kill_timeout: float) -> str:
    # JSON's strings and arrays of strings are TOML's, too
    return f"""
[tools.{program.name}]
argv = {json.dumps(program.argv)}

[[agents]]
name = "{program.name}"
layer = "Safety"
cli_tool = "{program.name}"
task = "the harness's work"
grace_secs = {kill_timeout}
max_output_bytes = "1TiB"
"""
