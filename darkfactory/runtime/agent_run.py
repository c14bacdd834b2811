"""One run of an agent, from the durable record of its admission to its verdict.

The supervisor holds a `RunHandle` and pulls its strings; the task that `run_agent` is does everything else. However
the run's scope, its agent's, its layer's or the root's is cancelled, the same clean-up follows: polite stop, grace,
kill, sweep, the last of the output, verdict.
"""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from math import inf
from pathlib import Path
from typing import Final, Generic, TypeVar

import structlog
import trio
from attrs import asdict, define, evolve, field, frozen

from darkfactory.devices.machine import Machine
from darkfactory.devices.process import LaunchSpec, Process
from darkfactory.devices.runstore import RunFiles
from darkfactory.devices.worktrees import Settled
from darkfactory.errors import SpawnFailed
from darkfactory.model.actions import Queue, StartRun, StartWarm, Stop
from darkfactory.model.ends import CLASSES, ErrorClass, Reason, Verdict
from darkfactory.model.events import (
    DiskChecked,
    Moment,
    RunEnded,
    RunStarted,
    WorktreeMade,
    WorktreesCounted,
    WorktreeSettled,
)
from darkfactory.model.fleet import AgentDefinition, Isolation, PromptVia
from darkfactory.model.messages import Sent
from darkfactory.model.signals import Finished, Usage
from darkfactory.policy.history import timestamp
from darkfactory.policy.messages import in_words
from darkfactory.runtime.handoffs import write_down
from darkfactory.runtime.inbox import Sender
from darkfactory.runtime.intake import Intake
from darkfactory.runtime.leases import LeaseKeeper
from darkfactory.runtime.memory import MemoryWatch
from darkfactory.runtime.nightwatch import Nightwatch
from darkfactory.tools.environment import environment
from darkfactory.tools.tool import Prompt, Tool
from darkfactory.tools.verdict import Evidence, judge

CLEANUP_SECS: Final = 30.0
"""Beyond the grace: the longest that killing, sweeping and reading the rest of the output may take."""
DRAIN_SECS: Final = 10.0
"""Of these, the longest that reading may take; what is not read by then stays in the file and counts for nothing."""
SETTLE_SECS: Final = 10.0
"""Of these, the longest that settling a worktree may take; what is not done by then is left to a task of its own."""
REPORT_SECS: Final = 10.0
"""How long looking at the disk, and a place in the inbox, may keep a verdict waiting."""
GIVE_BACK_SECS: Final = 10.0
"""Of these, the longest that a server may take to have a run's leases back; then their time runs out."""
FULL_BYTES: Final = 16 * 1024**2
"""With less room than this, or than `min_free_bytes` if that is less, a bad end is blamed on the disk."""
MESSAGES: Final = "DARKFACTORY_MESSAGES"
"""The variable that names the file with what a run is told; for programs whose task may be a script."""
SESSIONS: Final = 16
"""Of this many of its sessions an agent's memory keeps the usage."""
_MAY_BE_THE_DISKS: Final = {Reason.FAILED, Reason.STALLED, Reason.TIMED_OUT}

_log = structlog.get_logger("darkfactory")


@frozen
class Chore:
    """Something to be done for a run whose processes are gone, and how long that may take."""

    secs: float
    after_grace_secs: float
    """While the factory stops: it waits no longer than that beyond the run's grace, or would find it unreaped."""
    last_secs: float = inf
    """The same, from the moment on at which it stops, or at which the chore begins."""


SETTLE: Final = Chore(SETTLE_SECS, after_grace_secs=0.5)
GIVE_BACK: Final = Chore(GIVE_BACK_SECS, after_grace_secs=0.8, last_secs=1.0)


