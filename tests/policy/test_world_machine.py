"""A machine plays the world against `decide`, and the promises of the design are its invariants."""

from __future__ import annotations

import itertools
import json
from datetime import timedelta
from pathlib import Path

from attrs import evolve
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from darkfactory.model import actions
from darkfactory.model.actions import LEVEL, Cause, Queue, Refuse
from darkfactory.model.drift import ACTION_FOR, CorrectionLevel, DriftAlert, DriftMetrics, DriftScore
from darkfactory.model.ends import CLASSES, ErrorClass, Reason, Verdict
from darkfactory.model.events import (
    CompoundReview,
    DefinitionRead,
    Drifted,
    ErrandAsked,
    ErrandWithdrawn,
    Event,
    HoldAsked,
    ImprovementFinished,
    MessageSent,
    OutputSeen,
    ResumeAsked,
    ReviewAsked,
    ReviewEnded,
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
from darkfactory.model.fleet import (
    STOP_ORDER,
    CompoundReviewConfig,
    Fallback,
    LayerConfig,
    OrchestratorConfig,
    Overlap,
    ProviderConfig,
    Reservation,
    Strategy,
)
from darkfactory.model.messages import Mention, Sent
from darkfactory.model.providers import Spending
from darkfactory.model.review import CompoundReviewResult, Errand, Improvement, ReviewOutcome
from darkfactory.model.state import Request
from darkfactory.policy import messages, reservations, siblings
from darkfactory.policy.admission import PROVIDER_WAITS
from darkfactory.policy.draft import Draft
from darkfactory.policy.history import durable_of, fold, instant, line_of, snapshot
from darkfactory.policy.providers import PROBE_SECS
from darkfactory.policy.reconcile import ask_gate
from darkfactory.policy.restart import AFTER, WAIT_MAX_SECS

from .world import CORE, EPOCH, GROWTH, SAFETY, World, agent, fleet, moment

SHARED = Reservation("src/*.py", shared=True)
AGENTS = (
    agent("watch", SAFETY),
    agent("announcing", SAFETY, timeout_secs=500.0),
    agent("third", SAFETY, provider="p", reserve=(Reservation("docs"),)),
    agent("off", SAFETY, enabled=False),
    agent("nightly", CORE, retries=2, provider="p", fallback=Fallback(provider="q"), reserve=(Reservation("src"),)),
    agent(
        "queueing", CORE, overlap=Overlap.QUEUE, jitter_secs=30.0, provider="q", reserve=(SHARED, Reservation("*.md"))
    ),
    agent("restarting", CORE, overlap=Overlap.RESTART, max_runs_per_day=5, reserve=(SHARED,)),
    agent("helper", GROWTH, retries=1, provider="p", reserve=(SHARED, Reservation("docs/*.md"))),
    agent("other", GROWTH, max_output_bytes=1000, warm=2, warm_idle_secs=300.0, accepts_from=("nightly", "helper")),
)
NOTHING = Spending()
SILENT = Sent()
SPENT = st.builds(Spending, st.integers(0, 5), st.integers(0, 2000), st.sampled_from([0.0, 0.1, 0.25]))
NAMES = [definition.name for definition in AGENTS]
PROVIDERS = {"p": ProviderConfig(calls_per_hour=12, hard=True), "q": ProviderConfig(tokens_per_day=10_000)}
ERRORS = [None, *(error for error in ErrorClass if CLASSES[error].reason is Reason.THROTTLED)]
REVIEW = CompoundReviewConfig("*/30 * * * *", Path("/repository"), create_prs=True)
ENDS = [reason for reason in Reason if reason not in (Reason.LOST, Reason.SHUTDOWN)]


class Factory(RuleBasedStateMachine):
    """The rules are what can happen; what the factory may do about it is checked at every action."""

    strategy = Strategy.ONE_FOR_ONE

    @initialize(cap=st.integers(1, 7), max_restarts=st.integers(0, 3))
    def begin(self, cap: int, max_restarts: int) -> None:
        layer = LayerConfig(max_restarts=max_restarts, period_secs=300.0, success_cooldown_secs=20.0)
        self.world = World(self.fleet(layer, cap))
        self.layer = layer
        self.old: list[tuple[set[str], set[str]]] = []
        """For each bad end and hold: whom it restarts, and which of their runs lived then and live yet."""
        self.bad_ends: dict[str, list[float]] = {}
        self.missing: set[str] = set()
        self.occurrences: set[tuple[str, object]] = set()
        self.killed = False
        self.blocked: dict[str, float] = {}
        """Provider -> until when, by the journal."""
        self.where: dict[str, str | None] = {}
        """Run -> its provider."""
        self.messages: dict[str, str] = {}
        """What was accepted and is neither done nor expired: message -> its receiver."""
        self.errands: set[str] = set()
        """Those that a run has taken on, by the review that wanted them and their number."""
        self.probes: dict[str, float] = {}
        """Runs that began at a blocked provider and were not turned away since; and when."""
        self.tell(ToolsChecked(moment(0), {}))

    def fleet(self, layer: LayerConfig, cap: int) -> OrchestratorConfig:
        config = fleet(*AGENTS, layer=layer, max_concurrent_runs=cap, providers=PROVIDERS, compound_review=REVIEW)
        return evolve(config, layers={**config.layers, SAFETY: evolve(layer, strategy=self.strategy)})

    def restarted_with(self, name: str) -> set[str]:
        """Whom the strategy restarts with an agent, itself included."""
        group = [definition.name for definition in AGENTS if definition.layer is SAFETY and definition.enabled]
        if name not in group or self.strategy is Strategy.ONE_FOR_ONE:
            return {name}
        return set(group if self.strategy is Strategy.ONE_FOR_ALL else group[group.index(name) :])

    def restarts(self, name: str) -> None:
        """A bad end or a hold of that agent happens."""
        together = self.restarted_with(name)
        self.old.append((together, {run for run, order in self.world.orders.items() if order.agent in together}))

    def tell(self, event: Event) -> None:
        held = {name for name, state in self.world.state.agents.items() if state.hold is not None}
        living = {order.agent for order in self.world.orders.values()}
        layers = [order.layer for order in self.world.orders.values()]
        was_stopping = self.world.state.stopping is not None
        begun: set[str] = set()
        for action in self.world.tell(event):
            match action:
                case actions.Record(kind="provider_blocked", data=data):
                    self.blocked[data["provider"]] = (instant(data["until"]) - EPOCH).total_seconds()
                    self.probes.pop(data["run"], None)
                case actions.Record(kind="provider_serves", data=data):
                    del self.blocked[data["provider"]]
                    self.probes = {run: at for run, at in self.probes.items() if self.where[run] != data["provider"]}
                case actions.Record(kind="resumed"):
                    held.discard(action.data["agent"])
                    self.bad_ends.pop(action.data["agent"], None)
                case actions.Record(kind="held"):
                    held.add(action.data["agent"])
                    self.restarts(action.data["agent"])
                case actions.Record(kind="message", data=data):
                    assert data["id"] not in self.messages
                    assert data.get("sender") != data["agent"]
                    assert data["agent"] not in held | self.missing | {"off"}
                    assert (data["agent"], data.get("sender")) != ("other", "watch"), "it does not accept that"
                    self.messages[data["id"]] = data["agent"]
                case actions.Record(kind="messages_done", data=data):
                    assert [self.messages.pop(each) for each in data["ids"]] == [data["agent"]] * len(data["ids"])
                case actions.Record(kind="message_expired", data=data):
                    assert self.messages.pop(data["id"]) == data["agent"]
                case actions.Record(kind="run_begun"):
                    begun.add(action.data["run"])
                case actions.StartRun():
                    assert action.run_id in begun, "the journal knows it first"
                    assert action.agent not in living, "never two runs of an agent"
                    assert not was_stopping
                    assert not any(action.agent in self.restarted_with(name) for name in held), "nor one of its group"
                    for together, runs in self.old:
                        mixed = runs & self.world.orders.keys() if action.agent in together else set()
                        assert not mixed, "never two generations of a group"
                    self.begins_where_it_may(action)
                    assert action.agent != "off"
                    assert action.agent not in self.missing
                    assert all(self.messages[message.id] == action.agent for message in action.messages)
                    assert action.messages or action.cause not in (Cause.MESSAGE, Cause.HANDOFF)
                    assert (action.errand is not None) == (action.cause is Cause.REVIEW)
                    if action.errand is not None:
                        assert action.errand.branch not in self.errands, "no errand is done twice"
                        assert (action.errand.agent, action.messages, action.warm) == (action.agent, (), False)
                        assert action.layer is not SAFETY
                        self.errands.add(action.errand.branch)
                    recent = [at for at in self.bad_ends.get(action.agent, ()) if at > event.when.at - 300.0]
                    assert len(recent) <= self.layer.max_restarts, "restarts within intensity"
                    if action.occurrence is not None and action.attempt == 1:
                        key = (action.agent, action.occurrence)
                        assert key not in self.occurrences, "never fired twice"
                        self.occurrences.add(key)
                    living.add(action.agent)
                case actions.StopLayer() if not self.killed:
                    earlier = STOP_ORDER[: STOP_ORDER.index(action.layer)]
                    assert not set(earlier) & set(layers), "layers stop in order"
                case actions.Finish():
                    assert action.exit_code == (1 if self.world.orders or self.world.warm else 0)
                case _:
                    pass

    def begins_where_it_may(self, order: actions.StartRun) -> None:
        """A provider that turned runs away is tried by one alone, and nobody falls back from one that serves."""
        (definition,) = [definition for definition in AGENTS if definition.name == order.agent]
        provider = self.world.config.provider_of(definition.fallen_back() if order.fallback else definition)
        if order.fallback:
            assert "p" in self.blocked, "only while its own is blocked"
        if provider in self.blocked:
            assert self.blocked[provider] <= self.world.at + 0.01, "not before the time has come"
            since = self.world.at - PROBE_SECS + 0.01
            trying = {run for run, at in self.probes.items() if self.where[run] == provider and at > since}
            assert not trying & self.world.orders.keys(), "one tries"
            self.probes[order.run_id] = self.world.at
        self.where[order.run_id] = provider

    def live_run(self, data: st.DataObject) -> actions.StartRun:
        return data.draw(st.sampled_from(sorted(self.world.orders.values(), key=lambda order: order.run_id)))

    alive = precondition(lambda self: bool(self.world.orders) and self.world.finish is None)
    going = precondition(lambda self: self.world.finish is None)

    @going
    @rule(secs=st.floats(0.0, 200.0))
    def time_passes(self, secs: float) -> None:
        """Time never passes a deadline unnoticed: the supervisor wakes at it."""
        until = self.world.at + secs
        while self.world.finish is None and self.world.state.next_deadline() <= until:
            self.tell(Tick(moment(max(self.world.at, self.world.state.next_deadline()))))
        if self.world.finish is None:
            self.tell(Tick(moment(until)))

    @precondition(lambda self: bool(self.world.warm) and self.world.finish is None)
    @rule(data=st.data(), ends=st.booleans())
    def what_waits_is_ready_or_ends(self, data: st.DataObject, ends: bool) -> None:
        run_id = data.draw(st.sampled_from(sorted(self.world.warm)))
        if ends:
            order = self.world.warm.pop(run_id)
            self.world.stops.pop(run_id, None)
            self.tell(WarmEnded(self.world.now(), order.agent, run_id, "because"))
        elif self.world.warm_state(run_id).ready_at is None:
            self.tell(WarmReady(self.world.now(), self.world.warm[run_id].agent, run_id, 4712))

    @alive
    @rule(data=st.data())
    def run_starts(self, data: st.DataObject) -> None:
        self.tell(RunStarted(self.world.now(), self.live_run(data).run_id, 4711))

    @alive
    @rule(
        data=st.data(), output_bytes=st.integers(0, 2000), finished=st.booleans(), spent=SPENT, answered=st.booleans()
    )
    def run_prints(
        self, data: st.DataObject, output_bytes: int, finished: bool, spent: Spending, answered: bool
    ) -> None:
        run_id = self.live_run(data).run_id
        self.tell(OutputSeen(self.world.now(), run_id, output_bytes, finished, spent, None, answered))

    @alive
    @rule(
        data=st.data(),
        reason=st.sampled_from(ENDS),
        obeys=st.sampled_from([True, True, False]),
        error=st.sampled_from(ERRORS),
        resets=st.none() | st.floats(-100.0, 8000.0),
        spent=SPENT,
        mentions=st.lists(st.builds(Mention, st.sampled_from([*NAMES, "nobody"]), st.just("look")), max_size=2),
    )
    def run_ends(
        self,
        data: st.DataObject,
        reason: Reason,
        obeys: bool,
        error: ErrorClass | None,
        resets: float | None,
        spent: Spending,
        mentions: list[Mention],
    ) -> None:
        """One that is told to stop may just have ended by itself."""
        order = self.live_run(data)
        stop = self.world.stops.get(order.run_id)
        reason = stop.reason if stop is not None and obeys else reason
        verdict = Verdict(reason, "because")
        if reason is Reason.THROTTLED:
            resets_at = None if resets is None else self.world.now().utc + timedelta(seconds=resets)
            verdict = evolve(verdict, error_class=error, resets_at=resets_at)
        self.judged(order.run_id, verdict, spent, Sent(tuple(mentions) if reason is Reason.SUCCEEDED else ()))

    def ends(self, run_id: str, reason: Reason) -> None:
        self.judged(run_id, Verdict(reason, "because"))

    def judged(self, run_id: str, verdict: Verdict, spent: Spending = NOTHING, sent: Sent = SILENT) -> None:
        reason = verdict.reason
        order = self.world.orders.pop(run_id)
        self.world.stops.pop(run_id, None)
        if AFTER[reason].counts:
            assert reason is not Reason.SIBLING
            self.bad_ends.setdefault(order.agent, []).append(self.world.at)
            if order.layer is SAFETY:
                self.restarts(order.agent)
        self.tell(RunEnded(self.world.now(), run_id, verdict, 0, spent=spent, sent=sent))

    @precondition(lambda self: self.world.state.stopping is None)
    @rule()
    def nothing_fails_for_a_while(self) -> None:
        """Then all that is enabled and not held, or down with one that is, runs again, as far as there is room."""
        self.tools_checked(set())
        waited = 0.0
        state = self.world.state
        throttled = any(agent.waits for agent in state.agents.values()) or self.blocked
        bound = 4000.0 + (WAIT_MAX_SECS + 8000.0 if throttled else 0.0)
        while not self.all_is_well():
            assert waited < bound
            for run_id, order in list(self.world.orders.items()):
                if run_id in self.world.stops:
                    self.ends(run_id, self.world.stops[run_id].reason)
                elif order.layer is not SAFETY:
                    self.ends(run_id, Reason.SUCCEEDED)
                else:
                    self.tell(OutputSeen(self.world.now(), run_id, 1, False, answered=True))
            step = 5.0 if waited < 400.0 else 100.0
            self.time_passes(step)
            waited += step

    def all_is_well(self) -> bool:
        down = {"off"}.union(
            *(self.restarted_with(name) for name, state in self.world.state.agents.items() if state.hold is not None)
        )
        wanted = {agent.name for agent in AGENTS if agent.layer is SAFETY} - down
        running = {order.agent for order in self.world.orders.values() if order.run_id not in self.world.stops}
        full = len(running) == self.world.config.max_concurrent_runs
        return wanted <= running or (full and running <= wanted)

    @going
    @rule(name=st.sampled_from(["nightly", "queueing", "restarting"]), ago=st.floats(0.0, 5000.0))
    def occurrence(self, name: str, ago: float) -> None:
        occurrence = EPOCH + timedelta(seconds=round(self.world.at - ago))
        self.tell(Spawn(self.world.now(), name, occurrence))

    @going
    @rule(name=st.sampled_from(NAMES), number=st.integers(1, 1000))
    def start_asked(self, name: str, number: int) -> None:
        self.tell(StartAsked(self.world.now(), name, number))
        assert number in self.world.answers

    @going
    @rule(
        name=st.sampled_from(NAMES),
        sender=st.sampled_from([None, "somebody", *NAMES]),
        size=st.sampled_from([0, 1, 16_000]),
        message_id=st.sampled_from([None, None, "one", "two"]),
        ttl_secs=st.sampled_from([50.0, 5000.0]),
        number=st.integers(3001, 4000),
    )
    def message_sent(
        self, name: str, sender: str | None, size: int, message_id: str | None, ttl_secs: float, number: int
    ) -> None:
        self.tell(MessageSent(self.world.now(), "x" * size, name, (), sender, message_id, ttl_secs, number))
        assert number in self.world.answers

    @going
    @rule(ago=st.floats(0.0, 5000.0))
    def review_is_due(self, ago: float) -> None:
        self.tell(CompoundReview(self.world.now(), EPOCH + timedelta(seconds=round(self.world.at - ago))))

    @going
    @rule(dry_run=st.sampled_from([None, True, False]), number=st.integers(4001, 5000))
    def review_asked(self, dry_run: bool | None, number: int) -> None:
        self.tell(ReviewAsked(self.world.now(), dry_run, number))
        assert number in self.world.answers

    @precondition(lambda self: self.world.finish is None and self.world.state.review is not None)
    @rule(name=st.sampled_from(NAMES))
    def errand_asked(self, name: str) -> None:
        review = self.world.state.review
        if review.errand is None and review.run is None and review.refused is None:
            errand = Errand(review.id, name, "task", Path("/repository"), "c" * 40, "main", f"branch-{review.id}")
            self.tell(ErrandAsked(self.world.now(), errand))

    @precondition(lambda self: self.world.finish is None and self.world.state.review is not None)
    @rule()
    def errand_withdrawn(self) -> None:
        review = self.world.state.review
        self.tell(ErrandWithdrawn(self.world.now(), review.id, "out of time"))
        assert self.world.state.review.errand is None
        assert review.run not in self.world.orders or review.run in self.world.stops

    @precondition(lambda self: self.world.finish is None and self.world.state.review is not None)
    @rule(finding=st.sampled_from(["churn-1", "todo-2"]))
    def improvement_is_finished(self, finding: str) -> None:
        improvement = Improvement(finding, "title", "task", "helper", (), "branch", commit="e" * 40, finished=True)
        self.tell(ImprovementFinished(self.world.now(), self.world.state.review.id, improvement))
        assert self.world.state.reviews.handled[finding].owed

    @precondition(lambda self: self.world.finish is None and self.world.state.review is not None)
    @rule(
        outcome=st.sampled_from(ReviewOutcome), finding=st.sampled_from(["churn-1", "todo-2"]), finished=st.booleans()
    )
    def review_ends(self, outcome: ReviewOutcome, finding: str, finished: bool) -> None:
        review = self.world.state.review
        improvement = Improvement(finding, "title", "task", "helper", (), "branch", review.run, finished=finished)
        self.tell(
            ReviewEnded(
                self.world.now(),
                CompoundReviewResult(
                    (), improvement, False, None, 1.0, outcome, id=review.id, dry_run=review.dry_run, commit="d" * 40
                ),
            )
        )
        assert self.world.state.review is None
        assert review.run not in self.world.orders or review.run in self.world.stops

    @going
    @rule(name=st.sampled_from(NAMES), number=st.integers(2001, 3000))
    def hold_asked(self, name: str, number: int) -> None:
        self.tell(HoldAsked(self.world.now(), name, "why", number))
        assert number in self.world.answers

    @going
    @rule(name=st.sampled_from(NAMES), number=st.integers(1001, 2000))
    def resume_asked(self, name: str, number: int) -> None:
        self.tell(ResumeAsked(self.world.now(), name, number))
        assert number in self.world.answers

    @going
    @rule(name=st.sampled_from(NAMES), level=st.sampled_from(CorrectionLevel))
    def drift(self, name: str, level: CorrectionLevel) -> None:
        score = DriftScore(name, 0.5, DriftMetrics(0.5, 0.5, 0.5, 30), level)
        self.tell(Drifted(self.world.now(), DriftAlert(name, score, ACTION_FOR[level])))

    @going
    @rule(
        name=st.sampled_from(NAMES),
        schedule=st.sampled_from(["0 3 * * *", "*/7 * * * *"]),
        retries=st.integers(0, 2),
        found=st.booleans(),
    )
    def definition_read(self, name: str, schedule: str, retries: int, found: bool) -> None:
        before = self.world.state.agents[name].definition
        after = evolve(before, retries=retries, schedule=schedule if before.layer is CORE else None)
        self.tell(DefinitionRead(self.world.now(), name, after if found else None, "" if found else "it is broken"))

    @going
    @rule(missing=st.sets(st.sampled_from(NAMES)))
    def tools_checked(self, missing: set[str]) -> None:
        self.missing = missing
        self.tell(ToolsChecked(self.world.now(), dict.fromkeys(missing, "not on PATH")))

    @going
    @rule(kill=st.sampled_from([False, False, True]))
    def shutdown(self, kill: bool) -> None:
        self.killed = self.killed or kill
        self.tell(ShutdownAsked(self.world.now(), "test", kill))

    @precondition(lambda self: self.world.finish is not None)
    @rule()
    def it_is_over(self) -> None:
        """Nothing is fed to a supervisor that has finished."""

    @invariant()
    def state_agrees_with_the_world(self) -> None:
        world = self.world
        assert dict(world.state.runs) == {order.run_id: order.agent for order in world.orders.values()}
        for name, state in world.state.agents.items():
            assert (state.run is not None) == world.lives(name)
        assert len(world.orders) <= world.config.max_concurrent_runs

    @invariant()
    def what_waits_is_known_and_never_too_much(self) -> None:
        known = {each.id for state in self.world.state.agents.values() for each in state.warm}
        assert known == self.world.warm.keys()
        assert not known & self.world.orders.keys()
        assert len(known) <= 2

    @invariant()
    def only_an_agents_own_bad_ends_count(self) -> None:
        since = self.world.at - self.layer.period_secs
        for name, state in self.world.state.agents.items():
            assert [at for at in state.bad_ends if at > since] == [
                at for at in self.bad_ends.get(name, ()) if at > since
            ]

    @invariant()
    def the_queue_knows_each_request_by_its_key(self) -> None:
        assert all(request.key == key for key, request in self.world.state.queue.items())

    @invariant()
    def nobody_waits_who_could_begin(self) -> None:
        state = self.world.state
        if state.looked_at and state.stopping is None:
            draft = Draft.of(state, moment(self.world.at))
            obstacle = siblings.obstacle(draft)
            leases = reservations.Table(draft.live)
            for request in siblings.in_start_order(draft):
                answer = ask_gate(draft, request, obstacle, leases)
                assert answer is not None
                self.says_for_what_it_waits(request, answer)

    def says_for_what_it_waits(self, request: Request, answer: Queue | Refuse) -> None:
        """Of leases it is the truth at any time, but for a provider's limit that was reached since: that frees nobody.

        Others are looked at again where something could come of it.
        """
        if isinstance(answer, Queue) and request.waits_for == "reserved":
            assert answer.reason in {"reserved", *PROVIDER_WAITS}

    @invariant()
    def no_two_runs_have_leases_that_conflict(self) -> None:
        states = self.world.state.agents.values()
        leases = [
            (state.definition.name, lease) for state in states if state.run is not None for lease in state.run.leases
        ]
        for (one, lease), (other, another) in itertools.combinations(leases, 2):
            assert one == other or not reservations.conflict(lease, another)

    @invariant()
    def every_message_is_in_a_mailbox_until_it_is_done(self) -> None:
        state = self.world.state
        boxes = state.mail.boxes
        assert {message.id: name for name, box in boxes.items() for message in box} == self.messages
        for name, box in boxes.items():
            assert 0 < len(box) <= messages.MAILBOX
            agent = state.agents[name]
            for message in box:
                assert message.to == name
                assert message.run is None or (agent.run is not None and message.run == agent.run.id)
                assert message.hops <= messages.HOPS

    @invariant()
    def whoever_has_a_message_and_can_run_is_wanted(self) -> None:
        state = self.world.state
        for name, box in state.mail.boxes.items():
            agent = state.agents[name]
            can_run = agent.definition.enabled and agent.hold is None and agent.missing is None
            if agent.definition.layer is GROWTH and agent.run is None and can_run and state.stopping is None:
                assert box
                assert any((name, cause) in state.queue for cause in Cause if cause is not Cause.REVIEW)

    @invariant()
    def what_a_review_wants_is_at_the_gate_until_a_run_has_begun_or_it_was_refused(self) -> None:
        state = self.world.state
        wanted = {key for key in state.queue if key[1] is Cause.REVIEW}
        review = state.review
        if review is None or review.errand is None:
            assert not wanted
        elif state.looked_at and state.stopping is None:
            assert wanted == {(review.errand.agent, Cause.REVIEW)}
            assert review.run is None

    @invariant()
    def deciding_makes_progress(self) -> None:
        if self.world.finish is None:
            assert self.world.state.next_deadline() > self.world.at

    @invariant()
    def it_finishes_only_when_nobody_lives_or_the_bound_has_come(self) -> None:
        stopping = self.world.state.stopping
        if self.world.finish is not None:
            assert stopping is not None
            nobody = not self.world.orders and not self.world.warm and self.world.state.review is None
            assert nobody or self.world.at >= stopping.bound_at - 0.01
        elif stopping is not None:
            assert self.world.orders or self.world.warm or self.world.state.review is not None

    @invariant()
    def the_fold_of_the_journal_is_the_durable_state(self) -> None:
        durable = fold(self.world.lines(), self.world.config.timezone)
        state = self.world.state
        assert durable.alive == dict(state.runs)
        assert durable.reviews == state.reviews
        assert durable.reviews.alive == (state.review.id if state.review is not None else None)
        assert durable.holds == {name: agent.hold for name, agent in state.agents.items() if agent.hold is not None}
        assert {name: at for name, (_, at) in durable.cursors.items()} == {
            name: agent.cursor for name, agent in state.agents.items() if agent.cursor is not None
        }
        assert durable.pending.keys() == {request.key for request in state.queue.values() if request.cause not in LEVEL}
        for request in state.queue.values():
            if request.cause not in LEVEL:
                waits = durable.pending[request.key]
                assert (waits.occurrence, waits.attempt) == (request.occurrence, request.attempt)
                assert waits.excused == request.excused
                assert (waits.until, waits.fell_back) == (request.until, request.fell_back)
        for name, agent_state in state.agents.items():
            assert durable.runs_on.get(name) == agent_state.runs_on
            ends = [(end - EPOCH).total_seconds() for end in durable.bad_ends.get(name, ())]
            assert ends[len(ends) - len(agent_state.bad_ends) :] == [*map(_to_micro, agent_state.bad_ends)]

    @invariant()
    def a_snapshot_says_what_the_journal_amounts_to(self) -> None:
        world = self.world
        durable = durable_of(world.state, world.now())
        folded = fold(world.lines(), world.config.timezone)
        assert evolve(durable, bad_ends={}) == evolve(folded, bad_ends={})
        for name in NAMES:
            # the journal's times are rounded: of an end that is just about to count no longer nothing is said
            since = self.world.at - self.layer.period_secs + 1e-5
            ends = [(end - EPOCH).total_seconds() for end in folded.bad_ends.get(name, ())]
            counting = [end for end in ends if end > since]
            told = [(end - EPOCH).total_seconds() for end in durable.bad_ends.get(name, ())]
            told = [end for end in told if end > since]
            assert all(abs(end - other) < 1e-5 for end, other in zip(told, counting, strict=True))
        line = json.loads(json.dumps(line_of(snapshot(durable, world.now()))))
        assert fold([*world.lines(), line], world.config.timezone) == durable


def _to_micro(at: float) -> float:
    return (moment(at).utc - EPOCH).total_seconds()


class OneForAll(Factory):
    strategy = Strategy.ONE_FOR_ALL


class RestForOne(Factory):
    strategy = Strategy.REST_FOR_ONE


for machine in (Factory, OneForAll, RestForOne):
    machine.TestCase.settings = settings(max_examples=40, stateful_step_count=60, deadline=None)
test_the_world_against_decide = Factory.TestCase
test_one_for_all_against_decide = OneForAll.TestCase
test_rest_for_one_against_decide = RestForOne.TestCase
