"""What the factory needs to know of a command-line tool. Everything here is pure: no process, no file, no clock."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from attrs import frozen

from darkfactory.model.ends import ErrorClass
from darkfactory.model.fleet import AgentDefinition, PromptVia
from darkfactory.model.signals import Signal, Stream


@frozen
class Prompt:
    """The task of one run, as text and as the file that holds it."""

    text: str
    path: Path


class Tool(Protocol):
    """One kind of program. Adapters are stateless: one object serves all agents and runs."""

    @property
    def program(self) -> str:
        """The program to look up on the agent's PATH; a path is taken as it is."""
        ...

    @property
    def prompt(self) -> PromptVia:
        """How the program takes its task; STDIN unless it is told otherwise."""
        ...

    @property
    def announces(self) -> bool:
        """It prints something as soon as it is up, so `start_timeout_secs` can be held against it."""
        ...

    @property
    def reports(self) -> bool:
        """It says how it ended: exit 0 without its terminal event is a failure."""
        ...

    @property
    def exit_classes(self) -> Mapping[int, ErrorClass]:
        """What its exit codes say where it said nothing itself; of those that are not in it, nothing is known."""
        ...

    @property
    def speaks(self) -> bool:
        """Its lines say something to `signals`; those of one that does not are only counted."""
        ...

    @property
    def plain(self) -> bool:
        """It has no events: what can be known of its work is how many lines it printed, and which tell of errors."""
        ...

    @property
    def env_pass(self) -> tuple[str, ...]:
        """Environment variables that it needs besides the agent's `env_pass`; a trailing `*` matches any ending."""
        ...

    @property
    def env(self) -> Mapping[str, str]:
        """Settings for a run without a person; the agent's own `env` goes over them."""
        ...

    def argv(self, agent: AgentDefinition, prompt: Prompt) -> tuple[str, ...]:
        """The command line; its first word is `program`."""
        ...

    def memory(self) -> object:
        """A new run's memory for `signals`: what it must know of the lines before."""
        ...

    def signals(self, stream: Stream, line: bytes, memory: Any) -> tuple[Signal, ...]:
        """What one line says, without its newline. Never raises: what is not understood says nothing.

        `memory` is the one that `memory()` made for this run; it is changed in place.
        """
        ...


@runtime_checkable
class Ruled(Protocol):
    """A tool that is told by its environment what an agent may do, since its command line has no words for it."""

    def rights(self, agent: AgentDefinition) -> Mapping[str, str]:
        """The settings for the agent's `permissions`."""
        ...


def option(word: str, value: object | None) -> tuple[str, ...]:
    """An option and its value as words of a command line; none where the value is None."""
    return () if value is None else (word, str(value))
