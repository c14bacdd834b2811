import signal
from datetime import UTC, datetime
from types import MappingProxyType
from zoneinfo import ZoneInfo

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from darkfactory.model.ends import CLASSES, Blame, Reason, Verdict
from darkfactory.model.ends import ErrorClass as E
from darkfactory.model.signals import (
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
)
from darkfactory.tools.tally import Place, Tally
from darkfactory.tools.text import MAX_DETAIL
from darkfactory.tools.verdict import Evidence, judge

NOW = datetime(2026, 11, 23, 3, 53, 20, tzinfo=UTC)
LATER = datetime(2026, 11, 24, 2, tzinfo=UTC)
TOKYO = ZoneInfo("Asia/Tokyo")
OK = Finished(ok=True, detail="all done")
BAD = Finished(ok=False, detail="no key")


def seen(
    *,
    finished=None,
    exit_code=0,
    stopped=None,
    stop_detail="",
    lingered=False,
    output_bytes=9,
    reports=True,
    signals=(),
    said="hm",
    words="",
    exit_classes=MappingProxyType({}),
) -> Evidence:
    tally = Tally()
    for number, signal_ in enumerate((Said(said), *signals, *([finished] if finished is not None else [])), 1):
        tally.take(signal_, Place(Stream.STDOUT, number))
    if words:
        tally.words(words, Place(Stream.STDERR, 7), tells=True)
    return Evidence(
        tally=tally,
        now=NOW,
        zone=lambda: UTC,
        finished=finished,
        exit_code=exit_code,
        stopped=stopped,
        stop_detail=stop_detail,
        lingered=lingered,
        output_bytes=output_bytes,
        reports=reports,
        exit_classes=exit_classes,
    )


def bad(error, detail="", by="", **more) -> Verdict:
    """What the table makes of that class."""
    meaning = CLASSES[error]
    return Verdict(meaning.reason, detail, error, meaning.retryable, decided_by=by, **more)


def stop(reason, error, detail="") -> Verdict:
    return Verdict(reason, detail, error, CLASSES[error].retryable, decided_by="the stop")


