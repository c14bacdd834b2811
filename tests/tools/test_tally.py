"""What a tool waits for, and until when it said that it would."""

from datetime import UTC, datetime

import pytest

from darkfactory.model.ends import ErrorClass as E
from darkfactory.model.signals import (
    ApiCall,
    BackgroundTask,
    Denied,
    Error,
    Finished,
    Retry,
    Said,
    Started,
    Stream,
    Throttled,
    ToolCall,
    Unknown,
    Usage,
    Waiting,
    Warning,  # noqa: A004
)
from darkfactory.tools import BUILTIN
from darkfactory.tools.reader import Reader
from darkfactory.tools.tally import Tally

LATER = datetime(2026, 11, 24, 2, tzinfo=UTC)


def waiting_after(*signals):
    tally = Tally()
    for signal in signals:
        tally.take(signal)
    assert tally.excused is (tally.waiting is not None)
    return tally.waiting


@pytest.mark.parametrize(
    ("signal", "waiting"),
    [
        (Retry("overloaded (529)", 2, 4.5, E.PROVIDER_DOWN), Waiting(E.PROVIDER_DOWN, None, 4.5, "overloaded (529)")),
        (Retry(), Waiting(None, None, None, "")),
        (Throttled(LATER, "five_hour"), Waiting(E.QUOTA, LATER, None, "five_hour")),
        (Throttled(None, "slow down"), Waiting(E.THROTTLED, None, None, "slow down")),
    ],
)
def test_a_tool_that_waits_says_what_for(signal, waiting):
    assert waiting_after(signal) == waiting
    assert waiting_after(Throttled(LATER), Retry(error=E.NETWORK), signal) == waiting


@pytest.mark.parametrize(
    "signal",
    [
        Said("on we go"),
        ApiCall(),
        ToolCall("Bash", None, "1"),
        ToolCall("Bash", True, "1"),
        Finished(True),
        Finished(False),
    ],
    ids=str,
)
def test_whoever_gets_on_waits_no_more(signal):
    tally = Tally()
    for one in (Throttled(LATER), signal):
        tally.take(one)
    assert tally.waiting is None


@pytest.mark.parametrize(
    "signal",
    [
        Error("boom"),
        ApiCall(0),
        ApiCall(3, exact=False),
        Started(),
        Usage(1),
        Warning("hm"),
        Denied("Bash"),
        Unknown(),
        BackgroundTask(True, "t"),
    ],
    ids=str,
)
def test_what_else_it_says_is_no_progress(signal):
    assert waiting_after(Throttled(LATER), signal) == Waiting(E.QUOTA, LATER, None, "")


def test_an_end_leaves_the_words_of_the_last_wait_to_be_read():
    tally = Tally()
    tally.take(Retry("try again in 20s", error=E.THROTTLED))
    tally.take(Finished(False))
    assert tally.waited == Waiting(E.THROTTLED, None, None, "try again in 20s")
    tally.take(Said("on we go"))
    assert tally.waited is None


def after_each_line(recording, tool):
    reader = Reader(BUILTIN[tool](tool))
    for line in recording.stdout.splitlines(keepends=True):
        reader.feed(Stream.STDOUT, line)
        yield reader.tally.waiting


def test_claude_tells_how_long_it_waits_until_it_ends(recording):
    first, *waits, answer, last = after_each_line(recording("claude", "ratelimit60"), "claude")
    assert first is last is None
    assert {(wait.error, wait.until, wait.detail) for wait in (*waits, answer)} == {
        (E.THROTTLED, None, "rate_limit (429)")
    }
    # it says it again every 30 s while it waits
    assert [wait.delay_secs for wait in waits[:5]] == [71.7, 41.7, 11.7, 61.906, 31.906]


def test_codex_waits_for_the_network_and_does_not_know_how_long(recording):
    waits = list(after_each_line(recording("codex", "noserver"), "codex"))
    told = "waiting for network (Connection failed: error sending request)"
    assert waits[:2] == [None, None]
    assert set(waits[2:]) == {Waiting(E.NETWORK, None, None, told)}


def test_a_provider_that_gives_in_is_waited_for_no_more(recording):
    for tool in ("claude", "codex"):
        waits = list(after_each_line(recording(tool, "ratelimit_ok"), tool))
        assert any(waits[:-1]), tool
        assert waits[-1] is None, tool
