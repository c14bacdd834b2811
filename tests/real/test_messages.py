"""Work moves through a real factory, by real files and processes: from the operator to an agent, and on to others."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import trio
from attrs import evolve

from darkfactory import Admit, HandoffContext, OrchestratorConfig, Queue, load_config, open_factory, read_handoff

pytestmark = pytest.mark.real

PROGRAM = """
import json, os, re, sys

task = sys.stdin.read()
name = task.split()[0]
with open(name + ".told", "a") as file:
    file.write(json.dumps({"prompt": task, "messages": os.environ.get("DARKFACTORY_MESSAGES")}) + "\\n")

def say(kind, text):
    print(json.dumps({"type": kind, "text": text}), flush=True)

say("start", "")
if name == "writer":
    say("say", "I have written it.\\n\\n@reviewer please look at it\\n\\nThat was all.")
    block = {"to": "finisher", "task": "finish it", "files_touched": ["a.py"]}
    say("end", "Done.\\n```handoff\\n" + json.dumps(block) + "\\n```")
elif name == "finisher":
    path = re.search(r"in the file (\\S+):", task)[1]
    say("end", "the task is: " + json.load(open(path))["task"])
else:
    say("end", "seen")
"""
FLEET = """
name = "moving"
working_dir = "."
state_dir = "state"
min_free_bytes = 0

[tools.agent]
argv = ["{python}", "program.py"]
jsonl = {{ started = ["start"], said = ["say"], finished = ["end"] }}

[[agents]]
name = "writer"
layer = "Growth"
cli_tool = "agent"
task = "writer writes"
capabilities = ["documentation"]

[[agents]]
name = "reviewer"
layer = "Growth"
cli_tool = "agent"
task = "reviewer reviews"
accepts_from = ["writer"]
warm = 1

[[agents]]
name = "finisher"
layer = "Growth"
cli_tool = "agent"
task = "finisher finishes"

[[agents]]
name = "script"
layer = "Growth"
cli_tool = "bash"
task = 'cat "$DARKFACTORY_MESSAGES" > script.told'
"""


def told(directory: Path, name: str) -> list[dict[str, str]]:
    file = directory / f"{name}.told"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def answers(directory: Path) -> dict[str, str]:
    """By agent: what its last run answered."""
    runs = [json.loads(path.read_text()) for path in sorted((directory / "state/runs").glob("*/run.json"))]
    return {run["agent"]: run["answer"] for run in runs}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "fleet.toml").write_text(FLEET.format(python=sys.executable))
    return tmp_path


async def test_work_moves_from_the_operator_to_an_agent_and_from_that_to_others(place: Path) -> None:
    config = load_config(place / "fleet.toml", {})
    async with open_factory(config) as factory:
        sent = await factory.send("the readme is missing")
        assert sent.agent == "writer"  # a readme is documentation
        assert isinstance(sent.outcome, Admit)
        with trio.fail_after(60):
            await factory.wait_statuses(lambda _: answers(place).keys() == {"writer", "reviewer", "finisher"})
    assert "the readme is missing" in told(place, "writer")[0]["prompt"]
    (review,) = told(place, "reviewer")
    assert "from writer" in review["prompt"]
    assert "please look at it" in review["prompt"]
    assert "That was all" not in review["prompt"]
    assert answers(place)["finisher"] == "the task is: finish it"
    (file,) = (place / "state/handoffs").iterdir()
    assert read_handoff(file).from_agent == "writer"


def with_a_sleeper(place: Path) -> OrchestratorConfig:
    """The fleet with a writer that never ends."""
    config = load_config(place / "fleet.toml", {})
    writer, *others = config.agents
    return evolve(config, agents=(evolve(writer, cli_tool="demo", args=("--behaviour", "hang")), *others))


async def test_what_is_handed_over_by_a_program_is_there_when_its_receiver_starts(place: Path) -> None:
    async with open_factory(with_a_sleeper(place)) as factory:
        await factory.start("writer")
        assert isinstance(await factory.handoff("writer", "finisher", HandoffContext(task="carry on")), Admit)
        with trio.fail_after(60):
            await factory.wait_statuses(lambda _: "finisher" in answers(place))
        factory.shutdown(kill=True)
    assert answers(place)["finisher"] == "the task is: carry on"


async def test_a_script_reads_its_messages_from_a_file_and_nobody_writes_into_it(place: Path) -> None:
    async with open_factory(load_config(place / "fleet.toml", {"PATH": "/usr/bin:/bin"})) as factory:
        await factory.send('"; rm -rf / #', "script")
        with trio.fail_after(60):
            await factory.wait_statuses(lambda agents: not agents[3].running and not agents[3].messages)
    assert '"; rm -rf / #' in (place / "script.told").read_text()


async def test_an_accepted_message_outlives_the_factory(place: Path) -> None:
    config = evolve(with_a_sleeper(place), max_concurrent_runs=1)
    async with open_factory(config) as factory:
        await factory.start("writer")
        sent = await factory.send("later", "finisher", message_id="one")
        assert isinstance(sent.outcome, Queue)
        assert sent.outcome.reason == "max_concurrent_runs"
        factory.shutdown(kill=True)
    assert not told(place, "finisher")
    async with open_factory(config) as factory:
        with trio.fail_after(60):
            await factory.wait_statuses(lambda _: "finisher" in answers(place))
    assert "Message one from the operator" in told(place, "finisher")[0]["prompt"]
