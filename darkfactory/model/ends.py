"""How a run can end."""

from __future__ import annotations

from datetime import datetime
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
    MAX_TURNS = "max_turns"
    """It used up the turns that it was given."""
    THROTTLED = "throttled"
    """Its provider would not or could not serve it; nobody's fault here."""
    BUDGET = "budget"
    """It used up the money, the tokens or the calls that it was given."""
    DISK = "disk"
    """It failed on a full disk: the machine's fault."""
    RESERVED = "reserved"
    """It was not started: an Agent Mail server did not give it its leases."""
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


class Blame(Enum):
    """Whose fault an end is."""

    AGENT = "agent"
    PROVIDER = "provider"
    OPERATOR = "operator"
    """Of whoever wrote the fleet file or pays the bill."""
    MACHINE = "machine"
    """Also ours, who stopped it."""


@frozen
class Meaning:
    """What a class of error means for the run that ended with it."""

    reason: Reason
    retryable: bool
    """The same run, begun again, could end better without anybody changing anything."""
    blame: Blame


CLASSES = {
    ErrorClass.THROTTLED: Meaning(Reason.THROTTLED, True, Blame.PROVIDER),
    ErrorClass.QUOTA: Meaning(Reason.THROTTLED, True, Blame.PROVIDER),
    ErrorClass.BILLING: Meaning(Reason.THROTTLED, False, Blame.OPERATOR),
    ErrorClass.AUTH: Meaning(Reason.FAILED, False, Blame.OPERATOR),
    ErrorClass.CONTEXT_OVERFLOW: Meaning(Reason.FAILED, False, Blame.AGENT),
    ErrorClass.MAX_TURNS: Meaning(Reason.MAX_TURNS, True, Blame.AGENT),
    ErrorClass.BUDGET: Meaning(Reason.BUDGET, False, Blame.OPERATOR),
    ErrorClass.INVALID_REQUEST: Meaning(Reason.FAILED, False, Blame.AGENT),
    ErrorClass.MODEL_NOT_FOUND: Meaning(Reason.FAILED, False, Blame.OPERATOR),
    ErrorClass.PROVIDER_DOWN: Meaning(Reason.THROTTLED, True, Blame.PROVIDER),
    ErrorClass.NETWORK: Meaning(Reason.THROTTLED, True, Blame.PROVIDER),
    ErrorClass.PERMISSION_DENIED: Meaning(Reason.FAILED, False, Blame.OPERATOR),
    ErrorClass.REFUSED: Meaning(Reason.FAILED, False, Blame.AGENT),
    ErrorClass.TOOL_MISSING: Meaning(Reason.FAILED, False, Blame.MACHINE),
    ErrorClass.CONFIG: Meaning(Reason.FAILED, False, Blame.OPERATOR),
    ErrorClass.STALLED: Meaning(Reason.STALLED, True, Blame.AGENT),
    ErrorClass.TIMED_OUT: Meaning(Reason.TIMED_OUT, True, Blame.AGENT),
    ErrorClass.KILLED: Meaning(Reason.FAILED, True, Blame.MACHINE),
    ErrorClass.MEMORY: Meaning(Reason.MEMORY, True, Blame.AGENT),
    ErrorClass.TRUNCATED: Meaning(Reason.FAILED, True, Blame.AGENT),
    ErrorClass.EMPTY_OUTPUT: Meaning(Reason.FAILED, True, Blame.AGENT),
    ErrorClass.UNKNOWN: Meaning(Reason.FAILED, True, Blame.AGENT),
}
"""The table of the documentation (docs/concepts.md); a test reads both."""


@frozen
class Verdict:
    """The judgement of a finished run."""

    reason: Reason
    detail: str = ""
    """One line for a person."""
    error_class: ErrorClass | None = None
    """None when nothing went wrong."""
    retryable: bool | None = None
    """See `Meaning`; None when nothing went wrong."""
    resets_at: datetime | None = None
    """Aware: from when on what it was short of is there again, where that is known."""
    decided_by: str = ""
    """What the judgement rests on: a line of its output as `stdout:7`, or what else was seen of it."""
    hung_after_result: bool = False
    """It had said its result and had to be stopped: it counts as what it said."""
    no_evidence: bool = False
    """It exited 0 and printed nothing at all."""
