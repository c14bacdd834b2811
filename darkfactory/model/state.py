"""What the supervisor knows. `policy.decide` makes a new one from each event; nobody else changes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from enum import Enum
from math import inf
from pathlib import Path

from attrs import field, frozen

from darkfactory.model.actions import Cause, Refuse, Stop
from darkfactory.model.ends import Verdict
from darkfactory.model.fleet import AgentDefinition, AgentLayer, OrchestratorConfig, Reservation
from darkfactory.model.messages import Mail
from darkfactory.model.providers import Block, DaySpending, Minutes, Provider, RateLimitTracker, Spending
from darkfactory.model.review import Errand, ReviewMemory
from darkfactory.model.signals import Waiting


class Phase(Enum):
    """Where a run stands between its admission and its verdict."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"


@frozen
class Run:
    """A run from its admission to its verdict. Times are Trio seconds."""

    id: str
    agent: str
    layer: AgentLayer
    cause: Cause
    occurrence: datetime | None
    attempt: int
    excused: int
    """How many of the attempts before it used none of the agent's `retries`."""
    since: float
    provider: str | None = None
    """Whose limits it shares; None where it calls nobody that is known."""
    fallback: bool = False
    """It runs with the agent's fallback."""
    fell_back: bool = False
    """It does, or an attempt of the same request before it did."""
    leases: tuple[Reservation, ...] = ()
    """What it has to itself, or shares, as long as it is here."""
    spent: Spending = field(factory=Spending)
    """What was counted for it at its provider: never less than one call."""
    phase: Phase = Phase.STARTING
    pid: int | None = None
    worktree: Path | None = None
    """None while it has none, or shares `working_dir`."""
    last_output: float | None = None
    """None until it printed something."""
    output_bytes: int = 0
    finished_at: float | None = None
    """When its terminal event was seen; None as long as it has more to say."""
    waiting: Waiting | None = None
    """What it waits for at its provider."""
    waits_since: float | None = None
    """Set with it: since when, whatever it was told meanwhile."""
    waits_until: float = -inf
    """Until when it was told to wait, at least."""
    renew_at: float | None = None
    """Where a Moderate correction set its deadline."""
    stop: Stop | None = None
    """Set with phase STOPPING."""
    errand: Errand | None = None
    """What it does for a review, instead of its agent's task."""


@frozen
class Request:
    """A run that is wanted and waits at the gate."""

    agent: str
    cause: Cause
    wanted_at: datetime
    """UTC: from when it may start, and its TTL counts; a retry's lies in the future."""
    occurrence: datetime | None = None
    attempt: int = 1
    excused: int = 0
    """How many of the attempts before it use none of the agent's `retries`."""
    not_before: float = -inf
    """Trio seconds."""
    delayed_by: str = "backoff"
    """What `not_before` comes from: backoff, cooldown, jitter, or a cause that goes by itself."""
    waits_for: str | None = None
    """The reason that was last recorded for its waiting; None before the gate saw it."""
    until: datetime | None = None
    """UTC: it waited for its provider until then, and its age counts from then."""
    fell_back: bool = False
    """An attempt before it ran with the agent's fallback."""

    @property
    def key(self) -> tuple[str, Cause]:
        """What the queue dedupes by."""
        return (self.agent, self.cause)


@frozen
class Hold:
    """A durable stop of one agent that only a person ends."""

    reason: str
    """crash_loop, drift or operator."""
    since: datetime
    detail: str = ""


@frozen
class Warm:
    """A process that was started ahead of its run, and waits for its prompt. Times are Trio seconds."""

    id: str
    """That of the run that may take it over."""
    definition: AgentDefinition
    """What it was started with."""
    since: float
    ready_at: float | None = None
    """When it was there; None while it is being started."""
    pid: int | None = None
    said: bool = False
    """It has printed something."""
    ending: str | None = None
    """Why it is being ended; None while it is wanted."""


@frozen
class AgentState:
    """One agent. Times are Trio seconds unless a field says UTC."""

    definition: AgentDefinition
    announces: bool
    """Its tool prints something as soon as it is up."""
    run: Run | None = None
    hold: Hold | None = None
    missing: str | None = None
    """Why its program cannot be started; None while it can."""
    without_fallback: bool = False
    """Its fallback's program cannot be found."""
    refused: str | None = None
    """The reason of the last refusal that was recorded, until something is admitted or queued again."""
    cursor: datetime | None = None
    """UTC: the newest occurrence that was dealt with, or when its schedule was armed; None without a schedule."""
    bad_ends: tuple[float, ...] = ()
    """The ends that count against the restart intensity, oldest first, within the period."""
    waits: int = 0
    """The ends in a row whose cause goes by itself, and that no provider is blocked for."""
    refusals: int = 0
    """The ends in a row because a server did not give it its leases."""
    begun: int = 0
    """Runs admitted since the factory started."""
    restarts: int = 0
    """Those of them that came after an earlier run of the same request, or of an always-on agent."""
    runs_on: tuple[date, int] | None = None
    """The civil day of the last admission and how many there were on it, without those that were turned away."""
    warm: tuple[Warm, ...] = ()
    """Processes that wait for its next runs, those that are being started or ended included; in the order of starts."""
    warmed: int = 0
    """How many have been started since the factory was."""
    warm_deaths: int = 0
    """How many of them in a row were lost before they could be used."""
    warm_not_before: float = -inf
    """When the next one may be started, after that."""
    wake_at: float = inf
    """Its entry in `State.wakes`; never later than its next deadline."""


