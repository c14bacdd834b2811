"""A factory that does not read for a while loses nothing of what its agents print.

Through a pipe it would: claude drops the rest, its result included, and exits 0.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from darkfactory import AgentDefinition

from .conftest import LIMIT_SECS, Stage
from .model_server import Say, Shell, model_server

TURNS = 12
WORDS = "word " * 20_000
"""In each turn: together more than 1 MiB, which is more than any pipe holds."""
WAIT = """touch began; python3 -c 'import os, time
while not os.path.exists("go"): time.sleep(0.05)'"""


async def test_what_is_printed_while_the_factory_is_stopped_is_read_when_it_goes_on(stage: Stage, cli):
    async with model_server(Shell(WAIT), *[Shell("true", WORDS)] * TURNS, Say("The last.")) as server:
        file = stage.root / "fleet.toml"
        file.write_text(fleet(stage, stage.agent(cli, server)))
        with trio.fail_after(LIMIT_SECS), command(stage, file) as factory:
            await until((stage.work / "began").exists)
            (begun,) = stage.records("run_started")
            factory.send_signal(signal.SIGSTOP)
            (stage.work / "go").touch()
            await until(lambda: is_zombie(begun["pid"]))
            assert stage.records("run_ended") == []
            factory.send_signal(signal.SIGCONT)
            await until(lambda: stage.records("run_ended"))
            factory.terminate()
            assert await trio.to_thread.run_sync(factory.wait) == 0
    ended = stage.ended(stage.state / "runs" / begun["run"], server)
    printed = (ended.directory / "stdout").stat().st_size
    assert printed > 1024**2
    assert ended.outcome == ("succeeded", None), ended.told()
    assert (ended.record["detail"], ended.record["tool_calls"]) == ("The last.", TURNS + 1)
    assert ended.summary["output_bytes"] == printed + (ended.directory / "stderr").stat().st_size
    assert not ended.summary["output_unread"]


def fleet(stage: Stage, agent: AgentDefinition) -> str:
    """A fleet file with that agent, always on."""
    assert agent.permissions is None or agent.permissions.value == "full-access"
    env = ", ".join(f"{name} = {json.dumps(secret.value)}" for name, secret in agent.env.items())
    permissions = 'permissions = "full-access"' if agent.permissions else ""
    return f"""
working_dir = {json.dumps(str(stage.work))}
state_dir = {json.dumps(str(stage.state))}
nice = 0

[[agents]]
name = "agent"
layer = "Safety"
cli_tool = {json.dumps(agent.cli_tool)}
task = {json.dumps(agent.task)}
args = {json.dumps(agent.args)}
env = {{ {env} }}
{permissions}
"""


@contextmanager
def command(stage: Stage, file: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`darkfactory FLEET`, killed at the end if it has not ended."""
    environ = stage.environ | {"DARKFACTORY_RUN": os.environ["DARKFACTORY_RUN"]}
    words = [sys.executable, "-m", "darkfactory", str(file)]
    with subprocess.Popen(words, env=environ, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as factory:
        try:
            yield factory
        finally:
            factory.kill()


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 - what other processes do has no event
        await trio.sleep(0.05)


def is_zombie(pid: int) -> bool:
    """It has ended, and its parent has not looked yet."""
    return Path("/proc", str(pid), "stat").read_text().rpartition(") ")[2].startswith("Z")
