"""The exceptions of darkfactory: whose fault is it?

What an agent does wrong is an event, never an exception. A `ConfigError` is the operator's to mend, an
`AlreadyRunning` too; anything else that travels up the nurseries is a bug of ours and stops the factory in order.
"""

from __future__ import annotations

from attrs import frozen


class OrchestratorError(Exception):
    """The base of everything that darkfactory raises on purpose."""


@frozen
class Fault:
    """One thing wrong in a fleet file, told so that it can be mended without reading this program."""

    path: str
    """Dotted place in the file, such as `agents[2].schedule`; empty for the file as a whole."""
    problem: str
    """What was found and what would have been right."""
    line: int | None = None
    """1-based; None where no line can be named (the file is missing)."""
    remedy: str | None = None
    """A hint such as "did you mean 'schedule'?"; None where there is nothing to add."""

    def render(self, file: str) -> str:
        """One line for a terminal: `FILE:LINE: PATH: PROBLEM (REMEDY)`."""
        where = f"{file}:{self.line}" if self.line is not None else file
        path = f"{self.path}: " if self.path else ""
        remedy = f" ({self.remedy})" if self.remedy else ""
        return f"{where}: {path}{self.problem}{remedy}"


class ConfigError(OrchestratorError):
    """The fleet file or the command line is wrong; every fault found is in `faults`.

    Nothing was started and nothing was written when this is raised.
    """

    def __init__(self, file: str, faults: tuple[Fault, ...]) -> None:
        super().__init__("\n".join(fault.render(file) for fault in faults))
        self.file = file
        self.faults = faults


class StateDirError(OrchestratorError):
    """The state directory cannot be used: not ours, not writable, or it belongs to another fleet file."""


class AlreadyRunning(OrchestratorError):
    """Another factory holds the lock of this state directory."""


class JournalDamaged(OrchestratorError):
    """A line in the middle of the journal cannot be read, and `--repair` would leave it out.

    A torn last line is not an error.
    """


class SpawnFailed(OrchestratorError):
    """A program could not be started; `reason` is a short word such as "tool_missing"."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class AgentNotFound(OrchestratorError):
    """No agent of that name is declared."""


class HandoffFailed(OrchestratorError):
    """What was to be handed over is no handoff, or nobody is there to hand it over."""


class SchedulerError(OrchestratorError):
    """A cron expression cannot be used."""


class CompoundReviewFailed(OrchestratorError):
    """A review cannot go on; `outcome` is a word of `model.review.ReviewOutcome`, or says why none was begun."""

    def __init__(self, outcome: str, detail: str, remedy: str = "") -> None:
        super().__init__(f"{detail} ({remedy})" if remedy else detail)
        self.outcome = outcome
        self.detail = detail
        self.remedy = remedy
