"""Each behaviour of the demo agent under the real factory: its terminal reason, and nothing left of it.

That nothing is left (process, descriptor, task) is asserted after every test by the fixture in tests/conftest.py.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import evolve

from darkfactory import (
    Admit,
    AgentDefinition,
    AgentLayer,
    OrchestratorConfig,
    PromptVia,
    Secret,
    ToolConfig,
    open_factory,
)

pytestmark = pytest.mark.real

QUICK = ("--pause", "0", "--steps", "1")
SHORT = {"linger_secs": 0.3, "grace_secs": 0.3, "stall_timeout_secs": 1.5, "start_timeout_secs": 1.0}


def one_agent(path: Path, *, tool: str = "demo", task: str = "do it", **fields: Any) -> OrchestratorConfig:
    agent = AgentDefinition("agent", AgentLayer.GROWTH, tool, task, **fields)
    tools = {"reader": ToolConfig(("sh", "-c", 'cat "$0"; echo read'), PromptVia.FILE)}
    (path / "work").mkdir()
    return OrchestratorConfig(
        working_dir=path / "work", state_dir=path / "state", agents=(agent,), tools=tools, source=None
    )


async def run_once(fleet: OrchestratorConfig) -> dict[str, Any]:
    """Start the agent, wait for its end, stop the factory; the journal's line of the end."""
    with trio.fail_after(30):
        async with open_factory(fleet) as factory:
            admission = await factory.start("agent")
            assert isinstance(admission, Admit)
            await factory.wait_statuses(lambda statuses: not statuses[0].running)
    return ended(fleet)


def ended(fleet: OrchestratorConfig) -> dict[str, Any]:
    assert fleet.state_dir is not None
    (line,) = [line for line in journal(fleet.state_dir) if line["kind"] == "run_ended"]
    return line


def journal(state_dir: Path) -> list[dict[str, Any]]:
    (segment,) = (state_dir / "journal").glob("*.jsonl")
    return [json.loads(line) for line in segment.read_bytes().splitlines()]


def output(fleet: OrchestratorConfig, name: str = "stdout") -> bytes:
    assert fleet.state_dir is not None
    (run,) = (fleet.state_dir / "runs").iterdir()
    return (run / name).read_bytes()


@pytest.mark.parametrize(
    ("behaviour", "reason", "detail"),
    [
        ("succeed", "succeeded", "done"),
        ("fail", "failed", ""),
        ("crash", "failed", "exit code 3"),
        ("hang", "stalled", "stall_timeout_secs"),
        ("ignore-term", "stalled", "stall_timeout_secs"),
        ("fork", "succeeded", "done"),
        ("daemonise", "succeeded", "done"),
        ("setsid", "succeeded", "done"),
        ("bad-utf8", "succeeded", "done"),
        ("result-then-hang", "succeeded", "done"),
        ("no-output", "failed", "without a result"),
        ("silent", "stalled", "start_timeout_secs"),
        ("truncate-stderr", "succeeded", "done"),
    ],
)
async def test_a_behaviour_has_one_terminal_reason(tmp_path: Path, behaviour: str, reason: str, detail: str) -> None:
    # a cut is seen when something was read before it
    pace = ("--pause", "0.2") if behaviour == "truncate-stderr" else QUICK
    fleet = one_agent(tmp_path, args=("--behaviour", behaviour, *pace), **SHORT)
    line = await run_once(fleet)
    assert line["reason"] == reason
    assert detail in line.get("detail", "")
    assert line.get("hung_after_result", False) == (behaviour == "result-then-hang")
    assert bool([line for line in journal(tmp_path / "state") if line["kind"] == "output_truncated"]) == (
        behaviour == "truncate-stderr"
    )


async def test_a_flood_is_read_to_its_last_line(tmp_path: Path) -> None:
    fleet = one_agent(tmp_path, args=("--behaviour", "flood", "--flood-lines", "300000", *QUICK))
    line = await run_once(fleet)
    assert line["reason"] == "succeeded"
    assert line["output_bytes"] == len(output(fleet)) > 300_000 * 100


async def test_a_line_of_20_mb_costs_no_run(tmp_path: Path) -> None:
    fleet = one_agent(tmp_path, args=("--behaviour", "huge-line", *QUICK))
    line = await run_once(fleet)
    assert line["reason"] == "succeeded"
    assert line["output_bytes"] > 20_000_000


async def test_a_run_is_stopped_at_its_output_limit(tmp_path: Path) -> None:
    args = ("--behaviour", "flood", "--flood-lines", "100000000", *QUICK)
    line = await run_once(one_agent(tmp_path, args=args, max_output_bytes=5_000_000, **SHORT))
    assert line["reason"] == "output_limit"
    assert line["output_bytes"] > 5_000_000