@define(eq=False)
class Handle:
    """What the supervisor holds of a process: the strings by which it is stopped."""

    agent_scope: trio.CancelScope = field(factory=trio.CancelScope, init=False)
    """Around the whole task of the run; cancelled to stop the agent."""
    scope: trio.CancelScope = field(factory=trio.CancelScope, init=False)
    """Around its life; cancelled to stop the run."""
    patience: trio.CancelScope = field(factory=trio.CancelScope, init=False)
    """Its deadline is the end of the grace."""
    cleanup: trio.CancelScope = field(factory=lambda: trio.CancelScope(shield=True), init=False)
    """Shields the clean-up, and bounds it; cancelled only by a factory that no longer waits."""
    stop: Stop | None = field(default=None, init=False)
    """Why it is stopped; the first reason stays, the shortest grace holds."""
    _hurried: bool = field(default=False, init=False)
    _chore: tuple[Chore, trio.CancelScope] | None = field(default=None, init=False)

    def hurry(self) -> None:
        """Have no chore take longer than a factory that stops waits, which was asked for before; no checkpoint."""
        self._hurried = True
        if self._chore is not None:
            chore, scope = self._chore
            now = trio.current_time()
            last = min(now + chore.last_secs, self.patience.deadline + chore.after_grace_secs)
            scope.deadline = min(scope.deadline, last)

    @contextmanager
    def doing(self, chore: Chore) -> Iterator[None]:
        """Around a chore: cancels it when its time is over."""
        with trio.move_on_after(chore.secs) as scope:
            self._chore = chore, scope
            if self._hurried:
                self.hurry()
            try:
                yield
            finally:
                self._chore = None

    def ask_to_stop(self, stop: Stop) -> None:
        """Say why and how patiently; the caller then cancels this scope or a wider one. No checkpoint."""
        if self.stop is None:
            self.stop = stop
        self.patience.deadline = min(self.patience.deadline, trio.current_time() + stop.grace_secs)


@define(eq=False)
class WarmHandle(Handle):
    """What it holds of a process that waits for its run."""

    order: StartWarm
    waiting: Body[WarmHandle] | None = field(default=None, init=False)
    """The process and its output, while a run can have them."""
    taken: bool = field(default=False, init=False)
    """A run has them, and the clean-up is that run's."""
    gone: trio.Event = field(factory=trio.Event, init=False)
    """They are not here any more, whether they were taken or have ended."""

    def give(self, prompt: bytes) -> tuple[Process, Intake] | None:
        """Deliver the prompt; the process with its output, which now are the caller's. No checkpoint.

        None: it takes no prompt, and is ended where it has not ended already; `gone` tells when.
        """
        body, self.waiting = self.waiting, None
        if body is None or body.process is None:
            return None
        if body.process.deliver(prompt):
            self.taken = True
            self.scope.cancel(reason="its run has begun")
            return body.process, body.intake
        self.end(Stop(Reason.CANCELLED, 0.0, "it could not be given its prompt"))
        return None

    def end(self, stop: Stop) -> None:
        """Have it ended; no checkpoint."""
        self.ask_to_stop(stop)
        self.scope.cancel(reason=stop.detail)


@define(eq=False)
class RunHandle(Handle):
    """What it holds of a run."""

    order: StartRun
    journalled: int
    """The journal's number of the admission: the run waits until that is durable."""
    warm: WarmHandle | None = None
    """The process that waits for it, if one does; the run takes it over when the admission is durable."""


@frozen
class Workplace:
    """What a run of one agent needs."""

    agent: AgentDefinition
    tool: Tool
    machine: Machine
    sender: Sender
    working_dir: Path
    memory: MemoryWatch
    min_free_bytes: int
    nice: int
    nightwatch: Nightwatch
    obstacle: Callable[[str], Queue | None]
    """What has come up since a run was admitted, by its id, for which it may not start after all."""
    leases: LeaseKeeper
    fallback: Workplace | None = None
    """The same for a run with the agent's fallback, if it has one."""
    sessions: dict[str, Usage] = field(factory=dict)
    """What the agent's last sessions had used up when their last run ended, where its tool tells no less than that."""

    @cached_property
    def env(self) -> Mapping[str, str]:
        """The environment of its runs, secrets included; made once, since nothing that it is made of changes."""
        return environment(self.agent, self.tool, self.machine.environ)


