"""How a run can end."""

from __future__ import annotations

from enum import Enum

from attrs import frozen


class Reason(Enum):
    """The terminal reason of a run: exactly one for each. What follows from it is `policy.restart.AFTER`."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    """It lived longer than `timeout_secs`."""
    STALLED = "stalled"
    """It was silent longer than `stall_timeout_secs`, or than `start_timeout_secs` at the start."""
    MEMORY = "memory"
    """Its process tree took more than `max_memory_bytes`."""
    OUTPUT_LIMIT = "output_limit"
    """It wrote more than `max_output_bytes`."""
    CORRECTED_SEVERE = "corrected_severe"
    """Stopped because its drift was Severe."""
    CORRECTED_MODERATE = "corrected_moderate"
    """Stopped at the deadline that a Moderate drift gave it."""
    CANCELLED = "cancelled"
    """Stopped by a hold, or for a newer occurrence of itself."""
    SIBLING = "sibling"
    """Stopped because an agent that it restarts together with had a bad end, or is held."""
    SHUTDOWN = "shutdown"
    """Stopped with the factory."""
    DISK = "disk"
    """It failed on a full disk: the machine's fault."""
    LOST = "lost"
    """The factory died while it ran; told of at the next start."""


@frozen
class Verdict:
    """The judgement of a finished run."""

    reason: Reason
    detail: str = ""
    """One line for a person."""
    hung_after_result: bool = False
    """It had said its result and had to be stopped: it counts as what it said."""
    no_evidence: bool = False
    """It exited 0 and printed nothing at all."""
