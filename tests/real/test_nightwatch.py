"""Each correction with real processes: the demo agent errs, and what its level calls for happens to it.

Evaluation and deadlines are set short, nothing is judged before all 40 commands were seen, and what is waited for is
the journal.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from darkfactory import Admit, AgentOrchestrator, load_config, open_factory

pytestmark = pytest.mark.real

FILE = """
name = "it"
working_dir = "{path}"
state_dir = "{path}/state"
[nightwatch]
eval_interval_secs = 0.2
cooldown_secs = 0
min_samples = {{signals = 40, commands = 40}}
moderate_finish_secs = 0.3
[layers.Safety]
backoff_secs = 0
[[agents]]
name = "agent"
layer = "{layer}"
cli_tool = "demo"
task = "{task}"
args = ["--behaviour", "{behaviour}", "--failures", "{failures}"]
stall_timeout_secs = {stall}
"""


def write(path: Path, failures: int, *, layer: str = "Safety", **fields: object) -> Path:
    """A fleet of one agent, of whose 40 commands so many fail."""
    file = path / "fleet.toml"
    values = {"behaviour": "err-then-hang", "task": "watch", "stall": 900} | fields
    file.write_text(FILE.format(path=path, layer=layer, failures=failures, **values))
    return file


def records(path: Path, kind: str) -> list[dict[str, Any]]:
    (segment,) = (path / "state" / "journal").glob("*.jsonl")
    whole, _, _ = segment.read_bytes().rpartition(b"\n")
    return [record for record in map(json.loads, whole.splitlines()) if record["kind"] == kind]


async def wait_for(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 - what is waited for is in a file
        await trio.sleep(0.02)


def prompts(path: Path) -> list[str]:
    """What each run was told, in the order of their starts."""
    begun = [record["run"] for record in records(path, "run_begun")]
    return [(path / "state" / "runs" / run / "prompt.md").read_text() for run in begun]


async def test_a_healthy_agent_is_left_alone(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with open_factory(load_config(write(tmp_path, 0), {})) as factory:
            await wait_for(lambda: commands_seen(factory) == 40)
            await trio.sleep(0.5)  # two evaluations; on a machine that is too slow for them, the test proves less
            assert factory.agent_statuses()[0].running
    assert not records(tmp_path, "drift")
    assert [record["reason"] for record in records(tmp_path, "run_ended")] == ["shutdown"]


async def test_minor_is_noted_in_the_next_prompt(tmp_path: Path) -> None:
    file = write(tmp_path, 6, layer="Growth", behaviour="err-then-fail")
    with trio.fail_after(60):
        async with open_factory(load_config(file, {})) as factory:
            assert isinstance(await factory.start("agent"), Admit)
            await wait_for(lambda: records(tmp_path, "drift"))
            await factory.wait_statuses(lambda all_: not all_[0].running)
            assert isinstance(await factory.start("agent"), Admit)
            await factory.wait_statuses(lambda all_: not all_[0].running)
    assert records(tmp_path, "drift")[0]["level"] == "minor"
    first, second = prompts(tmp_path)
    assert first == "watch"
    assert second.startswith("watch\n\nA note on how it went lately: 1")
    assert "\n```\nshell failed" in second


async def test_moderate_reads_the_file_anew_and_then_restarts(tmp_path: Path) -> None:
    fleet = load_config(write(tmp_path, 12), {})
    write(tmp_path, 0, behaviour="succeed", task="watch better", stall=800)
    with trio.fail_after(60):
        async with open_factory(fleet):
            # its arguments are those that the factory was started with, so it errs again
            await wait_for(lambda: len(records(tmp_path, "drift")) == 2)
    assert {record["level"] for record in records(tmp_path, "drift")} == {"moderate"}
    assert records(tmp_path, "redefined")[0]["changes"] == {
        "task": ["watch", "watch better"],
        "stall_timeout_secs": [900.0, 800.0],
    }
    assert records(tmp_path, "run_ended")[0]["reason"] == "corrected_moderate"
    assert prompts(tmp_path)[:2] == ["watch", "watch better"]


async def test_severe_restarts_now(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with open_factory(load_config(write(tmp_path, 24), {})):
            await wait_for(lambda: len(records(tmp_path, "run_started")) == 2)
    assert records(tmp_path, "drift")[0]["level"] == "severe"
    assert records(tmp_path, "run_ended")[0]["reason"] == "corrected_severe"


async def test_critical_holds_also_over_a_restart_of_the_factory(tmp_path: Path) -> None:
    fleet = load_config(write(tmp_path, 36), {})
    with trio.fail_after(60):
        async with open_factory(fleet) as factory:
            (status,) = await factory.wait_statuses(lambda all_: all_[0].condition == "held")
            assert status.reason is not None
            assert status.reason.startswith("drift")
        async with open_factory(fleet) as factory:
            assert factory.agent_statuses()[0].condition == "held"
            assert not await still_to_come(factory)
    assert [record["reason"] for record in records(tmp_path, "run_ended")] == ["cancelled"]
    (escalated,) = records(tmp_path, "escalated")
    assert (escalated["agent"], escalated["error_rate"]) == ("agent", 0.9)


def commands_seen(factory: AgentOrchestrator) -> int:
    found = factory.agent_statuses()[0].drift_score
    return 0 if found is None else found.metrics.sample_count


async def still_to_come(factory: AgentOrchestrator) -> bool:
    """Whether a run begins after all, when everybody else has had a turn."""
    await trio.testing.wait_all_tasks_blocked(0.05)
    return factory.agent_statuses()[0].running
