"""The factory: wires rooms and channels together, and takes them down in order.

    cancelled from outside? -> hear_cancellation -+
                                                   v
    shield ( root nursery ( Safety, Core, Growth )
             ( core nursery: supervisor, scheduler, tool watch, follower, journal ) )

Layers are opened first and closed last. Whatever ends the core nursery, a shutdown that was asked for or a bug, the
layers are stopped in order before anything is raised.
"""

from __future__ import annotations

import difflib
import os
import secrets
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path

import trio
from attrs import define, field, frozen
from trio_util import AsyncValue

from darkfactory.config import check_config, load_config, missing_paths
from darkfactory.devices.machine import Machine, open_machine
from darkfactory.devices.statedir import default_state_dir
from darkfactory.errors import AgentNotFound, ConfigError, OrchestratorError
from darkfactory.model.actions import Admission, Answer, Finish, Held, Record, Resumed, Severity
from darkfactory.model.events import DriftAlert, Event, HoldAsked, Moment, ResumeAsked, ShutdownAsked, StartAsked
from darkfactory.model.fleet import AgentLayer, OrchestratorConfig
from darkfactory.model.state import State
from darkfactory.policy.decide import initial
from darkfactory.policy.history import fold
from darkfactory.policy.schedule import Schedule, ScheduledAgent
from darkfactory.policy.shutdown import REAP_SECS
from darkfactory.runtime import inbox
from darkfactory.runtime.agent_run import CLEANUP_SECS, Workplace
from darkfactory.runtime.layers import Layers
from darkfactory.runtime.scheduler import TimeScheduler
from darkfactory.runtime.status import AgentStatus, statuses
from darkfactory.runtime.supervisor import Supervisor
from darkfactory.runtime.toolwatch import watch_tools
from darkfactory.tools import tool_for

MachineOpener = Callable[[OrchestratorConfig], AbstractContextManager[Machine]]


@contextmanager
def _this_machine(config: OrchestratorConfig) -> Iterator[Machine]:
    directory = config.state_dir or default_state_dir(config.name, os.environ)
    with open_machine(directory, config.source) as machine:
        yield machine


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


