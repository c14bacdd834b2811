"""Where the tools' logins would be: a table, and what is made of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from darkfactory.model.fleet import AgentDefinition, AgentLayer, ToolConfig
from darkfactory.tools import BUILTIN
from darkfactory.tools.login import LOGINS, Kept, login_of, variable

HOME, WORK = Path("/home/me"), Path("/srv/work")


def agent(cli_tool: str = "pi", **changes) -> AgentDefinition:
    return AgentDefinition("a", AgentLayer.GROWTH, cli_tool, "t", **changes)


def test_every_built_in_tool_has_its_logins_in_the_table_or_needs_none():
    assert BUILTIN.keys() - LOGINS.keys() == {"bash", "demo"}


@pytest.mark.parametrize("name", sorted(BUILTIN.keys() & LOGINS.keys()))
def test_the_keys_that_an_adapter_passes_on_are_those_of_the_table(name):
    passed = BUILTIN[name](name).env_pass
    keys = [word for word in passed if word.endswith(("_API_KEY", "_TOKEN"))]
    assert [key for key in keys if variable(LOGINS[name].names(agent(name)), {key: "x"}) is None] == []
    beginnings = tuple(word[:-1] for word in passed if word.endswith("*"))
    fixed = LOGINS[name].env if "{PROVIDER}_API_KEY" not in LOGINS[name].env else ()
    assert [key for key in fixed if key not in passed and not key.startswith(beginnings)] == []


def test_a_tool_is_known_by_its_name_or_a_path_that_ends_in_it_and_the_operators_own_go_first():
    assert login_of(agent("claude"), {}) is LOGINS["claude"]
    assert login_of(agent("/opt/bin/codex"), {}) is LOGINS["codex"]
    assert login_of(agent("bash"), {}) is None
    assert login_of(agent("claude"), {"claude": ToolConfig(("wrapper",))}) is None


@pytest.mark.parametrize(
    ("model", "key"),
    [
        ("openai/gpt-9", "OPENAI_API_KEY"),
        ("kimi-coding/k2", "KIMI_CODING_API_KEY"),
        ("z.ai/glm", "Z_AI_API_KEY"),
        ("gpt-9", "*_API_KEY"),
        (None, "*_API_KEY"),
    ],
)
def test_the_name_of_a_key_follows_from_the_models_provider(model, key):
    assert LOGINS["pi"].names(agent(model=model))[0] == key


def test_a_variable_is_there_when_it_is_not_empty():
    assert variable(("A_KEY", "B_KEY"), {"A_KEY": "", "B_KEY": "x"}) == "B_KEY"
    assert variable(("*_KEY",), {"HOME": "/", "B_KEY": "x"}) == "B_KEY"
    assert variable(("A_KEY",), {"B_KEY": "x"}) is None


@pytest.mark.parametrize(
    ("kept", "shown", "paths"),
    [
        (Kept("~/.x", "f", "X_HOME"), "~/.x/f", [HOME / ".x/f"]),
        (Kept("~", ".env"), "~/.env", [HOME / ".env"]),
        (Kept("~/.x", "f", "MOVED"), "$MOVED/f", [Path("/elsewhere/f")]),
        (Kept("~/.x", "f", "NEAR"), "$NEAR/f", [WORK / "near/f"]),
        (Kept("", "f"), "f", [WORK / "f", Path("/srv/f"), Path("/f")]),
        (Kept(".x", "f"), ".x/f", [WORK / ".x/f", Path("/srv/.x/f"), Path("/.x/f")]),
    ],
)
def test_a_file_is_where_the_tool_keeps_it_and_is_shown_without_the_value_of_a_variable(kept, shown, paths):
    env = {"MOVED": "/elsewhere", "NEAR": "near", "X_HOME": ""}
    assert kept.shown(env) == shown
    assert list(kept.paths(env, HOME, WORK)) == paths


def test_without_a_home_there_is_nothing_below_it():
    assert list(Kept("~/.x", "f").paths({}, None, WORK)) == []


def test_a_part_of_an_agents_args_may_bring_a_login():
    codex = LOGINS["codex"]
    assert codex.brought_by(agent(args=("-c", "model_providers.mine.env_key=KEY"))) == "model_provider"
    assert codex.brought_by(agent(args=("-c", "model=x"))) is None
