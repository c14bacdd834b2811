"""Claude Code (`claude -p`), as recorded from version 2.1.328."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from attrs import frozen

from darkfactory.model.fleet import AgentDefinition, Permissions, PromptVia
from darkfactory.model.signals import Finished, Signal, Started, Stream
from darkfactory.tools.text import json_object, one_line
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
