"""The factory as a program holds it: what it can be asked for, and the machine that it lives on."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from random import SystemRandom
from typing import Final

import trio
from trio_util import move_on_when

from darkfactory.config import check_config, load_config, missing_paths
from darkfactory.devices.agent_mail import AgentMail, open_agent_mail
from darkfactory.devices.cgroup import NoCgroup
from darkfactory.devices.machine import Machine, open_machine
from darkfactory.devices.statedir import default_state_dir
from darkfactory.errors import AgentNotFound, CompoundReviewFailed, ConfigError, Fault, HandoffFailed, OrchestratorError
from darkfactory.model.actions import Admission, Admit, Answer, Begun, Delivery, Held, Queue, Refuse, Resumed
from darkfactory.model.drift import DriftAlert
from darkfactory.model.events import (
    Drifted,
    Event,
    HandoffAsked,
    HoldAsked,
    MessageSent,
    Moment,
    ResumeAsked,
    ReviewAsked,
    StartAsked,
)
from darkfactory.model.fleet import OrchestratorConfig
from darkfactory.model.messages import MESSAGE_TTL_MAX_SECS, MESSAGE_TTL_SECS, HandoffContext
from darkfactory.model.review import CompoundReviewResult
from darkfactory.policy import handoff as handoffs
from darkfactory.runtime.life import Life, Outcome
from darkfactory.runtime.status import AgentStatus, ProviderStatus

NAME_CHARS: Final = 128
"""Of a sender, or of the id that it gives a message: both stand in prompts, in the log and in the journal."""

MachineOpener = Callable[[OrchestratorConfig], AbstractContextManager[Machine]]


def state_dir_of(config: OrchestratorConfig) -> Path:
    """Where the fleet's state is on this machine."""
    return config.state_dir or default_state_dir(config.name, os.environ)


@contextmanager
def this_machine(
    config: OrchestratorConfig, *, adopts: bool = False, open_files: int | None = None
) -> Iterator[Machine]:
    """The machine we are on. `adopts`: this process is the factory's alone, and a child subreaper.

    `open_files`: the soft limit that runs get in place of ours.
    """
    opened = open_machine(
        state_dir_of(config),
        config.source,
        config.containment,
        keep=timedelta(days=config.keep_days),
        adopts=adopts,
        open_files=open_files,
        leases=partial(_agent_mail, config) if config.agent_mail is not None else None,
        isolates=config.isolates,
        reviews=config.compound_review is not None,
    )
    with ExitStack() as stack:
        try:
            machine = stack.enter_context(opened)
        except ImportError as reason:
            fault = Fault("agent_mail", f"cannot be used: {reason}", remedy="pip install 'darkfactory[agent-mail]'")
            raise ConfigError(str(config.source or config.name), (fault,)) from None
        except NoCgroup as reason:
            fault = Fault("containment", f"there is no cgroup to be had: {reason}", remedy='use "auto" or "guard"')
            raise ConfigError(str(config.source or config.name), (fault,)) from None
        yield machine


def _agent_mail(config: OrchestratorConfig, instance: str) -> AgentMail:
    assert config.agent_mail is not None
    project = config.agent_mail.project or str(config.working_dir)
    return open_agent_mail(config.agent_mail, project, instance, (agent.name for agent in config.agents))


