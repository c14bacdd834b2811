"""One life of a factory: its rooms and channels are wired together, and taken down in order.

    cancelled from outside? -> hear_cancellation -+
                                                   v
    shield ( root nursery ( Safety, Core, Growth )
             ( core nursery: supervisor, scheduler, tool watch, follower, journal ) )

Layers are opened first and closed last. Whatever ends the core nursery, a shutdown that was asked for or a bug, the
layers are stopped in order before anything is raised.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING

import trio
from attrs import define, field, frozen
from trio_util import AsyncValue, move_on_when

from darkfactory.devices.machine import Machine
from darkfactory.errors import OrchestratorError
from darkfactory.model.actions import Answer, Finish, Queue, Record, Severity
from darkfactory.model.events import DiskChecked, Event, Moment, ShutdownAsked, WorktreesCounted
from darkfactory.model.fleet import AgentDefinition, AgentLayer, OrchestratorConfig
from darkfactory.model.state import State
from darkfactory.policy.chance import token
from darkfactory.policy.decide import decide, initial
from darkfactory.policy.history import fold
from darkfactory.policy.providers import obstacle_at_start
from darkfactory.policy.schedule import Schedule, ScheduledAgent
from darkfactory.policy.shutdown import REAP_SECS
from darkfactory.runtime import inbox
from darkfactory.runtime.beat import Beat
from darkfactory.runtime.body import CLEANUP_SECS, Workplace
from darkfactory.runtime.definitions import Definitions
from darkfactory.runtime.housekeeping import keep_worktrees, prune_runs, watch_disk
from darkfactory.runtime.layers import Layers
from darkfactory.runtime.leases import LeaseKeeper
from darkfactory.runtime.memory import MemoryWatch
from darkfactory.runtime.nightwatch import Nightwatch
from darkfactory.runtime.scheduler import REVIEW, TimeScheduler
from darkfactory.runtime.status import AgentStatus, ProviderStatus, provider_statuses, statuses
from darkfactory.runtime.supervisor import Supervisor
from darkfactory.runtime.toolwatch import watch_tools
from darkfactory.tools import tool_for

if TYPE_CHECKING:
    from darkfactory.runtime.reviewer import CompoundReviewWorkflow


@frozen
class Outcome:
    """What a factory's life came to."""

    exit_code: int
    """0 stopped in order; 1 something could not be ended."""
    unreaped: tuple[str, ...]
    """What that was, "PID NAME" each."""


@define(eq=False)
class _Asker:
    answered: trio.Event = field(factory=trio.Event)
    answer: Answer | None = None
    journalled: int = 0
    """The number of the journal's line that makes it last."""


