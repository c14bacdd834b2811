"""What happened: everything that the supervisor's inbox can hold.

Every event says when, on both clocks, so that deciding about it needs none.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from attrs import field, frozen

from darkfactory.model.drift import DriftAlert
from darkfactory.model.ends import Verdict
from darkfactory.model.fleet import AgentDefinition
from darkfactory.model.messages import HandoffContext, Sent
from darkfactory.model.providers import Spending
from darkfactory.model.review import CompoundReviewResult, Errand, Improvement
from darkfactory.model.signals import Totals, Waiting


@frozen
class Moment:
    """One instant on both clocks."""

    at: float
    """Trio's clock, seconds: for delays. Its epoch changes with every start, and it stands still in suspend."""
    utc: datetime
    """Aware, in UTC: for calendars and the journal. It may be stepped."""


@frozen
class Event:
    """The base: when it happened."""

    when: Moment


@frozen
class Tick(Event):
    """A deadline of the supervisor's own state has come."""


@frozen
class ScheduleEvent(Event):
    """Something that the clock brings about."""


@frozen
class Spawn(ScheduleEvent):
    """An occurrence of an agent's schedule is due."""

    agent: str
    occurrence: datetime
    """The scheduled time, UTC; with the agent it is the key of everything that follows."""
    first_missed: datetime | None = None
    """The oldest of the occurrences that this one stands for; None when it stands for itself alone."""


@frozen
class CompoundReview(ScheduleEvent):
    """An occurrence of the review's schedule is due."""

    occurrence: datetime
    """See `Spawn`."""
    first_missed: datetime | None = None
    """See `Spawn`."""


@frozen
class ToolsChecked(Event):
    """Which agents' programs cannot be found now; told when it changed."""

    missing: Mapping[str, str]
    """Agent name -> what was looked for and where."""
    without_fallback: frozenset[str] = frozenset()
    """Agents whose fallback's program cannot be found."""


@frozen
class DiskChecked(Event):
    """How much room there is on the disks; told when it has become too little, or enough."""

    free_bytes: int
    """On the file system with the least, of those that are written to."""
    what: str
    """Which that is, for a person."""


@frozen
class WorktreesCounted(Event):
    """How many worktrees there are; told when it changed."""

    count: int
    """Those of runs that live are not among them."""


@frozen
class WorktreeMade(Event):
    """A run has a worktree and a branch of its own."""

    run_id: str
    path: Path
    branch: str
    commit: str
    """Where the branch began."""
    cwd: Path
    """The directory in it that the run works in."""


@frozen
class WorktreeSettled(Event):
    """It is decided what becomes of the worktree of a run that is over, of this life or of a former one."""

    run_id: str
    agent: str
    path: Path
    kept: str | None
    """Why it is kept; None: it was removed, and nothing was lost by that."""
    branches: tuple[str, ...] = ()
    """Where its work is."""
    commits: int = 0
    """Those on them that the branch that it began on does not contain."""
    rescued: int = 0
    """Changed files that were committed for it."""
    commit: str | None = None
    """Where its work ends; None where there is none."""


@frozen
class RunStarted(Event):
    """A run's process exists."""

    run_id: str
    pid: int


@frozen
class OutputSeen(Event):
    """A round of a run's output was read."""

    run_id: str
    output_bytes: int
    """All so far, both streams."""
    finished: bool
    """Its terminal event is the last thing it said."""
    spent: Spending = field(factory=Spending)
    """All so far, as far as its tool tells."""
    waiting: Waiting | None = None
    """What it waits for at its provider; None while it does not."""
    answered: bool = False
    """Its provider has answered it, at least once."""


@frozen
class OutputTruncated(Event):
    """A run's output file shrank: the child truncated it, and what it held before is gone."""

    run_id: str
    stream: str


@frozen
class MemoryExceeded(Event):
    """A run's processes were seen to take more memory than its agent is given."""

    run_id: str
    memory_bytes: int
    """All of them together."""


@frozen
class RunEnded(Event):
    """A run is over: its processes are gone, its output is read, its verdict is made."""

    run_id: str
    verdict: Verdict
    exit_code: int | None
    """Minus the number of the signal that ended it; None when it never started or could not be reaped."""
    unreaped: tuple[str, ...] = ()
    """Processes of it that could not be ended, "PID NAME" each."""
    totals: Totals = field(factory=Totals)
    """What its output told of it."""
    spent: Spending = field(factory=Spending)
    """See `OutputSeen.spent`."""
    sent: Sent = field(factory=Sent)
    """What it wrote for other agents; of a run that succeeded."""
    answer: str = ""
    """Of a review's run: its last answer."""


@frozen
class WarmReady(Event):
    """A process that was started ahead exists, and waits for its prompt."""

    agent: str
    run_id: str
    pid: int


@frozen
class WarmEnded(Event):
    """Such a process is gone, and no run has taken it over."""

    agent: str
    run_id: str
    detail: str
    """Why, for a person."""
    exit_code: int | None = None
    """See `RunEnded`."""
    unreaped: tuple[str, ...] = ()
    """See `RunEnded`."""


@frozen
class Drifted(Event):
    """An alert was raised about an agent."""

    alert: DriftAlert


@frozen
class DefinitionRead(Event):
    """An agent's definition was looked up in the fleet file."""

    agent: str
    found: AgentDefinition | None
    """None when it could not be read."""
    problem: str = ""
    """Why, for a person; no secrets in it."""


@frozen
class StartAsked(Event):
    """A person or a program wants an agent to run."""

    agent: str
    request: int
    """Names the asker, who gets an `actions.Answer` with this number."""


@frozen
class MessageSent(Event):
    """A person or a program sends a message."""

    text: str
    to: str | None
    """An agent; None for the one that the router finds."""
    capabilities: tuple[str, ...]
    """Required of the one that it finds."""
    sender: str | None
    id: str | None
    """None when the sender does not care to name it."""
    ttl_secs: float
    request: int


@frozen
class HandoffAsked(Event):
    """A program hands over for an agent; the file is on the disk."""

    context: HandoffContext
    """Stamped: id, sender, receiver and time are set, and both are agents."""
    file: str
    request: int


@frozen
class ReviewAsked(Event):
    """A person or a program wants a review now."""

    dry_run: bool | None
    """None for what the configuration says."""
    request: int


@frozen
class ErrandAsked(Event):
    """A review wants an agent to improve something."""

    errand: Errand


@frozen
class ImprovementFinished(Event):
    """What a review wanted is done, and has passed its gate; now its pull request is to be opened."""

    review: str
    improvement: Improvement


@frozen
class ErrandWithdrawn(Event):
    """A review does not wait for its agent any longer; a run that lives is stopped."""

    review: str
    why: str


@frozen
class ReviewEnded(Event):
    """A review is over, and its reports are written."""

    result: CompoundReviewResult


@frozen
class HoldAsked(Event):
    """A person holds an agent."""

    agent: str
    detail: str
    """Why, in the person's words."""
    request: int


@frozen
class ResumeAsked(Event):
    """A person ends an agent's hold."""

    agent: str
    request: int


@frozen
class ShutdownAsked(Event):
    """Stop the factory in order; asked again with `kill`, at once."""

    why: str
    kill: bool = False
