"""What pi is told, and what its lines say; its recorded runs are in test_recordings.py."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkfactory.model.ends import ErrorClass
from darkfactory.model.fleet import AgentDefinition, AgentLayer, Permissions
from darkfactory.model.signals import (
    ApiCall,
    Error,
    Finished,
    Retry,
    Said,
    Started,
    Stream,
    ToolCall,
    Unknown,
    Usage,
    Warning,  # noqa: A004
)
from darkfactory.tools.lines import MAX_LINE_BYTES, LineSplitter
from darkfactory.tools.pi import Pi
from darkfactory.tools.tally import Tally
from darkfactory.tools.tool import Prompt

PROMPT = Prompt(text="do the thing", path=Path("/state/runs/a/prompt.md"))


def argv(**options: object) -> tuple[str, ...]:
    return Pi().argv(AgentDefinition("a", AgentLayer.GROWTH, "pi", "do the thing", **options), PROMPT)


def test_a_run_is_one_answer_to_a_task_on_stdin():
    assert argv() == ("pi", "-p", "--mode", "json")
    assert argv(args=("--thinking", "high"))[-2:] == ("--thinking", "high")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("openai/gpt-5", ("--provider", "openai", "--model", "gpt-5")),
        ("openrouter/anthropic/claude", ("--provider", "openrouter", "--model", "anthropic/claude")),
        ("sonnet", ("--model", "sonnet")),
    ],
)
def test_a_model_is_split_at_its_first_slash(model, words):
    assert argv(model=model)[4:] == words


def test_its_session_goes_on():
    assert argv(resume="01a2")[4:] == ("--session", "01a2")


def test_it_may_do_all_that_its_tools_do_unless_it_is_given_fewer():
    assert argv(permissions=Permissions.FULL_ACCESS) == argv()
    assert argv(permissions=Permissions.READ_ONLY)[4:] == ("--tools", "read,grep,find,ls")


def line(kind, **more) -> bytes:
    """As it prints them: the type first, and no spaces."""
    return json.dumps({"type": kind, **more}, separators=(",", ":")).encode()


def message(stop, *texts, role="assistant", **more) -> bytes:
    content = [{"type": "thinking", "thinking": "hm"}, *({"type": "text", "text": text} for text in texts)]
    usage = {"input": 10, "output": 2, "cacheRead": 5, "cost": {"input": 0.1, "total": 0.25}}
    return line("message_end", message={"role": role, "content": content, "usage": usage, "stopReason": stop, **more})


USED = Usage(10, 2, 0.25)
LINES = {
    "a start": (line("session", version=3, id="s1"), (Started("s1"), ApiCall(0))),
    "a start without an id": (line("session", id=7), (Started(), ApiCall(0))),
    "a turn begins": (line("turn_start"), (Started(),)),
    "an answer": (
        message("stop", "hi", "there"),
        (ApiCall(), USED, Said("hi\nthere"), Finished(True, "hi there", answer="hi\nthere")),
    ),
    "an answer without a word": (message("stop"), (ApiCall(), USED, Finished(True))),
    "words before a call": (message("toolUse", "I look."), (ApiCall(), USED, Said("I look."))),
    "a call alone": (message("toolUse"), (ApiCall(), USED)),
    "an answer that was cut": (
        message("length", "so lo"),
        (
            ApiCall(),
            USED,
            Said("so lo"),
            Finished(False, "its answer was cut at the limit of output tokens", ErrorClass.TRUNCATED),
        ),
    ),
    "an error that is tried again": (
        message("error", errorMessage="503 busy"),
        (ApiCall(3, exact=False), USED, Error("503 busy", ErrorClass.PROVIDER_DOWN)),
    ),
    "an error that is not": (
        message("error", errorMessage="401 no"),
        (ApiCall(exact=False), USED, Error("401 no", ErrorClass.AUTH)),
    ),
    "a usage limit has the status of too many requests": (
        message("error", errorMessage="429 The usage limit has been reached"),
        (ApiCall(3, exact=False), USED, Error("429 The usage limit has been reached", ErrorClass.QUOTA)),
    ),
    "an error without a word": (message("error"), (ApiCall(exact=False), USED, Error())),
    "a refusal": (
        message("error", errorMessage="Provider finish_reason: content_filter"),
        (ApiCall(exact=False), USED, Error("Provider finish_reason: content_filter", ErrorClass.REFUSED)),
    ),
    "aborted": (message("aborted"), (ApiCall(exact=False), USED, Error("aborted", ErrorClass.KILLED))),
    "the user's message": (message("stop", "do it", role="user"), ()),
    "a tool's message": (message(None, "error", role="toolResult"), ()),
    "no message": (line("message_end", message=3), ()),
    "a call begins": (line("tool_execution_start", toolCallId="t", toolName="bash"), (ToolCall("bash", None, "t"),)),
    "a call ends": (
        line("tool_execution_end", toolCallId="t", toolName="bash", result={}, isError=False),
        (ToolCall("bash", True, "t"),),
    ),
    "a call fails": (
        line("tool_execution_end", toolCallId="t", toolName="bash", result={}, isError=True),
        (ToolCall("bash", False, "t"),),
    ),
    "a retry": (
        line("auto_retry_start", attempt=2, maxAttempts=3, delayMs=4000, errorMessage="429 slow down"),
        (Retry("429 slow down", 2, 4.0, ErrorClass.THROTTLED),),
    ),
    "a retry of nothing known": (line("auto_retry_start"), (Retry(),)),
    "the last retry failed": (
        line("auto_retry_end", success=False, attempt=3, finalError="Connection error."),
        (Error("Connection error.", ErrorClass.NETWORK),),
    ),
    "a retry helped": (line("auto_retry_end", success=True, attempt=1), ()),
    "a conversation could not be made shorter": (
        line("compaction_end", reason="overflow", errorMessage="Compaction failed"),
        (Warning("Compaction failed"),),
    ),
    "a conversation was made shorter": (line("compaction_end", reason="threshold", willRetry=False), ()),
    "the agent ends, and may begin again": (line("agent_end", messages=[]), ()),
    "a queue": (line("queue_update"), ()),
    "an event that is not known": (line("surprise"), (Unknown(),)),
    "a type that is no word": (line(["message_end"]), (Unknown(),)),
}


def heard(*lines: bytes) -> list:
    return [signal for data in lines for signal in Pi().signals(Stream.STDOUT, data, None)]


def tallied(*lines: bytes) -> Tally:
    tally = Tally()
    for signal in heard(*lines):
        tally.take(signal)
    return tally


@pytest.mark.parametrize(("data", "said"), LINES.values(), ids=LINES)
def test_what_a_line_says(data, said):
    assert Pi().signals(Stream.STDOUT, data, None) == said
    assert Pi().signals(Stream.STDERR, data, None) == ()


REPEATS = ["message_update", "tool_execution_update", "agent_end", "message_start", "turn_end"]


@pytest.mark.parametrize("kind", REPEATS)
def test_what_is_said_over_again_is_not_even_parsed(kind, monkeypatch):
    data = line(kind, message={"role": "assistant", "content": "x" * 1000})
    monkeypatch.setattr("darkfactory.tools.pi.json_object", None)
    assert heard(data, data[:40]) == []


def test_the_end_is_that_of_the_last_turn():
    good, bad = message("stop", "done"), message("error", errorMessage="500 oh")
    turn = line("turn_start")
    assert tallied(turn, good).finished.ok
    assert tallied(turn, good).error is None
    after = tallied(turn, good, turn, bad)
    assert (after.finished, after.error.error) == (None, ErrorClass.PROVIDER_DOWN)
    mended = tallied(turn, bad, turn, message("toolUse"))
    assert (mended.finished, mended.error) == (None, None)


def test_while_it_tries_again_it_waits_for_its_provider_until_that_answers():
    bad, again = message("error", errorMessage="429 no"), line("auto_retry_start", errorMessage="429 no", delayMs=2000)
    waiting = tallied(bad, again, line("turn_start")).waiting
    assert waiting is not None
    assert waiting.error is ErrorClass.THROTTLED
    assert tallied(bad, again, line("turn_start"), message("toolUse")).waiting is None


def test_a_call_whose_result_is_too_long_to_be_read_counts_as_one_that_succeeded():
    long = line("tool_execution_end", toolCallId="t", toolName="bash", result="x" * MAX_LINE_BYTES, isError=True)
    (head,) = LineSplitter().feed(long + b"\n")
    assert heard(head) == [ToolCall("bash", True, "t")]


WORDS = st.sampled_from(["", "assistant", "stop", "error", "text", "503 busy"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["role", "content", "usage", "cost", "total", "stopReason", "text"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)
KEYS = sorted({key for data, _ in LINES.values() for key in json.loads(data)} - {"type"})
KINDS = sorted({json.loads(data)["type"] for data, _ in LINES.values() if isinstance(json.loads(data)["type"], str)})


@given(st.sampled_from(KINDS), st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3))
def test_no_event_raises_whatever_is_in_its_fields(kind, fields):
    assert tallied(line(kind, **fields)).totals
