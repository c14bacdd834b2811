"""One run of an agent, from the durable record of its admission to its verdict.

The supervisor holds a `RunHandle` and pulls its strings; the task that `run_agent` is does everything else. However
the run's scope, its agent's, its layer's or the root's is cancelled, the same clean-up follows: polite stop, grace,
kill, sweep, the last of the output, verdict.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import structlog
import trio
from attrs import asdict, define, evolve, field, frozen

from darkfactory.devices.machine import Machine
from darkfactory.devices.process import LaunchSpec, Process
from darkfactory.errors import SpawnFailed
from darkfactory.model.actions import Queue, StartRun, Stop
from darkfactory.model.ends import CLASSES, ErrorClass, Reason, Verdict
from darkfactory.model.events import DiskChecked, Moment, RunEnded, RunStarted
from darkfactory.model.fleet import AgentDefinition, PromptVia
from darkfactory.model.signals import Finished, Usage
from darkfactory.policy.history import timestamp
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
REPORT_SECS: Final = 10.0
"""How long looking at the disk, and a place in the inbox, may keep a verdict waiting."""
GIVE_BACK_SECS: Final = 1.0
"""How long a shutdown waits for a server to take back a run's leases; else their time runs out."""
GIVE_BACK_AT_REST_SECS: Final = 10.0
"""The same where there is no hurry."""
FULL_BYTES: Final = 16 * 1024**2
"""With less room than this, or than `min_free_bytes` if that is less, a bad end is blamed on the disk."""
SESSIONS: Final = 16
"""Of this many of its sessions an agent's memory keeps the usage."""
_MAY_BE_THE_DISKS: Final = {Reason.FAILED, Reason.STALLED, Reason.TIMED_OUT}

_log = structlog.get_logger("darkfactory")


@define(eq=False)
class RunHandle:
    """What the supervisor holds of a run."""

    order: StartRun
    journalled: int
    """The journal's number of the admission: the run waits until that is durable."""
    agent_scope: trio.CancelScope = field(factory=trio.CancelScope)
    """Around the whole task of the run; cancelled to stop the agent."""
    scope: trio.CancelScope = field(factory=trio.CancelScope)
    """Around its life; cancelled to stop the run."""
    patience: trio.CancelScope = field(factory=trio.CancelScope)
    """Its deadline is the end of the grace."""
    cleanup: trio.CancelScope = field(factory=lambda: trio.CancelScope(shield=True))
    """Shields the clean-up, and bounds it; cancelled only by a factory that no longer waits."""
    stop: Stop | None = None
    """Why it is stopped; the first reason stays, the shortest grace holds."""

    def ask_to_stop(self, stop: Stop) -> None:
        """Say why and how patiently; the caller then cancels this scope or a wider one. No checkpoint."""
        if self.stop is None:
            self.stop = stop
        self.patience.deadline = min(self.patience.deadline, trio.current_time() + stop.grace_secs)


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
        if not run.over and handle.stop is None:  # cancelled by nobody who gave a reason: from outside, or by a bug
            handle.ask_to_stop(Stop(Reason.SHUTDOWN, place.agent.grace_secs, "the factory stopped"))
        patience = 0.0 if handle.stop is None else handle.stop.grace_secs
        handle.cleanup.deadline = trio.current_time() + patience + CLEANUP_SECS
        with handle.cleanup:
            await run.end_process()  # noqa: ASYNC102 - the scope is a shield with a deadline
            await run.give_back_leases()  # noqa: ASYNC102
        # whatever became of that, the supervisor must hear of it: it would wait for this run for ever
        with trio.CancelScope(deadline=trio.current_time() + REPORT_SECS, shield=True):
            await run.report()


