"""What the real programs take for a login is what is looked for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from darkfactory.cli.surroundings import Logins
from darkfactory.model.fleet import AgentDefinition, AgentLayer
from darkfactory.tools import tool_for
from darkfactory.tools.environment import environment
from darkfactory.tools.login import login_of

from . import clis
from .conftest import Stage, only


@only("claude")
@pytest.mark.parametrize(
    ("outer", "files", "logged_in", "why"),
    [
        ({}, {}, False, "looked for ANTHROPIC_API_KEY"),
        ({"ANTHROPIC_API_KEY": ""}, {}, False, "looked for ANTHROPIC_API_KEY"),
        ({}, {".claude/.credentials.json": "{}"}, False, "its own word for it"),
        ({"ANTHROPIC_AUTH_TOKEN": "x"}, {}, True, "ANTHROPIC_AUTH_TOKEN"),
        ({"CLAUDE_CONFIG_DIR": "HOME/moved"}, {"moved/settings.json": '{"apiKeyHelper": "false"}'}, True, "it says so"),
        ({}, {".claude/settings.json": '{"env": {"ANTHROPIC_API_KEY": "x"}}'}, True, "it says so"),
    ],
)
async def test_claude_tells_whether_it_is_logged_in(
    cli: str, stage: Stage, outer: dict[str, str], files: dict[str, str], logged_in: bool, why: str
) -> None:
    home = stage.root / "home"
    for name, text in files.items():
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_text(text)
    agent = AgentDefinition("a", AgentLayer.GROWTH, str(clis.installed(cli)), "t")
    moved = {name: value.replace("HOME", str(home)) for name, value in outer.items()}
    surroundings = {**stage.environ, **moved, "DARKFACTORY_RUN": os.environ["DARKFACTORY_RUN"]}
    login = login_of(agent, {})
    assert login is not None
    env = environment(agent, tool_for(agent, {}), surroundings)
    with trio.fail_after(60):
        answer = await Logins(surroundings, Path(stage.work)).look(agent, login, agent.cli_tool, env)
    assert answer.logged_in is logged_in
    assert why in answer.why
