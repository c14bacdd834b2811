"""opencode (`opencode run`), as recorded from version 1.18.33."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from attrs import define, frozen

from darkfactory.model.ends import ErrorClass
from darkfactory.model.fleet import AgentDefinition, Permissions, PromptVia
from darkfactory.model.signals import (
    ApiCall,
    Denied,
    Error,
    Finished,
    Said,
    Signal,
    Started,
    Stream,
    ToolCall,
    Unknown,
    Usage,
)
from darkfactory.tools.errors import class_of
from darkfactory.tools.text import count, in_full, json_object, number, one_line, string, table
from darkfactory.tools.tool import Prompt, option

_LOOKS = dict.fromkeys(("read", "glob", "grep", "list", "skill", "todowrite"), "allow")
_RULES: Mapping[Permissions, Mapping[str, str]] = {
    Permissions.READ_ONLY: {"*": "deny", **_LOOKS},
    Permissions.WORKSPACE_WRITE: {"*": "deny", **_LOOKS, "edit": "allow"},
}
PERMISSIONS: Mapping[Permissions, Mapping[str, str]] = MappingProxyType(
    {
        **{permissions: {"OPENCODE_PERMISSION": json.dumps(rules)} for permissions, rules in _RULES.items()},
        Permissions.FULL_ACCESS: {},
    }
)
"""The settings for each of them. Of its rules the last that fits counts, and what is denied stays so with `--auto`.

It has rules and no sandbox, so only by going without commands is it held to a directory. Its agent `plan` is no way to
look without writing: that runs commands.
"""


@frozen
class Opencode:
    """Without a person: the task on stdin, one JSON event a line on stdout."""

    program: str = "opencode"
    prompt: ClassVar[PromptVia] = PromptVia.STDIN
    announces: ClassVar[bool] = False  # it prints nothing until its model has answered
    reports: ClassVar[bool] = True
    speaks: ClassVar[bool] = True
    plain: ClassVar[bool] = False
    env_pass: ClassVar[tuple[str, ...]] = (
        "ANTHROPIC_API_KEY",
        "GEMINI_API_KEY",
        "OPENAI_API_KEY",
        "OPENCODE_API_KEY",
        "OPENCODE_CONFIG",
        "OPENCODE_CONFIG_CONTENT",
        "OPENCODE_CONFIG_DIR",
        "OPENROUTER_API_KEY",
        "XDG_CONFIG_HOME",
        "XDG_DATA_HOME",
    )
    env: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "OPENCODE_DISABLE_AUTOUPDATE": "1",
            "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
            "OPENCODE_DISABLE_MODELS_FETCH": "1",
        }
    )
    exit_classes: ClassVar[Mapping[int, ErrorClass]] = MappingProxyType({})

    def rights(self, agent: AgentDefinition) -> Mapping[str, str]:
        """Its rules are no words of the command line."""
        return PERMISSIONS[agent.permissions or Permissions.FULL_ACCESS]

    def argv(self, agent: AgentDefinition, prompt: Prompt) -> tuple[str, ...]:  # noqa: ARG002 - it is on stdin
        """`opencode run ...`; the agent's `args` come last."""
        return (
            self.program,
            "run",
            *("--format", "json"),
            # What it would ask about is allowed; without it that is refused, and the run ends there.
            "--auto",
            *option("--model", agent.model),
            *option("--session", agent.resume),
            *agent.args,
        )

    def memory(self) -> OpencodeMemory:
        """What its events leave to be remembered."""
        return OpencodeMemory()

    def signals(self, stream: Stream, line: bytes, memory: OpencodeMemory) -> tuple[Signal, ...]:
        """What one event says.

        The end of a step is the end of the run, unless tools were called in it; an `error` may come behind it. It tells
        of no retry. stderr is for people.
        """
        if stream is Stream.STDERR:
            return ()
        event = json_object(line)
        part = table(event.get("part"))
        match event.get("type"):
            case "text":
                text = memory.answer = string(part.get("text"))
                return (*memory.started(event), *((Said(text),) if text.strip() else ()))
            case "tool_use":
                return (*memory.started(event), *_tool(part))
            case "step_start":
                return memory.started(event)
            case "step_finish":
                end = _end(string(part.get("reason")), memory.answer)
                return (*memory.started(event), ApiCall(), _usage(part), *memory.ended(end))
            case "error":
                return (*memory.started(event), *memory.ended(_error(table(event.get("error")))))
            case "reasoning":
                return ()
        return (Unknown(),)


@define(eq=False)
class OpencodeMemory:
    """What must be known of a run's events so far."""

    begun: bool = False
    answer: str = ""
    """What the assistant said in this step."""
    end: Finished | None = None
    """The last end that was told of."""

    def started(self, event: Mapping[str, object]) -> tuple[Signal, ...]:
        """A start, with the first event: none announces itself. Its title took an answer that no event tells of."""
        if self.begun:
            return ()
        self.begun = True
        return (Started(one_line(event.get("sessionID")) or None), ApiCall(exact=False))

    def ended(self, end: Finished | None) -> tuple[Signal, ...]:
        """An end, unless it is the same error again: of some it tells twice."""
        before, self.end, self.answer = self.end, end, ""
        return () if end is None or (end == before and not end.ok) else (end,)


_REJECTED = "The user rejected permission"
"""What it says of a call that it would have asked about, while nobody was there. The run ends with it, and exit 0."""


def _tool(part: Mapping[str, object]) -> tuple[Signal, ...]:
    """A tool call, which is told of when it is over. A command that failed, and a call of no tool, are "completed"."""
    state, name = table(part.get("state")), one_line(part.get("tool"))
    code = table(state.get("metadata")).get("exit")
    ok = state.get("status") != "error" and code in (0, None) and name != "invalid"
    call = ToolCall(name, ok, string(part.get("callID")))
    if not string(state.get("error")).startswith(_REJECTED):
        return (call,)
    return (call, Denied(name), Error(f"was not allowed: {name}", ErrorClass.PERMISSION_DENIED))


def _usage(part: Mapping[str, object]) -> Usage:
    """What one answer took, without what came from a cache."""
    tokens = table(part.get("tokens"))
    return Usage(count(tokens.get("input")), count(tokens.get("output")), number(part.get("cost")))


def _end(reason: str, answer: str) -> Finished | None:
    """What a step's end says of the run's; None when that goes on."""
    match reason:
        case "stop":
            return Finished(True, one_line(answer), answer=answer)
        case "length":
            return Finished(False, "its answer was cut at the limit of output tokens", ErrorClass.TRUNCATED)
        case "content-filter":
            return Finished(False, "the provider's filter ended its answer", ErrorClass.REFUSED)
    return None


def _error(error: Mapping[str, object]) -> Finished:
    """An error is an end also behind a step that ended well: it exits 1 with it."""
    data, name = table(error.get("data")), string(error.get("name"))
    text = string(data.get("message")) or name
    found = _BY_NAME.get(name) or class_of(text, count(data.get("statusCode")))
    if found is None and data.get("isRetryable") is True:
        found = ErrorClass.PROVIDER_DOWN
    return Finished(False, in_full(text), found)


_BY_NAME = {
    "ContextOverflowError": ErrorClass.CONTEXT_OVERFLOW,
    "MessageAbortedError": ErrorClass.KILLED,
    "MessageOutputLengthError": ErrorClass.TRUNCATED,
    "ProviderAuthError": ErrorClass.AUTH,
}
