"""The timetable: waits for cron occurrences and tells the supervisor of them.

It sleeps until the next one, and looks with every other beat whether the clock on the wall says what it should: so one
that was stepped, and a machine that was suspended, delay an occurrence by a minute at most.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from datetime import datetime
from functools import partial
from math import inf
from typing import Final

import structlog
import trio

from darkfactory.model.events import CompoundReview, Moment, Spawn
from darkfactory.policy.schedule import Due, ScheduledAgent
from darkfactory.runtime.beat import Beat
from darkfactory.runtime.inbox import Sender

LOOK_BEATS: Final = 2
"""A minute."""
REVIEW: Final = ""
"""In the place of an agent's name: the compound review."""
CLOCK_STEP_SECS: Final = 2.0
"""A difference between both clocks' advance from which on the wall's is said to have been stepped."""
CLOCK_SLACK_SECS: Final = 0.05
"""With a smaller one, what was to be slept is not reckoned anew."""

_log = structlog.get_logger("darkfactory")


def _apart(before: Moment, after: Moment) -> float:
    """By how many seconds the clock on the wall has advanced further than Trio's."""
    return (after.utc - before.utc).total_seconds() - (after.at - before.at)


class TimeScheduler:
    """Fires the occurrences of cron schedules, each once, missed ones coalesced into their newest."""

    def __init__(self, agents: Iterable[ScheduledAgent], sender: Sender, beat: Beat) -> None:
        self._agents: dict[str, ScheduledAgent] = {}
        self._sender = sender
        self._beat = beat
        self._heap: list[tuple[datetime, str]] = []
        self._nap = trio.CancelScope()
        """Around its sleep: cancelled when there may be something earlier to wake for."""
        for agent in agents:
            self.arm(agent)

    def arm(self, agent: ScheduledAgent) -> None:
        """Fire this agent's occurrences from now on; a former schedule of it is forgotten. No checkpoint."""
        if agent.name in self._agents:
            self._heap = [entry for entry in self._heap if entry[1] != agent.name]
            heapq.heapify(self._heap)
        self._agents[agent.name] = agent
        self._plan(agent)
        self._nap.cancel()

    async def run(self) -> None:
        """Send an event for every occurrence, until cancelled; waits while the inbox is full."""
        while True:
            before = self._sender.now()
            for due in self._due(before.utc):
                kind = CompoundReview if due.agent == REVIEW else partial(Spawn, agent=due.agent)
                now = self._sender.now()
                await self._sender.send(kind(now, occurrence=due.occurrence, first_missed=due.first_missed))
            pause = max(0.0, (self._heap[0][0] - before.utc).total_seconds()) if self._heap else inf
            with trio.CancelScope(deadline=before.at + pause) as self._nap:
                await self._beat.wait(LOOK_BEATS, finds=partial(self._clocks_apart, before))
            step = _apart(before, self._sender.now())
            if abs(step) > CLOCK_STEP_SECS:
                _log.warning("clock_stepped", secs=round(step, 1))

    def _clocks_apart(self, since: Moment) -> bool:
        """The clocks no longer agree on how long it is since then: it would wake at a wrong time."""
        return abs(_apart(since, self._sender.now())) > CLOCK_SLACK_SECS

    def _due(self, now: datetime) -> Iterator[Due]:
        while self._heap and self._heap[0][0] <= now:
            _, name = heapq.heappop(self._heap)
            agent = self._agents[name]
            due = agent.take(now)
            self._plan(agent)
            if due is not None:
                yield due

    def _plan(self, agent: ScheduledAgent) -> None:
        if agent.upcoming is not None:
            heapq.heappush(self._heap, (agent.upcoming, agent.name))
