"""Gemini CLI (`gemini`), as recorded from version 0.61.0."""

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
from darkfactory.tools.text import MAX_MESSAGE, count, in_full, json_object, one_line, string, table
from darkfactory.tools.tool import Prompt, option

APPROVAL: Mapping[Permissions, str] = MappingProxyType(
    {
        Permissions.READ_ONLY: "default",
        Permissions.WORKSPACE_WRITE: "auto_edit",
        Permissions.FULL_ACCESS: "yolo",
    }
)
"""Its own words for them. What would have to be asked for it does not even offer to the model.

Only the widest has a shell, and an agent that may not run commands can test nothing, so that is the default. (`plan`
would be narrower than `default`, but it asks the model for a plan instead of the work.)
"""


@frozen
class Gemini:
    """Without a person: the task on stdin, one JSON event a line on stdout, and what it tries again on stderr."""

    program: str = "gemini"
    prompt: ClassVar[PromptVia] = PromptVia.STDIN
    announces: ClassVar[bool] = True
    reports: ClassVar[bool] = True
    # Where its provider refused it, it exits with the HTTP status modulo 256. 400 is not here: a wrong key is one too.
    exit_classes: ClassVar[Mapping[int, ErrorClass]] = MappingProxyType(
        {
            41: ErrorClass.AUTH,
            42: ErrorClass.CONFIG,
            44: ErrorClass.CONFIG,
            52: ErrorClass.CONFIG,
            53: ErrorClass.MAX_TURNS,
            55: ErrorClass.CONFIG,
            401 % 256: ErrorClass.AUTH,
            403 % 256: ErrorClass.AUTH,
            429 % 256: ErrorClass.THROTTLED,
            500 % 256: ErrorClass.PROVIDER_DOWN,
            503 % 256: ErrorClass.PROVIDER_DOWN,
        }
    )
    speaks: ClassVar[bool] = True
    plain: ClassVar[bool] = False
    env_pass: ClassVar[tuple[str, ...]] = ("GEMINI_*", "GOOGLE_*")
    # Otherwise it starts itself again, to have more memory, and the first process ignores SIGTERM.
    env: ClassVar[Mapping[str, str]] = MappingProxyType({"GEMINI_CLI_NO_RELAUNCH": "true"})

    def argv(self, agent: AgentDefinition, prompt: Prompt) -> tuple[str, ...]:  # noqa: ARG002 - it is on stdin
        """`gemini ...`; the agent's `args` come last."""
        return (
            self.program,
            *("--output-format", "stream-json"),
            *("--approval-mode", APPROVAL[agent.permissions or Permissions.FULL_ACCESS]),
            # In a directory that nobody has trusted it would not start.
            "--skip-trust",
            *option("--model", agent.model),
            *option("--resume", agent.resume),
            *agent.args,
        )

    def memory(self) -> GeminiMemory:
        """What its lines leave to be remembered."""
        return GeminiMemory()

    def signals(self, stream: Stream, line: bytes, memory: GeminiMemory) -> tuple[Signal, ...]:
        """What one line says.

        `init` is a start, `result` an end. That it tries again is told on stderr alone, and of API calls it does not
        tell: an answer between two results of tools is taken for one.
        """
        if stream is Stream.STDERR:
            return _stderr(line, memory)
        event = json_object(line)
        match event.get("type"):
            case "message":
                return _message(event, memory)
            case "tool_use":
                call = ToolCall(one_line(event.get("tool_name")), None, string(event.get("tool_id")))
                return (*_answers(memory), *_said(memory), call)
            case "tool_result":
                memory.answers = False
                # Also of a command that exits with another code than 0 it says "success".
                ended = ToolCall("", event.get("status") != "error", string(event.get("tool_id")))
                denied = table(event.get("error")).get("type") == "policy_violation"
                return (*_said(memory), ended, Denied()) if denied else (*_said(memory), ended)
            case "error":
                text, error = _failure(string(event.get("message")))
                if event.get("severity") == "warning":
                    return (*_said(memory), Warning(text))
                memory.error = Error(text, error)
                return (*_said(memory), memory.error)
            case "result":
                return _result(event, memory)
            case "init":
                memory.answers, memory.error = False, None
                return (*_said(memory), Started(one_line(event.get("session_id")) or None), ApiCall(0, exact=False))
        return (Unknown(),)


COMPLAINTS: Mapping[bytes, ErrorClass] = MappingProxyType(
    {
        b"Unknown argument": ErrorClass.CONFIG,
        b"Not enough arguments": ErrorClass.CONFIG,
        b"Invalid values": ErrorClass.CONFIG,
        b"Error resuming session": ErrorClass.CONFIG,
    }
)
"""Lines on stderr that begin so say why it did not even start; much can follow them, such as all of its options."""
_PARTIAL_CHARS = 64 * 1024
"""Of a message in pieces, this much is kept."""
_NOTICE_CHARS = 4000
"""Of what it says on stderr of one attempt."""
_RETRY = re.compile(
    r"Attempt (\d{1,9}) failed(?: with status (\d{3}))?:? ?(.*?)\. Retrying "
    r"(?:after (\d{1,9})ms|with backoff)\.\.\.(.*)"
)
_API_ERROR = "[API Error: "
_NESTED = 2
"""An error of its provider is JSON, and the message in it can be JSON again."""

