"""One run of an agent, from the durable record of its admission to its verdict.

The supervisor holds a `RunHandle` and pulls its strings; the task that `run_agent` is does everything else.
"""

from __future__ import annotations

from functools import partial
from typing import Final

import structlog
import trio
from attrs import asdict, define, evolve

from darkfactory.devices.process import LaunchSpec
from darkfactory.devices.worktrees import Settled, Start
from darkfactory.errors import SpawnFailed
from darkfactory.model.actions import Queue, StartRun, Stop
from darkfactory.model.ends import Reason, Verdict
from darkfactory.model.events import (
    DiskChecked,
    Moment,
    RunEnded,
    RunStarted,
    WorktreeMade,
    WorktreesCounted,
    WorktreeSettled,
)
from darkfactory.model.fleet import Isolation
from darkfactory.model.messages import Sent
from darkfactory.policy.history import timestamp
from darkfactory.policy.messages import in_words
from darkfactory.runtime.body import Body, Chore, Handle, Workplace, writing
from darkfactory.runtime.handoffs import write_down
from darkfactory.runtime.intake import Intake
from darkfactory.runtime.warm import WarmHandle

SETTLE_SECS: Final = 10.0
"""Of these, the longest that settling a worktree may take; what is not done by then is left to a task of its own."""
GIVE_BACK_SECS: Final = 10.0
"""Of these, the longest that a server may take to have a run's leases back; then their time runs out."""
FULL_BYTES: Final = 16 * 1024**2
"""With less room than this, or than `min_free_bytes` if that is less, a bad end is blamed on the disk."""
SESSIONS: Final = 16
"""Of this many of its sessions an agent's memory keeps the usage."""
_MAY_BE_THE_DISKS: Final = {Reason.FAILED, Reason.STALLED, Reason.TIMED_OUT}

_log = structlog.get_logger("darkfactory")

SETTLE: Final = Chore(SETTLE_SECS, after_grace_secs=0.5)
GIVE_BACK: Final = Chore(GIVE_BACK_SECS, after_grace_secs=0.8, last_secs=1.0)


@define(eq=False)
class RunHandle(Handle):
    """What it holds of a run."""

    order: StartRun
    journalled: int
    """The journal's number of the admission: the run waits until that is durable."""
    warm: WarmHandle | None = None
    """The process that waits for it, if one does; the run takes it over when the admission is durable."""


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
        settled.commit,
    )


