"""Lines that are only counted, and the words on stderr."""

import pytest
from attrs import astuple
from hypothesis import given
from hypothesis import strategies as st

from darkfactory.model.ends import ErrorClass
from darkfactory.model.fleet import JsonlMap, ToolConfig
from darkfactory.model.signals import ApiCall, BackgroundTask, Basis, Counts, Finished, Stream, ToolCall, Usage
from darkfactory.tools.command import Bash, Command
from darkfactory.tools.reader import Reader
from darkfactory.tools.tally import ANSWER_CHARS, Place, Tally


def read(tool, stdout: bytes = b"", stderr: bytes = b"") -> Tally:
    reader = Reader(tool)
    reader.feed(Stream.STDOUT, stdout)
    reader.feed(Stream.STDERR, stderr)
    reader.finish()
    return reader.tally


@given(st.lists(st.sampled_from([b"a", b"\n", b"bc\n", b"\n\n", b"\r\n", b""])), st.integers(0, 30))
def test_lines_of_a_plain_program_are_counted_however_they_come(pieces, cut_at):
    reader = Reader(Bash())
    cut = min(cut_at, len(pieces))
    for piece in pieces[:cut]:
        reader.feed(Stream.STDOUT, piece)
    before = reader.tally.counts()
    for piece in pieces[cut:]:
        reader.feed(Stream.STDOUT, piece)
    reader.finish()
    text = b"".join(pieces)
    expected = text.count(b"\n") + bool(text and not text.endswith(b"\n"))
    both = zip(astuple(before), astuple(reader.tally.counts()), strict=True)
    assert Counts(*map(sum, both)) == Counts(lines=expected)
    assert reader.tally.counts() == Counts()


def test_a_truncated_stream_forgets_its_unfinished_line():
    reader = Reader(Bash())
    reader.feed(Stream.STDOUT, b"one\nhal")
    reader.truncated(Stream.STDOUT)
    reader.finish()
    assert reader.tally.counts() == Counts(lines=1)


ERRORS = """\
error: no such thing
Error: Cannot find module 'x'
ERROR: could not install
error[E0382]: borrow of moved value: `x`
fatal: not a git repository
git: fatal: not a git repository
FATAL: password authentication failed
panic: runtime error: index out of range
thread 'main' panicked at src/main.rs:2:5:
thread 'codex-main' (44) panicked at /rustc/59807616e1fa/std/src/io/stdio.rs:1165:9:
Traceback (most recent call last):
ValueError: invalid literal for int()
TypeError: x is not a function
Uncaught TypeError: x is not a function
java.lang.NullPointerException: oh
main.c:3:5: error: expected ';'
main.c:3: fatal error: x.h: No such file
make: Error: no
2026-11-23T04:47:11.973383Z ERROR codex_core::session: failed to record
2026-11-23 04:47:11,973 ERROR root - gone
[ERROR] it broke
[2026-11-23 04:47:11] CRITICAL it broke
level=error msg="it broke"
time="2026-11-23T04:47:11Z" level=fatal msg="it broke"
{"level":"error","msg":"it broke"}
""".splitlines()
NO_ERRORS = """\
0 errors, 2 warnings
error rate: 3 %
errors: 0
error: 0
ERROR: 0
no error
Downloading error-chain v0.12 (27 %)
Compiling thiserror v1.0
warning: unused variable
test result: FAILED. 1 passed
I looked for "error: x" in the log
it says ERROR in the middle of a line that goes on for some time after that
handling panics gracefully
[=====>    ] 42% exception-free
npm notice errors are reported to nobody
INFO fatal errors are fatal
{"level":"info","msg":"error: none"}
Traceback: none
""".splitlines()


@pytest.mark.parametrize("line", ERRORS)
def test_a_line_on_stderr_that_tells_of_an_error(line):
    assert read(Bash(), stderr=line.encode() + b"\n").counts() == Counts(lines=1, error_lines=1)
    assert read(Bash(), stdout=line.encode() + b"\n").counts() == Counts(lines=1)


