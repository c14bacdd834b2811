"""Behavioural drift of an agent: its measures, its score and what is done about it."""

from __future__ import annotations

from enum import Enum, IntEnum

from attrs import frozen


class CorrectionLevel(IntEnum):
    """How far an agent has drifted; ordered."""

    NORMAL = 0
    MINOR = 1
    MODERATE = 2
    SEVERE = 3
    CRITICAL = 4


class CorrectionAction(Enum):
    """What the supervisor does about a level; each acts on the narrowest scope that cures it."""

    NONE = "none"
    WARN = "warn"
    """Tell, and note what went wrong in the next prompt; nothing is stopped."""
    RENEW = "renew"
    """Read its definition anew; the run may finish for `moderate_finish_secs`, then it is stopped, Safety restarts."""
    RESTART = "restart"
    """Stop the run now and start again, inside the restart intensity."""
    HOLD = "hold"
    """Stop the agent until a person resumes it."""


ACTION_FOR = {
    CorrectionLevel.NORMAL: CorrectionAction.NONE,
    CorrectionLevel.MINOR: CorrectionAction.WARN,
    CorrectionLevel.MODERATE: CorrectionAction.RENEW,
    CorrectionLevel.SEVERE: CorrectionAction.RESTART,
    CorrectionLevel.CRITICAL: CorrectionAction.HOLD,
}


@frozen
class DriftMetrics:
    """What the score is made of; rates and health are fractions in 0..1, and perfect where nothing was seen."""

    error_rate: float
    command_success_rate: float
    health_score: float
    sample_count: int
    """What the error rate is a fraction of."""
    weighed: tuple[str, ...] = ()
    """Which of the three have their minimum of samples; the others count for nothing."""


@frozen
class DriftScore:
    """One agent's drift: 0 (none) to 1, never without its parts."""

    agent_name: str
    score: float
    metrics: DriftMetrics
    level: CorrectionLevel


@frozen
class DriftAlert:
    """An agent has drifted so far that something should be done."""

    agent_name: str
    drift_score: DriftScore
    recommended_action: CorrectionAction
