"""What is to be done: everything that `policy.decide` can order, and the answers of the admission gate."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from typing import Any, Final

from attrs import field, frozen

from darkfactory.model.drift import DriftScore
from darkfactory.model.ends import Reason
from darkfactory.model.events import Moment
from darkfactory.model.fleet import AgentDefinition, AgentLayer
from darkfactory.model.messages import Message
from darkfactory.model.review import Errand
from darkfactory.model.routing import Route


class Cause(Enum):
    """Why a run starts; the gate's queue holds at most one request for each agent and cause."""

    ALWAYS_ON = "always_on"
    CRON = "cron"
    MESSAGE = "message"
    """A message waits for an on-demand agent."""
    HANDOFF = "handoff"
    """The same; the oldest that waits is a handoff."""
    REVIEW = "review"
    """The compound review wants something improved."""
    OPERATOR = "operator"
    """A person, or the program that embeds the factory."""


FOR_MESSAGES: Final = (Cause.MESSAGE, Cause.HANDOFF)
"""Causes of requests that stand for the messages that wait for an agent."""
LEVEL: Final = frozenset({Cause.ALWAYS_ON, *FOR_MESSAGES, Cause.REVIEW})
"""Causes that last: a request is made anew at every look, for as long as an agent is always on, a message waits, or a
review does."""


@frozen
class Admit:
    """The run starts."""

    run_id: str


@frozen
class Queue:
    """The run waits, and starts by itself when the reason is gone."""

    reason: str
    """A stable word, such as "max_concurrent_runs"."""
    detail: str = ""
    until: datetime | None = None
    """UTC: when that will be over, where it is known."""


@frozen
class Refuse:
    """The run does not start."""

    reason: str
    detail: str = ""


Admission = Admit | Queue | Refuse


@frozen
class Begun:
    """A review has begun."""

    review: str


@frozen
class Held:
    """What a hold found."""

    was_held: bool


@frozen
class Resumed:
    """What a resume found."""

    was_held: bool


@frozen
class Delivery:
    """What became of a message."""

    id: str
    agent: str | None
    """Whom it was meant for, or found for it; None when there is nobody."""
    outcome: Admission
    """The run that is told it; or why it waits; or why it was refused."""
    route: Route | None = None
    """How its agent was found; None where one was named."""


class Severity(Enum):
    """How loudly a record is logged; the values are structlog's method names."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@frozen
class Record:
    """Something worth remembering: it goes to the journal and to the log."""

    kind: str
    when: Moment
    severity: Severity = Severity.INFO
    data: Mapping[str, Any] = field(factory=dict)
    """JSON values only."""
    durable: bool = True
    """It must be on the disk before what it tells of has effects outside."""
    journal_only: Mapping[str, Any] = field(factory=dict)
    """More of it, which is no matter for the log."""


@frozen
class StartRun:
    """Start a run once all records given so far are durable."""

    run_id: str
    agent: str
    layer: AgentLayer
    cause: Cause
    occurrence: datetime | None
    attempt: int
    """1 for the first try of a request."""
    fallback: bool = False
    """With the agent's fallback instead of its own tool and model."""
    messages: tuple[Message, ...] = ()
    """What its prompt tells besides the task."""
    warm: bool = False
    """A process of that id waits for it (`StartWarm`); should that be lost, the run starts another one."""
    errand: Errand | None = None
    """What it is to do instead of its agent's task, for a review."""


@frozen
class StartWarm:
    """Start a process ahead of its run, which may come or not."""

    run_id: str
    agent: str
    layer: AgentLayer


@frozen
class Stop:
    """Why and how patiently a run is stopped."""

    reason: Reason
    grace_secs: float
    """From SIGTERM to SIGKILL."""
    detail: str = ""
    lingered: bool = False
    """It had said its result and did not go."""


@frozen
class StopRun:
    """Cancel the run's scope, or that of the process that waits for a run of this id."""

    layer: AgentLayer
    run_id: str
    stop: Stop


@frozen
class StopAgent:
    """Cancel the agent's scope, and with it the run in it."""

    layer: AgentLayer
    run_id: str
    stop: Stop


@frozen
class StopLayer:
    """Cancel the layer's scope, and with it every run in it."""

    layer: AgentLayer
    stops: Mapping[str, Stop]
    """For each of its runs, and of the processes that wait for one, by run id."""


@frozen
class JudgeDrift:
    """Have an agent's drift evaluated: a run of it has ended."""

    agent: str
    healthy: bool | None
    """How that run counts for its health; None: not at all."""


@frozen
class ResetDrift:
    """Forget what was seen of an agent: it begins anew."""

    agent: str


@frozen
class RefreshContext:
    """Have the agent's next prompt say what went wrong."""

    drift_score: DriftScore


@frozen
class ReadDefinition:
    """Read an agent's definition anew; the answer is an `events.DefinitionRead`."""

    agent: str


@frozen
class Redefine:
    """The agent's next run, and its schedule, go by this definition."""

    definition: AgentDefinition
    cursor: datetime | None
    """UTC, where its new schedule begins; None when that has not changed."""


@frozen
class BeginReview:
    """Review, once all records given so far are durable."""

    review: str
    dry_run: bool


@frozen
class StopReview:
    """End the review that is under way: the factory stops. Said again, with less patience."""

    grace_secs: float
    """What a gate that runs has to end by itself."""


@frozen
class Answer:
    """Tell an asker what became of the request."""

    request: int
    outcome: Admission | Held | Resumed | Delivery | Begun


@frozen
class Finish:
    """The factory is done."""

    exit_code: int
    unreaped: tuple[str, ...] = ()
    """What still lives, named."""


Drifting = JudgeDrift | ResetDrift | RefreshContext
"""What Nightwatch is told."""

Starting = StartRun | StartWarm
"""Whatever brings a process into being."""

Stopping = StopRun | StopAgent | StopLayer
"""Whatever ends some."""

Reviewing = BeginReview | StopReview
"""What the reviewer is told."""

Action = Record | Starting | Stopping | Drifting | Reviewing | ReadDefinition | Redefine | Answer | Finish
