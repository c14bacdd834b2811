"""Qwen Code: its command line, what its lines say, and what is charged for a session that goes on.

What its recorded runs amount to is in test_recordings.py, what Nightwatch makes of them in test_fair_trial.py.
"""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkfactory.model.drift import CorrectionLevel
from darkfactory.model.ends import ErrorClass
from darkfactory.model.fleet import Permissions, PromptVia
from darkfactory.model.signals import (
    ApiCall,
    Basis,
    Denied,
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
from darkfactory.tools.qwen import Qwen, QwenMemory
from darkfactory.tools.reader import Reader
from darkfactory.tools.tally import Tally

from .conftest import Recording
from .test_adapters import VALUES, argv, content, cut, line, system
from .test_fair_trial import PROGRESS, night

CALL = ApiCall(exact=False)
NO_USAGE = Usage(basis=Basis.SESSION)


def heard(*lines: bytes, stream: Stream = Stream.STDOUT, memory: QwenMemory | None = None):
    """What these lines of one run say."""
    memory = memory or QwenMemory()
    return [signal for data in lines for signal in Qwen().signals(stream, data, memory)]


def told(*lines: str):
    """What these lines of stderr say."""
    return heard(*(text.encode() for text in lines), stream=Stream.STDERR)


def answer(*blocks: object, **usage: int) -> bytes:
    return line(type="assistant", message={"id": "m", "content": list(blocks), "usage": usage}, parent_tool_use_id=None)


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def use(number: str = "t1") -> dict[str, str]:
    return {"type": "tool_use", "id": number, "name": "run_shell_command"}


def used(*, ok: bool = True, number: str = "t1") -> bytes:
    return content("user", {"type": "tool_result", "tool_use_id": number, "is_error": not ok})


def failed(message: str) -> bytes:
    return line(type="result", subtype="error_during_execution", is_error=True, error={"message": message})


GOOD = line(type="result", subtype="success", is_error=False, result="hi\nthere")


def test_its_task_is_on_stdin_and_its_args_come_last():
    words = argv("qwen", model="big", max_turns=9, resume="0f014aff", args=("--max-tool-calls", "100"))
    assert Qwen.prompt is PromptVia.STDIN
    assert " ".join(words) == (
        "qwen --output-format stream-json --approval-mode yolo"
        " --model big --max-session-turns 9 --resume 0f014aff --max-tool-calls 100"
    )


def test_it_may_run_commands_unless_it_is_told_otherwise():
    assert argv("qwen") == argv("qwen", permissions=Permissions.FULL_ACCESS)
    modes = {each.value: argv("qwen", permissions=each) for each in Permissions}
    assert {each: words[words.index("--approval-mode") + 1] for each, words in modes.items()} == {
        "read-only": "default",
        "workspace-write": "auto-edit",
        "full-access": "yolo",
    }


LINES = {
    "a start": (system("init", session_id="s1"), [Started("s1"), ApiCall(0, exact=False)]),
    "a start without an id": (system("init", session_id=7), [Started(), ApiCall(0, exact=False)]),
    "a server that is down": (
        system(
            "init", session_id="s1", mcp_servers=[{"name": "db", "status": "failed"}, {"name": "ok", "status": "x"}]
        ),
        [Started("s1"), ApiCall(0, exact=False), Warning("MCP server db failed")],
    ),
    "an answer": (answer(text("hi")), [CALL, Said("hi")]),
    "an answer with what it took": (
        answer(text("hi"), input_tokens=7, output_tokens=2),
        [CALL, Said("hi"), Usage(7, 2)],
    ),
    "a thought": (answer({"type": "thinking", "thinking": "hm"}), [CALL]),
    "a call begins": (answer(use()), [CALL, ToolCall("run_shell_command", None, "t1")]),
    "what a helper agent says is not the assistant's": (
        content("assistant", text("hi"), use(), parent_tool_use_id="t1"),
        [ToolCall("run_shell_command", None, "t1")],
    ),
    "an error in the place of an answer": (answer(text("[API Error: 401 no]")), []),
    "an error where an answer broke off": (answer(text("I see [API Error: terminated]")), [Said("I see ")]),
    "an answer about such an error": (
        answer(text("It printed [API Error: 401 no], so I gave up.")),
        [CALL, Said("It printed [API Error: 401 no], so I gave up.")],
    ),
    "a call ends": (used(), [ToolCall("", True, "t1")]),
    "a call fails": (used(ok=False), [ToolCall("", False, "t1")]),
    "the user's prompt, as text": (line(type="user", message={"content": "result"}), []),
    "a retry, of which stderr says more": (system("retry", data={"attempt": 1, "delayMs": 60000}), []),
    "another model": (system("model_fallback", data={}), [Warning("another model was taken")]),
    "a piece": (line(type="stream_event", event={"type": "message_stop"}), []),
    "success": (GOOD, [NO_USAGE, Finished(True, "hi there", answer="hi\nthere")]),
    "what it took": (
        line(type="result", subtype="success", is_error=False, usage={"input_tokens": 7, "output_tokens": 2}),
        [Usage(7, 2, basis=Basis.SESSION), Finished(True)],
    ),
    "denials in the end": (
        line(type="result", subtype="success", is_error=False, permission_denials=[{"tool_name": "edit"}, 7]),
        [NO_USAGE, Denied("edit"), Denied(), Finished(True)],
    ),
    "a failure": (
        failed("[API Error: 500 The server had an error while processing your request. Sorry about that!]"),
        [
            NO_USAGE,
            Finished(
                False,
                "500 The server had an error while processing your request. Sorry about that!",
                ErrorClass.PROVIDER_DOWN,
            ),
        ],
    ),
    "a status alone": (
        failed("[API Error: 503 Come back.]"),
        [NO_USAGE, Finished(False, "503 Come back.", ErrorClass.PROVIDER_DOWN)],
    ),
    "no such model": (
        failed("[API Error: 404 The model `x` does not exist or you do not have access to it.]"),
        [
            NO_USAGE,
            Finished(
                False, "404 The model `x` does not exist or you do not have access to it.", ErrorClass.MODEL_NOT_FOUND
            ),
        ],
    ),
    "no login": (
        failed("No auth type is selected. Please configure an auth type."),
        [NO_USAGE, Finished(False, "No auth type is selected. Please configure an auth type.", ErrorClass.AUTH)],
    ),
    "a failure without a word": (
        line(type="result", subtype="error_during_execution", is_error=True),
        [NO_USAGE, Finished(False, "error_during_execution")],
    ),
    "success that is not said": (
        line(type="result", subtype="success"),
        [NO_USAGE, Finished(False, "its result was cut", ErrorClass.TRUNCATED)],
    ),
    "an event that is not known": (line(type="surprise"), [Unknown()]),
    "a system event that is not known": (system("surprise"), [Unknown()]),
    "a type that is no word": (line(type=["assistant"]), [Unknown()]),
}


@pytest.mark.parametrize(("data", "said"), LINES.values(), ids=LINES)
def test_what_a_line_says(data, said):
    assert heard(data) == said
    assert heard(data, stream=Stream.STDERR) == []


def test_an_answer_is_one_call_however_many_events_it_takes():
    round_ = [answer(text("I")), answer(use("a")), answer(use("b")), used(number="a"), used(number="b")]
    assert heard(*round_).count(CALL) == 1
    assert heard(*round_, *round_, answer(text("Done"))).count(CALL) == 3


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            ["Retrying in 60s (attempt 1/10): [API Error: 429 The usage limit has been reached]"],
            [Retry("429 The usage limit has been reached", 1, 60.0, ErrorClass.QUOTA)],
        ),
        (
            ["Retrying in 120s (attempt 2/10): [API Error: 429 Rate limit reached for x. Please try again in 2s.]"],
            [Retry("429 Rate limit reached for x. Please try again in 2s.", 2, 120.0, ErrorClass.THROTTLED)],
        ),
        (["Retrying in 60s (attempt 1/10)"], [Retry("", 1, 60.0, ErrorClass.THROTTLED)]),
        (
            ["Retrying provider attempt (0 buffered tool call(s) discarded)."] * 2,
            [Retry("the answer broke off")] * 2,
        ),
        # what follows a wait is the attempt that was waited for
        (
            [
                "Retrying in 60s (attempt 1/10): [API Error: 429 The usage limit has been reached]",
                "Retrying provider attempt (0 buffered tool call(s) discarded).",
            ],
            [Retry("429 The usage limit has been reached", 1, 60.0, ErrorClass.QUOTA)],
        ),
        (["Retrying to be good"], []),
        (["Unknown argument: x", "Usage: qwen"], [Error("Unknown argument: x", ErrorClass.CONFIG)]),
        (["No saved session found with ID x."], [Error("No saved session found with ID x.", ErrorClass.CONFIG)]),
        (["Ripgrep not available: EACCES"], []),
    ],
)
def test_what_stderr_tells_of_attempts_and_complaints(lines, said):
    assert told(*lines) == said


