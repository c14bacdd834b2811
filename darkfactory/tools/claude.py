"""Claude Code (`claude -p`), as recorded from version 2.1.328."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import ClassVar

from attrs import define, field, frozen

from darkfactory.model.ends import ErrorClass
from darkfactory.model.fleet import AgentDefinition, Permissions, PromptVia
from darkfactory.model.signals import (
    ApiCall,
    BackgroundTask,
    Denied,
    Error,
    Finished,
    Retry,
    Said,
    Signal,
    Started,
    Stream,
    Throttled,
    ToolCall,
    Unknown,
    Usage,
    Warning,  # noqa: A004 - the model's word
)
from darkfactory.tools.errors import class_of
from darkfactory.tools.resets import reset_time
from darkfactory.tools.text import count, in_full, items, json_object, name_of, number, one_line, string, table
from darkfactory.tools.tool import Prompt, option

PERMISSIONS: Mapping[Permissions, tuple[str, ...]] = MappingProxyType(
    {
        Permissions.READ_ONLY: ("--allowedTools", "Read", "--permission-mode", "dontAsk"),
        Permissions.WORKSPACE_WRITE: ("--permission-mode", "acceptEdits"),
        Permissions.FULL_ACCESS: (
            *("--allowedTools", "Bash,Edit,NotebookEdit,Read,WebFetch,WebSearch,Write"),
            *("--permission-mode", "dontAsk"),
        ),
    }
)
"""The words for each of them. Whatever else would need permission is denied, since nobody is there to give it.

In either mode it runs the commands that it knows to change nothing, such as `ls`. An agent that may not run commands
can test nothing, so the widest is the default. Skipping permissions altogether would be wider still, and as root the
program refuses to start with that. The list of tools takes any number of words: what follows it must be an option.
"""


@frozen
class Claude:
    """Without a person: the task on stdin, one JSON event a line on stdout."""

    program: str = "claude"
    prompt: ClassVar[PromptVia] = PromptVia.STDIN
    announces: ClassVar[bool] = True
    reports: ClassVar[bool] = True
    exit_classes: ClassVar[Mapping[int, ErrorClass]] = MappingProxyType({})
    speaks: ClassVar[bool] = True
    plain: ClassVar[bool] = False
    env_pass: ClassVar[tuple[str, ...]] = ("ANTHROPIC_*", "CLAUDE_CODE_OAUTH_TOKEN", "CLAUDE_CONFIG_DIR")
    env: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "DISABLE_AUTOUPDATER": "1",
            "DISABLE_ERROR_REPORTING": "1",
            "DISABLE_TELEMETRY": "1",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            # With its default of 10 a wrong key or a dead network takes three minutes to be told.
            "CLAUDE_CODE_MAX_RETRIES": "2",
        }
    )

    def argv(self, agent: AgentDefinition, prompt: Prompt) -> tuple[str, ...]:  # noqa: ARG002 - it is on stdin
        """`claude -p ...`; the agent's `args` come last."""
        return (
            self.program,
            "-p",
            *PERMISSIONS[agent.permissions or Permissions.FULL_ACCESS],
            *("--output-format", "stream-json"),
            "--verbose",
            *option("--model", agent.model),
            *option("--max-turns", agent.max_turns),
            *option("--max-budget-usd", agent.max_cost_usd),
            *option("--resume", agent.resume),
            *agent.args,
        )

    def memory(self) -> ClaudeMemory:
        """What its events leave to be remembered."""
        return ClaudeMemory()

    def signals(self, stream: Stream, line: bytes, memory: ClaudeMemory) -> tuple[Signal, ...]:
        """What one event says; stderr is for people.

        `system/init` is a start, `result` an end; either may come several times in a run.
        """
        if stream is Stream.STDERR:
            return ()
        event = json_object(line)
        match event.get("type"):
            case "stream_event":
                return _piece(event, memory)
            case "assistant":
                return _assistant(event, memory)
            case "user":
                return _user(event)
            case "system":
                return _system(event, memory)
            case "rate_limit_event":
                return _rate_limit(table(event.get("rate_limit_info")), memory)
            case "result":
                return _result(event, memory)
            case None if "total_cost_usd" in event:  # its type comes behind the answer, where a long line is cut
                return _result(event, memory)
            case str(kind) if kind in _SILENT:
                return ()
        return (Unknown(),)


_SILENT = frozenset({"control_request", "control_response", "keep_alive", "tool_progress", "tool_use_summary"})
_SILENT_SYSTEM = frozenset(
    {"compact_boundary", "hook_response", "hook_started", "informational", "status", "task_progress", "task_updated"}
)
_REMEMBERED = 64
"""Ids that are told apart; events of more messages at a time than this do not mix."""
_PARTIAL_CHARS = 64 * 1024
"""Of a message in pieces that never becomes whole, this much is kept."""