@pytest.mark.parametrize("line", NO_ERRORS)
def test_a_line_on_stderr_that_is_no_error(line):
    assert read(Bash(), stderr=line.encode() + b"\n").counts() == Counts(lines=1)


def test_an_agents_stderr_is_for_people():
    tally = read(Command(ToolConfig(("x",), jsonl=JsonlMap())), stderr=b"error: x\n")
    assert tally.counts() == Counts()
    assert tally.last_words == "error: x"


@pytest.mark.parametrize(
    ("stderr", "words", "line"),
    [
        (b"one\ntwo\n\n \n", "two", 2),
        (b"error: a\nusage: x\n\nmore\n", "error: a", 1),
        (b"error: a\nerror: b\nsee --help", "error: b", 2),
        (b"x" * 10_000, "x" * 199 + "…", 1),
    ],
)
def test_the_last_words_are_the_last_error_or_else_the_last_line(stderr, words, line):
    tally = read(Bash(), stderr=stderr)
    assert (tally.last_words, tally.last_words_at) == (words, Place(Stream.STDERR, line))


def test_patterns_say_what_lines_mean():
    tool = Command(ToolConfig(("x",), success="^all done", error="^E ", throttle="429|slow down"))
    assert (tool.reports, tool.announces, tool.speaks, tool.plain) == (True, False, True, True)
    tally = read(tool, b"hello\nall done: 7\n")
    assert tally.finished == Finished(True, "all done: 7", answer="all done: 7")
    assert tally.finished_at == Place(Stream.STDOUT, 2)
    assert tally.counts().lines == 2
    tally = read(tool, b"E one\n", b"please slow down\n")
    assert (tally.error.text, str(tally.error_at)) == ("E one", "stdout:1")
    assert tally.waiting is not None
    assert read(tool, b"E one\nall done\n").error is None


def test_a_program_with_error_lines_of_its_own_kind():
    tally = read(Command(ToolConfig(("x",), error="^E ")), b"E one\nerror: no\n", b"E two\nerror: yes\n")
    assert tally.counts() == Counts(lines=4, error_lines=3)


MAP = JsonlMap(
    type=("type", "role"),
    started=("init",),
    said=("message/assistant",),
    tool_call=("tool_use", "tool_result"),
    api_call=("step",),
    finished=("result",),
    failed=("error",),
    text=("content", "error.message"),
    ok="status",
    tool_name="tool_name",
    tool_id="tool_id",
    input_tokens="stats.in",
    output_tokens="stats.out",
    cost_usd="stats.cost",
)
EVENTS = b"""\
{"type":"init","session_id":"s1","model":"m"}
{"type":"message","role":"user","content":"say that you have failed"}
{"type":"step","stats":{"in":10,"out":2,"cost":0.5}}
{"type":"message","role":"assistant","content":"I look."}
{"type":"tool_use","tool_name":"shell","tool_id":7}
{"type":"tool_result","tool_id":7,"status":"error"}
{"type":"tool_use","tool_name":"shell","tool_id":"b"}
{"type":"tool_result","tool_id":"b","status":"success"}
{"type":"step","stats":{"in":5}}
{"type":"result","status":"success","content":"done"}
"""


def test_a_map_says_what_events_mean():
    tool = Command(ToolConfig(("x",), jsonl=MAP))
    assert (tool.reports, tool.announces, tool.speaks, tool.plain) == (True, True, True, False)
    tally = read(tool, EVENTS)
    totals = tally.totals
    assert (totals.session, totals.api_calls, totals.tool_calls, totals.tool_failures) == ("s1", 2, 2, 1)
    assert (totals.input_tokens, totals.output_tokens, totals.cost_usd) == (15, 2, 0.5)
    assert totals.unknown_events == 1  # what the user said is declared as nothing
    assert tally.said == "I look."
    assert tally.finished == Finished(True, "done", answer="done")
    assert tally.counts() == Counts(tool_calls=2, tool_failures=1, api_calls=2, finishes=1)


