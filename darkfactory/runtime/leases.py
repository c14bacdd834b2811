"""Leases at a server, for as long as a run lives: taken before it starts, renewed meanwhile, given back at its end.

The server is somebody else's, and may be slow, away or wrong. Nothing here waits for it longer than its bound, and
nothing that it does stops the factory; but no run that reserves something starts without its leases. A run that lives
already goes on when they cannot be renewed: to stop it in the middle of its changes would be worse than what the lease
was there to prevent. That is told.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum
from functools import partial
from typing import Final, TypeVar

import structlog
import trio
from attrs import define, field

from darkfactory.devices.agent_mail import LeaseServer, ServerAway
from darkfactory.model.actions import Queue
from darkfactory.model.fleet import Reservation
from darkfactory.policy.quoting import plain

LET_FINISH_SECS: Final = 0.5
"""How long a run that is stopped lets an answer come that may give it leases: else nobody knew that it has them."""
RETRY_SECS: Final = 15.0
"""How soon leases are renewed that could not be."""

_T = TypeVar("_T")
_log = structlog.get_logger("darkfactory")


class _Trouble(Enum):
    LATE = "they could not be renewed yet"
    LAPSED = "their time is over, or the server has lost them"


@define(eq=False)
class _Kept:
    agent: str
    renewed_at: float
    tried_at: float
    trouble: _Trouble | None = None
    """What was told last: it is told when it changes."""


@define(eq=False)
class LeaseKeeper:
    """The leases of the runs that live, at the server. Without one it does nothing."""

    server: LeaseServer | None
    ttl_secs: float
    """How long the server keeps leases that are not renewed."""
    _kept: dict[str, _Kept] = field(factory=dict)
    """By run id."""
    _any_kept: trio.Event = field(factory=trio.Event)

    def needed(self, leases: tuple[Reservation, ...]) -> bool:
        """Whether a run that wants these has to ask a server."""
        return self.server is not None and bool(leases)

    async def acquire(self, run_id: str, agent: str, leases: tuple[Reservation, ...]) -> Queue | None:
        """Take a run's leases, where they are `needed`; why it may not start, None when it has them.

        However it ends, `release` must follow. Cancelled, it waits `LET_FINISH_SECS` for the answer that is on its way.
        """
        assert self.server is not None
        await trio.lowlevel.checkpoint()
        try:
            conflicts = await _let_finish(partial(self.server.grant, agent, run_id, leases))
        except ServerAway as error:
            return Queue("reserved", f"agent mail: {plain(str(error))}")
        if conflicts:
            more = f", and {len(conflicts) - 1} more" if len(conflicts) > 1 else ""
            return Queue("reserved", f"agent mail: {plain(conflicts[0])}{more}")
        now = trio.current_time()
        self._kept[run_id] = _Kept(agent, now, now)
        self._any_kept.set()
        return None

    async def release(self, run_id: str, agent: str) -> None:
        """Give back what the run has, or may have. What cannot be given back ends by itself after `ttl_secs`."""
        assert self.server is not None
        self._kept.pop(run_id, None)
        await trio.lowlevel.checkpoint()
        try:
            await self.server.release(agent)
        except ServerAway as error:
            _log.warning("leases_not_released", run=run_id, agent=agent, detail=plain(str(error)))

    def abandon(self, run_id: str, agent: str) -> None:
        """Renew a run's leases no more: there was no time to give them back, so they end by themselves."""
        self._kept.pop(run_id, None)
        detail = "the server did not take them back in time"
        _log.warning("leases_not_released", run=run_id, agent=agent, detail=detail)

    async def run(self) -> None:
        """Renew leases when half of their time is over, until cancelled."""
        while True:
            await self._any_kept.wait()
            now = trio.current_time()
            wait = min((self._due_at(kept) for kept in self._kept.values()), default=None)
            if wait is None:
                self._any_kept = trio.Event()
            elif wait > now:
                await trio.sleep_until(wait)
            else:
                await self._renew()

    def _due_at(self, kept: _Kept) -> float:
        due = kept.renewed_at + self.ttl_secs / 2
        return due if kept.tried_at < due else kept.tried_at + RETRY_SECS

    async def _renew(self) -> None:
        assert self.server is not None
        await trio.lowlevel.checkpoint()
        now = trio.current_time()
        due = {run_id: kept for run_id, kept in self._kept.items() if self._due_at(kept) <= now}
        for kept in due.values():
            kept.tried_at = now
        try:
            lost = await self.server.renew({kept.agent: now - kept.renewed_at for kept in due.values()})
        except ServerAway as error:
            for run_id, kept in due.items():
                over = trio.current_time() >= kept.renewed_at + self.ttl_secs
                self._tell(run_id, kept, _Trouble.LAPSED if over else _Trouble.LATE, plain(str(error)))
        else:
            for run_id, kept in due.items():
                kept.renewed_at = now
                gone = kept.agent in lost
                detail = "the server does not have all of them any more" if gone else ""
                self._tell(run_id, kept, _Trouble.LAPSED if gone else None, detail)

    def _tell(self, run_id: str, kept: _Kept, trouble: _Trouble | None, detail: str) -> None:
        """Once, when it changes; of a run that has ended meanwhile nothing."""
        if run_id not in self._kept or trouble is kept.trouble:
            return
        kept.trouble = trouble
        match trouble:
            case _Trouble.LATE:
                _log.warning("leases_not_renewed", run=run_id, agent=kept.agent, detail=detail)
            case _Trouble.LAPSED:
                _log.error("leases_lapsed", run=run_id, agent=kept.agent, detail=detail)
            case None:
                _log.info("leases_renewed", run=run_id, agent=kept.agent)


async def _let_finish(work: Callable[[], Awaitable[_T]]) -> _T:
    """Do the work; cancelled, it is given `LET_FINISH_SECS` more, and the cancellation is delivered afterwards."""
    shield = trio.CancelScope(shield=True)

    async def hear_cancellation() -> None:
        try:
            await trio.sleep_forever()
        finally:
            shield.deadline = min(shield.deadline, trio.current_time() + LET_FINISH_SECS)

    done: list[_T] = []
    failed: list[ServerAway] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hear_cancellation)
        with shield:
            try:
                done.append(await work())
            except ServerAway as error:  # not out of the nursery, which would wrap it
                failed.append(error)
        nursery.cancel_scope.cancel()
    if failed:
        raise failed[0]
    return done[0]
