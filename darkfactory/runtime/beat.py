"""The beat: one timer for all that is looked at regularly.

Nearly every look finds nothing, and costs less than the timer that it wakes by. So lookers wait for beats, those that
want the same one wake together, and an idle factory wakes half a minute apart however many they are. A look that
waits for nothing is not even woken for: the beat calls it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio
from attrs import define, field

BEAT_SECS: Final = 30.0


@define(eq=False)
class Beat:
    """The timer of one factory's life."""

    look: Callable[[], None]
    """Called at each beat, before those that wait for it go on."""
    _count: int = 0
    _waiting: dict[int, trio.Event] = field(factory=dict)
    """By every how many beats they wait for."""

    async def run(self) -> None:
        """Beat, until cancelled."""
        while True:
            await trio.sleep(BEAT_SECS)
            self._count += 1
            self.look()
            for every in [every for every in self._waiting if self._count % every == 0]:
                self._waiting.pop(every).set()

    async def wait(self, every: int = 1) -> None:
        """Wait for the next beat whose number, counted from the first, is a multiple of `every`."""
        await self._waiting.setdefault(every, trio.Event()).wait()
