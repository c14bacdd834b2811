"""What the tests of deciding share: fleets of one line, moments, and a world that obeys."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from attrs import asdict, define, evolve, field

from darkfactory.model import actions
from darkfactory.model.actions import Action, Record
from darkfactory.model.drift import ACTION_FOR, CorrectionLevel, DriftAlert, DriftMetrics, DriftScore
from darkfactory.model.ends import ErrorClass, Reason, Verdict
from darkfactory.model.events import (
    Drifted,
    Event,
    HoldAsked,
    MemoryExceeded,
    Moment,
    OutputSeen,
    ResumeAsked,
    RunEnded,
    RunStarted,
    ShutdownAsked,
    Spawn,
    StartAsked,
    Tick,
    ToolsChecked,
    WarmEnded,
    WarmReady,
)
from darkfactory.model.fleet import AgentDefinition, AgentLayer, LayerConfig, OrchestratorConfig
from darkfactory.model.providers import Spending
from darkfactory.model.state import Durable, State, Warm
from darkfactory.policy.decide import decide, initial
from darkfactory.policy.history import fold, line_of

EPOCH = datetime(2026, 1, 5, tzinfo=UTC)
SAFETY, CORE, GROWTH = AgentLayer.SAFETY, AgentLayer.CORE, AgentLayer.GROWTH
STEADY = LayerConfig(backoff_jitter=0.0)


def moment(at: float) -> Moment:
    """`at` seconds after the epoch, on clocks that agree."""
    return Moment(at, EPOCH + timedelta(seconds=at))


def told(state: State) -> dict[str, object]:
    """All that a state says, to be compared with what another one says."""
    return asdict(state, recurse=False)


def agent(name: str, layer: AgentLayer, **fields: object) -> AgentDefinition:
    """An agent of the demo tool; Core ones run at three unless told otherwise."""
    if layer is CORE:
        fields.setdefault("schedule", "0 3 * * *")
    return AgentDefinition(name, layer, "demo", "task", **fields)  # type: ignore[arg-type]


def fleet(*agents: AgentDefinition, layer: LayerConfig = STEADY, **fields: object) -> OrchestratorConfig:
    """A fleet of these agents, with one configuration for all layers."""
    layers = dict.fromkeys(AgentLayer, layer)
    return OrchestratorConfig(working_dir=Path("/"), agents=agents, layers=layers, **fields)  # type: ignore[arg-type]


@define
class World:
    """Feeds events to `decide` and does, by the book, what the actions say. Time is what the test says it is."""

    config: OrchestratorConfig
    durable: Durable = field(factory=Durable)
    state: State = field(init=False)
    at: float = 0.0
    resume: tuple[str, ...] = ()
    """Whose hold a person ends with the start."""
    only_review: bool = False
    past: list[dict[str, object]] = field(factory=list)
    """What the journal held at the start."""
    orders: dict[str, actions.StartRun] = field(factory=dict)
    """Runs without a verdict, by id."""
    warm: dict[str, actions.StartWarm] = field(factory=dict)
    """Processes that wait for a run, or would if nobody had stopped them; by id."""
    stops: dict[str, actions.Stop] = field(factory=dict)
    records: list[Record] = field(factory=list)
    new: tuple[Action, ...] = ()
    """What the last event called for."""
    answers: dict[int, object] = field(factory=dict)
    finish: actions.Finish | None = None

    def __attrs_post_init__(self) -> None:
        self.state, todo = initial(
            self.config,
            self.durable,
            moment(self.at),
            announcing={"announcing"},
            resume=self.resume,
            only_review=self.only_review,
        )
        self.obey(todo)

    @classmethod
    def begun(cls, *agents: AgentDefinition, **fields: object) -> World:
        """A world whose fleet was looked at once, at time 0."""
        world = cls(fleet(*agents, **fields))  # type: ignore[arg-type]
        world.misses()
        return world

    def tell(self, event: Event) -> tuple[Action, ...]:
        """Let an event happen; its actions."""
        self.at = event.when.at
        self.state, todo = decide(self.state, event)
        self.obey(todo)
        return todo

    def obey(self, todo: tuple[Action, ...]) -> None:
        self.new = todo
        for action in todo:
            match action:
                case Record():
                    self.records.append(action)
                case actions.StartRun():
                    self.orders[action.run_id] = action
                    assert action.warm == (self.warm.pop(action.run_id, None) is not None)
                case actions.StartWarm():
                    self.warm[action.run_id] = action
                case actions.StopRun() | actions.StopAgent():
                    self.stop(action.run_id, action.stop)
                case actions.StopLayer():
                    for run_id, stop in action.stops.items():
                        self.stop(run_id, stop)
                case actions.Answer():
                    self.answers[action.request] = action.outcome
                case actions.Finish():
                    self.finish = action

    def stop(self, run_id: str, stop: actions.Stop) -> None:
        first = self.stops.get(run_id)
        self.stops[run_id] = stop if first is None else evolve(first, grace_secs=min(first.grace_secs, stop.grace_secs))

    def now(self, at: float | None = None) -> Moment:
        return moment(self.at if at is None else at)

    def run_of(self, name: str) -> str:
        """The id of the agent's run."""
        (run_id,) = [order.run_id for order in self.orders.values() if order.agent == name]
        return run_id

    def started(self, name: str, at: float | None = None) -> None:
        self.tell(RunStarted(self.now(at), self.run_of(name), 4711))

    def warms_up(self, at: float | None = None) -> list[str]:
        """Every process that was started ahead is there; the ids of all, in the order of starts."""
        for run_id, order in self.warm.items():
            if self.warm_state(run_id).ready_at is None:
                self.tell(WarmReady(self.now(at), order.agent, run_id, 4712))
        return list(self.warm)

    def warm_state(self, run_id: str) -> Warm:
        """What is known of such a process."""
        (found,) = [each for agent in self.state.agents.values() for each in agent.warm if each.id == run_id]
        return found

    def cools(self, run_id: str, at: float | None = None, unreaped: tuple[str, ...] = ()) -> None:
        """Such a process has ended."""
        order = self.warm.pop(run_id)
        self.stops.pop(run_id, None)
        self.tell(WarmEnded(self.now(at), order.agent, run_id, "because", 1, unreaped))

    def says(self, name: str, at: float, output_bytes: int = 1, *, finished: bool = False) -> None:
        self.tell(OutputSeen(self.now(at), self.run_of(name), output_bytes, finished))

    def spends(self, name: str, at: float, calls: int = 0, tokens: int = 0, usd: float = 0.0) -> None:
        """Its output tells that it has used up so much, all in all."""
        self.tell(OutputSeen(self.now(at), self.run_of(name), 1, False, Spending(calls, tokens, usd)))

    def answered(self, name: str, at: float) -> None:
        """Its provider has answered it."""
        self.tell(OutputSeen(self.now(at), self.run_of(name), 1, False, answered=True))

    def swells(self, name: str, at: float, memory_bytes: int) -> None:
        self.tell(MemoryExceeded(self.now(at), self.run_of(name), memory_bytes))

    def ends(self, name: str, reason: Reason, at: float | None = None, unreaped: tuple[str, ...] = ()) -> None:
        self.judged(name, Verdict(reason, "because"), at, unreaped)

    def judged(
        self, name: str, verdict: Verdict, at: float | None = None, unreaped: tuple[str, ...] = (), calls: int = 0
    ) -> None:
        """The agent's run ends with that verdict."""
        run_id = self.run_of(name)
        del self.orders[run_id]
        self.stops.pop(run_id, None)
        self.tell(RunEnded(self.now(at), run_id, verdict, 0, unreaped, spent=Spending(calls)))

    def turned_away(
        self, name: str, at: float | None = None, *, error: ErrorClass = ErrorClass.QUOTA, resets: float | None = None
    ) -> None:
        """The agent's run ends because its provider said wait, until `resets` if that is given."""
        resets_at = None if resets is None else EPOCH + timedelta(seconds=resets)
        self.judged(name, Verdict(Reason.THROTTLED, "limit reached", error, True, resets_at), at)

    def due(self, name: str, at: float | None = None, *, late: float = 0.0) -> None:
        """An occurrence that was scheduled `late` seconds ago is told."""
        when = self.now(at)
        self.tell(Spawn(when, name, when.utc - timedelta(seconds=late)))

    def asks(self, name: str, at: float | None = None) -> object:
        """An operator asks for a run; the answer."""
        number = len(self.answers)
        self.tell(StartAsked(self.now(at), name, number))
        return self.answers[number]

    def holds(self, name: str, at: float | None = None) -> object:
        """An operator holds an agent; the answer."""
        number = len(self.answers)
        self.tell(HoldAsked(self.now(at), name, "being mended", number))
        return self.answers[number]

    def resumes(self, name: str, at: float | None = None) -> object:
        """An operator ends a hold; the answer."""
        number = len(self.answers)
        self.tell(ResumeAsked(self.now(at), name, number))
        return self.answers[number]

    def drifts(self, name: str, level: CorrectionLevel, at: float | None = None) -> None:
        score = DriftScore(name, 0.5, DriftMetrics(0.5, 0.5, 0.5, 30), level)
        self.tell(Drifted(self.now(at), DriftAlert(name, score, ACTION_FOR[level])))

    def shuts_down(self, at: float | None = None, *, kill: bool = False) -> None:
        self.tell(ShutdownAsked(self.now(at), "test", kill))

    def misses(self, at: float | None = None, *names: str) -> None:
        """The tools of these agents, and of no others, are missing."""
        self.tell(ToolsChecked(self.now(at), dict.fromkeys(names, "not on PATH")))

    def passes(self, until: float) -> None:
        """Time goes on to `until`; as the supervisor would, wake at every deadline on the way."""
        while self.finish is None and self.state.next_deadline() <= until:
            self.tell(Tick(moment(max(self.at, self.state.next_deadline()))))
        if self.finish is None:
            self.tell(Tick(moment(until)))

    def starts(self, name: str) -> list[float]:
        """When the agent's runs were begun."""
        return [record.when.at for record in self.kinds("run_begun") if record.data["agent"] == name]

    def dropped(self, name: str) -> list[object]:
        """Why the agent's requests were dropped, in order."""
        return [record.data["reason"] for record in self.kinds("dropped") if record.data["agent"] == name]

    def reborn(
        self, config: OrchestratorConfig | None = None, at: float | None = None, *, only_review: bool = False
    ) -> World:
        """The world after the factory died and starts again, at `at` on the same clock, with what its journal holds."""
        config = self.config if config is None else config
        at = self.at if at is None else at
        durable = fold(self.lines(), config.timezone)
        return World(config, durable, at=at, only_review=only_review, past=self.lines())

    def stop_reason(self, name: str) -> Reason | None:
        stop = self.stops.get(self.run_of(name))
        return None if stop is None else stop.reason

    def lives(self, name: str) -> bool:
        return any(order.agent == name for order in self.orders.values())

    def kinds(self, kind: str) -> list[Record]:
        return [record for record in self.records if record.kind == kind]

    def lines(self) -> list[dict[str, object]]:
        """The journal."""
        return self.past + [line_of(record) for record in self.records]
