"""The built-in demo tool: `demo_agent.py` beside this file, run by this Python.

With it a fleet can be tried, and the whole program tested, on a machine without any agent, key or network.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

from attrs import frozen

from darkfactory.model.ends import ErrorClass
from darkfactory.model.fleet import AgentDefinition, PromptVia
from darkfactory.model.signals import ApiCall, Finished, Said, Signal, Started, Stream, ToolCall, Unknown, Usage
from darkfactory.tools.resets import reset_time
from darkfactory.tools.text import count, in_full, json_object, one_line, string
from darkfactory.tools.tool import Prompt

DEMO_AGENT = Path(__file__).with_name("demo_agent.py")


@frozen
class Demo:
    """The demo agent; its options are the agent's `args`, such as `["--behaviour", "hang"]`."""

    name: str = "demo"
    """`demo`, or the path of an executable that behaves as the demo agent does."""
    prompt: ClassVar[PromptVia] = PromptVia.STDIN
    announces: ClassVar[bool] = True
    reports: ClassVar[bool] = True
    exit_classes: ClassVar[Mapping[int, ErrorClass]] = MappingProxyType({})
    speaks: ClassVar[bool] = True
    plain: ClassVar[bool] = False
    env_pass: ClassVar[tuple[str, ...]] = ()
    env: ClassVar[Mapping[str, str]] = MappingProxyType({})

    @property
    def program(self) -> str:
        """The Python that runs us, or the executable at the path."""
        return self.name if "/" in self.name else sys.executable

    def argv(self, agent: AgentDefinition, prompt: Prompt) -> tuple[str, ...]:  # noqa: ARG002 - it is on stdin
        """`python -I demo_agent.py ARGS...`."""
        # Isolated, since agents can write the working directory and could slip a module in.
        script = () if "/" in self.name else ("-I", str(DEMO_AGENT))
        return (self.program, *script, *agent.args)

    def memory(self) -> None:
        """None is needed."""

    def signals(self, stream: Stream, line: bytes, memory: None) -> tuple[Signal, ...]:  # noqa: ARG002 - the protocol's
        """`started` is a start, `api` an answer of a model, `result` an end.

        A bad end may say which `error` it was, whether it is `retryable`, and when it `resets_at`.
        """
        if stream is Stream.STDERR:
            return ()
        event = json_object(line)
        match event:
            case {"type": "started"}:
                return (Started(one_line(event.get("session")) or None),)
            case {"type": "say", "text": str(text)}:
                return (Said(text),)
            case {"type": "tool"}:
                return (ToolCall(one_line(event.get("name")), event.get("exit_code") == 0),)
            case {"type": "api"}:
                return (ApiCall(), Usage(count(event.get("input_tokens")), count(event.get("output_tokens"))))
            case {"type": "child"}:
                return ()
            case {"type": "result"}:
                text, ok = string(event.get("text")), event.get("ok") is True
                if ok:
                    return (Finished(True, one_line(text), answer=text),)
                error, again = _CLASSES.get(string(event.get("error"))), event.get("retryable")
                retryable = again if isinstance(again, bool) else None
                return (Finished(False, in_full(text), error, retryable, reset_time(event.get("resets_at"))),)
        return (Unknown(),)


_CLASSES = {error.value: error for error in ErrorClass}
