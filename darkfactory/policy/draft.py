"""The state while it is being decided about.

`State` is never changed in place, but one event may change it in many small steps. A draft copies its collections
once, collects those steps and the actions that they call for, and becomes the next state.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from math import inf
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Final, TypeVar

from attrs import define, field, fields, frozen

from darkfactory.model.actions import Action, Admission, Cause, Record, Refuse, Severity
from darkfactory.model.events import Moment
from darkfactory.model.fleet import Isolation, OrchestratorConfig
from darkfactory.model.messages import Mail
from darkfactory.model.providers import Provider, RateLimitTracker
from darkfactory.model.review import ReviewMemory
from darkfactory.model.routing import Route
from darkfactory.model.state import AgentState, Durable, Regroup, Request, Review, Run, State, Stopping

T = TypeVar("T")


@cache
def _fields_of(kind: type[Any]) -> tuple[Callable[[Any], tuple[Any, ...]], Mapping[str, int]]:
    """All values of an object of that class, and where among them each field is."""
    names = [field.name for field in fields(kind)]
    return attrgetter(*names), {name: index for index, name in enumerate(names)}


def _changed(value: T, **changes: Any) -> T:
    """What `attrs.evolve` does, in half of its time, which was the most that an event cost.

    For classes whose fields are all arguments by position.
    """
    kind: Any = type(value)
    values_of, index_of = _fields_of(kind)
    values = [*values_of(value)]
    for name, new in changes.items():
        values[index_of[name]] = new
    changed: T = kind(*values)
    return changed


_OF_STATE: Final = _fields_of(State)[0]
"""All values of a state, or of a draft, which has them too and in the same order."""


@frozen
class Posted:
    """A message that was accepted or refused."""

    id: str
    agent: str | None
    """Whom it is for; None when there is nobody."""
    refusal: Refuse | None
    route: Route | None = None


@define(eq=False)
class Draft:
    """A state in the making, at one moment. Nobody keeps one."""

    when: Moment
    # the fields of `State`, in its order
    config: OrchestratorConfig
    agents: dict[str, AgentState]
    runs: dict[str, str]
    queue: dict[tuple[str, Cause], Request]
    stopping: Stopping | None
    regroup: Regroup | None
    looked_at: bool
    disk_low: str | None
    worktrees: int
    wakes: list[tuple[float, str]]
    sweep_at: float
    lenient_until: float
    seed: int
    begun: int
    posts: int
    rate_limits: RateLimitTracker
    providers: dict[str, Provider]
    mail: Mail
    review: Review | None
    reviews: ReviewMemory
    only_review: bool
    undeclared: Durable
    actions: list[Action] = field(factory=list)
    touched: dict[str, None] = field(factory=dict)
    """Agents to reconcile before this draft is done, in the order they were touched."""
    gate_moved: bool = False
    """Something that the gate looks at has changed."""
    ask_all: bool = False
    """So much of it that every request that waits is to be asked about."""
    outcomes: dict[tuple[str, Cause], Admission] = field(factory=dict)
    """What the gate last said, by the request's key."""
    posted: Posted | None = None
    """The message that somebody asks about."""

    @classmethod
    def of(cls, state: State, when: Moment) -> Draft:
        """A draft that as yet equals `state`."""
        draft = cls(when, *_OF_STATE(state))
        draft.agents, draft.runs, draft.queue = dict(state.agents), dict(state.runs), dict(state.queue)
        draft.wakes, draft.providers = list(state.wakes), dict(state.providers)
        return draft

    def done(self) -> tuple[State, tuple[Action, ...]]:
        """The state that was made, and what is to be done."""
        self._drop_stale_wakes()
        state = State(*_OF_STATE(self))
        return state, tuple(self.actions)

    def record(
        self,
        kind: str,
        severity: Severity = Severity.INFO,
        *,
        durable: bool = True,
        journal_only: Mapping[str, Any] = MappingProxyType({}),
        **data: Any,
    ) -> None:
        """Journal and log something; None values are left out."""
        told = {key: value for key, value in data.items() if value is not None}
        self.actions.append(Record(kind, self.when, severity, told, durable, journal_only))

    def change(self, name: str, **changes: Any) -> AgentState:
        """Change fields of an agent and have it reconciled; the changed agent."""
        self.touched[name] = None
        agent = self.agents[name] = _changed(self.agents[name], **changes)
        return agent

    def change_run(self, run: Run, **changes: Any) -> Run:
        """Change fields of the run that its agent has now; the changed run."""
        changed = _changed(run, **changes)
        self.change(run.agent, run=changed)
        return changed

    def run(self, run_id: str) -> Run | None:
        """The run of that id; None when it has its verdict already."""
        name = self.runs.get(run_id)
        return None if name is None else self.agents[name].run

    def live(self) -> Iterable[Run]:
        """Every run without a verdict."""
        runs = (self.agents[name].run for name in self.runs.values())
        return [run for run in runs if run is not None]

    def worktrees_in_use(self) -> int:
        """Those that are kept, and those of the runs that live, which may not have them yet."""
        isolated = (
            run.errand is not None or self.agents[run.agent].definition.isolation is Isolation.WORKTREE
            for run in self.live()
        )
        return self.worktrees + sum(isolated)

    def wake(self, name: str, at: float) -> None:
        """Have the agent looked at again at `at`, unless it will be sooner."""
        if at < self.agents[name].wake_at:
            self._wake(name, at)

    def wake_at_limit(self, name: str, at: float) -> None:
        """Have the agent looked at again when its run comes to its next limit.

        Output moves that limit on with every line, and an entry that turns out too early costs no more than a look; so
        the entry stays until less than half of the time is left on it. Then it gives way, unless it may be there for a
        request that waits: an agent that goes on talking is never looked at for nothing.
        """
        now, wake_at = self.when.at, self.agents[name].wake_at
        hurried = wake_at - now < (at - now) / 2
        if at < wake_at or (hurried and not any((name, cause) in self.queue for cause in Cause)):
            self._wake(name, at)

    def _wake(self, name: str, at: float) -> None:
        self.agents[name] = _changed(self.agents[name], wake_at=at)
        heapq.heappush(self.wakes, (at, name))

    def take_wakes(self, until: float) -> None:
        """Touch every agent whose entry has come."""
        while self.wakes and self.wakes[0][0] <= until:
            at, name = heapq.heappop(self.wakes)
            if at == self.agents[name].wake_at:  # else it has given way to another one
                self.change(name, wake_at=inf)

    def _drop_stale_wakes(self) -> None:
        """Nobody shall wake for an entry that has given way, nor shall they become many."""
        if len(self.wakes) > 2 * len(self.agents):
            self.wakes = sorted((agent.wake_at, name) for name, agent in self.agents.items() if agent.wake_at < inf)
        while self.wakes and self.wakes[0][0] != self.agents[self.wakes[0][1]].wake_at:
            heapq.heappop(self.wakes)
