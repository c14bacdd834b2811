"""The environment of an agent: what it inherits, what its tool needs, what the operator set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from darkfactory.model.fleet import AgentDefinition
from darkfactory.tools.tool import Ruled, Tool


def environment(agent: AgentDefinition, tool: Tool, outer: Mapping[str, str]) -> dict[str, str]:
    """The whole environment of an agent's runs, secrets included; `outer` is the factory's own.

    Inherited names first, then the tool's settings, then the agent's `env`; the later ones win.
    """
    rights = dict(tool.rights(agent)) if isinstance(tool, Ruled) else {}
    passed = inherited((*agent.env_pass, *tool.env_pass), outer)
    return passed | dict(tool.env) | rights | {name: secret.value for name, secret in agent.env.items()}


def inherited(wanted: Iterable[str], outer: Mapping[str, str]) -> dict[str, str]:
    """What `outer` has of these names; one that ends with `*` stands for all that begin so."""
    names = frozenset(wanted)
    beginnings = tuple(name[:-1] for name in names if name.endswith("*"))
    return {name: value for name, value in outer.items() if name in names or name.startswith(beginnings)}
