"""Plain programs, of which only the exit status speaks: `bash` scripts, and what `[tools.NAME]` declares."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from attrs import frozen

from darkfactory.model.fleet import AgentDefinition, PromptVia, ToolConfig
from darkfactory.model.signals import Signal, Stream
from darkfactory.tools.tool import Prompt


class _Plain:
    """What all plain programs have in common: no word of their start, of their end, or in between."""

    __slots__ = ()

    announces: ClassVar[bool] = False
    reports: ClassVar[bool] = False
    env_pass: ClassVar[tuple[str, ...]] = ()
    env: ClassVar[Mapping[str, str]] = MappingProxyType({})

    def memory(self) -> None:
        """None is needed."""

    def signals(self, stream: Stream, line: bytes, memory: None) -> tuple[Signal, ...]:  # noqa: ARG002 - the protocol's
        """Nothing: only the exit status counts."""
        return ()


@frozen
class Bash(_Plain):
    """A shell script as the task.

    Bash reads it from the prompt file, not from stdin: there a command of the script that reads its
    standard input would eat the rest of the script. The agent's `args` are the script's own: `$1`, `$2`.
    """

    program: str = "bash"
    prompt: ClassVar[PromptVia] = PromptVia.FILE

    def argv(self, agent: AgentDefinition, prompt: Prompt) -> tuple[str, ...]:
        """`bash SCRIPT ARGS...`."""
        return (self.program, str(prompt.path), *agent.args)


@frozen
class Command(_Plain):
    """A program that the fleet file declares (`[tools.NAME]`)."""

    config: ToolConfig

    @property
    def program(self) -> str:
        """The first word of the declared command line."""
        return self.config.argv[0]

    @property
    def prompt(self) -> PromptVia:
        """As declared."""
        return self.config.prompt

    def argv(self, agent: AgentDefinition, prompt: Prompt) -> tuple[str, ...]:
        """The declared words, the agent's `args`, and last the prompt or its file where it is an argument."""
        task = {
            PromptVia.STDIN: (),
            PromptVia.ARG: (prompt.text,),
            PromptVia.FILE: (str(prompt.path),),
        }[self.config.prompt]
        return (*self.config.argv, *agent.args, *task)
