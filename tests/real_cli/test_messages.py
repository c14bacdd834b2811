"""Work moves through real programs: they are told messages, and what they answer tasks others."""

from __future__ import annotations

import json

import trio

from darkfactory import AgentDefinition, AgentLayer, OrchestratorConfig, open_factory, read_handoff

from .conftest import LIMIT_SECS, Stage, only
from .model_server import Say, model_server

BLOCK = json.dumps({"to": "reviewer", "task": "review the parser", "files_touched": ["parser.py"]})
ANSWER = f"""It is written.

@reviewer please look at
the parser

```
@reviewer this is an example
```

```handoff
{BLOCK}
```
"""


@only("claude", "codex", "gemini", "opencode", "pi", "qwen")
async def test_a_program_is_told_a_message_and_what_it_answers_tasks_another_agent(stage: Stage, cli: str) -> None:
    reviewer = AgentDefinition("reviewer", AgentLayer.GROWTH, "demo", "review")
    async with model_server(Say(ANSWER)) as server:
        agents = (stage.agent(cli, server), reviewer)
        fleet = OrchestratorConfig(working_dir=stage.work, agents=agents, state_dir=stage.state, nice=0)
        with trio.fail_after(LIMIT_SECS):
            async with open_factory(fleet, machine=stage.machine) as factory:
                await factory.send("The parser is ``` not written ``` yet.", to="agent", message_id="order-1")
                await factory.wait_statuses(
                    lambda statuses: not any(each.running or each.messages for each in statuses)
                )
    (ended,) = (line for line in stage.records("run_ended") if line["agent"] == "agent")
    assert ended["reason"] == "succeeded"
    assert "Message order-1 from the operator" in repr(server.requests[0])
    assert "The parser is ``` not written ``` yet." in repr(server.requests[0])
    order, mention, handoff = stage.records("message")
    assert (order["id"], order["agent"]) == ("order-1", "agent")
    assert (mention["sender"], mention["agent"], mention["text"]) == ("agent", "reviewer", "please look at\nthe parser")
    assert read_handoff(handoff["handoff"]).task == "review the parser"
    assert [line["cause"] for line in stage.records("run_begun")][:2] == ["message", "message"]
