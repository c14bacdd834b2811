"""How a run ended, judged from all that was seen of it.

No single witness can be trusted: real tools exit 0 after an API error, print "success" beside
`is_error`, lose their last lines and exit 0, or say their result and never exit. The order of belief is:
the tool's own terminal event, then why we stopped it, then its exit status.
"""

from __future__ import annotations

import signal

from attrs import frozen

from darkfactory.model.ends import Reason, Verdict
from darkfactory.model.signals import Finished
from darkfactory.tools.text import one_line


@frozen(kw_only=True)
class Evidence:
    """What was seen of a run, after its processes are gone and its output was read to the end."""

    finished: Finished | None = None
    """The terminal event that stands: the last one, unless a `Started` came after it."""
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


def judge(evidence: Evidence) -> Verdict:
    """The verdict on a run. Total: any evidence has one, and nothing raises."""
    said, code, stopped = evidence.finished, evidence.exit_code, evidence.stopped

    # It said how it ended.
    if said is not None:
        detail = one_line(said.detail)
        if stopped is not None or evidence.lingered:
            reason = Reason.SUCCEEDED if said.ok else Reason.FAILED
            return Verdict(reason, detail, hung_after_result=True)
        if not said.ok:
            return Verdict(Reason.FAILED, detail or "said that it failed")
        if code != 0:
            return Verdict(Reason.FAILED, f"said ok, then {_ending(code)}")
        return Verdict(Reason.SUCCEEDED, detail)

    # It did not, and we stopped it.
    if stopped is not None:
        return Verdict(stopped, one_line(evidence.stop_detail))
    if evidence.lingered:
        return Verdict(Reason.FAILED, "went on after its result and was stopped before the next one")

    # It ended by itself, without a word.
    if code != 0:
        return Verdict(Reason.FAILED, _ending(code))
    if evidence.reports:
        return Verdict(Reason.FAILED, "exited 0 without a result")
    return Verdict(Reason.SUCCEEDED, no_evidence=evidence.output_bytes == 0)


def _ending(code: int | None) -> str:
    if code is None:
        return "could not be reaped"
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
