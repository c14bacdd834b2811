"""Qwen Code (`qwen`), as recorded from version 0.24.4. It grew out of Gemini CLI, with Claude Code's events."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from attrs import define, frozen

from darkfactory.model.ends import ErrorClass
from darkfactory.model.fleet import AgentDefinition, Permissions, PromptVia
from darkfactory.model.signals import (
    ApiCall,
    Basis,
    Denied,
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
from darkfactory.tools import gemini
from darkfactory.tools.errors import class_of
from darkfactory.tools.text import count, in_full, items, json_object, one_line, string, table
from darkfactory.tools.tool import Prompt, option

APPROVAL: Mapping[Permissions, str] = MappingProxyType(
    {
        Permissions.READ_ONLY: "default",
        Permissions.WORKSPACE_WRITE: "auto-edit",
        Permissions.FULL_ACCESS: "yolo",
    }
)
"""Its own words for them. What would have to be asked for is not offered to the model, and denied.

Only the widest has a shell, and an agent that may not run commands can test nothing, so that is the default.
"""


@frozen
class Qwen:
    """Without a person: the task on stdin, one JSON event a line on stdout, and why it tries again on stderr."""

    program: str = "qwen"
    prompt: ClassVar[PromptVia] = PromptVia.STDIN
    announces: ClassVar[bool] = True
    reports: ClassVar[bool] = True
    exit_classes: ClassVar[Mapping[int, ErrorClass]] = MappingProxyType(
        {53: ErrorClass.MAX_TURNS, 55: ErrorClass.BUDGET}
    )
    speaks: ClassVar[bool] = True
    plain: ClassVar[bool] = False
    env_pass: ClassVar[tuple[str, ...]] = ("DASHSCOPE_*", "OPENAI_*", "QWEN_HOME")
    env: ClassVar[Mapping[str, str]] = MappingProxyType({"QWEN_USAGE_STATISTICS_ENABLED": "false"})

    def argv(self, agent: AgentDefinition, prompt: Prompt) -> tuple[str, ...]:  # noqa: ARG002 - it is on stdin
        """`qwen ...`; the agent's `args` come last."""
        return (
            self.program,
            *("--output-format", "stream-json"),
            *("--approval-mode", APPROVAL[agent.permissions or Permissions.FULL_ACCESS]),
            *option("--model", agent.model),
            *option("--max-session-turns", agent.max_turns),
            *option("--resume", agent.resume),
            *agent.args,
        )

    def memory(self) -> QwenMemory:
        """What its lines leave to be remembered."""
        return QwenMemory()

    def signals(self, stream: Stream, line: bytes, memory: QwenMemory) -> tuple[Signal, ...]:
        """What one line says.

        `system/init` is a start, `result` an end. `system/retry` has its line on stderr, which says more. Of API calls
        it does not tell: an answer between two results of tools is taken for one.
        """
        if stream is Stream.STDERR:
            return _stderr(line, memory)
        event = json_object(line)
        match event.get("type"):
            case "assistant":
                return _assistant(event, memory)
            case "user":
                memory.answers = False
                return tuple(
                    ToolCall("", block.get("is_error") is not True, string(block.get("tool_use_id")))
                    for block in map(table, items(table(event.get("message")).get("content")))
                    if block.get("type") == "tool_result"
                )
            case "system":
                return _system(event, memory)
            case "result":
                return _result(event)
            case str(kind) if kind in _SILENT:
                return ()
        return (Unknown(),)


_SILENT = frozenset({"control_request", "control_response", "stream_event"})
_SILENT_SYSTEM = frozenset(
    {
        *("retry", "session_start", "session_end", "task_notification", "task_started"),
        *("worktree_restored", "worktree_started"),
    }
)
_RETRY = re.compile(r"Retrying in (\d{1,6})s \(attempt (\d{1,6})/\d+\)(?:: (.*))?")
_API_ERROR = "[API Error: "
_COMPLAINTS = MappingProxyType({**gemini.COMPLAINTS, b"No saved session found": ErrorClass.CONFIG})
_NO_LOGIN = re.compile(r"No auth type|Qwen OAuth")