@define(eq=False)
class _LiveRun:
    handle: RunHandle
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
    out_of_memory: bool = False
    """The system ended processes of it at its limit."""
    leased: bool = False
    """A server may have given it leases."""

    @property
    def over(self) -> bool:
        """It ended by itself, or never began."""
        return self.exit_code is not None or self.failure is not None or self.refused is not None

    async def live(self) -> None:
        order, place = self.handle.order, self.place
        try:
            if place.leases.needed(place.agent.reserve):
                await place.machine.journal.wait_durable(self.handle.journalled)
                self.refused = await self._lease()
                if self.refused is not None:
                    return
            spec = self._spec()  # while the journal syncs
            await place.machine.journal.wait_durable(self.handle.journalled)
            self.refused = place.obstacle(order.run_id)
            if self.refused is not None:
                return
            self.process = await place.machine.launcher.launch(spec, self.intake)
        except SpawnFailed as failure:
            self.failure = failure
            return  # noqa: ASYNC910 - the clean-up is one
        await place.sender.send(RunStarted(place.sender.now(), order.run_id, self.process.pid))
        with (
            place.memory.watching(order.run_id, self.process, place.agent.max_memory_bytes),
            place.nightwatch.watching(order.run_id, order.agent, lambda: self.intake.tally.excused),
        ):
            self.exit_code = await self.process.wait()

    async def _lease(self) -> Queue | None:
        """Take its leases at the server, before anything of it exists; why it may not start."""
        refused = self.place.obstacle(self.handle.order.run_id)
        if refused is not None:
            await trio.lowlevel.checkpoint()
            return refused
        self.leased = True
        return await self.place.leases.acquire(
            self.handle.order.run_id, self.place.agent.name, self.place.agent.reserve
        )

    async def give_back_leases(self) -> None:
        """Let the server have what it gave, if it gave any; at a shutdown with no more patience than for a process."""
        await trio.lowlevel.checkpoint()
        if not self.leased:
            return
        stop = self.handle.stop
        in_haste = stop is not None and stop.reason is Reason.SHUTDOWN
        patience = min(GIVE_BACK_SECS, stop.grace_secs) if stop is not None and in_haste else GIVE_BACK_AT_REST_SECS
        with trio.move_on_after(patience) as scope:
            await self.place.leases.release(self.handle.order.run_id, self.place.agent.name)
        if scope.cancelled_caught:
            detail = f"the server did not answer within {patience:g} s"
            _log.warning(
                "leases_not_released", run=self.handle.order.run_id, agent=self.place.agent.name, detail=detail
            )

    def _spec(self) -> LaunchSpec:
        order, place = self.handle.order, self.place
        try:
            task = place.agent.task
            if place.tool.reports and (note := place.nightwatch.take_note(order.agent)):
                task = f"{task}\n\n{note}\n"  # a plain program's task may be a script, and is left alone
            files = place.machine.runs.begin(order.run_id, task)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            reason = "enospc" if full else "run_directory"
            raise SpawnFailed(reason, f"its run directory cannot be made: {error}") from error
        except ValueError as error:  # text that no file can hold
            raise SpawnFailed("run_directory", f"its prompt cannot be written: {error}") from error
        return LaunchSpec(
            run_id=order.run_id,
            argv=place.tool.argv(place.agent, Prompt(task, files.prompt)),
            env=environment(place.agent, place.tool, place.machine.environ),
            cwd=place.working_dir,
            stdin=files.prompt if place.tool.prompt is PromptVia.STDIN else None,
            stdout=files.stdout,
            stderr=files.stderr,
            max_memory_bytes=place.agent.max_memory_bytes,
            max_output_bytes=place.agent.max_output_bytes,
            nice=place.nice,
        )

    async def end_process(self) -> None:
        """Stop it unless it has ended, sweep what it left, and read the rest of its output."""
        self.stopped = None if self.over else self.handle.stop
        self.said_before = self.intake.tally.finished
        if self.process is None:
            await trio.lowlevel.checkpoint()
            return
        self.unreaped = (f"{self.process.pid} {self.handle.order.run_id}",)  # until we know better
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

    async def report(self) -> None:
        """Judge, and tell the supervisor."""
        verdict = await self._blame_the_disk(self._judge())
        now = self.place.sender.now()
        self._remember_session()
        if self.process is not None:
            self._summarise(now, verdict)
        tally = self.intake.tally
        event = RunEnded(
            now, self.handle.order.run_id, verdict, self.exit_code, self.unreaped, tally.totals, tally.spent
        )
        await self.place.sender.send(event)

    def _judge(self) -> Verdict:
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
        env = environment(self.place.agent, self.place.tool, self.place.machine.environ)
        verdict = judge(
            Evidence(
                tally=tally,
                now=clock.utc(),
                zone=clock.zone(env.get("TZ")),
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
