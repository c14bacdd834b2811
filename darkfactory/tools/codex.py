"""Codex (`codex exec`), as recorded from version 0.169.0."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from attrs import frozen

from darkfactory.model.fleet import AgentDefinition, Permissions, PromptVia
from darkfactory.model.signals import Finished, Signal, Started, Stream
from darkfactory.tools.text import json_object, one_line
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

    def memory(self) -> None:
        """None is needed."""

    def signals(self, stream: Stream, line: bytes, memory: None) -> tuple[Signal, ...]:  # noqa: ARG002 - the protocol's
        """`thread.started` is a start, `turn.completed` or `turn.failed` an end; `error` may be a retry."""
        if stream is not Stream.STDOUT or not (b'"turn.' in line or b'"thread.' in line):
            return ()
        event = json_object(line)
        match event:
            case {"type": "thread.started"}:
                return (Started(one_line(event.get("thread_id")) or None),)
            case {"type": "turn.completed"}:
                return (Finished(ok=True),)
            case {"type": "turn.failed", "error": {"message": message}}:
                return (Finished(ok=False, detail=one_line(message)),)
            case {"type": "turn.failed"}:
                return (Finished(ok=False),)
        return ()