_BY_SUBTYPE = {"error_max_turns": ErrorClass.MAX_TURNS, "error_max_budget_usd": ErrorClass.BUDGET}
_BY_TERMINAL_REASON = {
    "aborted_streaming": ErrorClass.KILLED,
    "aborted_tools": ErrorClass.KILLED,
    "budget_exhausted": ErrorClass.BUDGET,
    "max_turns": ErrorClass.MAX_TURNS,
    "prompt_too_long": ErrorClass.CONTEXT_OVERFLOW,
}
_BY_API_ERROR = {
    "connection_failed": ErrorClass.NETWORK,
    "max_output_tokens": ErrorClass.TRUNCATED,
    "usage_limit_reached": ErrorClass.QUOTA,
}
_BY_ERROR = {
    "authentication_failed": ErrorClass.AUTH,
    "billing_error": ErrorClass.BILLING,
    "invalid_request": ErrorClass.INVALID_REQUEST,
    "max_output_tokens": ErrorClass.TRUNCATED,
    "model_not_found": ErrorClass.MODEL_NOT_FOUND,
    "rate_limit": ErrorClass.THROTTLED,
    "server_error": ErrorClass.PROVIDER_DOWN,
}


@define(eq=False)
class ClaudeMemory:
    """What must be known of a run's events so far; bounded."""

    messages: dict[str, None] = field(factory=dict)
    """The last messages of the provider; each comes in several events."""
    denied: dict[str, None] = field(factory=dict)
    """The last tool calls that were denied; the result tells of them again."""
    background: set[str] = field(factory=set)
    """Background tasks that are open."""
    partial: str = ""
    """The text of a message that is not whole yet."""
    begun: bool = False
    total_cost_usd: float = 0.0
    """What the last result said."""
    resets_at: datetime | None = None
    """When the limit that it met is gone, if it said so."""
    error: ErrorClass | None = None
    """Of the last error that was put in the place of an answer."""


def _new(seen: dict[str, None], key: object) -> bool:
    """Whether this is the first time; then it is remembered."""
    name = name_of(key)
    if not name or name in seen:
        return False
    seen[name] = None
    if len(seen) > _REMEMBERED:
        del seen[next(iter(seen))]
    return True


def _piece(event: Mapping[str, object], memory: ClaudeMemory) -> tuple[Signal, ...]:
    """A message as it comes (--include-partial-messages); said when it is over and did not come as a whole."""
    if event.get("parent_tool_use_id") is not None:
        return ()
    match event.get("event"):
        case {"type": "message_start", "message": {"id": key}}:
            memory.partial = ""
            return (ApiCall(),) if _new(memory.messages, key) else ()
        case {"type": "content_block_delta", "delta": {"type": "text_delta", "text": str(text)}}:
            memory.partial += text[: _PARTIAL_CHARS - len(memory.partial)]
        case {"type": "message_stop"} if memory.partial.strip():
            said, memory.partial = memory.partial, ""
            return (Said(said),)
    return ()


def _assistant(event: Mapping[str, object], memory: ClaudeMemory) -> tuple[Signal, ...]:
    message = table(event.get("message"))
    own = event.get("parent_tool_use_id") is None
    found: list[Signal] = []
    if message.get("model") == "<synthetic>":  # its own words, in the place of an answer that it did not get
        if "error" not in event:
            return ()
        text = next((string(table(block).get("text")) for block in items(message.get("content"))), "")
        memory.error = _class_of(event, text)
        return (Error(in_full(text), memory.error),)
    if _new(memory.messages, message.get("id")):
        found.append(ApiCall())
    for block in map(table, items(message.get("content"))):
        match block:
            case {"type": "text", "text": str(text)} if own:
                memory.partial = ""
                if text.strip():
                    found.append(Said(text))
            case {"type": "tool_use"}:
                found.append(ToolCall(string(block.get("name")), None, string(block.get("id"))))
    return tuple(found)


def _user(event: Mapping[str, object]) -> tuple[Signal, ...]:
    """The results of tool calls. Of one that was cut before `is_error` it is not told, so it counts as ok."""
    return tuple(
        ToolCall("", block.get("is_error") is not True, string(block.get("tool_use_id")))
        for block in map(table, items(table(event.get("message")).get("content")))
        if block.get("type") == "tool_result"
    )


