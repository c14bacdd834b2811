"""What the end of a run means: one table, and the two formulas it needs.

The table is that of the documentation (docs/concepts.md), and a test reads both.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from attrs import frozen

from darkfactory.model.ends import ErrorClass, Reason
from darkfactory.model.fleet import AgentLayer, LayerConfig


class Again(Enum):
    """Whether and when an agent runs again after a run has ended."""

    NO = "no"
    COOLED = "after success_cooldown_secs"
    BACKED_OFF = "after back-off"
    RETRIED = "after back-off, while retries last"
    REPEATED = "after back-off, the same occurrence once more"
    RECONCILED = "by reconciliation"
    CURED = "when the cause is gone"


EXCUSED = {Again.REPEATED, Again.CURED}
"""An attempt that follows in one of these ways uses none of the agent's `retries`."""


@frozen
class After:
    """One row: what one terminal reason brings about."""

    counts: bool
    """It adds one to the restart intensity, and so to the back-off."""
    safety: Again
    others: Again
    healthy: bool | None = None
    """How it counts for the agent's health; None: not at all."""
    judged_anew: bool = False
    """What was seen of the agent before is forgotten."""


_BAD = After(counts=True, safety=Again.BACKED_OFF, others=Again.RETRIED, healthy=False)
_ENDED_FROM_OUTSIDE = After(counts=False, safety=Again.RECONCILED, others=Again.NO)
_WAITS = After(counts=False, safety=Again.CURED, others=Again.CURED)

AFTER = {
    Reason.SUCCEEDED: After(counts=False, safety=Again.COOLED, others=Again.NO, healthy=True),
    Reason.FAILED: _BAD,
    Reason.TIMED_OUT: _BAD,
    Reason.STALLED: _BAD,
    Reason.MEMORY: _BAD,
    Reason.OUTPUT_LIMIT: _BAD,
    Reason.MAX_TURNS: _BAD,
    Reason.THROTTLED: _WAITS,
    Reason.BUDGET: _WAITS,
    Reason.CORRECTED_SEVERE: After(counts=True, safety=Again.BACKED_OFF, others=Again.REPEATED, judged_anew=True),
    Reason.CORRECTED_MODERATE: After(counts=False, safety=Again.RECONCILED, others=Again.NO, judged_anew=True),
    Reason.CANCELLED: _ENDED_FROM_OUTSIDE,
    Reason.SIBLING: _ENDED_FROM_OUTSIDE,
    Reason.SHUTDOWN: _ENDED_FROM_OUTSIDE,
    Reason.DISK: After(counts=False, safety=Again.RECONCILED, others=Again.CURED),
    Reason.RESERVED: _WAITS,
    Reason.LOST: _ENDED_FROM_OUTSIDE,
}


def after(reason: Reason, layer: AgentLayer) -> Again:
    """What follows in that layer."""
    row = AFTER[reason]
    return row.safety if layer is AgentLayer.SAFETY else row.others


def turned_away(reason: Reason, error: ErrorClass | None) -> bool:
    """Whether a provider's limit, theirs or ours, or a lease that was not given ended it.

    Then it is none of its agent's `max_runs_per_day`.
    """
    return AFTER[reason] is _WAITS and error is not ErrorClass.BUDGET


def within_period(bad_ends: tuple[float, ...], layer: LayerConfig, at: float) -> tuple[float, ...]:
    """The bad ends that still count at `at`; oldest first, as they came."""
    return tuple(end for end in bad_ends if end > at - layer.period_secs)


def exceeds_intensity(bad_ends: tuple[float, ...], layer: LayerConfig) -> bool:
    """More than `max_restarts` bad ends inside the period: one more restart would be one too many."""
    return len(bad_ends) > layer.max_restarts


def backoff(bad_ends: int, layer: LayerConfig, chance: float) -> float:
    """The delay in seconds after the `bad_ends`-th bad end inside the period (1 or more).

    `backoff_secs`, doubled for each bad end before this one, capped at `backoff_max_secs`, plus up to
    `backoff_jitter` of itself; `chance` in [0, 1) says how much of that.
    """
    doublings = min(bad_ends - 1, 64)
    delay = min(layer.backoff_secs * 2.0**doublings, layer.backoff_max_secs)
    return delay * (1.0 + layer.backoff_jitter * chance)


LEASE_WAIT_SECS: Final = 5.0
LEASE_WAIT_MAX_SECS: Final = 300.0


def lease_wait(refusals: int, layer: LayerConfig, chance: float) -> float:
    """Seconds until a server is asked again for leases that it has not given for the `refusals`-th time in a row.

    With jitter, as `backoff`: two factories that turned each other away must not come back together again and again.
    """
    delay = min(LEASE_WAIT_SECS * 2.0 ** min(refusals - 1, 64), LEASE_WAIT_MAX_SECS)
    return delay * (1.0 + layer.backoff_jitter * chance)


WAIT_SECS: Final = 900.0
"""How long a run waits for a cause to go that names no time, the first time; it doubles with each such end in a row."""
WAIT_MAX_SECS: Final = 6 * 3600.0
WAIT_LEAST_SECS: Final = 60.0
RESET_MAX_SECS: Final = 8 * 86400.0
"""The longest limits that providers set are weekly ones; what lies beyond is an error, or a lie."""


def wait(waits: int, resets_in: float | None) -> float:
    """Seconds until a run is tried again whose cause to fail will go by itself.

    `waits` is the number of such ends in a row, this one included; `resets_in` what is left until the time that was
    named, None if none was. A time that has passed is none.
    """
    if resets_in is not None and resets_in > 0.0:
        return min(max(resets_in, WAIT_LEAST_SECS), RESET_MAX_SECS)
    return min(WAIT_SECS * 2.0 ** min(waits - 1, 64), WAIT_MAX_SECS)
