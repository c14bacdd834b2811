"""pi (`pi -p --mode json`), as recorded from version 0.73.1."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from attrs import frozen

from darkfactory.model.ends import ErrorClass
from darkfactory.model.fleet import AgentDefinition, Permissions, PromptVia
from darkfactory.model.signals import (
    ApiCall,
    Error,
    Finished,
    Retry,
    Said,
    Signal,
    Started,
    Stream,
    ToolCall,
    Unknown,
    Usage,
    Warning,  # noqa: A004 - the model's word
)
from darkfactory.tools.errors import class_of
from darkfactory.tools.text import count, in_full, items, json_object, number, one_line, string, table
from darkfactory.tools.tool import Prompt, option

PERMISSIONS: Mapping[Permissions, tuple[str, ...]] = MappingProxyType(
    {
        Permissions.READ_ONLY: ("--tools", "read,grep,find,ls"),
        Permissions.FULL_ACCESS: (),
    }
)
"""The words for those that it has. It has no sandbox and asks nothing, so it can only be given fewer tools; with any of
the others it could write anywhere.
"""


@frozen
class Pi:
    """Without a person: the task on stdin, one JSON event a line on stdout."""

    program: str = "pi"
    prompt: ClassVar[PromptVia] = PromptVia.STDIN
    announces: ClassVar[bool] = True
    reports: ClassVar[bool] = True
    speaks: ClassVar[bool] = True
    plain: ClassVar[bool] = False
    env_pass: ClassVar[tuple[str, ...]] = (
        "ANTHROPIC_API_KEY",
        "ANTHROPIC_OAUTH_TOKEN",
        "GEMINI_API_KEY",
        "OPENAI_API_KEY",
        "OPENROUTER_API_KEY",
        "PI_CODING_AGENT_DIR",
    )
    env: ClassVar[Mapping[str, str]] = MappingProxyType({"PI_OFFLINE": "1", "PI_TELEMETRY": "0"})
    exit_classes: ClassVar[Mapping[int, ErrorClass]] = MappingProxyType({})

    def argv(self, agent: AgentDefinition, prompt: Prompt) -> tuple[str, ...]:  # noqa: ARG002 - it is on stdin
        """`pi -p ...`; the agent's `args` come last.

        A model of one word is one of the provider that pi was set to.
        """
        provider, slash, model = (agent.model or "").partition("/")
        return (
            self.program,
            "-p",
            *("--mode", "json"),
            *PERMISSIONS[agent.permissions or Permissions.FULL_ACCESS],
            *option("--provider", provider if slash else None),
            *option("--model", model if slash else agent.model),
            *option("--session", agent.resume),
            *agent.args,
        )

    def memory(self) -> None:
        """None is needed: an event says all that it is about."""

    def signals(self, stream: Stream, line: bytes, memory: None) -> tuple[Signal, ...]:  # noqa: ARG002 - the protocol's
        """What one event says; stderr is for people.

        The end of a message of the assistant is the end of the run, unless tools were called in it or another turn
        begins. `agent_end` is no end: it comes before each new try.
        """
        if stream is Stream.STDERR or line.startswith(_REPEATS):
            return ()
        event = json_object(line)
        match event.get("type"):
            case "message_end":
                return _message(table(event.get("message")))
            case "tool_execution_start":
                return (_call(event, None),)
            case "tool_execution_end":
                return (_call(event, event.get("isError") is not True),)
            case "turn_start":  # what came before was not the end, whatever it said
                return (Started(),)
            case "session":
                return (Started(one_line(event.get("id")) or None), ApiCall(0))
            case "auto_retry_start":
                text, delay = string(event.get("errorMessage")), number(event.get("delayMs"))
                secs = None if delay is None else delay / 1000
                return (Retry(one_line(text), count(event.get("attempt")), secs, _class_of(text)),)
            case "auto_retry_end" if event.get("success") is False:
                return (_error(string(event.get("finalError"))),)
            case "compaction_end" if "errorMessage" in event:
                return (Warning(one_line(event.get("errorMessage"))),)
            case str(kind) if kind in _SILENT:
                return ()
        return (Unknown(),)


_REPEATS = tuple(
    f'{{"type":"{kind}"'.encode()
    for kind in ("message_update", "tool_execution_update", "agent_end", "message_start", "turn_end")
)
"""Events that hold a message, an output or a conversation over again, known by their first bytes. A command that prints
300 kB makes 750 kB of them, which are not worth a parser's time.
"""
_SILENT = frozenset(
    {
        *("agent_end", "agent_start", "auto_retry_end", "compaction_end", "compaction_start", "message_start"),
        *("message_update", "queue_update", "session_info_changed", "thinking_level_changed", "tool_execution_update"),
        "turn_end",
    }
)
_TRIES = 3
"""Requests behind one error, where trying again could help: its library does that twice and tells nobody."""
_TRIED_AGAIN = frozenset(
    {ErrorClass.BILLING, ErrorClass.NETWORK, ErrorClass.PROVIDER_DOWN, ErrorClass.QUOTA, ErrorClass.THROTTLED}
)
_STATUS = re.compile(r"(\d{3})\b")


def _message(message: Mapping[str, object]) -> tuple[Signal, ...]:
    """A message that is over. Those of the user and of tools say nothing that is not told otherwise."""
    if message.get("role") != "assistant":
        return ()
    used = _usage(table(message.get("usage")))
    blocks = map(table, items(message.get("content")))
    text = "\n".join(string(block.get("text")) for block in blocks if block.get("type") == "text")
    said = (Said(text),) if text.strip() else ()
    match message.get("stopReason"):
        case "error":
            error = _error(string(message.get("errorMessage")))
            tries = _TRIES if error.error in _TRIED_AGAIN else 1
            return (ApiCall(tries, exact=False), used, *said, error)
        case "aborted":
            detail = one_line(message.get("errorMessage")) or "aborted"
            return (ApiCall(exact=False), used, *said, Error(detail, ErrorClass.KILLED))
        case "stop":
            return (ApiCall(), used, *said, Finished(True, one_line(text), answer=text))
        case "length":
            detail = "its answer was cut at the limit of output tokens"
            return (ApiCall(), used, *said, Finished(False, detail, ErrorClass.TRUNCATED))
    return (ApiCall(), used, *said)


def _usage(usage: Mapping[str, object]) -> Usage:
    """What one message took, without what came from a cache."""
    cost = number(table(usage.get("cost")).get("total"))
    return Usage(count(usage.get("input")), count(usage.get("output")), cost)


def _call(event: Mapping[str, object], ok: bool | None) -> ToolCall:
    """A tool call. Of one that was cut before `isError` it is not told, so it counts as ok."""
    return ToolCall(one_line(event.get("toolName")), ok, string(event.get("toolCallId")))


def _error(text: str) -> Error:
    return Error(in_full(text), _class_of(text))


def _class_of(text: str) -> ErrorClass | None:
    """Most messages begin with the HTTP status."""
    status = _STATUS.match(text)
    return class_of(text, int(status[1]) if status else None)
