"""The environment of an agent: what it inherits, what its tool needs, what the operator set."""

from __future__ import annotations

from collections.abc import Mapping

from darkfactory.model.fleet import AgentDefinition
from darkfactory.tools.tool import Ruled, Tool


def environment(agent: AgentDefinition, tool: Tool, outer: Mapping[str, str]) -> dict[str, str]:
    """The whole environment of an agent's runs, secrets included; `outer` is the factory's own.

    Inherited names first, then the tool's settings, then the agent's `env`; the later ones win.
    """
    wanted = frozenset((*agent.env_pass, *tool.env_pass))
    beginnings = tuple(pattern[:-1] for pattern in wanted if pattern.endswith("*"))
    inherited = {name: value for name, value in outer.items() if name in wanted or name.startswith(beginnings)}
    rights = dict(tool.rights(agent)) if isinstance(tool, Ruled) else {}
    return inherited | dict(tool.env) | rights | {name: secret.value for name, secret in agent.env.items()}
