"""A process that is started ahead of its run, and waits for the prompt.

Either a run comes and takes it over, with its output so far; or it is ended here, by the same clean-up as a run's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import structlog
import trio
from attrs import define, field

from darkfactory.devices.process import Process
from darkfactory.errors import SpawnFailed
from darkfactory.model.actions import StartWarm, Stop
from darkfactory.model.ends import Reason
from darkfactory.model.events import WarmEnded, WarmReady
from darkfactory.runtime.body import Body, Handle, Workplace, writing
from darkfactory.runtime.intake import Intake

_log = structlog.get_logger("darkfactory")
_T = TypeVar("_T")


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


async def keep_warm(handle: WarmHandle, place: Workplace) -> None:
    """Start a process and keep it until a run takes it over, it is ended, or ends. Sends `WarmReady`, `WarmEnded`.

    Cancellation ends it and is delivered after its clean-up. Of one that was taken over nothing is done or said here.
    """
    name = handle.order.agent
    # what it prints before it is a run's says nothing about the agent's work
    observe = _once_taken(handle, partial(place.nightwatch.observe, name))
    trouble = _once_taken(handle, partial(place.nightwatch.observe_trouble, name))
    intake = Intake(handle.order.run_id, place.tool, place.sender, observe, trouble, place.sessions)
    warm = _WarmProcess(handle, place, intake)
    try:
        try:
            with handle.scope:
                await warm.live()
        finally:
            handle.waiting = None
            if not handle.taken:
                await warm.clean_up()  # noqa: ASYNC102 - its scopes are shields with deadlines
    finally:
        handle.gone.set()


def _once_taken(handle: WarmHandle, tell: Callable[[_T], None]) -> Callable[[_T], None]:
    def told(news: _T) -> None:
        if handle.taken:
            tell(news)

    return told


@define(eq=False)
class _WarmProcess(Body[WarmHandle]):
    async def live(self) -> None:
        machine, sender = self.place.machine, self.place.sender
        try:
            with writing():
                spec = self.spec(machine.runs.prepare(self.run_id), None, told=True)
            self.process = await machine.launcher.launch(spec, self.intake)
        except SpawnFailed as failure:
            self.failure = failure
            return  # noqa: ASYNC910 - the clean-up is one
        self.handle.waiting = self
        await sender.send(WarmReady(sender.now(), self.handle.order.agent, self.run_id, self.process.pid))
        with self.place.memory.watching(self.run_id, self.process, self.place.agent.max_memory_bytes):
            self.exit_code = await self.process.wait()

    async def report(self) -> None:
        """Leave no trace but a record."""
        try:
            self.place.machine.runs.discard(self.run_id)
        except OSError as error:
            _log.warning("warm_run_kept", run=self.run_id, detail=str(error))
        sender, detail = self.place.sender, self.judge().detail
        event = WarmEnded(sender.now(), self.handle.order.agent, self.run_id, detail, self.exit_code, self.unreaped)
        await sender.send(event)