SUCCEEDED = Verdict(Reason.SUCCEEDED, "all done", decided_by="stdout:2")
FAILED_CALL = (ToolCall("Bash", None, "t"), ToolCall("", False, "t"))
MATRIX = {
    # It said how it ended.
    "said ok, exited 0": (seen(finished=OK), SUCCEEDED),
    "said not ok, exited 0": (seen(finished=BAD), bad(E.UNKNOWN, "no key", "stdout:2")),
    "said not ok, exited 1": (seen(finished=BAD, exit_code=1), bad(E.UNKNOWN, "no key", "stdout:2")),
    "said not ok, without a word why": (
        seen(finished=Finished(ok=False), exit_code=1),
        bad(E.UNKNOWN, "said that it failed", "stdout:2"),
    ),
    "said not ok, and the kind of it": (
        seen(finished=evolve(BAD, error=E.AUTH), exit_code=1),
        bad(E.AUTH, "no key", "stdout:2"),
    ),
    "said not ok, after it had told what was wrong": (
        seen(signals=[Error("no key", E.AUTH)], finished=BAD, exit_code=1),
        bad(E.AUTH, "no key", "stdout:3"),
    ),
    "said not ok, and knows better whether that can be cured": (
        seen(finished=evolve(BAD, error=E.AUTH, retryable=True), exit_code=1),
        evolve(bad(E.AUTH, "no key", "stdout:2"), retryable=True),
    ),
    "said that a limit was met, and until when": (
        seen(finished=evolve(BAD, error=E.QUOTA, resets_at=LATER), exit_code=1),
        bad(E.QUOTA, "no key", "stdout:2", resets_at=LATER),
    ),
    "said that a limit was met; until when it had told before": (
        seen(signals=[Throttled(LATER)], finished=evolve(BAD, error=E.THROTTLED), exit_code=1),
        bad(E.THROTTLED, "no key", "stdout:3", resets_at=LATER),
    ),
    "said in words until when": (
        seen(finished=Finished(False, "resets 2am (Europe/Berlin)", E.QUOTA), exit_code=1),
        bad(E.QUOTA, "resets 2am (Europe/Berlin)", "stdout:2", resets_at=datetime(2026, 11, 24, 1, tzinfo=UTC)),
    ),
    "said in words until when, and by the clock on its wall": (
        evolve(seen(finished=Finished(False, "try again at 4:53 AM", E.BILLING), exit_code=1), zone=lambda: TOKYO),
        bad(E.BILLING, "try again at 4:53 AM", "stdout:2", resets_at=datetime(2026, 11, 23, 19, 53, tzinfo=UTC)),
    ),
    "said in words until when, at the end of a long story": (
        seen(finished=Finished(False, "x" * MAX_DETAIL + " resets in 22h6m40s", E.THROTTLED), exit_code=1),
        bad(E.THROTTLED, "x" * (MAX_DETAIL - 1) + "…", "stdout:2", resets_at=LATER),
    ),
    "said in words until when, but not in its last ones": (
        seen(signals=[Error("resets in 22h6m40s")], finished=Finished(False, "429", E.THROTTLED), exit_code=1),
        bad(E.THROTTLED, "429", "stdout:3", resets_at=LATER),
    ),
    "said in words until when it waits, and ended": (
        seen(signals=[Retry("Retry-After: 79600")], finished=Finished(False, "overloaded", E.PROVIDER_DOWN)),
        bad(E.PROVIDER_DOWN, "overloaded", "stdout:3", resets_at=LATER),
    ),
    "said in words until when it waits, and got on": (
        seen(
            signals=[Retry("Retry-After: 79600"), ToolCall("Edit", True)],
            finished=Finished(False, "overloaded", E.PROVIDER_DOWN),
        ),
        bad(E.PROVIDER_DOWN, "overloaded", "stdout:4"),
    ),
    "said when it tries the network again": (
        seen(finished=Finished(False, "no network, try again in 5 s", E.NETWORK), exit_code=1),
        bad(E.NETWORK, "no network, try again in 5 s", "stdout:2"),
    ),
    "said a time, and another one in words": (
        seen(finished=Finished(False, "resets 9am", E.QUOTA, resets_at=LATER), exit_code=1),
        bad(E.QUOTA, "resets 9am", "stdout:2", resets_at=LATER),
    ),
    "said in words when it is over, of what does not end by itself": (
        seen(finished=Finished(False, "wrong key, try again in 5 s", E.AUTH), exit_code=1),
        bad(E.AUTH, "wrong key, try again in 5 s", "stdout:2"),
    ),
    "said not ok for a reason that no time cures": (
        seen(signals=[Throttled(LATER)], finished=evolve(BAD, error=E.AUTH), exit_code=1),
        bad(E.AUTH, "no key", "stdout:3"),
    ),
    "said ok, exited 1": (seen(finished=OK, exit_code=1), bad(E.UNKNOWN, "said ok, then exit code 1", "exit code 1")),
    "said ok, killed by a stranger": (
        seen(finished=OK, exit_code=-signal.SIGKILL),
        bad(E.KILLED, "said ok, then killed by SIGKILL", "killed by SIGKILL"),
    ),
    "said ok, never reaped": (
        seen(finished=OK, exit_code=None),
        bad(E.UNKNOWN, "said ok, then could not be reaped", "could not be reaped"),
    ),
    "said ok, without an answer": (
        seen(signals=[Started()], said="", finished=Finished(ok=True)),
        bad(E.EMPTY_OUTPUT, "said ok, but gave no answer and used no tool", "stdout:3"),
    ),
    "said ok, and its answer is all it said": (
        seen(said="", finished=Finished(ok=True, answer="42")),
        Verdict(Reason.SUCCEEDED, decided_by="stdout:2"),
    ),
    "said ok, and its work is all it did": (
        seen(said="", signals=[ToolCall("Edit", True)], finished=Finished(ok=True)),
        Verdict(Reason.SUCCEEDED, decided_by="stdout:3"),
    ),
    "said ok, and was allowed nothing": (
        seen(signals=[*FAILED_CALL, Denied("Bash")], finished=OK),
        bad(
            E.PERMISSION_DENIED,
            "said ok, but it was not allowed the tools that it asked for, and no other call succeeded",
            "stdout:5",
        ),
    ),
    "said ok, and found another way": (
        seen(signals=[*FAILED_CALL, Denied("Bash"), ToolCall("Edit", True)], finished=OK),
        evolve(SUCCEEDED, decided_by="stdout:6"),
    ),
    "said ok, and its command fails": (
        seen(signals=FAILED_CALL, finished=OK),
        evolve(SUCCEEDED, decided_by="stdout:4"),
    ),
    # It said how it ended, and had to be stopped.
    "said ok, lingered": (
        seen(finished=OK, exit_code=-signal.SIGTERM, lingered=True),
        evolve(SUCCEEDED, hung_after_result=True),
    ),
    "said not ok, lingered": (
        seen(finished=BAD, exit_code=-signal.SIGTERM, lingered=True),
        bad(E.UNKNOWN, "no key", "stdout:2", hung_after_result=True),
    ),
    "said ok, stopped with the factory": (
        seen(finished=OK, exit_code=-signal.SIGKILL, stopped=Reason.SHUTDOWN),
        evolve(SUCCEEDED, hung_after_result=True),
    ),
    "said ok, ignored the stop and was never reaped": (
        seen(finished=OK, exit_code=None, stopped=Reason.TIMED_OUT),
        evolve(SUCCEEDED, hung_after_result=True),
    ),
    "said not ok, stopped": (
        seen(finished=BAD, exit_code=143, stopped=Reason.CANCELLED),
        bad(E.UNKNOWN, "no key", "stdout:2", hung_after_result=True),
    ),
    # It did not say, and was stopped.
    "stopped, killed": (
        seen(exit_code=-signal.SIGKILL, stopped=Reason.STALLED, stop_detail="silent for 900 s"),
        stop(Reason.STALLED, E.STALLED, "silent for 900 s"),
    ),
    "stopped, exited 0 on SIGTERM": (seen(stopped=Reason.TIMED_OUT), stop(Reason.TIMED_OUT, E.TIMED_OUT)),
    "stopped, never reaped": (seen(exit_code=None, stopped=Reason.MEMORY), stop(Reason.MEMORY, E.MEMORY)),
    "stopped plain tool": (seen(stopped=Reason.CANCELLED, reports=False), stop(Reason.CANCELLED, E.KILLED)),
    "stopped while its provider failed it": (
        seen(signals=[Retry(error=E.NETWORK)], exit_code=143, stopped=Reason.STALLED, stop_detail="silent"),
        bad(E.NETWORK, "waited for its provider (network) until it was stopped: silent", "the stop"),
    ),
    "stopped while its provider made it wait": (
        seen(signals=[Throttled(LATER)], exit_code=143, stopped=Reason.TIMED_OUT),
        bad(E.QUOTA, "waited for its provider (quota) until it was stopped: timed_out", "the stop", resets_at=LATER),
    ),
    "stopped while its provider made it wait in words": (
        seen(signals=[Throttled(None, "slow down for 60 s: Retry-After: 79600")], stopped=Reason.STALLED),
        bad(
            E.THROTTLED,
            "waited for its provider (throttled) until it was stopped: stalled",
            "the stop",
            resets_at=LATER,
        ),
    ),
    "stopped after its provider had failed it for a while": (
        seen(signals=[Retry(error=E.NETWORK), Said("on we go")], exit_code=143, stopped=Reason.STALLED),
        stop(Reason.STALLED, E.STALLED),
    ),
    "stopped for another reason while it waited": (
        seen(signals=[Retry(error=E.NETWORK)], exit_code=143, stopped=Reason.MEMORY),
        stop(Reason.MEMORY, E.MEMORY),
    ),
    "stopped while it tried a wrong key again": (
        seen(signals=[Retry(error=E.AUTH)], exit_code=143, stopped=Reason.STALLED),
        stop(Reason.STALLED, E.STALLED),
    ),
    "stopped for a result that it took back meanwhile": (
        seen(exit_code=-signal.SIGTERM, lingered=True),
        bad(E.TRUNCATED, "went on after its result and was stopped before the next one", "the stop"),
    ),
    # It ended by itself, without a word of how, but it had told of an error.
    "an error, exited 1": (seen(signals=[Error("no key", E.AUTH)], exit_code=1), bad(E.AUTH, "no key", "stdout:2")),
    "an error, exited 0": (
        seen(signals=[Error("boom")], reports=False),
        bad(E.UNKNOWN, "boom", "stdout:2"),
    ),
    "an error while it waited for its provider": (
        seen(signals=[Throttled(), Error("boom")], exit_code=1, reports=False),
        bad(E.THROTTLED, "boom", "stdout:3"),
    ),
    "an error before it began anew": (
        seen(signals=[Error("no key", E.AUTH), Started()], exit_code=0),
        bad(E.TRUNCATED, "exited 0 without a result", "exit code 0"),
    ),
    # It ended by itself, without a word.
    "tool that reports, exited 0": (seen(), bad(E.TRUNCATED, "exited 0 without a result", "exit code 0")),
    "silent tool that reports, exited 0": (
        seen(output_bytes=0),
        bad(E.EMPTY_OUTPUT, "exited 0 without a result", "exit code 0"),
    ),
    "tool that reports, exited 2": (seen(exit_code=2), bad(E.UNKNOWN, "exit code 2", "exit code 2")),
    "tool that reports, exited 2 with words": (
        seen(exit_code=2, words="error: unknown option '--x'"),
        bad(E.CONFIG, "exit code 2: error: unknown option '--x'", "stderr:7"),
    ),
    "an exit code that its tool gives a meaning": (
        seen(exit_code=53, exit_classes={53: E.MAX_TURNS}, words="error: unknown option"),
        bad(E.MAX_TURNS, "exit code 53: error: unknown option", "exit code 53"),
    ),
    "such an exit code after it told of an error": (
        seen(signals=[Error("no key", E.AUTH)], exit_code=53, exit_classes={53: E.MAX_TURNS}),
        bad(E.AUTH, "no key", "stdout:2"),
    ),
    "such an exit code while its provider made it wait": (
        seen(signals=[Throttled()], exit_code=53, exit_classes={53: E.MAX_TURNS}),
        bad(E.THROTTLED, "exit code 53", "exit code 53"),
    ),
    "words alone do not blame a provider": (
        seen(exit_code=2, words="error: 429 is what the report is about"),
        bad(E.UNKNOWN, "exit code 2: error: 429 is what the report is about", "exit code 2"),
    ),
    "gave up while its provider made it wait": (
        seen(signals=[Throttled(LATER, "wait")], exit_code=1, reports=False),
        bad(E.QUOTA, "exit code 1", "exit code 1", resets_at=LATER),
    ),
    "plain tool, exited 0": (seen(reports=False), Verdict(Reason.SUCCEEDED, decided_by="exit code 0")),
    "plain tool, exited 0 with words": (
        seen(reports=False, words="error: never mind"),
        Verdict(Reason.SUCCEEDED, decided_by="exit code 0"),
    ),
    "plain tool, exited 0 with no output": (
        seen(reports=False, output_bytes=0),
        Verdict(Reason.SUCCEEDED, decided_by="exit code 0", no_evidence=True),
    ),
    "plain tool, exited 3": (seen(reports=False, exit_code=3), bad(E.UNKNOWN, "exit code 3", "exit code 3")),
    "plain tool, a command was not there": (
        seen(reports=False, exit_code=127, words="bash: line 1: jq: command not found"),
        bad(E.TOOL_MISSING, "exit code 127: bash: line 1: jq: command not found", "exit code 127"),
    ),
    "an exit code that tells of a signal": (seen(exit_code=137), bad(E.KILLED, "exit code 137", "exit code 137")),
    "an exit code that looks as if it did": (seen(exit_code=144), bad(E.UNKNOWN, "exit code 144", "exit code 144")),
    "plain tool, crashed": (
        seen(reports=False, exit_code=-signal.SIGSEGV),
        bad(E.KILLED, "killed by SIGSEGV", "killed by SIGSEGV"),
    ),
    "plain tool, died of a signal without a name": (
        seen(reports=False, exit_code=-40),
        bad(E.KILLED, "killed by signal 40", "killed by signal 40"),
    ),
    "plain tool, never reaped": (
        seen(reports=False, exit_code=None),
        bad(E.UNKNOWN, "could not be reaped", "could not be reaped"),
    ),
}


