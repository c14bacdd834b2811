"""Codex (`codex exec`), as recorded from version 0.169.0."""

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
from darkfactory.tools.text import count, in_full, json_object, one_line, string, table
from darkfactory.tools.tool import Prompt, option

SANDBOX: Mapping[Permissions, str] = MappingProxyType(
    {
        Permissions.READ_ONLY: "read-only",
        Permissions.WORKSPACE_WRITE: "workspace-write",
        Permissions.FULL_ACCESS: "danger-full-access",
    }
)
"""Its own words for them. It has a sandbox that works for most tasks, so the default is to write in it."""


@frozen
class Codex:
    """Without a person: the task on stdin, one JSON event a line on stdout."""

    program: str = "codex"
    prompt: ClassVar[PromptVia] = PromptVia.STDIN
    announces: ClassVar[bool] = True
    reports: ClassVar[bool] = True
    exit_classes: ClassVar[Mapping[int, ErrorClass]] = MappingProxyType({})
    speaks: ClassVar[bool] = True
    plain: ClassVar[bool] = False
    env_pass: ClassVar[tuple[str, ...]] = ("CODEX_API_KEY", "CODEX_HOME", "OPENAI_*")
    env: ClassVar[Mapping[str, str]] = MappingProxyType({})

    def argv(self, agent: AgentDefinition, prompt: Prompt) -> tuple[str, ...]:  # noqa: ARG002 - it is on stdin
        """`codex exec ...`; the agent's `args` come last."""
        return (
            self.program,
            "exec",
            *option("resume", agent.resume),
            "--json",
            # Agents may work outside of a git repository.
            "--skip-git-repo-check",
            # With plugins it looks up hosts of its own at each start.
            *("--disable", "plugins"),
            # Not --sandbox: `resume` does not take that, and an operator could not give it again.
            *("-c", f"sandbox_mode={SANDBOX[agent.permissions or Permissions.WORKSPACE_WRITE]}"),
            *option("--model", agent.model),
            *agent.args,
        )

    def memory(self) -> CodexMemory:
        """What its events leave to be remembered."""
        return CodexMemory()

    def signals(self, stream: Stream, line: bytes, memory: CodexMemory) -> tuple[Signal, ...]:
        """What one event says.

        `thread.started` is a start, `turn.completed` or `turn.failed` an end; `error` may be a retry. It does not tell
        of API calls, so they are estimated, and a tool call that it would not even try is told on stderr alone.
        """
        if stream is Stream.STDERR:
            refused = line.partition(b"ERROR codex_core::tools::router: ")[2] if b"tools::router" in line else b""
            return (Warning(one_line(refused.decode("utf-8", "replace"))),) if refused else ()
        event = json_object(line)
        match event.get("type"):
            case "item.completed":
                return _item(table(event.get("item")), memory)
            case "item.started":
                item = table(event.get("item"))
                return (_call(item, None),) if string(item.get("type")) in _TOOLS else ()
            case "turn.started" | "item.updated":
                return ()
            case "thread.started":
                return (Started(one_line(event.get("thread_id")) or None), ApiCall(0, exact=False))
            case "turn.completed":
                usage = table(event.get("usage"))
                tokens = count(usage.get("input_tokens")), count(usage.get("output_tokens"))
                used = Usage(*tokens, basis=Basis.SESSION)
                return (_CALL, used, Finished(True, one_line(memory.answer), answer=memory.answer))
            case "turn.failed":
                text = _message(table(event.get("error")))
                return (Finished(False, in_full(text), class_of(text)),)
            case "error":
                return (_error(_message(event)),)
        return (Unknown(),)


_TOOLS = frozenset({"command_execution", "file_change", "mcp_tool_call", "web_search", "collab_tool_call"})
_SILENT = frozenset({"reasoning", "todo_list"})
_CALL = ApiCall(exact=False)
"""A tool call that ended was one answer of the provider, and so is the end. One that left no event is missed."""
_RETRY = re.compile(r"Reconnecting\.\.\.(?: (\d+)/\d+)?\s*(.*)", re.DOTALL)


@define(eq=False)
class CodexMemory:
    """What must be known of a run's events so far."""

    answer: str = ""
    """The last thing that the assistant said."""


def _item(item: Mapping[str, object], memory: CodexMemory) -> tuple[Signal, ...]:
    match item.get("type"):
        case "agent_message":
            memory.answer = string(item.get("text"))
            return (Said(memory.answer),) if memory.answer.strip() else ()
        case "error":
            return (Warning(one_line(item.get("message"))),)
        case str(kind) if kind in _TOOLS:
            # Of one that was cut before its status it is not told, so it counts as ok.
            done = item.get("status", "completed") == "completed" and item.get("exit_code") in (0, None)
            call = _call(item, done)
            return (_CALL, call, Denied(call.name)) if item.get("status") == "declined" else (_CALL, call)
        case str(kind) if kind in _SILENT:
            return ()
    return (Unknown(),)


def _call(item: Mapping[str, object], ok: bool | None) -> ToolCall:
    name = string(item.get("tool")) or string(item.get("type"))
    return ToolCall(one_line(name), ok, string(item.get("id")))


def _error(text: str) -> Signal:
    retry = _RETRY.match(text)
    if retry is None:
        return Error(in_full(text), class_of(text))
    attempt = int(retry[1][:9]) if retry[1] else None
    return Retry(in_full(retry[2]), attempt, None, class_of(retry[2]) or ErrorClass.NETWORK)


def _message(event: Mapping[str, object]) -> str:
    """The message of an error; some hold the provider's JSON in theirs."""
    text = string(event.get("message"))
    inner = table(json_object(text.encode(errors="replace")).get("error")) if text.startswith("{") else {}
    return f"{string(inner.get('message'))} ({string(inner.get('type'))})" if inner else text