def test_a_session_that_goes_on_is_charged_with_what_is_new(recording):
    first, second, third = (recording("qwen", case).read() for case in ("text", "resume", "continue"))
    tallies = []
    for case, former in (("resume", first), ("continue", second)):
        run = recording("qwen", case)
        session = json.loads(run.stdout.splitlines()[0])["session_id"]
        reader = Reader(Qwen(), Tally(earlier={session: former.session_usage}))
        reader.feed(Stream.STDOUT, run.stdout)
        tallies.append(reader.tally.totals.input_tokens)
    assert third.session_usage == Usage(7200, 108, basis=Basis.SESSION)
    assert tallies == [2400, 2400]


def test_a_run_that_was_stopped_is_charged_with_what_its_answers_told():
    tally = Tally()
    for signal in heard(answer(use(), input_tokens=7, output_tokens=2), used(), answer(text("x"), input_tokens=8)):
        tally.take(signal)
    assert (tally.input_tokens, tally.output_tokens) == (15, 2)
    for signal in heard(line(type="result", is_error=True, usage={"input_tokens": 40, "output_tokens": 9})):
        tally.take(signal)
    assert (tally.input_tokens, tally.output_tokens) == (40, 9)


def test_what_was_not_allowed_at_all_is_no_success():
    denials = [{"tool_name": "run_shell_command", "tool_use_id": "t1"}]
    end = line(type="result", subtype="success", is_error=False, result="No.", permission_denials=denials)
    lines = [system("init", session_id="s"), answer(use()), used(ok=False), end]
    run = Recording("qwen", b"\n".join([*lines, b""]), b"", 0)
    assert run.judge(run.read()).error_class is ErrorClass.PERMISSION_DENIED