@pytest.mark.parametrize(("evidence", "verdict"), MATRIX.values(), ids=MATRIX.keys())
def test_the_verdict_on(evidence, verdict):
    assert judge(evidence) == verdict


def test_every_class_has_its_meaning():
    assert set(CLASSES) == set(E)
    for error, meaning in CLASSES.items():
        if meaning.blame is Blame.PROVIDER:  # what it does at night must not get an agent held
            assert meaning.reason is Reason.THROTTLED, error


@pytest.mark.parametrize("error", [E.AUTH, E.TOOL_MISSING, E.CONFIG])
@pytest.mark.parametrize("told", ["by its end", "by an error", "by the start of a new one that failed"])
def test_what_the_machine_or_the_operator_lacks_is_never_the_providers_fault(error, told):
    """Nor does what its provider did before excuse it."""
    before = [Retry(error=E.THROTTLED), Throttled(LATER)]
    evidence = {
        "by its end": seen(signals=before, finished=evolve(BAD, error=error), exit_code=1),
        "by an error": seen(signals=[*before, Error("no", error)], exit_code=1),
        "by the start of a new one that failed": seen(signals=[*before, Started(), Error("no", error)], exit_code=0),
    }[told]
    verdict = judge(evidence)
    assert (verdict.reason, verdict.error_class, verdict.retryable) == (Reason.FAILED, error, False)
    assert verdict.resets_at is None
    assert CLASSES[error].blame in {Blame.OPERATOR, Blame.MACHINE}


