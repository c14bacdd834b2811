"""The beat: one timer for all that is looked at regularly, and that one the supervisor's.

Nearly every look finds nothing, and costs less than the timer that it wakes by, or even the waking of a task. So what
is to be looked at is asked by the beat itself, where that waits for nothing, and a task is woken where there is
something to do. The supervisor, which wakes at its own deadlines anyway, has it beat; an idle factory wakes half a
minute apart however much it looks at.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Final

import trio
from attrs import define, field

from darkfactory.policy.limits import HELD_UP_SECS

BEAT_SECS: Final = 30.0


def always() -> bool:
    """There is something to do at every beat."""
    return True


@define(eq=False)
class _Waiting:
    every: int
    finds: Callable[[], bool]
    woken: trio.Event = field(factory=trio.Event)


@define(eq=False)
class Beat:
    """The beat of one factory's life."""

    look: Callable[[], None]
    """Called at each beat, before those that wait for it are asked; not at a late one: we were held up, and
    what there is to look at is of before."""
    next_at: float = inf
    """Trio seconds; it has not begun before that is set."""
    _count: int = 0
    _waiting: list[_Waiting] = field(factory=list)

    def begin(self) -> None:
        """Beat for the first time `BEAT_SECS` from now."""
        self.next_at = trio.current_time() + BEAT_SECS

    def strike(self) -> None:
        """Beat, and for the next time `BEAT_SECS` from now. No checkpoint."""
        late = trio.current_time() - self.next_at > HELD_UP_SECS
        self.begin()
        self._count += 1
        if not late:
            self.look()
        for waiting in self._waiting:
            if self._count % waiting.every == 0 and waiting.finds():
                waiting.woken.set()

    async def wait(self, every: int = 1, finds: Callable[[], bool] = always) -> None:
        """Wait for a beat at which `finds()`, of those whose number, counted from the first, is a multiple of `every`.

        `finds` must be quick, and what it raises ends the beat.
        """
        waiting = _Waiting(every, finds)
        self._waiting.append(waiting)
        try:
            await waiting.woken.wait()
        finally:
            self._waiting.remove(waiting)