def _system(event: Mapping[str, object], memory: ClaudeMemory) -> tuple[Signal, ...]:
    match event.get("subtype"):
        case "init":
            return _init(event, memory)
        case "api_retry":
            # told again every 30 s while it waits; without a status there was no answer at all
            status = count(event.get("error_status"))
            error = ErrorClass.NETWORK if status is None else class_of("", status)
            delay = number(event.get("retry_delay_ms"))
            detail = one_line(event.get("error")) if status is None else f"{one_line(event.get('error'))} ({status})"
            return (Retry(detail, count(event.get("attempt")), None if delay is None else delay / 1000, error),)
        case "permission_denied":
            new = _new(memory.denied, event.get("tool_use_id"))
            return (Denied(one_line(event.get("tool_name"))),) if new else ()
        case "background_tasks_changed":  # all that are open
            tasks = {name_of(table(task).get("task_id")) for task in items(event.get("tasks"))}
            return (*_background(memory, memory.background - tasks, False), *_background(memory, tasks, True))
        case "task_started" if event.get("is_backgrounded") is True:
            return _background(memory, {name_of(event.get("task_id"))}, True)
        case "task_notification":
            return _background(memory, {name_of(event.get("task_id"))}, False)
        case "model_fallback":
            return (Warning(one_line(event.get("message")) or "another model was taken"),)
        case "model_refusal_no_fallback":
            memory.error = ErrorClass.REFUSED
            return (Error(in_full(event.get("message")) or "the model refused", ErrorClass.REFUSED),)
        case "task_started":
            return ()
        case str(subtype) if subtype in _SILENT_SYSTEM:
            return ()
    return (Unknown(),)


def _init(event: Mapping[str, object], memory: ClaudeMemory) -> tuple[Signal, ...]:
    started = Started(one_line(event.get("session_id")) or None)
    if memory.begun:
        return (started,)
    memory.begun = True
    failed = (
        Warning(f"MCP server {one_line(server.get('name'))} failed")
        for server in map(table, items(event.get("mcp_servers")))
        if server.get("status") == "failed"
    )
    return (started, ApiCall(0), *failed)


def _background(memory: ClaudeMemory, tasks: set[str], is_open: bool) -> tuple[Signal, ...]:
    changed = sorted(tasks - memory.background if is_open else tasks & memory.background)
    if is_open:
        changed = changed[: _REMEMBERED - len(memory.background)]
        memory.background.update(changed)
    else:
        memory.background.difference_update(changed)
    return tuple(BackgroundTask(is_open, task) for task in changed)


def _rate_limit(info: Mapping[str, object], memory: ClaudeMemory) -> tuple[Signal, ...]:
    if info.get("status") != "rejected":
        return ()
    memory.resets_at = reset_time(info.get("resetsAt"))
    return (Throttled(memory.resets_at, one_line(info.get("rateLimitType"))),)


def _result(event: Mapping[str, object], memory: ClaudeMemory) -> tuple[Signal, ...]:
    denials = items(event.get("permission_denials"))
    denied = [
        Denied(one_line(denial.get("tool_name")))
        for denial in map(table, denials)
        if _new(memory.denied, denial.get("tool_use_id"))
    ]
    return (_usage(event, memory), *denied, _finished(event, memory))


def _usage(event: Mapping[str, object], memory: ClaudeMemory) -> Usage:
    """What came since the last result. (Totals go back to the session's beginning, maybe in an earlier run.)"""
    total = number(event.get("total_cost_usd"))
    cost = None if total is None else total - memory.total_cost_usd
    memory.total_cost_usd = total or memory.total_cost_usd
    since = event.get("model_usage_since_last_result")
    models = [table(used) for used in table(since).values()]
    if isinstance(since, dict):
        cost = sum(number(used.get("costUSD")) or 0.0 for used in models)
    if models:
        tokens = [sum(count(used.get(key)) or 0 for used in models) for key in ("inputTokens", "outputTokens")]
        return Usage(tokens[0], tokens[1], cost)
    usage = table(event.get("usage"))
    return Usage(count(usage.get("input_tokens")), count(usage.get("output_tokens")), cost)


def _finished(event: Mapping[str, object], memory: ClaudeMemory) -> Finished:
    # API errors have the subtype "success" too. Success must be said, so a missing is_error is none.
    ok = event.get("is_error") is False and event.get("subtype") == "success"
    answer = string(event.get("result"))
    errors = [error for error in items(event.get("errors")) if isinstance(error, str)]
    text = answer or next(iter(errors), "") or string(event.get("subtype"))
    if ok:
        memory.error = memory.resets_at = None
        return Finished(True, one_line(text), answer=answer)
    if "is_error" not in event:
        return Finished(False, one_line(text) or "its result was cut", ErrorClass.TRUNCATED)
    error = _class_of(event, text) or memory.error
    if memory.resets_at is not None and error in {ErrorClass.THROTTLED, None}:
        error = ErrorClass.QUOTA
    return Finished(False, in_full(text), error, resets_at=memory.resets_at)


def _class_of(event: Mapping[str, object], text: str) -> ErrorClass | None:
    """The class of a result that is an error, or of an error in the place of an answer."""
    return (
        _BY_SUBTYPE.get(string(event.get("subtype")))
        or _BY_TERMINAL_REASON.get(string(event.get("terminal_reason")))
        or _BY_API_ERROR.get(string(event.get("api_error")))
        or (ErrorClass.REFUSED if event.get("stop_reason") == "refusal" else None)
        or class_of(text, count(event.get("api_error_status")))
        or _BY_ERROR.get(string(event.get("error")))
    )