@define(eq=False)
class _LiveRun(Body[RunHandle]):
    settled: Settled | None = None
    """What became of its worktree; None where it has none, or that is not decided yet."""
    leased: bool = False
    """A server may have given it leases."""

    @property
    def isolated(self) -> bool:
        """It has a worktree of its own, or is to have one."""
        return self.handle.order.errand is not None or self.place.agent.isolation is Isolation.WORKTREE

    async def live(self) -> None:
        order, place, warm = self.handle.order, self.place, self.handle.warm
        try:
            if place.leases.needed(place.agent.reserve):
                self.refused = await self._lease()
                if self.refused is not None:
                    return
            told = in_words(order.messages) if order.messages else ""
            prompt = self._prompt(told)
            await trio.lowlevel.checkpoint()  # so that the journal's sync begins, and goes on meanwhile
            spec = self._begin(prompt, told) if warm is None else None
            await place.machine.journal.wait_durable(self.handle.journalled)
            self.refused = place.obstacle(order.run_id)
            if self.refused is not None:
                return
            if warm is not None and not self._take_over(warm, prompt, told):
                await warm.gone.wait()
                spec = self._begin(prompt, told)
            if spec is not None:
                if self.isolated:
                    spec = await self._in_worktree(spec)
                self.process = await place.machine.launcher.launch(spec, self.intake)
        except SpawnFailed as failure:
            self.failure = failure
            return  # noqa: ASYNC910 - the clean-up is one
        assert self.process is not None
        await place.sender.send(RunStarted(place.sender.now(), order.run_id, self.process.pid))
        with (
            place.memory.watching(order.run_id, self.process, place.agent.max_memory_bytes),
            place.nightwatch.watching(order.run_id, order.agent, self.intake.tally),
        ):
            self.exit_code = await self.process.wait()

    async def _lease(self) -> Queue | None:
        """Take its leases at the server, before anything of it exists; why it may not start."""
        place = self.place
        await place.machine.journal.wait_durable(self.handle.journalled)
        refused = place.obstacle(self.run_id)
        if refused is not None:
            return refused
        self.leased = True
        return await place.leases.acquire(self.run_id, place.agent.name, place.agent.reserve)

    async def _give_back_leases(self) -> None:
        """Let the server have what it gave."""
        with self.handle.doing(GIVE_BACK):
            await self.place.leases.release(self.run_id, self.place.agent.name)
            self.leased = False

    def _prompt(self, told: str) -> str:
        errand = self.handle.order.errand
        task = self.place.agent.task if errand is None else errand.task
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
        if self.isolated and not self.unreaped:
            await self._settle_worktree()
        if self.leased:
            await self._give_back_leases()

    async def _in_worktree(self, spec: LaunchSpec) -> LaunchSpec:
        order, place, errand = self.handle.order, self.place, self.handle.order.errand
        now, start, where = place.sender.now(), None, place.working_dir
        if errand is not None:
            start, where = Start(errand.commit, errand.base, errand.branch), errand.repo
        made = await place.machine.worktrees.make(order.run_id, order.agent, where, now.utc, start)
        now = place.sender.now()
        await place.sender.send(WorktreeMade(now, order.run_id, made.path, made.branch, made.commit, made.cwd))
        return evolve(spec, cwd=made.cwd)

    async def _settle_worktree(self) -> None:
        """Keep its work, and its worktree unless nothing is lost with that; for when its processes are gone."""
        with self.handle.doing(SETTLE):
            self.settled = await self.place.machine.worktrees.settle(self.run_id, self.judge().reason.value)

    async def _tell_worktree(self, now: Moment) -> None:
        sender, settled = self.place.sender, self.settled
        if settled is not None:
            await sender.send(settled_event(settled, now))
        await sender.send(WorktreesCounted(now, self.place.machine.worktrees.kept()))

    async def report(self) -> None:
        """Judge, and tell the supervisor."""
        if self.leased:  # it was not waited for any longer, or not even begun
            self.place.leases.abandon(self.run_id, self.place.agent.name)
        if self.isolated:  # have others settle its worktree if that was not done, unless something of it may be living
            self.place.machine.worktrees.leave(self.run_id, alone=bool(self.unreaped))
        verdict = self.judge()
        if verdict.reason in _MAY_BE_THE_DISKS and self.place.min_free_bytes:
            verdict = await self._blame_the_disk(verdict)
        now = self.place.sender.now()
        self._remember_session()
        if self.isolated:
            await self._tell_worktree(now)
        if self.process is not None:
            self._summarise(now, verdict)
        tally = self.intake.tally
        sent = Sent()
        if verdict.reason is Reason.SUCCEEDED and (tally.mentions or tally.handoffs):
            store = self.place.machine.handoffs
            handoffs = await write_down(tally.handoffs, self.handle.order, store, now)
            sent = Sent(tuple(tally.mentions), handoffs, tally.left_out)
        answer = tally.whole_answer if self.handle.order.errand is not None else ""
        event = RunEnded(
            now, self.run_id, verdict, self.exit_code, self.unreaped, tally.totals, tally.spent, sent, answer
        )
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
        floor = self.place.min_free_bytes
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
            **asdict(self.intake.tally.totals, recurse=False),
            "answer": self.intake.tally.answer,
        }
        try:
            self.place.machine.runs.end(order.run_id, summary)
        except OSError as error:  # the verdict itself goes to the journal
            _log.warning("run_summary_lost", run=order.run_id, detail=str(error))
