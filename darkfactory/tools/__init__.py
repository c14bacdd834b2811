"""The command-line tools that agents run: how each is called, and what its output says. Decides, never acts.

One module per tool; `tool.py` says what the factory needs to know of one. `demo_agent.py` is the
exception: it is no part of this program but a program of its own, which the `demo` tool runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from darkfactory.model.fleet import AgentDefinition, ToolConfig
from darkfactory.tools.claude import Claude
from darkfactory.tools.codex import Codex
from darkfactory.tools.command import Bash, Command
from darkfactory.tools.demo import Demo
from darkfactory.tools.gemini import Gemini
from darkfactory.tools.opencode import Opencode
from darkfactory.tools.pi import Pi
from darkfactory.tools.qwen import Qwen
from darkfactory.tools.tool import Tool

BUILTIN: Mapping[str, Callable[[str], Tool]] = MappingProxyType(
    {
        "bash": Bash,
        "claude": Claude,
        "codex": Codex,
        "demo": Demo,
        "gemini": Gemini,
        "opencode": Opencode,
        "pi": Pi,
        "qwen": Qwen,
    }
)
"""Each is made from the word that names it in the fleet file: the key itself, or a path that ends in it."""


def tool_for(agent: AgentDefinition, tools: Mapping[str, ToolConfig]) -> Tool:
    """The tool that an agent's `cli_tool` names; KeyError when there is none.

    What the fleet file declares goes over a built-in tool of the same name.
    """
    word = agent.cli_tool
    if word in tools:
        return Command(tools[word])
    return BUILTIN[word.rpartition("/")[2]](word)