class AgentOrchestrator:
    """A fleet's factory: `run` is its whole life.

    Made from a configuration, or by `from_config_file`. `resume` names agents whose hold ends at the start. `machine`
    replaces the real machine in simulations (`darkfactory.testing`); `seed` fixes run ids and jitter, which otherwise
    are drawn anew. With `only_review` no agent runs but for a review that is asked for. Everything but `run` is to be
    called from the same Trio run, while it lives.

    Raises ConfigError if the configuration cannot be run, AgentNotFound for an unknown name in `resume`.
    """

    def __init__(
        self,
        config: OrchestratorConfig,
        *,
        resume: Collection[str] = (),
        machine: MachineOpener | None = None,
        seed: int | None = None,
        only_review: bool = False,
    ) -> None:
        faults = check_config(config)
        if faults:
            raise ConfigError(str(config.source or config.name), faults)
        self.config = config
        for agent in resume:
            self._require(agent)
        self._resume = tuple(resume)
        self._machine = machine
        self._seed = seed
        self._only_review = only_review
        self._life: Life | None = None
        self._lived = False
        self._early: tuple[str, bool] | None = None
        """A shutdown that was asked for before the first life began: why, and whether to kill."""

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
        open_machine_for = self._machine or this_machine
        with open_machine_for(self.config) as machine:
            seed = SystemRandom().getrandbits(63) if self._seed is None else self._seed
            self._life = life = Life(self.config, machine, seed, self._resume, only_review=self._only_review)
            self._lived = True
            if self._early is not None:
                life.wish(self._early[0], kill=self._early[1])
            try:
                return await life.run(lambda: task_status.started(self))
            finally:
                self._life = None

    def shutdown(self, why: str = "asked to", *, kill: bool = False) -> None:
        """Have the factory stop in order; with `kill`, at once. Returns before it has; may be repeated.

        Before the first `run` it stops that as soon as it has begun; after the last one it does nothing.
        """
        if self._life is not None:
            self._life.wish(why, kill=kill)
        elif not self._lived:
            self._early = (why, kill)

    def agent_statuses(self) -> list[AgentStatus]:
        """Every agent, now, in the order of the fleet file. No checkpoint."""
        return self._alive().statuses()

    def provider_statuses(self) -> list[ProviderStatus]:
        """Every provider that the fleet calls or limits, now, by name. No checkpoint."""
        return self._alive().providers()

    async def wait_statuses(self, until: Callable[[list[AgentStatus]], bool]) -> list[AgentStatus]:
        """Wait until `until` holds for the statuses; those that it held for.

        `until` is called in the task that waits, now and whenever something has changed; changes that come in quick
        succession may be seen as one. OrchestratorError when the factory is over first.
        """
        life = self._alive()
        while True:
            found = life.statuses()
            if until(found):
                await trio.lowlevel.checkpoint()
                return found
            if life.over.is_set():
                raise OrchestratorError("the factory stopped before that")
            async with move_on_when(life.over.wait):
                await life.state.wait_transition()

    async def start(self, agent: str) -> Admission:
        """Ask for a run of a Core or Growth agent, now; what the admission gate said.

        AgentNotFound if there is none of that name. Cancelled while it waits, the request stands.
        """
        answer = await self._ask(agent, lambda when, number: StartAsked(when, agent, number))
        assert isinstance(answer.outcome, Admit | Queue | Refuse)
        return answer.outcome

    async def send(
        self,
        text: str,
        to: str | None = None,
        capabilities: Collection[str] = (),
        *,
        sender: str | None = None,
        message_id: str | None = None,
        ttl_secs: float = MESSAGE_TTL_SECS,
    ) -> Delivery:
        """Send an agent a message: the one named by `to`, or the one that the router finds for the text.

        `capabilities` are required of the one that it finds. An on-demand agent runs for it, others are told it in
        their next prompt; either way it waits until then, also across restarts, for `ttl_secs` at most. `sender` is
        an agent on whose behalf it is sent, which must be accepted there, or a name for whoever else sends it; None
        is the operator. A message with the `message_id` of an earlier one is not accepted again: so a sender that
        does not know whether it was heard can repeat itself.

        AgentNotFound if `to` is nobody's name, ValueError for an id, a sender or a time that is none. Cancelled while
        it waits, the message stands.
        """
        if to is not None:
            self._require(to)
        for name, value in (("message_id", message_id), ("sender", sender)):
            if value is not None and not (0 < len(value) <= NAME_CHARS and value.isprintable()):
                raise ValueError(f"{name} must have 1 to {NAME_CHARS} characters, and all of them printable")
        if not 0.0 < ttl_secs <= MESSAGE_TTL_MAX_SECS:
            raise ValueError(f"ttl_secs must be more than 0 and at most {MESSAGE_TTL_MAX_SECS:g}")
        required = (capabilities,) if isinstance(capabilities, str) else tuple(capabilities)
        answer = await self._alive().ask(
            lambda when, number: MessageSent(when, text, to, required, sender, message_id, ttl_secs, number),
            durable=True,
        )
        assert isinstance(answer.outcome, Delivery)
        return answer.outcome

    async def handoff(self, from_agent: str, to_agent: str, context: HandoffContext) -> Admission:
        """Hand work over from an agent that runs to another one; what the admission gate said.

        The context is on the disk, whole, before the other one can start; its prompt says where, and what is in it.

        AgentNotFound if there is none of those names; HandoffFailed if the sender has no run, or the context cannot be
        handed over. Cancelled while it waits, the handoff may stand: repeated with the same `context.id`, it is not
        accepted twice.
        """
        self._require(from_agent)
        self._require(to_agent)
        life = self._alive()
        utc = life.machine.clock.utc()
        context = handoffs.stamped(
            context, new_id=life.new_id("h", utc), from_agent=from_agent, to_agent=to_agent, now=utc
        )
        text = handoffs.to_json(context)
        sender = life.state.value.agents.get(from_agent)  # None while the factory begins
        if sender is None or sender.run is None:
            raise HandoffFailed(f"{from_agent} has no run, so there is nothing that it could hand over")
        try:
            file = await life.machine.handoffs.write(context.id, text, handoffs.same)
        except OSError as error:
            raise HandoffFailed(f"the context cannot be written: {error}") from error
        answer = await life.ask(lambda when, number: HandoffAsked(when, context, file, number), durable=True)
        assert isinstance(answer.outcome, Delivery)
        outcome = answer.outcome.outcome
        if isinstance(outcome, Refuse) and outcome.reason != "duplicate":
            await life.machine.handoffs.remove(context.id)
            if outcome.reason == "inactive_sender":
                raise HandoffFailed(outcome.detail)
        return outcome

    async def trigger_compound_review(self, *, dry_run: bool | None = None) -> CompoundReviewResult:
        """Review the repository now, and wait for what that comes to, at most `max_duration_secs` and some more.

        `dry_run` None is what the configuration says: a dry run unless `create_prs` is set. A review that fails has an
        outcome that says so. CompoundReviewFailed where none was begun: the fleet has none, one is under way, or the
        factory stops. Cancelled while it waits, the review goes on.
        """
        life = self._alive()
        answer = await life.ask(lambda when, number: ReviewAsked(when, dry_run, number))
        if isinstance(answer.outcome, Refuse):
            raise CompoundReviewFailed(answer.outcome.reason, answer.outcome.detail)
        assert isinstance(answer.outcome, Begun)
        assert life.reviewer is not None
        review, results = answer.outcome.review, life.reviewer.results
        async with move_on_when(life.over.wait):
            await results.wait_value(lambda known: review in known)
            await life.state.wait_value(lambda state: state.review is None or state.review.id != review)
        if review not in results.value:
            raise OrchestratorError("the factory ended before its review did")
        result: CompoundReviewResult = results.value[review]
        return result

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
        sender = self._alive().sender
        await sender.send(Drifted(sender.now(), alert))

    async def _ask(self, agent: str, event: Callable[[Moment, int], Event]) -> Answer:
        self._require(agent)
        return await self._alive().ask(event)

    def _require(self, agent: str) -> None:
        names = [definition.name for definition in self.config.agents]
        if agent not in names:
            import difflib  # for this alone

            near = difflib.get_close_matches(agent, names, 1)
            remedy = f"did you mean {near[0]!r}?" if near else f"the agents are {', '.join(names)}"
            raise AgentNotFound(f"no agent is named {agent!r}; {remedy}")

    def _alive(self) -> Life:
        if self._life is None:
            raise OrchestratorError("the factory is not running")
        return self._life


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
    and leaves nothing running. Takes no signals.

    Raises ConfigError, AgentNotFound, AlreadyRunning, StateDirError or JournalDamaged when the factory cannot start;
    what is raised later, by the block or by a bug, comes in an exception group, as from a nursery.
    """
    config = fleet if isinstance(fleet, OrchestratorConfig) else load_config(Path(fleet), os.environ)
    orchestrator = AgentOrchestrator(config, resume=resume, machine=machine, seed=seed)
    refusal: OrchestratorError | None = None
    async with trio.open_nursery() as nursery:
        try:
            await nursery.start(orchestrator.run)
        except OrchestratorError as error:
            refusal = error
        else:
            try:
                yield orchestrator
            finally:
                orchestrator.shutdown("the block was left")
    if refusal is not None:
        raise refusal