@define(eq=False)
class QwenMemory:
    """What must be known of a run's lines so far."""

    answers: bool = False
    """The model's answer has begun, and no tool has had its result since."""
    waited: bool = False
    """On stderr: it said why it waits; that it then tries again is nothing new."""


def _assistant(event: Mapping[str, object], memory: QwenMemory) -> tuple[Signal, ...]:
    """A part of an answer; the tool itself speaks where there is none, or where it broke off, in brackets."""
    message = table(event.get("message"))
    own = event.get("parent_tool_use_id") is None
    found: list[Signal] = []
    for block in map(table, items(message.get("content"))):
        match block:
            case {"type": "text", "text": str(text)}:
                answer, bracket, _ = text.rpartition(_API_ERROR) if text.endswith("]") else (text, "", "")
                if bracket and own:
                    return (Said(answer),) if answer.strip() else ()
                if own and text.strip():
                    found.append(Said(text))
            case {"type": "tool_use"}:
                found.append(ToolCall(one_line(block.get("name")), None, string(block.get("id"))))
    usage = table(message.get("usage"))
    used = Usage(count(usage.get("input_tokens")), count(usage.get("output_tokens")))
    if used.input_tokens:  # one part of each answer has them
        found.append(used)
    if own and not memory.answers:
        memory.answers = True
        found.insert(0, ApiCall(exact=False))
    return tuple(found)


def _system(event: Mapping[str, object], memory: QwenMemory) -> tuple[Signal, ...]:
    match event.get("subtype"):
        case "init":
            memory.answers = False
            failed = (
                Warning(f"MCP server {one_line(server.get('name'))} failed")
                for server in map(table, items(event.get("mcp_servers")))
                if server.get("status") == "failed"
            )
            return (Started(one_line(event.get("session_id")) or None), ApiCall(0, exact=False), *failed)
        case "model_fallback":
            return (Warning("another model was taken"),)
        case str(subtype) if subtype in _SILENT_SYSTEM:
            return ()
    return (Unknown(),)


def _result(event: Mapping[str, object]) -> tuple[Signal, ...]:
    usage = table(event.get("usage"))
    used = Usage(count(usage.get("input_tokens")), count(usage.get("output_tokens")), basis=Basis.SESSION)
    denied = (
        Denied(one_line(denial.get("tool_name"))) for denial in map(table, items(event.get("permission_denials")))
    )
    return (used, *denied, _finished(event))


def _finished(event: Mapping[str, object]) -> Finished:
    if event.get("is_error") is False and event.get("subtype") == "success":
        answer = string(event.get("result"))
        return Finished(True, one_line(answer), answer=answer)
    if "is_error" not in event:
        return Finished(False, "its result was cut", ErrorClass.TRUNCATED)
    text, error = _failure(string(table(event.get("error")).get("message")) or string(event.get("subtype")))
    return Finished(False, text, error)


def _stderr(line: bytes, memory: QwenMemory) -> tuple[Signal, ...]:
    """Why it did not start, or that it tries again, and why it has to wait before."""
    if not line.startswith(b"Retrying "):
        return gemini.complaint(line, _COMPLAINTS)
    retry = _RETRY.match(line.decode("utf-8", "replace"))
    if retry is not None:
        memory.waited = True
        text, error = _failure(retry[3] or "")
        # It waits by itself for limits alone.
        return (Retry(text, int(retry[2]), float(retry[1]), error or ErrorClass.THROTTLED),)
    waited, memory.waited = memory.waited, False
    return () if waited or not line.startswith(b"Retrying provider attempt") else (Retry("the answer broke off"),)


def _failure(text: str) -> tuple[str, ErrorClass | None]:
    """An error's message for a person, and its class."""
    text, status = gemini.api_error(text)
    return in_full(text), ErrorClass.AUTH if _NO_LOGIN.match(text) else class_of(text, status)