async def test_a_run_is_stopped_at_its_timeout(tmp_path: Path) -> None:
    args = ("--steps", "100000", "--pause", "0.05")
    line = await run_once(one_agent(tmp_path, args=args, timeout_secs=2.0, stall_timeout_secs=1.0))
    assert (line["reason"], line["exit_code"]) == ("timed_out", -15)


async def test_leaving_the_block_stops_an_agent_that_ignores_sigterm(tmp_path: Path) -> None:
    fleet = one_agent(tmp_path, args=("--behaviour", "ignore-term"), grace_secs=0.3)
    with trio.fail_after(20):
        async with open_factory(fleet) as factory:
            await factory.start("agent")
            await factory.wait_statuses(lambda statuses: statuses[0].condition == "running")
            await until_it_printed(fleet)
    assert (ended(fleet)["reason"], ended(fleet)["exit_code"]) == ("shutdown", -9)


async def test_cancelling_the_block_stops_an_agent_and_its_daemons(tmp_path: Path) -> None:
    task = "setsid sleep 1000 & (setsid sleep 1000 &) ; echo ready; sleep 1000"
    fleet = one_agent(tmp_path, tool="bash", task=task)
    with trio.fail_after(20), trio.CancelScope() as scope:
        async with open_factory(fleet) as factory:
            await factory.start("agent")
            await until_it_printed(fleet)
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert ended(fleet)["reason"] == "shutdown"


async def until_it_printed(fleet: OrchestratorConfig) -> None:
    assert fleet.state_dir is not None
    while not any(path.stat().st_size for path in (fleet.state_dir / "runs").glob("*/stdout")):  # noqa: ASYNC110
        await trio.sleep(0.01)


async def test_a_bash_agent_reads_its_script_and_not_its_stdin(tmp_path: Path) -> None:
    fleet = one_agent(tmp_path, tool="bash", task='read x; echo "got <$x> and $1"; exit 0', args=("an argument",))
    assert (await run_once(fleet))["reason"] == "succeeded"
    assert output(fleet) == b"got <> and an argument\n"


async def test_a_bash_agent_that_prints_nothing_succeeds_and_is_said_to_have_no_evidence(tmp_path: Path) -> None:
    line = await run_once(one_agent(tmp_path, tool="bash", task="true"))
    assert (line["reason"], line["no_evidence"]) == ("succeeded", True)


async def test_a_declared_tool_reads_its_prompt(tmp_path: Path) -> None:
    fleet = one_agent(tmp_path, tool="reader", task="the task")
    assert (await run_once(fleet))["reason"] == "succeeded"
    assert output(fleet) == b"the taskread\n"


async def test_an_agent_sees_the_environment_it_was_given_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOT_FOR_AGENTS", "1")
    monkeypatch.setenv("LC_TIME", "C")
    fleet = one_agent(tmp_path, tool="bash", task="env", env={"TOKEN": Secret("s3cret")})
    await run_once(fleet)
    names = {line.split(b"=")[0] for line in output(fleet).splitlines()}
    assert {b"PATH", b"LC_TIME", b"TOKEN", b"DARKFACTORY_RUN"} <= names
    assert b"NOT_FOR_AGENTS" not in names
    assert fleet.state_dir is not None
    kept = [path for path in fleet.state_dir.rglob("*") if path.is_file() and path.name != "stdout"]
    assert not [path for path in kept if b"s3cret" in path.read_bytes()]


async def test_a_runs_files_are_for_its_owner_alone(tmp_path: Path) -> None:
    fleet = one_agent(tmp_path, args=QUICK)
    await run_once(fleet)
    assert fleet.state_dir is not None
    for path in (fleet.state_dir, *fleet.state_dir.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path
    (run,) = (fleet.state_dir / "runs").iterdir()
    assert {path.name for path in run.iterdir()} == {"prompt.md", "stdout", "stderr", "run.json"}
    assert (run / "prompt.md").read_text() == "do it"
    assert json.loads((run / "run.json").read_text())["reason"] == "succeeded"


@pytest.mark.parametrize("nice", [0, 7, 19])
async def test_agents_yield_the_processors_to_us(tmp_path: Path, nice: int) -> None:
    expected = min(os.getpriority(os.PRIO_PROCESS, 0) + nice, 19)
    # it is set when the program has begun already
    ask = f"until [ $(nice) = {expected} ]; do sleep 0.01; done; sh -c nice; cat /proc/$$/autogroup 2>/dev/null; :"
    fleet = evolve(one_agent(tmp_path, tool="bash", task=ask), nice=nice)
    assert (await run_once(fleet))["reason"] == "succeeded"
    childs, *group = output(fleet).decode().splitlines()
    assert int(childs) == expected
    if group and os.geteuid() == 0:  # of other users the kernel takes ten changes a second in all
        assert group[0].endswith(f"nice {nice}")
