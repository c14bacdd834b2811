"""A process that is started ahead of its run, and waits for the prompt.

Either a run comes and takes it over, with its output so far; or it is ended here, by the same clean-up as a run's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import structlog
from attrs import define

from darkfactory.errors import SpawnFailed
from darkfactory.model.events import WarmEnded, WarmReady
from darkfactory.runtime.agent_run import Body, WarmHandle, Workplace, writing
from darkfactory.runtime.intake import Intake

_log = structlog.get_logger("darkfactory")
_T = TypeVar("_T")


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
