"""What opencode is told, and what its lines say; its recorded runs are in test_recordings.py."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkfactory.model.ends import ErrorClass
from darkfactory.model.fleet import AgentDefinition, AgentLayer, Permissions, Secret
from darkfactory.model.signals import (
    ApiCall,
    Denied,
    Error,
    Finished,
    Said,
    Started,
    Stream,
    ToolCall,
    Unknown,
    Usage,
)
from darkfactory.tools.codex import Codex
from darkfactory.tools.environment import environment
from darkfactory.tools.opencode import Opencode
from darkfactory.tools.tally import Tally
from darkfactory.tools.tool import Prompt

PROMPT = Prompt(text="do the thing", path=Path("/state/runs/a/prompt.md"))


def agent(**options: object) -> AgentDefinition:
    return AgentDefinition("a", AgentLayer.GROWTH, "opencode", "do the thing", **options)


def argv(**options: object) -> tuple[str, ...]:
    return Opencode().argv(agent(**options), PROMPT)


def test_a_run_asks_nothing_and_its_task_is_on_stdin():
    assert argv() == ("opencode", "run", "--format", "json", "--auto")
    words = ("--model", "openai/gpt-5", "--session", "ses_1", "--variant", "high")
    assert argv(model="openai/gpt-5", resume="ses_1", args=("--variant", "high"))[5:] == words


def rules(permissions: Permissions | None) -> dict[str, str] | None:
    told = environment(agent(permissions=permissions), Opencode(), {}).get("OPENCODE_PERMISSION")
    return None if told is None else json.loads(told)


def test_what_it_may_do_is_in_its_environment_and_what_is_not_named_is_denied():
    assert rules(None) is rules(Permissions.FULL_ACCESS) is None
    reads = rules(Permissions.READ_ONLY)
    # of its rules the last that fits counts
    assert next(iter(reads.items())) == ("*", "deny")
    assert {name for name, rule in reads.items() if rule == "allow"} == {
        *("glob", "grep", "list", "read", "skill", "todowrite")
    }
    assert rules(Permissions.WORKSPACE_WRITE) == {**reads, "edit": "allow"}


def test_the_operators_own_rules_go_over_ours_and_other_programs_have_none():
    own = agent(permissions=Permissions.READ_ONLY, env={"OPENCODE_PERMISSION": Secret("{}")})
    assert environment(own, Opencode(), {})["OPENCODE_PERMISSION"] == "{}"
    assert "OPENCODE_PERMISSION" not in environment(agent(permissions=Permissions.READ_ONLY), Codex(), {})


def line(kind, session="ses_1", **more) -> bytes:
    return json.dumps({"type": kind, "timestamp": 1, "sessionID": session, **more}).encode()


def tool(name="bash", status="completed", **state) -> bytes:
    return line("tool_use", part={"type": "tool", "tool": name, "callID": "t", "state": {"status": status, **state}})


def finish(reason) -> bytes:
    tokens = {"input": 10, "output": 2, "reasoning": 0, "cache": {"read": 5, "write": 0}}
    return line("step_finish", part={"reason": reason, "tokens": tokens, "cost": 0.25})


def error(name="APIError", **data) -> bytes:
    return line("error", error={"name": name, "data": data})


BEGUN = (Started("ses_1"), ApiCall(exact=False))
USED = Usage(10, 2, 0.25)
LINES = {
    "a step": (line("step_start", part={}), ()),
    "words": (line("text", part={"text": "hi"}), (Said("hi"),)),
    "no words": (line("text", part={"text": " "}), ()),
    "a thought": (line("reasoning", part={"text": "hm"}), None),
    "a command": (tool(metadata={"exit": 0}), (ToolCall("bash", True, "t"),)),
    "a command that failed": (tool(metadata={"exit": 3}), (ToolCall("bash", False, "t"),)),
    "a command without an end": (tool(metadata={"exit": None}), (ToolCall("bash", True, "t"),)),
    "a file": (tool("edit", metadata={}), (ToolCall("edit", True, "t"),)),
    "a tool that failed": (tool("read", "error", error="File not found"), (ToolCall("read", False, "t"),)),
    "a tool that is not there": (tool("invalid"), (ToolCall("invalid", False, "t"),)),
    "a tool that was not allowed": (
        tool("bash", "error", error="The user rejected permission to use this specific tool call."),
        (ToolCall("bash", False, "t"), Denied("bash"), Error("was not allowed: bash", ErrorClass.PERMISSION_DENIED)),
    ),
    "a step that called tools": (finish("tool-calls"), (ApiCall(), USED)),
    "the end": (finish("stop"), (ApiCall(), USED, Finished(True))),
    "an answer that was cut": (
        finish("length"),
        (ApiCall(), USED, Finished(False, "its answer was cut at the limit of output tokens", ErrorClass.TRUNCATED)),
    ),
    "a filter": (
        finish("content-filter"),
        (ApiCall(), USED, Finished(False, "the provider's filter ended its answer", ErrorClass.REFUSED)),
    ),
    "a step that ended otherwise": (finish("unknown"), (ApiCall(), USED)),
    "a wrong key": (error(message="Bad.", statusCode=401), (Finished(False, "Bad.", ErrorClass.AUTH),)),
    "too many requests": (error(message="Wait.", statusCode=429), (Finished(False, "Wait.", ErrorClass.THROTTLED),)),
    "a usage limit": (
        error(message="The usage limit has been reached", statusCode=429),
        (Finished(False, "The usage limit has been reached", ErrorClass.QUOTA),),
    ),
    "an error that could be tried again": (
        error(message="Odd.", isRetryable=True),
        (Finished(False, "Odd.", ErrorClass.PROVIDER_DOWN),),
    ),
    "an error that could not": (error(message="Odd.", isRetryable=False), (Finished(False, "Odd."),)),
    "its own server failed, as with a model that is not there": (
        error("UnknownError", message="Unexpected server error. Check server logs for details."),
        (Finished(False, "Unexpected server error. Check server logs for details."),),
    ),
    "a long prompt": (
        error("ContextOverflowError", message="Too long."),
        (Finished(False, "Too long.", ErrorClass.CONTEXT_OVERFLOW),),
    ),
    "no login": (error("ProviderAuthError", message="No."), (Finished(False, "No.", ErrorClass.AUTH),)),
    "an error without a word": (
        error("MessageAbortedError"),
        (Finished(False, "MessageAbortedError", ErrorClass.KILLED),),
    ),
    "an event that is not known": (line("surprise"), (Unknown(),)),
    "a type that is no word": (line({}), (Unknown(),)),
}


def heard(*lines: bytes) -> list:
    adapter = Opencode()
    memory = adapter.memory()
    return [signal for data in lines for signal in adapter.signals(Stream.STDOUT, data, memory)]


def tallied(*lines: bytes) -> Tally:
    tally = Tally()
    for signal in heard(*lines):
        tally.take(signal)
    return tally


@pytest.mark.parametrize(("data", "said"), LINES.values(), ids=LINES)
def test_what_a_line_says(data, said):
    begins = () if said in (None, (Unknown(),)) else BEGUN
    assert tuple(heard(data)) == (*begins, *(said or ()))
    assert heard(line("step_start"), data) == [*BEGUN, *(said or ())]
    assert Opencode().signals(Stream.STDERR, data, Opencode().memory()) == ()


def test_a_start_without_a_session():
    assert heard(line("step_start", session=7)) == [Started(), ApiCall(exact=False)]


def test_the_answer_is_what_was_said_in_the_last_step():
    words, more = line("text", part={"text": "I look."}), line("text", part={"text": "Done.\nAll of it."})
    assert tallied(words, finish("tool-calls"), more, finish("stop")).answer == "Done.\nAll of it."
    assert heard(words, finish("tool-calls"), finish("stop"))[-1] == Finished(True)


def test_an_error_behind_a_good_end_is_the_end_and_a_good_end_behind_an_error_too():
    bad = error(message="Bad.", statusCode=500)
    assert tallied(finish("stop"), bad).finished.error is ErrorClass.PROVIDER_DOWN
    assert tallied(bad, finish("stop")).finished.ok


def test_an_error_that_is_told_twice_is_one_end():
    bad = error("ContextOverflowError", message="Too long.")
    assert tallied(bad, bad).counts().finishes == 1
    assert tallied(bad, finish("tool-calls"), bad).counts().finishes == 2


WORDS = st.sampled_from(["", "stop", "error", "invalid", "completed", "UnknownError", "The user rejected permission"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                ["state", "metadata", "tokens", "reason", "tool", "data", "name", "message", "error", "exit"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)
KINDS = ["error", "step_finish", "step_start", "text", "tool_use"]


@given(st.sampled_from(KINDS), st.dictionaries(st.sampled_from(["part", "error", "sessionID"]), VALUES, max_size=3))
def test_no_event_raises_whatever_is_in_its_fields(kind, fields):
    assert tallied(json.dumps({"type": kind, **fields}).encode()).totals