SIGNALS = st.one_of(
    st.builds(Started, st.none() | st.text()),
    st.builds(Said, st.text()),
    st.builds(ToolCall, st.text(), st.none() | st.booleans(), st.text()),
    st.builds(Denied),
    st.builds(Retry, error=st.none() | st.sampled_from(E)),
    st.builds(Throttled, st.none() | st.datetimes(timezones=st.just(UTC))),
    st.builds(Error, st.text(st.characters(codec=None)), st.none() | st.sampled_from(E)),
    st.builds(BackgroundTask, st.booleans(), st.text()),
    st.builds(
        Finished, st.booleans(), st.text(st.characters(codec=None)), st.none() | st.sampled_from(E), answer=st.text()
    ),
)


@given(
    signals=st.lists(SIGNALS, max_size=6),
    exit_code=st.none() | st.integers(),
    stopped=st.none() | st.sampled_from([reason for reason in Reason if reason is not Reason.SUCCEEDED]),
    stop_detail=st.text(st.characters(codec=None)),
    lingered=st.booleans(),
    output_bytes=st.integers(min_value=0),
    reports=st.booleans(),
    words=st.text(st.characters(codec=None)),
)
def test_any_evidence_has_one_verdict_with_a_detail_of_one_short_line(**evidence):
    collected = seen(**evidence)
    collected = evolve(collected, finished=collected.tally.finished)
    verdict = judge(collected)
    assert verdict.detail.isprintable()
    assert len(verdict.detail) <= MAX_DETAIL
    assert verdict.decided_by
    if verdict.reason is Reason.SUCCEEDED:
        assert verdict.error_class is verdict.retryable is verdict.resets_at is None
        assert collected.exit_code == 0 or verdict.hung_after_result
        assert collected.finished is not None or not collected.reports
    else:
        assert verdict.error_class is not None
        assert verdict.retryable is not None
        assert verdict.reason in {CLASSES[verdict.error_class].reason, collected.stopped}
        assert verdict.resets_at is None or verdict.reason is Reason.THROTTLED
