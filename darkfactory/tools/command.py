"""Programs without an adapter of their own: `bash` scripts, and what `[tools.NAME]` declares."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from attrs import frozen

from darkfactory.model.ends import ErrorClass
from darkfactory.model.fleet import AgentDefinition, PromptVia, ToolConfig
from darkfactory.model.signals import Error, Finished, Signal, Stream, Throttled
from darkfactory.tools.jsonl import EventMap
from darkfactory.tools.text import MAX_MESSAGE, in_full
from darkfactory.tools.tool import Prompt


class _Plain:
    """What all plain programs have in common: no word of their start, of their end, or in between."""

    __slots__ = ()

    announces: ClassVar[bool] = False
    reports: ClassVar[bool] = False
    exit_classes: ClassVar[Mapping[int, ErrorClass]] = MappingProxyType({})
    speaks: ClassVar[bool] = False
    plain: ClassVar[bool] = True
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
class Command:
    """A program that the fleet file declares (`[tools.NAME]`); it says what the file can make out."""

    config: ToolConfig
    exit_classes: ClassVar[Mapping[int, ErrorClass]] = MappingProxyType({})
    env_pass: ClassVar[tuple[str, ...]] = ()
    env: ClassVar[Mapping[str, str]] = MappingProxyType({})

    @property
    def program(self) -> str:
        """The first word of the declared command line."""
        return self.config.argv[0]

    @property
    def prompt(self) -> PromptVia:
        """As declared."""
        return self.config.prompt

    @property
    def announces(self) -> bool:
        """An event is declared for it."""
        return self.config.jsonl is not None and bool(self.config.jsonl.started)

    @property
    def reports(self) -> bool:
        """A line or an event is declared for it."""
        return self.config.reports

    @property
    def speaks(self) -> bool:
        """Anything is declared."""
        config = self.config
        return any(declared is not None for declared in (config.success, config.error, config.throttle, config.jsonl))

    @property
    def plain(self) -> bool:
        """No events are declared."""
        return self.config.jsonl is None

    def argv(self, agent: AgentDefinition, prompt: Prompt) -> tuple[str, ...]:
        """The declared words, the agent's `args`, and last the prompt or its file where it is an argument."""
        task = {
            PromptVia.STDIN: (),
            PromptVia.ARG: (prompt.text,),
            PromptVia.FILE: (str(prompt.path),),
        }[self.config.prompt]
        return (*self.config.argv, *agent.args, *task)

    def memory(self) -> CommandMemory:
        """Its patterns, compiled, and its map of events."""
        jsonl = self.config.jsonl
        return CommandMemory(
            _compiled(self.config.success),
            _compiled(self.config.error),
            _compiled(self.config.throttle),
            None if jsonl is None else EventMap(jsonl),
        )

    def signals(self, stream: Stream, line: bytes, memory: CommandMemory) -> tuple[Signal, ...]:
        """What the patterns find in the line, and the event that it is on stdout."""
        found: list[Signal] = []
        if memory.throttle is not None and memory.throttle.search(line):
            found.append(Throttled(None, _text(line)))
        if memory.success is not None and memory.success.search(line):
            found.append(Finished(True, _text(line), answer=_text(line)))
        elif memory.error is not None and memory.error.search(line):
            found.append(Error(_text(line)))
        if memory.jsonl is not None and stream is Stream.STDOUT:
            found += memory.jsonl.signals(line)
        return tuple(found)


@frozen
class CommandMemory:
    """What a run's lines are searched for."""

    success: re.Pattern[bytes] | None
    error: re.Pattern[bytes] | None
    throttle: re.Pattern[bytes] | None
    jsonl: EventMap | None


def _compiled(pattern: str | None) -> re.Pattern[bytes] | None:
    return None if pattern is None else re.compile(pattern.encode())


def _text(line: bytes) -> str:
    return in_full(line[: 4 * MAX_MESSAGE].decode("utf-8", "replace"))
