"""What every adapter promises of any output: no exception, at most one terminal event that stands, the same tally
however the bytes are cut."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import pairwise
from typing import NoReturn

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from darkfactory.model.fleet import JsonlMap, ToolConfig
from darkfactory.model.signals import Finished, Started, Stream
from darkfactory.tools import BUILTIN
from darkfactory.tools.command import Command
from darkfactory.tools.lines import MAX_LINE_BYTES, LineSplitter
from darkfactory.tools.reader import Reader
from darkfactory.tools.verdict import Evidence, judge

NOW = datetime(2026, 11, 23, 3, 53, 20, tzinfo=UTC)
MAPPED = JsonlMap(
    type=("type", "subtype"),
    started=("system/init",),
    said=("assistant",),
    tool_call=("user",),
    finished=("result/success",),
    text=("result",),
    ok="is_error",
    ok_values=("false",),
    session="session_id",
    input_tokens="usage.input_tokens",
)
REAL = ("claude", "codex", "gemini", "opencode", "pi", "qwen")
RETRIES_ON_STDERR = ("gemini", "qwen")
"""These say that they try again on the one stream, and answer on the other."""
TOOLS = {
    **{name: make(name) for name, make in BUILTIN.items()},
    "patterns": Command(ToolConfig(("x",), success="completed|done", error="error|failed", throttle="429")),
    "mapped": Command(ToolConfig(("x",), jsonl=MAPPED)),
}


def verdict_on(reader: Reader, exit_code: int = 1):
    tally = reader.tally
    return judge(
        Evidence(
            tally=tally,
            finished=tally.finished,
            now=NOW,
            zone=lambda: UTC,
            exit_code=exit_code,
            output_bytes=1,
            reports=reader.tool.reports,
            exit_classes=reader.tool.exit_classes,
        )
    )


@pytest.mark.parametrize("name", TOOLS)
def test_after_every_line_of_every_transcript_there_is_one_verdict_at_most(name, recordings):
    for recording in recordings.values():
        reader = Reader(TOOLS[name])
        reader.feed(Stream.STDERR, recording.stderr)
        for line in recording.stdout.splitlines(keepends=True):
            reader.feed(Stream.STDOUT, line)
            assert verdict_on(reader).decided_by


@pytest.mark.parametrize("name", ["claude", "codex", "demo", "gemini", "mapped", "opencode", "pi", "qwen"])
def test_no_line_raises_wherever_it_is_torn(name, recordings):
    tool, seen = TOOLS[name], set()
    for recording in recordings.values():
        for line in recording.stdout.splitlines():
            if line[:300] not in seen:  # most transcripts begin and end alike
                seen.add(line[:300])
                for end in range(1, len(line), 11):
                    tool.signals(Stream.STDOUT, line[:end], tool.memory())


@given(st.data())
def test_a_transcript_cut_at_any_byte_has_a_verdict(recordings, data):
    (tool, _), recording = data.draw(st.sampled_from(list(recordings.items())))
    reader = Reader(TOOLS[tool])
    reader.feed(Stream.STDOUT, recording.stdout[: data.draw(st.integers(0, len(recording.stdout)))])
    reader.finish()
    ends = verdict_on(reader)
    assert ends.decided_by
    if ends.reason.value == "succeeded":
        assert reader.tally.finished is not None


@contextmanager
def within(secs: float) -> Iterator[None]:
    """Raise in the midst of whatever takes longer, be it a regular expression."""

    def give_up(*_: object) -> NoReturn:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, secs)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


REPEATED = (
    "[API Error: ",
    "input token count ",
    "models/",
    "model ",
    '{"error":',
    "status ",
    "resets ",
    "try again at 1 ",
)


@pytest.mark.parametrize("words", REPEATED)
@pytest.mark.parametrize("name", TOOLS)
def test_no_line_holds_the_reader_up_however_it_is_made(name, words):
    """Milliseconds each; what searches such a message again from each of its words takes minutes."""
    message = (words * MAX_LINE_BYTES)[: MAX_LINE_BYTES // 2]
    events = (
        {"type": "error", "message": message},
        {"type": "result", "is_error": True, "status": "error", "error": {"message": message}, "result": message},
        {"type": "turn.failed", "error": {"message": message}},
        {"type": "assistant", "message": {"content": [{"type": "text", "text": f"{message}]"}]}},
    )
    reader = Reader(TOOLS[name])
    with within(20):
        for event in events:
            reader.feed(Stream.STDOUT, json.dumps(event).encode() + b"\n")
        for before in (b"Attempt 1 failed ", b"Retrying in ", b"error: "):
            reader.feed(Stream.STDERR, before + message.encode() + b"\n")
    assert verdict_on(reader).decided_by


@pytest.mark.parametrize("name", TOOLS)
@given(stdout=st.lists(st.binary() | st.sampled_from([b"\n", b"{}\n", b'{"type":', b'"x"}\n'])), stderr=st.binary())
def test_random_bytes_raise_nothing(name, stdout, stderr):
    reader = Reader(TOOLS[name])
    reader.feed(Stream.STDERR, stderr)
    for data in stdout:
        reader.feed(Stream.STDOUT, data)
    reader.finish()
    assert verdict_on(reader).decided_by


def cuts(data: bytes, places: list[int]) -> list[bytes]:
    ends = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(ends)]


@given(st.data())
def test_however_the_bytes_come_the_tally_is_the_same(recordings, data):
    recording = data.draw(st.sampled_from(list(recordings.values())))
    tool = TOOLS[data.draw(st.sampled_from([recording.tool, "bash", "mapped"]))]
    places = st.lists(st.integers(0, 1_000_000), max_size=20)
    pieces = [
        *((Stream.STDOUT, piece) for piece in cuts(recording.stdout, data.draw(places))),
        *((Stream.STDERR, piece) for piece in cuts(recording.stderr, data.draw(places))),
    ]
    turns = data.draw(st.permutations(range(len(pieces))))
    queues = {stream: [piece for whose, piece in pieces if whose is stream] for stream in Stream}
    order = [pieces[turn][0] for turn in turns]
    reader, whole = Reader(tool), Reader(tool)
    for stream in order:
        reader.feed(stream, queues[stream].pop(0))
    for stream, output in ((Stream.STDOUT, recording.stdout), (Stream.STDERR, recording.stderr)):
        whole.feed(stream, output)
    reader.finish()
    whole.finish()
    if tool in map(TOOLS.get, RETRIES_ON_STDERR):  # whether that came before its answer, the streams do not tell
        for tally in (reader.tally, whole.tally):
            tally.waiting = tally.waited = None
    assert reader.tally == whole.tally


NOISE = [b"", b"plain words", b'{"type": "torn', b'{"type":"of tomorrow"}', b"[]", b"\xff\xfe", b"9" * 5000]


@given(st.data())
def test_lines_that_are_no_events_between_the_others_are_counted_and_change_nothing(recordings, data):
    recording = data.draw(st.sampled_from([one for one in recordings.values() if one.stdout.startswith(b"{")]))
    lines = recording.stdout.splitlines()
    noise = data.draw(st.lists(st.tuples(st.integers(0, len(lines)), st.sampled_from(NOISE)), max_size=6))
    for index, junk in sorted(noise, key=lambda entry: -entry[0]):
        lines.insert(index, junk)
    clean = recording.read()
    noisy = recording.read(
        [(Stream.STDOUT, b"".join(line + b"\n" for line in lines)), (Stream.STDERR, recording.stderr)]
    )
    assert noisy.unknown == clean.unknown + sum(bool(junk) for _, junk in noise)
    assert evolve(noisy.totals, unknown_events=clean.unknown) == clean.totals
    assert (noisy.finished, noisy.error, noisy.answer) == (clean.finished, clean.error, clean.answer)


@pytest.mark.parametrize("name", TOOLS)
def test_a_line_of_twenty_megabytes_in_the_middle_costs_nothing(name, recording):
    tool = name if name in REAL else "claude"
    transcript = recording(tool, "tool").stdout
    first, rest = transcript.split(b"\n", 1)
    reader = Reader(TOOLS[name])
    reader.feed(Stream.STDOUT, first + b"\n")
    for _ in range(320):
        reader.feed(Stream.STDOUT, b"x" * 65536)
    reader.feed(Stream.STDOUT, b"\n" + rest)
    reader.finish()
    if name in REAL:
        assert (reader.tally.unknown, reader.tally.totals.tool_calls) == (1, 1)
        assert verdict_on(reader, 0).reason.value == "succeeded"


@pytest.mark.parametrize("tool", REAL)
def test_every_event_may_be_too_long(tool, recordings):
    """Each line of every transcript, made longer than the limit by a last field, is typed by its head as before."""
    for (name, case), recording in recordings.items():
        if name != tool or not recording.stdout.startswith(b"{"):
            continue
        splitter, adapter = LineSplitter(), TOOLS[tool]
        heads, whole = adapter.memory(), adapter.memory()
        for line in recording.stdout.splitlines():
            if len(line) > 3500:
                continue  # the head itself would be cut in the middle of what was recorded
            (head,) = splitter.feed(line[:-1] + b', "more": "' + b"x" * MAX_LINE_BYTES + b'"}\n')
            cut = adapter.signals(Stream.STDOUT, head, heads)
            assert cut == adapter.signals(Stream.STDOUT, line, whole), case


@settings(max_examples=30)
@given(st.lists(st.sampled_from(["start", "good", "bad"]), max_size=8))
def test_the_last_terminal_event_counts_and_a_later_start_takes_it_back(events):
    reader = Reader(TOOLS["demo"])
    lines = {
        "start": b'{"type":"started","session":"s"}\n',
        "good": b'{"type":"result","ok":true,"text":"done"}\n',
        "bad": b'{"type":"result","ok":false,"text":"no"}\n',
    }
    for event in events:
        reader.feed(Stream.STDOUT, lines[event])
    finished = reader.tally.finished
    if not events or events[-1] == "start":
        assert finished is None
    else:
        assert isinstance(finished, Finished)
        assert finished.ok is (events[-1] == "good")
    assert Started in {type(s) for s in TOOLS["demo"].signals(Stream.STDOUT, lines["start"], None)}