class AgentOrchestrator:
    """A fleet's factory: `run` is its whole life.

    Made from a configuration, or by `from_config_file`. `resume` names agents whose hold ends at the start. `machine`
    replaces the real machine in simulations (`darkfactory.testing`); `seed` fixes run ids and jitter, which otherwise
    are drawn anew. Everything but `run` is to be called from the same Trio run, while it lives.

    Raises ConfigError if the configuration cannot be run, AgentNotFound for an unknown name in `resume`.
    """

    def __init__(
        self,
        config: OrchestratorConfig,
        *,
        resume: Collection[str] = (),
        machine: MachineOpener | None = None,
        seed: int | None = None,
    ) -> None:
        faults = check_config(config)
        if faults:
            raise ConfigError(str(config.source or config.name), faults)
        self.config = config
        for agent in resume:
            self._require(agent)
        self._resume = tuple(resume)
        self._machine = machine
        self._seed = secrets.randbits(63) if seed is None else seed
        self._life: _Life | None = None

    @classmethod
    def from_config_file(cls, path: str | os.PathLike[str]) -> AgentOrchestrator:
        """The factory of a fleet file; ConfigError names every fault in it."""
        return cls(load_config(Path(path), os.environ))

    async def run(self, *, task_status: trio.TaskStatus[AgentOrchestrator] = trio.TASK_STATUS_IGNORED) -> Outcome:
        """Run the fleet until `shutdown`; started when every agent has been looked at once.

        Cancellation stops the factory in order, as `shutdown` does, and is delivered afterwards: within
        `shutdown_grace_secs` and one second. No agent outlives this call.

        Raises ConfigError, AlreadyRunning, StateDirError or JournalDamaged before anything was started; whatever else
        is raised is a bug, or a journal that cannot be written, and the agents were stopped in order before it.
        """
        if self._life is not None:
            raise RuntimeError("this orchestrator is running already")
        missing = missing_paths(self.config)
        if missing:
            raise ConfigError(str(self.config.source or self.config.name), missing)
        open_machine_for = self._machine or _this_machine
        with open_machine_for(self.config) as machine:
            self._life = life = _Life(self.config, machine, self._seed, self._resume)
            try:
                return await life.run(lambda: task_status.started(self))
            finally:
                self._life = None

    def shutdown(self, why: str = "asked to", *, kill: bool = False) -> None:
        """Have the factory stop in order; with `kill`, at once. Returns before it has; may be repeated."""
        if self._life is not None:
            self._life.wish(why, kill=kill)

    def agent_statuses(self) -> list[AgentStatus]:
        """Every agent, now, in the order of the fleet file. No checkpoint."""
        return statuses(self._alive().state.value, trio.current_time())

    async def wait_statuses(self, until: Callable[[list[AgentStatus]], bool]) -> list[AgentStatus]:
        """Wait until `until` holds for the statuses; those that it held for. Looks again after every event."""
        state = await self._alive().state.wait_value(lambda state: until(statuses(state, trio.current_time())))
        return statuses(state, trio.current_time())

    async def start(self, agent: str) -> Admission:
        """Ask for a run of a Core or Growth agent, now; what the admission gate said.

        AgentNotFound if there is none of that name. Cancelled while it waits, the request stands.
        """
        answer = await self._ask(agent, lambda when, number: StartAsked(when, agent, number))
        assert not isinstance(answer.outcome, Held | Resumed)
        return answer.outcome

    async def hold(self, agent: str, detail: str = "by a person") -> bool:
        """Hold an agent until a person resumes it, and stop its run; False if it was held already.

        `detail` says why, to whoever reads the journal or the status. The hold outlives the factory. AgentNotFound if
        there is none of that name. Cancelled while it waits, the request stands.
        """
        answer = await self._ask(agent, lambda when, number: HoldAsked(when, agent, detail, number))
        assert isinstance(answer.outcome, Held)
        return not answer.outcome.was_held

    async def resume(self, agent: str) -> bool:
        """End an agent's hold; False if it was not held. AgentNotFound if there is none of that name."""
        answer = await self._ask(agent, lambda when, number: ResumeAsked(when, agent, number))
        assert isinstance(answer.outcome, Resumed)
        return answer.outcome.was_held

    async def post(self, alert: DriftAlert) -> None:
        """Hand the supervisor a drift alert, as if the factory's own watch had raised it."""
        self._require(alert.agent_name)
        await self._alive().sender.send(alert)

    async def _ask(self, agent: str, event: Callable[[Moment, int], Event]) -> Answer:
        self._require(agent)
        return await self._alive().ask(event)

    def _require(self, agent: str) -> None:
        names = [definition.name for definition in self.config.agents]
        if agent not in names:
            near = difflib.get_close_matches(agent, names, 1)
            remedy = f"did you mean {near[0]!r}?" if near else f"the agents are {', '.join(names)}"
            raise AgentNotFound(f"no agent is named {agent!r}; {remedy}")

    def _alive(self) -> _Life:
        if self._life is None:
            raise OrchestratorError("the factory is not running")
        return self._life