_BY_TYPE = {
    "FatalAuthenticationError": ErrorClass.AUTH,
    "FatalCancellationError": ErrorClass.KILLED,
    "FatalConfigError": ErrorClass.CONFIG,
    "FatalInputError": ErrorClass.CONFIG,
    "FatalSandboxError": ErrorClass.CONFIG,
    "FatalTurnLimitedError": ErrorClass.MAX_TURNS,
}
_BY_WORDS = tuple(
    (error, re.compile(pattern, re.IGNORECASE | re.DOTALL))
    for error, pattern in (
        # It speaks of billing also where there is more in a minute, or tomorrow.
        (ErrorClass.QUOTA, r"exceeded your current quota.*per.?day"),
        (ErrorClass.THROTTLED, r"exceeded your current quota"),
        (ErrorClass.MODEL_NOT_FOUND, r"\bmodels/\S+ is not found"),
        (ErrorClass.TRUNCATED, r"truncated because it exceeded the token limit"),
        (ErrorClass.REFUSED, r"response was blocked"),
        (ErrorClass.EMPTY_OUTPUT, r"no final response text"),
        (ErrorClass.NETWORK, r"without a finish reason"),
        (ErrorClass.MAX_TURNS, r"max(imum)? session turns"),
    )
)
"""Its own sentences, and those of its provider; the others are read as any tool's."""


@define(eq=False)
class GeminiMemory:
    """What must be known of a run's lines so far; bounded."""

    partial: str = ""
    """The text of a message of which more may come."""
    answers: bool = False
    """The model's answer has begun, and no tool has had its result since."""
    error: Error | None = None
    """The last one that was told; a result that failed does not repeat it."""
    notice: str = ""
    """On stderr: the beginning of what it says of an attempt that failed."""


def _answers(memory: GeminiMemory) -> tuple[Signal, ...]:
    if memory.answers:
        return ()
    memory.answers = True
    return (ApiCall(exact=False),)


def _said(memory: GeminiMemory) -> tuple[Signal, ...]:
    """What the pieces so far amount to, since something else comes now."""
    said, memory.partial = memory.partial, ""
    return (Said(said),) if said.strip() else ()


def _message(event: Mapping[str, object], memory: GeminiMemory) -> tuple[Signal, ...]:
    match event.get("role"):
        case "assistant":
            memory.partial += string(event.get("content"))[: _PARTIAL_CHARS - len(memory.partial)]
            return _answers(memory)
        case "user":
            return _said(memory)
    return (Unknown(),)


def _result(event: Mapping[str, object], memory: GeminiMemory) -> tuple[Signal, ...]:
    stats = table(event.get("stats"))
    usage = Usage(count(stats.get("input_tokens")), count(stats.get("output_tokens")))
    answer = memory.partial
    return (*_said(memory), usage, _finished(event, answer, memory))


def _finished(event: Mapping[str, object], answer: str, memory: GeminiMemory) -> Finished:
    match event.get("status"):
        case "success":
            return Finished(True, one_line(answer), answer=answer)
        case "error":
            told = table(event.get("error"))
            text, error = _failure(string(told.get("message")))
            if not text and memory.error is not None:
                text, error = memory.error.text, memory.error.error
            return Finished(False, text, _BY_TYPE.get(string(told.get("type"))) or error)
    return Finished(False, "its result was cut", ErrorClass.TRUNCATED)


def complaint(line: bytes, complaints: Mapping[bytes, ErrorClass] = COMPLAINTS) -> tuple[Signal, ...]:
    """Why it did not start, if a line of stderr tells that."""
    text = one_line(line[:MAX_MESSAGE].decode("utf-8", "replace"))
    return tuple(Error(text, error) for words, error in complaints.items() if line.startswith(words))


def _stderr(line: bytes, memory: GeminiMemory) -> tuple[Signal, ...]:
    """An attempt that failed and is made again. Of several lines, as the provider's own words can be."""
    if line.startswith(b"Attempt "):
        memory.notice = ""
    elif not memory.notice:
        return complaint(line)
    memory.notice = f"{memory.notice} {line[:_NOTICE_CHARS].decode('utf-8', 'replace')}".strip()
    retry = _RETRY.match(memory.notice)
    if retry is None:
        if len(memory.notice) > _NOTICE_CHARS or memory.notice.endswith("Max attempts reached"):
            memory.notice = ""
        return ()
    memory.notice = ""
    attempt, status, before, delay, behind = retry.groups()
    text, error = _failure(before or behind, int(status) if status else None)
    delay_secs = None if delay is None else int(delay) / 1000
    return (Retry(text, int(attempt), delay_secs, error or ErrorClass.NETWORK),)


def _failure(text: str, status: int | None = None) -> tuple[str, ErrorClass | None]:
    """An error's message for a person, and its class."""
    text, status = api_error(text, status)
    own = next((error for error, pattern in _BY_WORDS if pattern.search(text, 0, MAX_MESSAGE)), None)
    return in_full(text), own or class_of(text, status)


def api_error(text: str, status: int | None = None) -> tuple[str, int | None]:
    """The provider's own message and status: they are in brackets in the midst of an error's, and may be JSON."""
    _, bracket, rest = text.partition(_API_ERROR)
    inside, closing, _ = rest.rpartition("]")
    text = inside if bracket and closing else text
    for _ in range(_NESTED):
        _, brace, rest = text.partition("{")
        inner = table(json_object((brace + rest).encode(errors="replace")).get("error"))
        if not inner:
            break
        text, status = string(inner.get("message")), count(inner.get("code")) or status
    return text, status
