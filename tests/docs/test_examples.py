"""What the documentation shows does what it says: the example fleet, and every block of Python and TOML."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import trio

from darkfactory.config import load_config, parse_config, warnings_of
from darkfactory.model.fleet import AgentLayer
from darkfactory.model.signals import Stream, Totals
from darkfactory.tools import tool_for
from darkfactory.tools.reader import Reader


@pytest.mark.real
def test_a_python_block_runs_without_a_warning(python_block: str, root: Path, tmp_path: Path):
    program = tmp_path / "block.py"
    program.write_text(python_block)
    shutil.copy(root / "fleet.example.toml", tmp_path)
    done = subprocess.run(
        [sys.executable, "-W", "error", program],
        cwd=tmp_path,
        env={**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_toml_block_is_a_fleet_file(toml_block: str):
    wanted = dict.fromkeys(re.findall(r"\$\{(\w+)\}", toml_block), "x")
    config = parse_config(toml_block, file="fleet.toml", base=Path("/base"), environ=wanted)
    assert config.agents


def test_the_example_has_one_agent_in_each_layer_and_runs_anywhere(root: Path):
    config = load_config(root / "fleet.example.toml", {})
    assert [agent.layer for agent in config.agents] == list(AgentLayer)
    assert {agent.cli_tool for agent in config.agents} == {"demo"}
    assert config.working_dir == root
    assert not warnings_of(config)


def test_the_review_of_the_example_only_looks_until_the_marks_are_taken_away(root: Path):
    text = (root / "fleet.example.toml").read_text(encoding="utf-8")
    head, mark, section = text.partition("[compound_review]\n")
    assert mark
    without_marks = head + mark + re.sub(r"^# ", "", section, flags=re.MULTILINE)
    for fleet, acts in ((text, False), (without_marks, True)):
        config = parse_config(fleet, file="fleet.toml", base=Path("/base"), environ={})
        assert config.compound_review is not None
        assert config.compound_review.create_prs == bool(config.compound_review.gate) == acts
        assert not warnings_of(config)


@pytest.mark.real
async def test_the_example_runs_at_once_and_stops_in_order_when_it_is_asked_to(root: Path, tmp_path: Path):
    journal = tmp_path / "darkfactory" / "fleet.example" / "journal" / "00000001.jsonl"
    with (tmp_path / "log").open("wb") as log:
        run = partial(
            trio.run_process,
            [sys.executable, "-m", "darkfactory", root / "fleet.example.toml"],
            env={**os.environ, "XDG_STATE_HOME": str(tmp_path)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            check=False,
        )
        async with trio.open_nursery() as nursery:
            with trio.fail_after(60):
                factory: trio.Process = await nursery.start(run)
                while not (journal.exists() and "the task is done" in journal.read_text()):
                    assert factory.returncode is None, (tmp_path / "log").read_text()
                    await trio.sleep(0.05)
                factory.send_signal(signal.SIGTERM)
                assert await factory.wait() == 0
    records = [json.loads(line) for line in journal.read_text().splitlines()]
    # one by cron may have come due meanwhile
    ended = [(record["agent"], record["reason"]) for record in records if record["kind"] == "run_ended"]
    assert ("security-sentinel", "succeeded") in ended
    assert {reason for _, reason in ended} <= {"succeeded", "shutdown"}
    assert records[-1]["kind"] == "factory_stopped"


def test_the_readme_marks_one_command_to_run_and_one_to_test(page: Callable[[str], str]):
    marked = dict(re.findall(r"<!-- command: ([\w-]+) -->\n```sh\n(.+)\n```\n", page("README")))
    assert marked.keys() == {"run", "test", "test-real-cli"}
    assert marked["run"].endswith("-m darkfactory fleet.example.toml")
    assert marked["test"].endswith("-m pytest")
    assert marked["test-real-cli"] == ".venv/bin/python -m pytest -m real_cli"


def test_the_readme_links_to_files_that_exist(page: Callable[[str], str], root: Path):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page("README"))
    assert links
    assert [link for link in links if not (root / link).is_file()] == []


def test_the_map_of_the_tools_page_reads_what_the_tool_printed(page: Callable[[str], str], root: Path):
    (example,) = [
        block
        for block in re.findall(r"^```toml\n(.*?)^```$", page("tools"), re.MULTILINE | re.DOTALL)
        if "jsonl" in block
    ]
    fleet = parse_config(example, file="fleet.toml", base=Path("/base"), environ={})
    tallies = []
    for case in ("tool", "streamerr"):
        reader = Reader(tool_for(fleet.agents[0], fleet.tools))
        reader.feed(Stream.STDOUT, (root / f"tests/data/agent_cli/gemini/{case}.stdout.jsonl").read_bytes())
        tallies.append(reader.tally)
    good, bad = tallies
    session = "b6434580-1408-44e0-8015-07ca87635b49"
    assert good.totals == Totals(session, tool_calls=1, input_tokens=2400, output_tokens=58, unknown_events=1)
    assert good.finished is not None
    assert good.finished.ok
    assert good.answer == "Hello from the fake model. The task is done."
    assert bad.finished is not None
    assert not bad.finished.ok