async def run_agent(handle: RunHandle, place: Workplace) -> None:
    """Live one run. Sends `RunStarted` when there is a process and `RunEnded` in any case.

    Cancellation stops the run and is delivered after its clean-up, which takes the stop's grace plus what killing and
    reading need.
    """
    if handle.order.fallback:
        assert place.fallback is not None
        place = place.fallback
    watch, name = place.nightwatch, place.agent.name
    observe, trouble = partial(watch.observe, name), partial(watch.observe_trouble, name)
    intake = Intake(handle.order.run_id, place.tool, place.sender, observe, trouble, place.sessions)
    run = _LiveRun(handle, place, intake)
    try:
        with handle.scope:
            await run.live()
    finally:
        await run.clean_up()  # noqa: ASYNC102 - its scopes are shields with deadlines


@contextmanager
def writing() -> Iterator[None]:
    """What a disk or a text refuses becomes a SpawnFailed."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "enospc" if full else "run_directory"
        raise SpawnFailed(reason, f"its run directory cannot be made: {error}") from error
    except ValueError as error:  # text that no file can hold
        raise SpawnFailed("run_directory", f"its prompt cannot be written: {error}") from error


HandleT = TypeVar("HandleT", bound=Handle)


def settled_event(settled: Settled, now: Moment) -> WorktreeSettled:
    """The event that tells it."""
    return WorktreeSettled(
        now,
        settled.run_id,
        settled.agent,
        settled.path,
        settled.kept,
        settled.branches,
        settled.commits,
        settled.rescued,
    )


@define(eq=False)
class Body(ABC, Generic[HandleT]):
    """A process and its output, from the start to the end, and what that came to."""

    handle: HandleT
    place: Workplace
    intake: Intake
    process: Process | None = None
    exit_code: int | None = None
    failure: SpawnFailed | None = None
    refused: Queue | None = None
    """Why it was not started after all."""
    stopped: Stop | None = None
    """Why we ended it; None when it ended by itself."""
    said_before: Finished | None = None
    """Its terminal event, as it stood when we began to end it."""
    unreaped: tuple[str, ...] = ()
    unread: bool = False
    """Its output was not read to the end."""
    settled: Settled | None = None
    """What became of its worktree; None where it has none, or that is not decided yet."""
    out_of_memory: bool = False
    """The system ended processes of it at its limit."""

    @property
    def over(self) -> bool:
        """It ended by itself, or never began."""
        return self.exit_code is not None or self.failure is not None or self.refused is not None

    @property
    def run_id(self) -> str:
        """That of the run, or of the one that may come."""
        return self.intake.run_id

    def spec(self, files: RunFiles, prompt: str | None, *, told: bool) -> LaunchSpec:
        """What to start; with a prompt that comes later if there is none yet. `told`: there are messages, or may be."""
        place = self.place
        later = prompt is None
        return LaunchSpec(
            run_id=self.run_id,
            argv=place.tool.argv(place.agent, Prompt(prompt or "", files.prompt)),
            env={**place.env, MESSAGES: str(files.messages)} if told else place.env,
            cwd=place.working_dir,
            stdin=files.prompt if place.tool.prompt is PromptVia.STDIN and not later else None,
            stdout=files.stdout,
            stderr=files.stderr,
            max_memory_bytes=place.agent.max_memory_bytes,
            max_output_bytes=place.agent.max_output_bytes,
            nice=place.nice,
            prompt_later=later,
        )

    async def clean_up(self) -> None:
        """End it if it has not, and report; for a `finally`. Cancellation is not delivered, and it has a bound."""
        handle = self.handle
        if self.exit_code is None and handle.stop is None:
            # cancelled by nobody who gave a reason, from outside or by a bug; or there was nothing to live for
            handle.ask_to_stop(Stop(Reason.SHUTDOWN, self.place.agent.grace_secs, "the factory stopped"))
            if not self.over:
                handle.hurry()
        patience = 0.0 if handle.stop is None else handle.stop.grace_secs
        handle.cleanup.deadline = trio.current_time() + patience + CLEANUP_SECS
        with handle.cleanup:
            await self.end_process()
        # whatever became of that, the supervisor must hear of it: it would wait for this run for ever
        with trio.CancelScope(deadline=trio.current_time() + REPORT_SECS, shield=True):
            await self.report()

    async def end_process(self) -> None:
        """Stop it unless it has ended, sweep what it left, and read the rest of its output."""
        self.stopped = None if self.over else self.handle.stop
        self.said_before = self.intake.tally.finished
        if self.process is None:
            await trio.lowlevel.checkpoint()
            return
        self.unreaped = (f"{self.process.pid} {self.run_id}",)  # until we know better
        try:
            if self.exit_code is None:
                try:
                    await self.process.terminate()
                    with self.handle.patience:
                        self.exit_code = await self.process.wait()
                finally:
                    self.process.kill()
            self.unreaped = await self.process.sweep()
            self.out_of_memory = self.process.out_of_memory()
            if self.exit_code is None and not self.unreaped:
                self.exit_code = await self.process.wait()
        finally:
            with trio.move_on_after(DRAIN_SECS) as draining:
                await self.process.drain()  # noqa: ASYNC102 - inside the caller's shield, which has a deadline
            self.unread = draining.cancelled_caught
            self.intake.finish()

    @abstractmethod
    async def report(self) -> None:
        """Tell the supervisor what it came to."""

    def judge(self) -> Verdict:
        """What it came to."""
        stop = self.stopped
        if self.failure is not None:
            error = ErrorClass.TOOL_MISSING if self.failure.reason == "tool_missing" else ErrorClass.UNKNOWN
            detail = f"{self.failure.reason}: {self.failure.detail}"
            return Verdict(Reason.FAILED, detail, error, CLASSES[error].retryable, decided_by="the start")
        if self.refused is not None:
            return Verdict(Reason(self.refused.reason), self.refused.detail, decided_by="the look at its start")
        if self.process is None and stop is not None:
            return Verdict(stop.reason, "stopped before its process existed", decided_by="the stop")
        tally = self.intake.tally
        said = tally.finished
        if stop is not None and said is not None and not said.ok:
            # what it says of its failure after we stopped it is our doing, not its own
            said = self.said_before
        if self.out_of_memory and stop is None:
            limit = self.place.agent.max_memory_bytes
            stop = Stop(Reason.MEMORY, 0.0, f"the system ended it at max_memory_bytes ({limit})")
        limit = self.place.agent.max_output_bytes
        if stop is None and said is None and self.intake.output_bytes > limit:
            detail = f"wrote more than max_output_bytes ({limit}); the rest was not read"
            stop = Stop(Reason.OUTPUT_LIMIT, 0.0, detail)
        clock = self.place.sender.clock
        verdict = judge(
            Evidence(
                tally=tally,
                now=clock.utc(),
                zone=clock.zone(self.place.env.get("TZ")),
                finished=said,
                exit_code=self.exit_code,
                stopped=stop.reason if stop is not None and not stop.lingered else None,
                stop_detail=stop.detail if stop is not None else "",
                lingered=stop is not None and stop.lingered,
                output_bytes=self.intake.output_bytes,
                reports=self.place.tool.reports,
                exit_classes=self.place.tool.exit_classes,
            )
        )
        if self.unread:
            detail = f"{verdict.detail}; its output was not read to the end".removeprefix("; ")
            verdict = evolve(verdict, detail=detail)
        return verdict


@define(eq=False)
class _LiveRun(Body[RunHandle]):
    leased: bool = False
    """A server may have given it leases."""

    async def live(self) -> None:
        order, place, warm = self.handle.order, self.place, self.handle.warm
        try:
            self.refused = await self._lease()
            if self.refused is not None:
                return
            told = in_words(order.messages) if order.messages else ""
            prompt = self._prompt(told)
            spec = self._begin(prompt, told) if warm is None else None  # while the journal syncs
            await place.machine.journal.wait_durable(self.handle.journalled)
            self.refused = place.obstacle(order.run_id)
            if self.refused is not None:
                return
            if warm is not None and not self._take_over(warm, prompt, told):
                await warm.gone.wait()
                spec = self._begin(prompt, told)
            if spec is not None:
                if place.agent.isolation is Isolation.WORKTREE:
                    spec = await self._in_worktree(spec)
                self.process = await place.machine.launcher.launch(spec, self.intake)
        except SpawnFailed as failure:
            self.failure = failure
            return  # noqa: ASYNC910 - the clean-up is one
        assert self.process is not None
        await place.sender.send(RunStarted(place.sender.now(), order.run_id, self.process.pid))
        with (
            place.memory.watching(order.run_id, self.process, place.agent.max_memory_bytes),
            place.nightwatch.watching(order.run_id, order.agent, lambda: self.intake.tally.excused),
        ):
            self.exit_code = await self.process.wait()

    async def _lease(self) -> Queue | None:
        """Take its leases at the server, before anything of it exists; why it may not start."""
        await trio.lowlevel.checkpoint()
        place = self.place
        if not place.leases.needed(place.agent.reserve):
            return None
        await place.machine.journal.wait_durable(self.handle.journalled)
        refused = place.obstacle(self.run_id)
        if refused is not None:
            return refused
        self.leased = True
        return await place.leases.acquire(self.run_id, place.agent.name, place.agent.reserve)

    async def _give_back_leases(self) -> None:
        """Let the server have what it gave, if it gave any."""
        await trio.lowlevel.checkpoint()
        if not self.leased:
            return
        with self.handle.doing(GIVE_BACK):
            await self.place.leases.release(self.run_id, self.place.agent.name)
            self.leased = False

    def _prompt(self, told: str) -> str:
        task = self.place.agent.task
        if not self.place.tool.reports:
            return task  # a plain program's may be a script, and is left alone
        if note := self.place.nightwatch.take_note(self.handle.order.agent):
            task = f"{task}\n\n{note}\n"
        return f"{task}\n\n{told}" if told else task

    def _begin(self, prompt: str, told: str) -> LaunchSpec:
        with writing():
            files = self.place.machine.runs.begin(self.run_id, prompt, told)
            return self.spec(files, prompt, told=bool(told))

    def _take_over(self, warm: WarmHandle, prompt: str, told: str) -> bool:
        """Have the process that waits for this run, if it still does; from now on it is this run's alone."""
        if warm.waiting is None:
            return False
        with writing():
            self.place.machine.runs.tell(self.run_id, prompt, told)
        given = warm.give(prompt.encode())
        if given is None:
            return False
        self.process, self.intake = given
        return True

    async def end_process(self) -> None:
        """End also what waited for it, if that was not taken over: nothing of a run outlives its verdict."""
        warm = self.handle.warm
        if warm is not None and not warm.taken and self.handle.stop is not None:
            warm.end(Stop(Reason.CANCELLED, self.handle.stop.grace_secs, "its run ended before it had its prompt"))
            await warm.gone.wait()
        await super().end_process()
        await self._settle_worktree()
        await self._give_back_leases()

    async def _in_worktree(self, spec: LaunchSpec) -> LaunchSpec:
        order, place = self.handle.order, self.place
        now = place.sender.now()
        made = await place.machine.worktrees.make(order.run_id, order.agent, place.working_dir, now.utc)
        await place.sender.send(WorktreeMade(place.sender.now(), order.run_id, made.path, made.branch, made.commit))
        return evolve(spec, cwd=made.cwd)

    async def _settle_worktree(self) -> None:
        """Keep its work, and its worktree unless nothing is lost with that; for when its processes are gone."""
        await trio.lowlevel.checkpoint()
        place = self.place
        if place.agent.isolation is not Isolation.WORKTREE or self.unreaped:
            return
        with self.handle.doing(SETTLE):  # noqa: ASYNC912 - there was a checkpoint
            self.settled = await place.machine.worktrees.settle(self.run_id, self.judge().reason.value)

    async def _tell_worktree(self, now: Moment) -> None:
        sender, settled = self.place.sender, self.settled
        if settled is not None:
            await sender.send(settled_event(settled, now))
        await sender.send(WorktreesCounted(now, self.place.machine.worktrees.kept()))

    async def report(self) -> None:
        """Judge, and tell the supervisor."""
        if self.leased:  # it was not waited for any longer, or not even begun
            self.place.leases.abandon(self.run_id, self.place.agent.name)
        isolated = self.place.agent.isolation is Isolation.WORKTREE
        if isolated:  # have others settle its worktree if that was not done, unless something of it may be living
            self.place.machine.worktrees.leave(self.run_id, alone=bool(self.unreaped))
        verdict = await self._blame_the_disk(self.judge())
        now = self.place.sender.now()
        self._remember_session()
        if isolated:
            await self._tell_worktree(now)
        if self.process is not None:
            self._summarise(now, verdict)
        tally = self.intake.tally
        sent = Sent()
        if verdict.reason is Reason.SUCCEEDED and (tally.mentions or tally.handoffs):
            store = self.place.machine.handoffs
            handoffs = await write_down(tally.handoffs, self.handle.order, store, now)
            sent = Sent(tuple(tally.mentions), handoffs, tally.left_out)
        event = RunEnded(now, self.run_id, verdict, self.exit_code, self.unreaped, tally.totals, tally.spent, sent)
        await self.place.sender.send(event)

    def _remember_session(self) -> None:
        tally, sessions = self.intake.tally, self.place.sessions
        if tally.session is not None and tally.session_usage is not None:
            sessions.pop(tally.session, None)
            sessions[tally.session] = tally.session_usage
            if len(sessions) > SESSIONS:
                del sessions[next(iter(sessions))]

    async def _blame_the_disk(self, verdict: Verdict) -> Verdict:
        """Look at the disk after a bad end. If that is what it died of, the gate hears of it before the verdict."""
        await trio.lowlevel.checkpoint()
        floor = self.place.min_free_bytes
        if verdict.reason not in _MAY_BE_THE_DISKS or not floor:
            return verdict
        room = await self.place.machine.disk.room(self.place.working_dir)
        if self.failure is not None and self.failure.reason in {"enospc", "edquot"}:
            room = evolve(room, free_bytes=0, what=str(self.failure))  # a quota, as a rule: nothing else tells of it
        if room.free_bytes < floor:
            sender = self.place.sender
            await sender.send(DiskChecked(sender.now(), room.free_bytes, room.what))
        if room.free_bytes < min(FULL_BYTES, floor):
            return evolve(verdict, reason=Reason.DISK, detail=f"the disk is full ({room.what}): {verdict.detail}")
        return verdict

    def _summarise(self, now: Moment, verdict: Verdict) -> None:
        order = self.handle.order
        summary = {
            "run": order.run_id,
            "agent": order.agent,
            "cause": order.cause.value,
            "occurrence": timestamp(order.occurrence) if order.occurrence else None,
            "attempt": order.attempt,
            "ended": timestamp(now.utc),
            "reason": verdict.reason.value,
            "detail": verdict.detail,
            "error_class": verdict.error_class.value if verdict.error_class is not None else None,
            "retryable": verdict.retryable,
            "resets_at": timestamp(verdict.resets_at) if verdict.resets_at is not None else None,
            "decided_by": verdict.decided_by,
            "exit_code": self.exit_code,
            "output_bytes": self.intake.output_bytes,
            "output_unread": self.unread,
            **asdict(self.intake.tally.totals),
            "answer": self.intake.tally.answer,
        }
        try:
            self.place.machine.runs.end(order.run_id, summary)
        except OSError as error:  # the verdict itself goes to the journal
            _log.warning("run_summary_lost", run=order.run_id, detail=str(error))
