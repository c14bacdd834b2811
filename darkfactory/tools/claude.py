"""Claude Code (`claude -p`), as recorded from version 2.1.328."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from attrs import frozen

from darkfactory.model.fleet import AgentDefinition, PromptVia
from darkfactory.model.signals import Finished, Signal, Started, Stream
from darkfactory.tools.text import json_object, one_line
from darkfactory.tools.tool import Prompt

ALLOWED_TOOLS = "Bash,Edit,NotebookEdit,Read,WebFetch,WebSearch,Write"
"""What it may use unasked; anything else that wants permission is denied, since nobody is there to give it.

Skipping permissions altogether would be wider, and as root the program refuses to start with that.
"""


@frozen
class Claude:
    """Without a person: the task on stdin, one JSON event a line on stdout."""

    program: str = "claude"
    prompt: ClassVar[PromptVia] = PromptVia.STDIN
    announces: ClassVar[bool] = True
    reports: ClassVar[bool] = True
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
        model = ("--model", agent.model) if agent.model is not None else ()
        return (
            self.program,
            "-p",
            # Takes any number of words, so an option has to follow it and not the agent's args.
            *("--allowedTools", ALLOWED_TOOLS),
            *("--permission-mode", "dontAsk"),
            *("--output-format", "stream-json"),
            "--verbose",
            *model,
            *agent.args,
        )

    def memory(self) -> None:
        """None is needed."""

    def signals(self, stream: Stream, line: bytes, memory: None) -> tuple[Signal, ...]:  # noqa: ARG002 - the protocol's
        """`system/init` is a start, `result` an end; either may come several times in a run."""
        if stream is not Stream.STDOUT or not (b'"result"' in line or b'"init"' in line):
            return ()
        event = json_object(line)
        match event:
            case {"type": "system", "subtype": "init"}:
                return (Started(one_line(event.get("session_id")) or None),)
            case {"type": "result"}:
                return (_finished(event),)
        return ()


def _finished(event: Mapping[str, object]) -> Finished:
    # API errors have the subtype "success" too. Success must be said, so a missing is_error is none.
    ok = event.get("is_error") is False and event.get("subtype") == "success"
    match event:
        case {"result": str(answer)}:
            return Finished(ok, one_line(answer))
        case {"errors": [str(error), *_]}:
            return Finished(ok, one_line(error))
    return Finished(ok, one_line(event.get("subtype")))
