"""The way into the supervisor: one bounded channel, with the hour stamped on everything that enters.

Sources hold clones of the sender and wait when it is full; the supervisor alone reads, and never sends.
"""

from __future__ import annotations

from typing import Final

import trio
from attrs import frozen

from darkfactory.devices.clock import CivilClock
from darkfactory.model.events import Event, Moment

CAPACITY: Final = 256
"""Events. Sources batch, so this is a burst of the whole fleet, not of one agent."""


@frozen
class Sender:
    """A source's end of the inbox."""

    channel: trio.MemorySendChannel[Event]
    clock: CivilClock

    def now(self) -> Moment:
        """The present moment, on both clocks."""
        return Moment(trio.current_time(), self.clock.utc())

    async def send(self, event: Event) -> None:
        """Pass an event on; waits while the inbox is full.

        When the supervisor has gone there is nobody to tell, and the event is dropped: the factory is over then, and
        what it did not hear of is found out at the next start.
        """
        try:
            await self.channel.send(event)
        except trio.BrokenResourceError:
            await trio.lowlevel.checkpoint()
