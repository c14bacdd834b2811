"""How a run ended, judged from all that was seen of it.

No single witness can be trusted: real tools exit 0 after an API error, print "success" beside `is_error`, lose their
last lines and exit 0, or say their result and never exit. The order of belief is: the tool's own terminal event; why
we stopped it; a failure that it told of; its exit status; and at the very last, for the kind of the failure only, its
words on stderr.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from datetime import datetime, tzinfo

from attrs import evolve, field, frozen

from darkfactory.model.ends import CLASSES, ErrorClass, Reason, Verdict
from darkfactory.model.signals import Finished
from darkfactory.tools.errors import class_of
from darkfactory.tools.resets import reset_in_words
from darkfactory.tools.tally import Place, Tally
from darkfactory.tools.text import one_line

_OF_STOP = {
    Reason.TIMED_OUT: ErrorClass.TIMED_OUT,
    Reason.STALLED: ErrorClass.STALLED,
    Reason.MEMORY: ErrorClass.MEMORY,
    Reason.OUTPUT_LIMIT: ErrorClass.TRUNCATED,
    Reason.THROTTLED: ErrorClass.THROTTLED,
}
"""Stopped for anything else, it was killed."""

_SIGNALS = {
    128 + number
    for number in (
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGABRT,
        signal.SIGKILL,
        signal.SIGSEGV,
        signal.SIGPIPE,
        signal.SIGTERM,
    )
}
"""Exit codes by which shells and well-mannered programs tell of a signal. Of others that is not known: real tools exit
with an HTTP status modulo 256."""

_NOT_FOUND = (126, 127)
"""By these a shell tells that the program could not be run, or was not there."""

_TELLS_WHEN = frozenset({ErrorClass.THROTTLED, ErrorClass.QUOTA, ErrorClass.BILLING, ErrorClass.PROVIDER_DOWN})
"""Of these failures the words may tell when they are over. Nobody knows that of a network."""


@frozen(kw_only=True)
class Evidence:
    """What was seen of a run, after its processes are gone and its output was read to the end."""

    tally: Tally
    now: datetime
    """Aware; about when it said the last thing: what a tool puts as "in 20 s" is reckoned from here."""
    zone: Callable[[], tzinfo]
    """In which it prints times; called only where it has named one, since that takes reading a file."""
    finished: Finished | None
    """The terminal event to go by; not that of the tally where what it said at its end was our doing."""
    exit_code: int | None
    """The leader's; minus the signal's number; None when the leader could not be reaped."""
    stopped: Reason | None = None
    """Why we stopped it; None when we did not, and when it only lingered."""
    stop_detail: str = ""
    lingered: bool = False
    """We stopped it because it lived on after its terminal event."""
    output_bytes: int
    """Of stdout and stderr together."""
    reports: bool
    """The tool has a terminal event (`Tool.reports`)."""
    exit_classes: Mapping[int, ErrorClass] = field(factory=dict)
    """What its exit codes say (`Tool.exit_classes`)."""


def judge(evidence: Evidence) -> Verdict:
    """The verdict on a run. Total: any evidence has one, and nothing raises."""
    if evidence.finished is not None:
        return _said(evidence, evidence.finished)
    if evidence.stopped is not None:
        return _stopped(evidence, evidence.stopped)
    if evidence.lingered:
        detail = "went on after its result and was stopped before the next one"
        return _failed(evidence, ErrorClass.TRUNCATED, detail, "the stop")
    return _silent(evidence)


def _said(evidence: Evidence, said: Finished) -> Verdict:
    """It said how it ended."""
    tally, code = evidence.tally, evidence.exit_code
    by = _place(tally.finished_at, "its terminal event")
    hung = evidence.stopped is not None or evidence.lingered
    if not said.ok:
        error = said.error or (tally.error.error if tally.error is not None else None) or ErrorClass.UNKNOWN
        verdict = _failed(evidence, error, said.detail or "said that it failed", by)
        if said.retryable is not None:
            verdict = evolve(verdict, retryable=said.retryable)
    elif code != 0 and not hung:
        error = ErrorClass.KILLED if _by_signal(code) else ErrorClass.UNKNOWN
        verdict = _failed(evidence, error, f"said ok, then {_ending(code)}", _ending(code))
    elif tally.denials and tally.tool_calls <= tally.tool_failures:
        detail = "said ok, but it was not allowed the tools that it asked for, and no other call succeeded"
        verdict = _failed(evidence, ErrorClass.PERMISSION_DENIED, detail, by)
    elif not tally.worked:
        verdict = _failed(evidence, ErrorClass.EMPTY_OUTPUT, "said ok, but gave no answer and used no tool", by)
    else:
        verdict = Verdict(Reason.SUCCEEDED, one_line(said.detail), decided_by=by)
    return evolve(verdict, hung_after_result=hung)


def _stopped(evidence: Evidence, reason: Reason) -> Verdict:
    """It did not say how it ended, and we stopped it."""
    waits = _waits_for_provider(evidence.tally)
    if waits is not None and reason in {Reason.TIMED_OUT, Reason.STALLED, Reason.THROTTLED}:
        detail = f"waited for its provider ({waits.value}) until it was stopped: {evidence.stop_detail or reason.value}"
        return _failed(evidence, waits, detail, "the stop")
    error = _OF_STOP.get(reason, ErrorClass.KILLED)
    return Verdict(reason, one_line(evidence.stop_detail), error, CLASSES[error].retryable, decided_by="the stop")


def _silent(evidence: Evidence) -> Verdict:
    """It ended by itself, without a word of how."""
    tally, code = evidence.tally, evidence.exit_code
    ending, waits = _ending(code), _waits_for_provider(tally)
    if tally.error is not None:
        error = tally.error.error or waits or ErrorClass.UNKNOWN
        return _failed(evidence, error, tally.error.text or ending, _place(tally.error_at, ending))
    if code != 0:
        if _by_signal(code):
            return _failed(evidence, ErrorClass.KILLED, ending, ending)
        words = f"{ending}: {tally.last_words}" if tally.last_words else ending
        if waits is not None:
            return _failed(evidence, waits, words, ending)
        if code is not None and code in evidence.exit_classes:
            return _failed(evidence, evidence.exit_classes[code], words, ending)
        if code in _NOT_FOUND and not evidence.reports:
            return _failed(evidence, ErrorClass.TOOL_MISSING, words, ending)
        found = class_of(tally.last_words)
        if found is None or CLASSES[found].reason is not Reason.FAILED:  # words alone do not blame a provider
            return _failed(evidence, ErrorClass.UNKNOWN, words, ending)
        return _failed(evidence, found, words, _place(tally.last_words_at, ending))
    if evidence.reports:
        error = ErrorClass.TRUNCATED if evidence.output_bytes else ErrorClass.EMPTY_OUTPUT
        return _failed(evidence, error, "exited 0 without a result", ending)
    return Verdict(Reason.SUCCEEDED, decided_by=ending, no_evidence=evidence.output_bytes == 0)


def _failed(evidence: Evidence, error: ErrorClass, detail: str, by: str) -> Verdict:
    meaning = CLASSES[error]
    return Verdict(meaning.reason, one_line(detail), error, meaning.retryable, _resets_at(evidence, error), by)


def _resets_at(evidence: Evidence, error: ErrorClass) -> datetime | None:
    """The time that it named, or else one that its words name: those of its end, of its failure, of its last wait."""
    if CLASSES[error].reason is not Reason.THROTTLED:
        return None
    said, tally = evidence.finished, evidence.tally
    known = (said.resets_at if said is not None else None) or tally.throttled_until
    if (known is not None and known > evidence.now) or error not in _TELLS_WHEN:
        return known
    told = (
        said.detail if said is not None else "",
        tally.error.text if tally.error is not None else "",
        tally.waited.detail if tally.waited is not None else "",
    )
    times = (reset_in_words(text, evidence.now, evidence.zone()) for text in told if text)
    return next((time for time in times if time is not None), known)


def _waits_for_provider(tally: Tally) -> ErrorClass | None:
    error = tally.waiting.error if tally.waiting is not None else None
    return error if error is not None and CLASSES[error].reason is Reason.THROTTLED else None


def _place(place: Place | None, otherwise: str) -> str:
    return otherwise if place is None else str(place)


def _by_signal(code: int | None) -> bool:
    return code is not None and (code < 0 or code in _SIGNALS)


def _ending(code: int | None) -> str:
    if code is None:
        return "could not be reaped"
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