def test_a_tools_result_that_is_too_long_is_typed_by_its_head():
    block = {"type": "tool_result", "tool_use_id": "t1", "is_error": True, "content": 'a \\ " \n \u00e9 ' * 150_000}
    assert heard(cut(content("user", block))) == [ToolCall("", False, "t1")]


KEYS = sorted({*(key for data, _ in LINES.values() for key in json.loads(data)), "usage", "mcp_servers"})
TYPES = sorted({kind for data, _ in LINES.values() if isinstance(kind := json.loads(data)["type"], str)})
SUBTYPES = sorted({str(json.loads(data).get("subtype")) for data, _ in LINES.values()})


@given(st.sampled_from(TYPES), st.sampled_from(SUBTYPES), st.dictionaries(st.sampled_from(KEYS), VALUES))
def test_no_event_raises_whatever_is_in_its_fields(kind, subtype, fields):
    tally = Tally()
    for signal in heard(json.dumps({**fields, "type": kind, "subtype": subtype}).encode()):
        tally.take(signal)
    assert tally.totals


@given(st.lists(st.text() | st.sampled_from(["Retrying in 5s (attempt 1/2): ", "[API Error: ", "429 ", "]"])))
def test_no_line_of_stderr_raises(pieces):
    told("".join(pieces), *pieces)


def run_of(number: int, failing: set[int]) -> Recording:
    """A run of so many commands, of which these fail, with talk of errors on both streams."""
    lines = [system("init", session_id="s")]
    for call in range(number):
        lines += [answer(use(f"t{call}")), used(ok=call not in failing, number=f"t{call}")]
    lines += [answer(text("I fixed the error: it said ERROR 429, FATAL.")), GOOD]
    return Recording("qwen", b"\n".join([*lines, b""]), PROGRESS, 0)


@pytest.mark.parametrize("number", [2, 5, 6, 8])
def test_words_on_stderr_and_in_prose_are_no_errors(number: int):
    run = run_of(number, set())
    assert run.judge(run.read()).reason.value == "succeeded"
    assert set(night(run)) == {CorrectionLevel.NORMAL}


@pytest.mark.parametrize("secs", [20.0, 290.0, 3600.0])
@pytest.mark.parametrize("number", [11, 12, 40])
def test_a_failing_test_that_is_then_mended_is_no_drift(number: int, secs: float):
    assert set(night(run_of(number, {3}), secs)) == {CorrectionLevel.NORMAL}


def test_the_trial_can_end_otherwise():
    assert max(night(run_of(12, {1, 3, 5, 7, 9}))) >= CorrectionLevel.MODERATE
