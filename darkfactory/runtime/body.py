"""A process and its output, whoever's they are: what it needs, the strings by which it is stopped, and its clean-up.

However its scope, its agent's, its layer's or the root's is cancelled, the same follows: polite stop, grace, kill,
sweep, the last of the output, a report.
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

import trio
from attrs import define, evolve, field, frozen

from darkfactory.devices.machine import Machine
from darkfactory.devices.process import LaunchSpec, Process
from darkfactory.devices.runstore import RunFiles
from darkfactory.errors import SpawnFailed
from darkfactory.model.actions import Queue, Stop
from darkfactory.model.ends import CLASSES, ErrorClass, Reason, Verdict
from darkfactory.model.fleet import AgentDefinition, PromptVia
from darkfactory.model.signals import Finished, Usage
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
MESSAGES: Final = "DARKFACTORY_MESSAGES"
"""The variable that names the file with what a run is told; for programs whose task may be a script."""


@frozen
class Chore:
    """Something to be done for a run whose processes are gone, and how long that may take."""

    secs: float
    after_grace_secs: float
    """While the factory stops: it waits no longer than that beyond the run's grace, or would find it unreaped."""
    last_secs: float = inf
    """The same, from the moment on at which it stops, or at which the chore begins."""


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
                zone=partial(clock.zone, self.place.env.get("TZ")),
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