def test_estimated_calls_are_marked_and_no_drift_is_judged_by_them():
    tally = Tally()
    tally.take(ApiCall())
    assert not tally.totals.api_calls_estimated
    tally.take(ApiCall(2, exact=False))
    tally.take(ApiCall())
    assert (tally.totals.api_calls, tally.totals.api_calls_estimated) == (4, True)
    assert tally.counts() == Counts(api_calls=2)


@pytest.mark.parametrize(
    ("event", "finished"),
    [
        (b'{"type":"result"}', Finished(True)),
        (b'{"type":"result","status":"odd","content":"x"}', Finished(False, "x")),
        (b'{"type":"result","status":true}', Finished(True)),
        (b'{"type":"error","status":"success","content":"x"}', Finished(False, "x")),
        (b'{"type":"result","status":{"a":1}}', Finished(False)),
        (b'{"type":"results"}', None),
        (b'{"kind":"result"}', None),
        (b"result", None),
    ],
)
def test_an_end_by_the_map(event, finished):
    assert read(Command(ToolConfig(("x",), jsonl=MAP)), event).finished == finished


def test_pieces_of_what_is_said_are_put_together():
    tool = Command(ToolConfig(("x",), jsonl=JsonlMap(said_pieces=("delta",), tool_call=("tool",), finished=("end",))))
    reader = Reader(tool)
    for piece in (b'{"type":"delta","text":"I "}', b'{"type":"odd"}', b'{"type":"delta","text":"see."}'):
        reader.feed(Stream.STDOUT, piece + b"\n")
        assert reader.tally.said == ""
    reader.feed(Stream.STDOUT, b'{"type":"tool","ok":true}\n')
    assert reader.tally.said == "I see."
    reader.feed(Stream.STDOUT, b'{"type":"delta","text":"Done."}\n{"type":"end"}\n')
    assert reader.tally.answer == "Done."
    for _ in range(100):
        reader.feed(Stream.STDOUT, b'{"type":"delta","text":"' + b"x" * 10_000 + b'"}\n')
    assert len(reader._memory.jsonl._partial) == 64 * 1024


def test_the_words_of_an_end_may_be_in_several_places():
    tally = read(Command(ToolConfig(("x",), jsonl=MAP)), b'{"type":"error","error":{"message":"status 429"}}')
    assert tally.finished == Finished(False, "status 429", ErrorClass.THROTTLED)


def test_nothing_declared_is_a_plain_program():
    tool = Command(ToolConfig(("x",)))
    assert (tool.reports, tool.announces, tool.speaks, tool.plain) == (False, False, False, True)


def test_a_resumed_session_is_charged_with_what_came_since():
    tally = Tally({"s": Usage(100, 10, 1.0)})
    from darkfactory.model.signals import Started

    tally.take(Started("s"))
    tally.take(Usage(150, 12, 1.5, Basis.SESSION))
    tally.take(Usage(160, 13, None, Basis.SESSION))
    assert (tally.input_tokens, tally.output_tokens) == (60, 3)
    assert tally.session_usage == Usage(160, 13, None, Basis.SESSION)
    other = Tally({"s": Usage(100, 10)})
    other.take(Started("t"))
    other.take(Usage(150, 12, basis=Basis.SESSION))
    assert (other.input_tokens, other.output_tokens) == (150, 12)


def test_what_a_tally_keeps_has_a_bound():
    tally = Tally()
    for number in range(10_000):
        tally.take(ToolCall("Bash", None, f"t{number}"))
        tally.take(BackgroundTask(True, f"t{number}"))
    assert tally.tool_calls == 10_000
    assert len(tally._open) == len(tally.background) == 256
    from darkfactory.model.signals import Said

    tally.take(Said("x" * 1_000_000))
    assert len(tally.answer) == ANSWER_CHARS


def test_a_call_is_counted_once_and_failures_when_it_ends():
    tally = Tally()
    for call in (ToolCall("a", None, "1"), ToolCall("a", None, "1"), ToolCall("", False, "1"), ToolCall("b", True)):
        tally.take(call)
    assert (tally.tool_calls, tally.tool_failures) == (2, 1)
    assert tally.counts() == Counts(tool_calls=2, tool_failures=1)