@frozen
class ErrandEnd:
    """How a review's run ended."""

    verdict: Verdict
    answer: str
    """The last thing that its agent said."""


@frozen
class ErrandWork:
    """What became of the worktree of a review's run."""

    path: Path
    commit: str | None
    """Where its work ends; None where there is none."""
    kept: str | None
    """See `events.WorktreeSettled`."""


@frozen
class Review:
    """A review that is under way."""

    id: str
    dry_run: bool
    began: datetime
    """UTC."""
    errand: Errand | None = None
    """What it wants done, and no run has begun yet."""
    refused: Refuse | None = None
    """Why no run will begin."""
    run: str | None = None
    """The run that does it, or did."""
    cwd: Path | None = None
    """Where it works; None before it has a worktree."""
    work: ErrandWork | None = None
    """Set when its worktree is settled."""
    end: ErrandEnd | None = None
    """Set when it has ended."""


@frozen
class Stopping:
    """The factory stops, layer by layer."""

    why: str
    stop_by: float
    """When the last grace is over."""
    bound_at: float
    """When we no longer wait."""
    layer: AgentLayer | None = None
    """The one being stopped now."""
    unreaped: tuple[str, ...] = ()
    """Processes of ended runs that could not be ended, "PID NAME" each."""
    killed: bool = False
    finished: bool = False
    """`Finish` was ordered."""


@frozen
class Regroup:
    """Safety agents that are being restarted together (`policy.siblings`)."""

    members: frozenset[str] = frozenset()
    """Those that have not begun again since."""
    not_before: float = -inf
    """Trio seconds: the longest of the back-offs that count for them."""


@frozen(eq=False)
class State:
    """The whole factory, as the supervisor sees it. The collections are never changed in place.

    One state equals no other: each event makes a new one, and whoever holds the last would compare the two in vain.
    """

    config: OrchestratorConfig
    """What was given, and stays."""
    agents: Mapping[str, AgentState]
    """In the order of the fleet file."""
    runs: Mapping[str, str] = field(factory=dict)
    """Run id -> agent, for every run without a verdict."""
    queue: Mapping[tuple[str, Cause], Request] = field(factory=dict)
    """By key, so that there is one for each at most; FIFO."""
    stopping: Stopping | None = None
    regroup: Regroup | None = None
    """None while nobody is restarted together with others."""
    looked_at: bool = False
    """It is known which programs there are, and every agent was reconciled once."""
    disk_low: str | None = None
    """What was found where there is less room than `min_free_bytes`; None while there is enough."""
    worktrees: int = 0
    """Those that are there, besides those of the runs that live."""
    wakes: Sequence[tuple[float, str]] = ()
    """A heap of (instant, agent): when an agent must be looked at next, at the latest."""
    sweep_at: float = inf
    """When every agent is looked at again, event or not."""
    lenient_until: float = -inf
    """Until then no run is stopped at a limit: we were held up, and what the runs did meanwhile is being read."""
    seed: int = 0
    """Makes run ids and jitter, so that one seed and one history give one future."""
    begun: int = 0
    """Runs admitted so far."""
    posts: int = 0
    """Messages accepted so far."""
    rate_limits: RateLimitTracker = field(factory=RateLimitTracker)
    providers: Mapping[str, Provider] = field(factory=dict)
    """By key: those of the agents and of their fallbacks."""
    mail: Mail = field(factory=Mail)
    """Of agents that are declared."""
    review: Review | None = None
    """The one that is under way."""
    reviews: ReviewMemory = field(factory=ReviewMemory)
    only_review: bool = False
    """The factory was started for a review: no agent runs for anything else."""
    undeclared: Durable = field(factory=lambda: Durable())
    """What the journal remembers of agents that are not in the fleet file; it stays as it was."""

    def next_deadline(self) -> float:
        """Trio seconds; never inf while the factory runs."""
        wake = self.wakes[0][0] if self.wakes else inf
        bound = self.stopping.bound_at if self.stopping else inf
        return min(wake, self.sweep_at, bound)


@frozen
class Pending:
    """What is remembered of a request that was accepted and neither begun nor dropped."""

    wanted_at: datetime
    occurrence: datetime | None = None
    attempt: int = 1
    excused: int = 0
    until: datetime | None = None
    fell_back: bool = False


@frozen
class Durable:
    """What outlives the process: the fold of the journal. Times are UTC."""

    cursors: Mapping[str, tuple[str, datetime]] = field(factory=dict)
    """Agent -> its schedule's text and the newest occurrence dealt with."""
    holds: Mapping[str, Hold] = field(factory=dict)
    bad_ends: Mapping[str, tuple[datetime, ...]] = field(factory=dict)
    """Oldest first; not yet cut to the period, which the configuration may have changed."""
    pending: Mapping[tuple[str, Cause], Pending] = field(factory=dict)
    """By `Request.key`."""
    alive: Mapping[str, str] = field(factory=dict)
    """Run id -> agent: begun and without a verdict."""
    runs_on: Mapping[str, tuple[date, int]] = field(factory=dict)
    calls: Mapping[tuple[str, str], Minutes] = field(factory=dict)
    """By agent and provider: see `RateLimitTracker`."""
    spent_on: Mapping[str, DaySpending] = field(factory=dict)
    """By provider."""
    blocks: Mapping[str, Block] = field(factory=dict)
    """By provider; who tries is not remembered."""
    mail: Mail = field(factory=Mail)
    reviews: ReviewMemory = field(factory=ReviewMemory)
    told_until: datetime | None = field(default=None, eq=False)
    """When the newest record was written: until then, at least, the factory lived. None where there is none."""
