"""How long a run may do what it is doing: the next moment at which it would have to be stopped, and why."""

from __future__ import annotations

from math import inf
from typing import Final, NamedTuple

from darkfactory.model.ends import Reason
from darkfactory.model.fleet import AgentDefinition
from darkfactory.model.state import Phase, Run

TOLD_SECS: Final = 5.0
"""How long a tool that is told to wait for too long is given to end by itself."""
HELD_UP_SECS: Final = 1.0
"""A deadline of ours that is missed by more was not missed by being busy: the process was stopped, or starved."""
CATCH_UP_SECS: Final = 5.0
"""How long the runs have afterwards to be heard: what they printed meanwhile, or that they have ended."""
_LINGERS: Final = 3
"""The rank of the limit of a run that has said its result."""


class Limit(NamedTuple):
    """A run is stopped at `at` unless something happens before. A tuple, since the least of several is looked for."""

    at: float
    rank: int
    """Of two that come at the same time the lower one is it: the order of checking. Each kind has its own."""
    reason: Reason
    words: str
    """What the run did, with a place for `secs`."""
    secs: float

    @property
    def lingered(self) -> bool:
        """It has said its result, and lives on."""
        return self.rank == _LINGERS

    @property
    def detail(self) -> str:
        """What the run did, for a person. Put together late: limits are looked at all the time, and hardly ever met."""
        return self.words.format(self.secs)


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
        words = "ran longer than timeout_secs ({:g})"
        limits.append(Limit(run.since + agent.timeout_secs, 1, Reason.TIMED_OUT, words, agent.timeout_secs))
    if run.renew_at is not None:
        words = "drift was Moderate and moderate_finish_secs are over"
        limits.append(Limit(run.renew_at, 2, Reason.CORRECTED_MODERATE, words, 0.0))
    if run.finished_at is not None:
        words = "lived on for linger_secs ({:g}) after its result"
        limits.append(Limit(run.finished_at + agent.linger_secs, _LINGERS, Reason.SUCCEEDED, words, agent.linger_secs))
    elif run.last_output is None and announces:
        words = "printed nothing within start_timeout_secs ({:g})"
        limits.append(Limit(run.since + agent.start_timeout_secs, 4, Reason.STALLED, words, agent.start_timeout_secs))
    else:
        silent_since = run.since if run.last_output is None else run.last_output
        words, secs = "was silent for stall_timeout_secs ({:g})", agent.stall_timeout_secs
        limits.append(Limit(silent_since + secs, 5, Reason.STALLED, words, secs))
    return min(limits)


def _patience(run: Run, since: float, agent: AgentDefinition) -> Limit:
    """How long it may wait at its provider: as long as it may be silent, whether or not it prints meanwhile."""
    patient_until = since + agent.stall_timeout_secs
    ends_at = inf if agent.timeout_secs is None else run.since + agent.timeout_secs
    if run.waits_until > min(patient_until, ends_at):
        words = "is to wait for its provider for {:.0f} s, longer than it may"
        return Limit(since + TOLD_SECS, 0, Reason.THROTTLED, words, run.waits_until - since)
    words = "waited for its provider for stall_timeout_secs ({:g})"
    return Limit(patient_until, 0, Reason.THROTTLED, words, agent.stall_timeout_secs)
