"""Gemini CLI: its command line, what its lines say, and what Nightwatch makes of it.

What its recorded runs amount to is in test_recordings.py.
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
from darkfactory.tools.gemini import Gemini, GeminiMemory
from darkfactory.tools.tally import Tally

from .conftest import Recording
from .test_adapters import VALUES, argv, cut, line
from .test_fair_trial import PROGRESS, night

CALL = ApiCall(exact=False)


def heard(*lines: bytes, stream: Stream = Stream.STDOUT, memory: GeminiMemory | None = None):
    """What these lines of one run say."""
    memory = memory or GeminiMemory()
    return [signal for data in lines for signal in Gemini().signals(stream, data, memory)]


def told(*lines: str):
    """What these lines of stderr say."""
    return heard(*(text.encode() for text in lines), stream=Stream.STDERR)


def piece(text: str) -> bytes:
    return line(type="message", role="assistant", content=text, delta=True)


def result(status: str, **more: object) -> bytes:
    return line(type="result", status=status, **more)


def api_error(code: int, message: str) -> str:
    return f"[API Error: {json.dumps({'error': {'code': code, 'message': message, 'status': 'X'}})}]"


def test_its_task_is_on_stdin_and_its_args_come_last():
    words = argv("gemini", model="big", resume="0f014aff", args=("--policy", "rules.toml"))
    assert Gemini.prompt is PromptVia.STDIN
    assert " ".join(words) == (
        "gemini --output-format stream-json --approval-mode yolo --skip-trust"
        " --model big --resume 0f014aff --policy rules.toml"
    )


def test_it_may_run_commands_unless_it_is_told_otherwise():
    assert argv("gemini") == argv("gemini", permissions=Permissions.FULL_ACCESS)
    modes = {each.value: argv("gemini", permissions=each) for each in Permissions}
    assert {each: words[words.index("--approval-mode") + 1] for each, words in modes.items()} == {
        "read-only": "default",
        "workspace-write": "auto_edit",
        "full-access": "yolo",
    }


LINES = {
    "a start": (line(type="init", session_id="s1"), [Started("s1"), ApiCall(0, exact=False)]),
    "a start without an id": (line(type="init", session_id=7), [Started(), ApiCall(0, exact=False)]),
    "the task": (line(type="message", role="user", content="error"), []),
    "a message of nobody": (line(type="message", role=None, content="x"), [Unknown()]),
    "a piece of an answer": (piece("I "), [CALL]),
    "a call begins": (
        line(type="tool_use", tool_name="run_shell_command", tool_id="t1"),
        [CALL, ToolCall("run_shell_command", None, "t1")],
    ),
    "a call ends": (line(type="tool_result", tool_id="t1", status="success"), [ToolCall("", True, "t1")]),
    "a call fails": (
        line(type="tool_result", tool_id="t1", status="error", error={"type": "invalid_tool_params"}),
        [ToolCall("", False, "t1")],
    ),
    "a call is not allowed": (
        line(type="tool_result", tool_id="t1", status="error", error={"type": "policy_violation"}),
        [ToolCall("", False, "t1"), Denied()],
    ),
    "a call that the machine did not allow": (
        line(type="tool_result", tool_id="t1", status="error", error={"type": "permission_denied"}),
        [ToolCall("", False, "t1")],
    ),
    "a call ends, and no word of errors": (line(type="tool_result", tool_id="t1"), [ToolCall("", True, "t1")]),
    "a loop": (
        line(type="error", severity="warning", message="Loop detected, stopping execution"),
        [Warning("Loop detected, stopping execution")],
    ),
    "an error": (
        line(type="error", severity="error", message="Model stream ended without a finish reason."),
        [Error("Model stream ended without a finish reason.", ErrorClass.NETWORK)],
    ),
    "a refusal": (
        line(type="error", severity="error", message="The model response was blocked due to safety settings."),
        [Error("The model response was blocked due to safety settings.", ErrorClass.REFUSED)],
    ),
    "an error that is not known": (line(type="error", message="odd"), [Error("odd", None)]),
    "success": (
        result("success", stats={"input_tokens": 7, "output_tokens": 2}),
        [Usage(7, 2), Finished(True)],
    ),
    "a failure of its provider": (
        result("error", error={"type": "unknown", "message": api_error(503, "Down.")}),
        [Usage(), Finished(False, "Down.", ErrorClass.PROVIDER_DOWN)],
    ),
    "a failure in two layers of its provider's words": (
        result(
            "error", error={"message": api_error(429, json.dumps({"error": {"code": 403, "message": "No billing."}}))}
        ),
        [Usage(), Finished(False, "No billing.", ErrorClass.BILLING)],
    ),
    "a wrong key, which is a bad request to its provider": (
        result("error", error={"message": api_error(400, "API key not valid. Please pass a valid API key.")}),
        [Usage(), Finished(False, "API key not valid. Please pass a valid API key.", ErrorClass.AUTH)],
    ),
    "a key that may not do this": (
        result("error", error={"message": api_error(403, "The caller does not have permission")}),
        [Usage(), Finished(False, "The caller does not have permission", ErrorClass.AUTH)],
    ),
    "no such model": (
        result("error", error={"message": "[API Error: models/x is not found for API version v1beta]"}),
        [Usage(), Finished(False, "models/x is not found for API version v1beta", ErrorClass.MODEL_NOT_FOUND)],
    ),
    "a limit for a minute, with advice on money": (
        result(
            "error", error={"message": "[API Error: You exceeded your current quota, see your billing details.]\nB"}
        ),
        [Usage(), Finished(False, "You exceeded your current quota, see your billing details.", ErrorClass.THROTTLED)],
    ),
    "a limit for a day, in its provider's words": (
        result(
            "error", error={"message": api_error(429, "You exceeded your current quota.\nQuota exceeded: XPerDay.")}
        ),
        [Usage(), Finished(False, "You exceeded your current quota. Quota exceeded: XPerDay.", ErrorClass.QUOTA)],
    ),
    "a limit for a day": (
        result("error", error={"message": "[API Error: You have exhausted your daily quota on this model.]"}),
        [Usage(), Finished(False, "You have exhausted your daily quota on this model.", ErrorClass.QUOTA)],
    ),
    "too many turns": (
        result("error", error={"type": "FatalTurnLimitedError", "message": "Reached max session turns."}),
        [Usage(), Finished(False, "Reached max session turns.", ErrorClass.MAX_TURNS)],
    ),
    "a failure without a word": (result("error"), [Usage(), Finished(False)]),
    "an end that is not said": (
        line(type="result"),
        [Usage(), Finished(False, "its result was cut", ErrorClass.TRUNCATED)],
    ),
    "an event that is not known": (line(type="surprise"), [Unknown()]),
    "a type that is no word": (line(type=["init"]), [Unknown()]),
}


@pytest.mark.parametrize(("data", "said"), LINES.values(), ids=LINES)
def test_what_a_line_says(data, said):
    assert heard(data) == said
    assert heard(data, stream=Stream.STDERR) == []


def test_pieces_are_said_when_something_else_comes():
    pieces = [piece("I "), piece("see.")]
    call = line(type="tool_use", tool_name="x", tool_id="t")
    assert heard(*pieces) == [CALL]
    assert heard(*pieces, call) == [CALL, Said("I see."), ToolCall("x", None, "t")]
    assert heard(*pieces, result("success")) == [
        *(CALL, Said("I see."), Usage()),
        Finished(True, "I see.", answer="I see."),
    ]


def test_what_was_said_before_its_last_tool_is_no_answer():
    call = [line(type="tool_use", tool_name="x", tool_id="t"), line(type="tool_result", tool_id="t", status="success")]
    assert heard(piece("I see."), *call, result("success"))[-1] == Finished(True)


def test_an_answer_is_one_call_however_many_events_it_takes():
    calls = [line(type="tool_use", tool_name="x", tool_id=number) for number in "ab"]
    ends = [line(type="tool_result", tool_id=number, status="success") for number in "ab"]
    assert heard(piece("I"), piece("see"), *calls, *ends).count(CALL) == 1
    assert heard(*calls, *ends, *calls, *ends, piece("Done")).count(CALL) == 3


def test_the_cause_of_a_bare_failure_is_the_error_before_it():
    error = line(type="error", severity="error", message="The model response was blocked.")
    end = Finished(False, "The model response was blocked.", ErrorClass.REFUSED)
    assert heard(error, result("error"))[-1] == end
    assert heard(error, line(type="init"), result("error"))[-1] == Finished(False)


QUOTA = "You exceeded your current quota. Please retry in 2s."


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            [f"Attempt 1 failed: {QUOTA}", "Suggested retry after 2s.. Retrying after 5507ms..."],
            [Retry(f"{QUOTA} Suggested retry after 2s.", 1, 5.507, ErrorClass.THROTTLED)],
        ),
        (
            [f"Attempt 2 failed: {QUOTA}. Retrying after 5000ms...", "at once"],
            [Retry(QUOTA, 2, 5.0, ErrorClass.THROTTLED)],
        ),
        (
            ['Attempt 3 failed with status 500. Retrying with backoff... _ApiError: {"error":{"message":"Oh."}}'],
            [Retry("Oh.", 3, None, ErrorClass.PROVIDER_DOWN)],
        ),
        (
            ["Attempt 4 failed with 429 error (no Retry-After header). Retrying with backoff... Error: 429"],
            [Retry("with 429 error (no Retry-After header)", 4, None, ErrorClass.THROTTLED)],
        ),
        (
            ["Attempt 5 failed. Retrying with backoff... Error: exception TypeError: fetch failed sending request"],
            [Retry("Error: exception TypeError: fetch failed sending request", 5, None, ErrorClass.NETWORK)],
        ),
        (
            ["Attempt 6 failed. Retrying with backoff... [object Object]"],
            [Retry("[object Object]", 6, None, ErrorClass.NETWORK)],
        ),
        (
            [f"Attempt 10 failed: {QUOTA}", "Suggested retry after 2s.. Max attempts reached", "Retrying after 9ms..."],
            [],
        ),
        (["Attempt x failed: no. Retrying after 9ms..."], []),
        (["Retrying after 9ms..."], []),
        (["Attempt 1 failed: no", *["x" * 900] * 9, "Retrying after 9ms..."], []),
        (
            ["Attempt 1 failed: no", "Attempt 2 failed: 503. Retrying after 9ms..."],
            [Retry("503", 2, 0.009, ErrorClass.NETWORK)],
        ),
        (
            ["Unknown arguments: such-flag, suchFlag", "Usage: gemini [options] [command]"],
            [Error("Unknown arguments: such-flag, suchFlag", ErrorClass.CONFIG)],
        ),
        (["YOLO mode is enabled. All tool calls will be automatically approved."], []),
    ],
)
def test_what_stderr_tells_of_attempts_and_complaints(lines, said):
    assert told(*lines) == said


def test_what_a_run_leaves_to_be_remembered_has_a_bound():
    memory = GeminiMemory()
    heard(*[piece("x" * 999)] * 1000, memory=memory)
    heard(b"Attempt 1 failed: no", *[b"x" * 999] * 1000, stream=Stream.STDERR, memory=memory)
    assert len(memory.partial) == 64 * 1024
    assert len(memory.notice) <= 4000


def test_a_tools_result_that_is_too_long_is_typed_by_its_head():
    huge = 'a \\ " \n \u00e9 ' * 150_000
    ok = line(type="tool_result", timestamp="t", tool_id="t1", status="success", output=huge)
    bad = line(type="tool_result", timestamp="t", tool_id="t1", status="error", output=huge, error={})
    assert heard(cut(ok)) == [ToolCall("", True, "t1")]
    assert heard(cut(bad)) == [ToolCall("", False, "t1")]


KEYS = sorted({key for data, _ in LINES.values() for key in json.loads(data)})
TYPES = sorted({kind for data, _ in LINES.values() if isinstance(kind := json.loads(data)["type"], str)})


@given(st.sampled_from(TYPES), st.dictionaries(st.sampled_from(KEYS), VALUES))
def test_no_event_raises_whatever_is_in_its_fields(kind, fields):
    tally = Tally()
    for signal in heard(json.dumps({**fields, "type": kind}).encode()):
        tally.take(signal)
    assert tally.totals


@given(st.lists(st.text() | st.sampled_from(["Attempt 1 failed: ", " Retrying after 5ms...", api_error(500, "x")])))
def test_no_line_of_stderr_raises(pieces):
    told("".join(pieces), *pieces)


def run_of(number: int, failing: set[int]) -> Recording:
    """A run of so many calls, of which these could not be made, with talk of errors on both streams."""
    lines = [line(type="init", session_id="s")]
    for call in range(number):
        lines.append(line(type="tool_use", tool_name="run_shell_command", tool_id=f"t{call}"))
        status = "error" if call in failing else "success"
        lines.append(line(type="tool_result", tool_id=f"t{call}", status=status, output="fatal: 3 tests failed, 429"))
    lines += [piece("I fixed the error: "), piece("it said ERROR 429, FATAL."), result("success")]
    return Recording("gemini", b"\n".join([*lines, b""]), PROGRESS, 0)


@pytest.mark.parametrize("number", [2, 5, 6, 8])
def test_words_on_stderr_and_in_prose_are_no_errors(number: int):
    run = run_of(number, set())
    assert run.judge(run.read()).reason.value == "succeeded"
    assert set(night(run)) == {CorrectionLevel.NORMAL}


def test_calls_that_cannot_be_made_are_drift_as_commands_that_fail_would_be_if_it_told_of_them():
    assert set(night(run_of(12, {3}))) == {CorrectionLevel.NORMAL}
    assert max(night(run_of(12, {1, 3, 5, 7, 9}))) >= CorrectionLevel.MODERATE


def test_a_night_of_commands_that_fail_is_not_seen_since_it_says_success_of_each(recording):
    run = recording("gemini", "toolerr")
    assert run.stdout.count(b'"status":"success"') == 5 + 1
    assert run.read().counts().tool_failures == 0


@pytest.mark.parametrize("status", range(400, 600))
def test_an_exit_code_that_stands_for_a_status_is_never_taken_for_a_signal(status: int):
    dead = Recording("gemini", b"", b"", status % 256)
    assert dead.judge(dead.read()).error_class is not ErrorClass.KILLED
