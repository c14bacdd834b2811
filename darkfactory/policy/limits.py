"""How long a run may do what it is doing: the next moment at which it would have to be stopped, and why."""

from __future__ import annotations

from math import inf
from typing import Final

from attrs import frozen

from darkfactory.model.ends import Reason
from darkfactory.model.fleet import AgentDefinition
from darkfactory.model.state import Phase, Run

TOLD_SECS: Final = 5.0
"""How long a tool that is told to wait for too long is given to end by itself."""


@frozen(order=True)
class Limit:
    """A run is stopped at `at` unless something happens before. Ordered by time; ties by the order of checking."""

    at: float
    rank: int
    reason: Reason
    detail: str
    lingered: bool = False


def next_limit(run: Run, agent: AgentDefinition, *, announces: bool) -> Limit | None:
    """The limit that comes first; None for a run that is being stopped or has none.

    Silence counts from the last output. A run that has said its result may linger; it no longer stalls.
    """
    if run.phase is Phase.STOPPING:
        return None
    limits: list[Limit] = []
    if run.waits_since is not None:
        limits.append(_patience(run, run.waits_since, agent))
    if agent.timeout_secs is not None:
        detail = f"ran longer than timeout_secs ({agent.timeout_secs:g})"
        limits.append(Limit(run.since + agent.timeout_secs, 1, Reason.TIMED_OUT, detail))
    if run.renew_at is not None:
        detail = "drift was Moderate and moderate_finish_secs are over"
        limits.append(Limit(run.renew_at, 2, Reason.CORRECTED_MODERATE, detail))
    if run.finished_at is not None:
        detail = f"lived on for linger_secs ({agent.linger_secs:g}) after its result"
        limits.append(Limit(run.finished_at + agent.linger_secs, 3, Reason.SUCCEEDED, detail, lingered=True))
    elif run.last_output is None and announces:
        detail = f"printed nothing within start_timeout_secs ({agent.start_timeout_secs:g})"
        limits.append(Limit(run.since + agent.start_timeout_secs, 4, Reason.STALLED, detail))
    else:
        silent_since = run.since if run.last_output is None else run.last_output
        detail = f"was silent for stall_timeout_secs ({agent.stall_timeout_secs:g})"
        limits.append(Limit(silent_since + agent.stall_timeout_secs, 5, Reason.STALLED, detail))
    return min(limits, key=lambda limit: (limit.at, limit.rank))


def _patience(run: Run, since: float, agent: AgentDefinition) -> Limit:
    """How long it may wait at its provider: as long as it may be silent, whether or not it prints meanwhile."""
    patient_until = since + agent.stall_timeout_secs
    ends_at = inf if agent.timeout_secs is None else run.since + agent.timeout_secs
    if run.waits_until > min(patient_until, ends_at):
        detail = f"is to wait for its provider for {run.waits_until - since:.0f} s, longer than it may"
        return Limit(since + TOLD_SECS, 0, Reason.THROTTLED, detail)
    detail = f"waited for its provider for stall_timeout_secs ({agent.stall_timeout_secs:g})"
    return Limit(patient_until, 0, Reason.THROTTLED, detail)
