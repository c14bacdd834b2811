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


class ErrorClass(Enum):
    """What went wrong in a run that did not succeed, as far as can be seen from outside."""

    THROTTLED = "throttled"
    """Its provider said wait: too many requests."""
    QUOTA = "quota"
    """A usage limit is reached; it comes back by itself."""
    BILLING = "billing"
    """There is no credit; a person must pay."""
    AUTH = "auth"
    """No key, a wrong one, or one that may not do this."""
    CONTEXT_OVERFLOW = "context_overflow"
    """The conversation does not fit the model any more."""
    MAX_TURNS = "max_turns"
    BUDGET = "budget"
    """A limit of its own on money, tokens or calls is reached."""
    INVALID_REQUEST = "invalid_request"
    MODEL_NOT_FOUND = "model_not_found"
    PROVIDER_DOWN = "provider_down"
    """The provider failed or is overloaded."""
    NETWORK = "network"
    """The provider could not be reached, or the connection broke."""
    PERMISSION_DENIED = "permission_denied"
    """It was not allowed what its task needed."""
    REFUSED = "refused"
    """The model would not."""
    TOOL_MISSING = "tool_missing"
    CONFIG = "config"
    """The tool could not make sense of its options, its configuration or its session."""
    STALLED = "stalled"
    TIMED_OUT = "timed_out"
    KILLED = "killed"
    """By a signal that we did not send, or not for a reason that has a class."""
    MEMORY = "memory"
    TRUNCATED = "truncated"
    """Its answer or its output is not whole."""
    EMPTY_OUTPUT = "empty_output"
    """It ended well and there is no evidence of work."""
    UNKNOWN = "unknown"


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
