"""Which of the real programs wait for their prompt, and what becomes of it then."""

from __future__ import annotations

import os

import trio

from darkfactory import Admit, OrchestratorConfig, open_factory
from darkfactory.tools import tool_for
from darkfactory.tools.environment import environment
from darkfactory.tools.tool import Prompt

from .conftest import LIMIT_SECS, Stage, only
from .model_server import Say, model_server

WAIT_SECS = 20.0
"""Longer than any of those that give up was seen to take; a start takes no more than a few."""


@only("codex", "pi")
async def test_one_that_waits_asks_nobody_anything_and_then_does_its_task(stage: Stage, cli):
    task = "--help me\nwith this: " + "x" * 200_000
    async with model_server(Say("It is done.")) as server:
        agent = stage.agent(cli, server, task=task, warm=1)
        fleet = OrchestratorConfig(working_dir=stage.work, agents=(agent,), state_dir=stage.state, nice=0)
        with trio.fail_after(LIMIT_SECS):
            async with open_factory(fleet, machine=stage.machine) as factory:
                await factory.wait_statuses(lambda agents: agents[0].warm == 1)
                await trio.sleep(WAIT_SECS)
                assert not server.requests
                assert factory.agent_statuses()[0].warm == 1
                admission = await factory.start("agent")
                assert isinstance(admission, Admit)
                await factory.wait_statuses(lambda agents: not agents[0].running)
    ended = stage.ended(stage.state / "runs" / admission.run_id, server)
    assert ended.outcome == ("succeeded", None), ended.told()
    assert ended.summary["answer"] == "It is done."
    assert repr(task)[1:-1] in repr(server.requests[0])
    waited = {line["run"]: line["pid"] for line in stage.records("warm_started")}
    (started,) = stage.records("run_started")
    assert waited[admission.run_id] == started["pid"], "it is the process that waited"
    assert {line["reason"] for line in stage.records("warm_ended")} == {"shutdown"}


@only("claude", "gemini", "qwen")
async def test_one_that_cannot_be_warm_gives_up_when_no_prompt_comes(stage: Stage, cli):
    async with model_server(Say()) as server:
        agent = stage.agent(cli, server)
        tool = tool_for(agent, {})
        argv = tool.argv(agent, Prompt("", stage.root / "prompt.md"))
        env = environment(agent, tool, stage.environ)
        reading, writing = os.pipe()
        try:
            with trio.fail_after(LIMIT_SECS):
                done = await trio.run_process(
                    argv, stdin=reading, capture_stdout=True, capture_stderr=True, cwd=stage.work, env=env, check=False
                )
        finally:
            os.close(reading)
            os.close(writing)
    assert done.returncode != 0
    assert not server.requests