class _Life:
    """One life of a factory, from its lock to its last process."""

    def __init__(self, config: OrchestratorConfig, machine: Machine, seed: int, resume: tuple[str, ...]) -> None:
        self.config = config
        self.machine = machine
        send, self._receive = trio.open_memory_channel[Event](inbox.CAPACITY)
        self.sender = inbox.Sender(send, machine.clock)
        self.places = {
            agent.name: Workplace(agent, tool_for(agent, config.tools), machine, self.sender, config.working_dir)
            for agent in config.agents
        }
        self.layers = Layers(self.places.__getitem__)
        self.state: AsyncValue[State] = AsyncValue(State(config, {}, seed=seed))
        self._seed = seed
        self._resume = resume
        self._askers: dict[int, _Asker] = {}
        self._asked = 0
        self._wishes: list[ShutdownAsked] = []
        self._wished = trio.Event()
        self._shield = trio.CancelScope(shield=True)

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

    async def ask(self, event: Callable[[Moment, int], Event]) -> Answer:
        """Put a question to the supervisor and wait for its answer."""
        self._asked += 1
        number = self._asked
        asker = self._askers[number] = _Asker()
        try:
            await self.sender.send(event(self.sender.now(), number))
            await asker.answered.wait()
        finally:
            del self._askers[number]
        if asker.answer is None:
            raise OrchestratorError("the factory stopped before it could answer")
        return asker.answer

    def _answer(self, answer: Answer) -> None:
        asker = self._askers.get(answer.request)
        if asker is not None:  # else it no longer waits
            asker.answer = answer
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
            finally:
                # after an orderly stop nothing lives; after a bug this is what stops it
                grace = self.config.shutdown_grace_secs
                with trio.CancelScope(deadline=trio.current_time() + grace + CLEANUP_SECS, shield=True):
                    await self.layers.stop_in_order(grace, "the factory failed")
                for asker in self._askers.values():
                    asker.answered.set()
            root.cancel_scope.cancel(reason="the factory is over")
        return finish

    async def _run_core(self, started: Callable[[], None]) -> Finish:
        async with trio.open_nursery() as core:
            core.start_soon(self.machine.journal.serve)
            core.start_soon(self.machine.launcher.serve)
            core.start_soon(self.layers.raise_bugs)
            supervisor = Supervisor(self.state, self.layers, self.machine.journal, self._answer)
            await self._remember(supervisor)
            core.start_soon(self._pass_on_wishes)
            core.start_soon(TimeScheduler(self._timetable(), self.sender).run)
            core.start_soon(watch_tools, self.places, self.sender)
            core.start_soon(self._tell_started, started)
            finish = await supervisor.run(self._receive, self.sender)
            if finish.unreaped:
                self.layers.abandon()
            core.cancel_scope.cancel(reason="the factory is over")
        return finish

    async def _remember(self, supervisor: Supervisor) -> None:
        """End what a former life left, and begin where the journal leaves off."""
        leftovers = await self.machine.launcher.sweep_leftovers()
        durable = fold(self.machine.history, self.config.timezone)
        when = self.sender.now()
        announcing = {name for name, place in self.places.items() if place.tool.announces}
        state, todo = initial(self.config, durable, when, seed=self._seed, announcing=announcing, resume=self._resume)
        supervisor.act((Record("factory_started", when, data={"agents": len(self.config.agents)}),))
        if leftovers:
            supervisor.act((Record("leftovers_ended", when, Severity.WARNING, {"processes": list(leftovers)}),))
        supervisor.act(todo)
        self.state.value = state

    def _timetable(self) -> Iterator[ScheduledAgent]:
        for name, agent in self.state.value.agents.items():
            if agent.cursor is not None and agent.definition.schedule is not None:
                yield ScheduledAgent(name, Schedule(agent.definition.schedule, self.config.timezone), agent.cursor)

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


@asynccontextmanager
async def open_factory(
    fleet: OrchestratorConfig | str | os.PathLike[str],
    *,
    resume: Collection[str] = (),
    machine: MachineOpener | None = None,
    seed: int | None = None,
) -> AsyncIterator[AgentOrchestrator]:
    """Run a fleet for the length of an `async with` block, which is given its orchestrator.

    The block begins when every agent has been looked at once. Leaving it, by whatever way, stops the factory in order
    and leaves nothing running. Takes no signals. Raises what `AgentOrchestrator.run` raises, in an exception group.
    """
    config = fleet if isinstance(fleet, OrchestratorConfig) else load_config(Path(fleet), os.environ)
    orchestrator = AgentOrchestrator(config, resume=resume, machine=machine, seed=seed)
    async with trio.open_nursery() as nursery:
        await nursery.start(orchestrator.run)
        try:
            yield orchestrator
        finally:
            orchestrator.shutdown("the block was left")