class Life:
    """One life of a factory, from its lock to its last process."""

    def __init__(
        self, config: OrchestratorConfig, machine: Machine, seed: int, resume: tuple[str, ...], *, only_review: bool
    ) -> None:
        self.config = config
        self.machine = machine
        send, self._receive = trio.open_memory_channel[Event](inbox.CAPACITY)
        self.sender = inbox.Sender(send, machine.clock)
        self.memory = MemoryWatch(self.sender)
        self.leases = LeaseKeeper(machine.leases, config.agent_mail.ttl_secs if config.agent_mail else math.inf)
        self.state: AsyncValue[State] = AsyncValue(State(config, {}, seed=seed))
        self.nightwatch = Nightwatch(config.nightwatch, self.state, self.sender)
        self.beat = Beat(self.nightwatch.look)
        self.places = {agent.name: self._place(agent) for agent in config.agents}
        self.layers = Layers(self.places.__getitem__)
        self.reviewer = self._review_room() if config.compound_review is not None else None
        self._seed = seed
        self._resume = resume
        self._only_review = only_review
        self._askers: dict[int, _Asker] = {}
        self._asked = 0
        self._wishes: list[ShutdownAsked] = []
        self._wished = trio.Event()
        self._shield = trio.CancelScope(shield=True)
        self.over = trio.Event()
        """Nobody will be answered any more."""

    async def run(self, started: Callable[[], None]) -> Outcome:
        """Live; cancellation becomes a shutdown in order."""
        finish: Finish | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._hear_cancellation)
            with self._shield:
                finish = await self._run_layers(started)
            nursery.cancel_scope.cancel(reason="the factory is over")
        assert finish is not None
        return Outcome(finish.exit_code, finish.unreaped)

    def wish(self, why: str, *, kill: bool) -> None:
        """Have the supervisor hear of a shutdown, however full its inbox is."""
        self._wishes.append(ShutdownAsked(self.sender.now(), why, kill))
        self._wished.set()

    def new_id(self, letter: str, utc: datetime) -> str:
        """An id that nothing else ever had."""
        self._asked += 1
        return f"{letter}-{utc:%Y%m%d-%H%M%S}-{token(self._seed, letter, self._asked, utc.isoformat())}"

    async def ask(self, event: Callable[[Moment, int], Event], *, durable: bool = False) -> Answer:
        """Put a question to the supervisor and wait for its answer; if `durable`, until a power cut cannot undo it."""
        self._asked += 1
        number = self._asked
        asker = self._askers[number] = _Asker()
        try:
            async with move_on_when(self.over.wait):
                await self.sender.send(event(self.sender.now(), number))
                await asker.answered.wait()
                if durable:
                    await self.machine.journal.wait_durable(asker.journalled)
        finally:
            del self._askers[number]
        if asker.answer is None:
            raise OrchestratorError("the factory stopped before it could answer")
        return asker.answer

    def statuses(self) -> list[AgentStatus]:
        """Every agent, now."""
        return statuses(self.state.value, self.sender.now(), self.nightwatch.scores())

    def providers(self) -> list[ProviderStatus]:
        """Every provider, now."""
        return provider_statuses(self.state.value, self.machine.clock.utc())

    def _review_room(self) -> CompoundReviewWorkflow:
        from darkfactory.runtime.reviewer import CompoundReviewWorkflow  # most fleets have no review

        return CompoundReviewWorkflow(self.config, self.state, self.machine, self.sender)

    def _place(self, agent: AgentDefinition) -> Workplace:
        return Workplace(
            agent,
            tool_for(agent, self.config.tools),
            self.machine,
            self.sender,
            self.config.working_dir,
            self.memory,
            self.config.min_free_bytes,
            self.config.nice,
            self.nightwatch,
            self._obstacle,
            self.leases,
            self._place(agent.fallen_back()) if agent.fallback is not None else None,
        )

    def _obstacle(self, run_id: str) -> Queue | None:
        return obstacle_at_start(self.state.value, run_id, self.sender.now())

    def _answer(self, answer: Answer, journalled: int) -> None:
        asker = self._askers.get(answer.request)
        if asker is not None:  # else it no longer waits
            asker.answer = answer
            asker.journalled = journalled
            asker.answered.set()

    async def _hear_cancellation(self) -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            self.wish("cancelled", kill=False)
            # the supervisor keeps the bound; this is for the case that it cannot
            patience = self.config.shutdown_grace_secs + REAP_SECS
            self._shield.deadline = trio.current_time() + patience + CLEANUP_SECS
            raise

    async def _run_layers(self, started: Callable[[], None]) -> Finish:
        async with trio.open_nursery() as root:
            for layer in AgentLayer:
                await root.start(self.layers.live, layer)
            try:
                finish = await self._run_core(started)
            except BaseException:
                # the supervisor cannot stop them any more
                grace = self.config.shutdown_grace_secs
                with trio.CancelScope(deadline=trio.current_time() + grace + CLEANUP_SECS, shield=True):
                    await self.layers.stop_in_order(grace, "the factory failed")
                raise
            finally:
                self.layers.abandon()
                self.over.set()
            root.cancel_scope.cancel(reason="the factory is over")
        return finish

    async def _run_core(self, started: Callable[[], None]) -> Finish:
        async with trio.open_nursery() as core:
            core.start_soon(self.machine.journal.serve)
            core.start_soon(self.machine.launcher.serve)
            core.start_soon(self.layers.raise_bugs)
            timetable = TimeScheduler((), self.sender, self.beat)
            definitions = Definitions(
                self.places, timetable, self.config.timezone, self.config.source, self.sender, self.machine.in_thread
            )
            supervisor = Supervisor(
                self.state,
                self.layers,
                self.machine.journal,
                self._answer,
                self.nightwatch,
                definitions,
                self.beat,
                self.reviewer,
            )
            await self._remember(supervisor)
            for scheduled in () if self._only_review else self._timetable():
                timetable.arm(scheduled)
            core.start_soon(self._pass_on_wishes)
            core.start_soon(timetable.run)
            core.start_soon(definitions.run)
            core.start_soon(self.nightwatch.run)
            core.start_soon(watch_tools, self.places, self.machine.launcher, self.sender, self.beat)
            core.start_soon(self.memory.run)
            if self.machine.leases is not None:
                core.start_soon(self.leases.run)
            core.start_soon(watch_disk, self.state, self.machine, self.sender, self.beat)
            core.start_soon(prune_runs, self.state, self.machine)
            core.start_soon(keep_worktrees, self.state, self.machine, self.sender, self.beat)
            if self.reviewer is not None:
                core.start_soon(self.reviewer.run)
            core.start_soon(self._tell_started, started)
            finish = await supervisor.run(self._receive, self.sender)
            core.cancel_scope.cancel(reason="the factory is over")
        return finish

    async def _remember(self, supervisor: Supervisor) -> None:
        """End what a former life left, and begin where the journal leaves off."""
        leftovers = await self.machine.launcher.sweep_leftovers()
        room = await self.machine.disk.room(self.config.working_dir)
        durable = fold(self.machine.history, self.config.timezone)
        when = self.sender.now()
        announcing = {name for name, place in self.places.items() if place.tool.announces}
        state, todo = initial(
            self.config,
            durable,
            when,
            seed=self._seed,
            announcing=announcing,
            resume=self._resume,
            only_review=self._only_review,
        )
        supervisor.act((Record("factory_started", when, data={"agents": len(self.config.agents)}),))
        contained = self.machine.contained
        if contained is not None:
            told = {
                "level": contained.level.value,
                "memory": "kernel" if contained.kernel_limits_memory else "sampled",
                "not_guaranteed": list(contained.not_guaranteed),
            } | ({"why_no_cgroup": contained.why} if contained.why else {})
            supervisor.act((Record("containment", when, data=told, durable=False),))
        if leftovers:
            supervisor.act((Record("leftovers_ended", when, Severity.WARNING, {"processes": list(leftovers)}),))
        supervisor.act(todo)
        found: list[Event] = [DiskChecked(when, room.free_bytes, room.what)]
        if self.config.isolates:
            found.append(WorktreesCounted(when, self.machine.worktrees.kept()))
        for event in found:
            state, todo = decide(state, event)
            supervisor.act(todo)
        self.state.value = state

    def _timetable(self) -> Iterator[ScheduledAgent]:
        for name, agent in self.state.value.agents.items():
            if agent.cursor is not None and agent.definition.schedule is not None:
                yield ScheduledAgent(name, Schedule(agent.definition.schedule, self.config.timezone), agent.cursor)
        reviews = self.state.value.reviews
        if reviews.cursor is not None and reviews.schedule is not None:
            yield ScheduledAgent(REVIEW, Schedule(reviews.schedule, self.config.timezone), reviews.cursor)

    async def _pass_on_wishes(self) -> None:
        while True:
            await self._wished.wait()
            self._wished = trio.Event()
            wishes, self._wishes = self._wishes, []
            for wish in wishes:
                await self.sender.send(wish)

    async def _tell_started(self, started: Callable[[], None]) -> None:
        """Started means that every agent was looked at: what can run at once has been ordered to."""
        await self.state.wait_value(lambda state: state.looked_at)
        started()
