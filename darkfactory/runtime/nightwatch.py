"""Nightwatch: feeds the monitor with what agents do, and tells the supervisor when one has drifted.

Output is counted where it is read, the ends of runs when the supervisor has heard of them, and a living run is looked
at with every beat. Scores are evaluated at each run's end and every `eval_interval_secs`; what is said is an alert in
the supervisor's inbox, and what is done about it is decided there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final, assert_never

import trio
from attrs import define, field
from trio_util import AsyncValue

from darkfactory.model import actions
from darkfactory.model.drift import DriftAlert, DriftScore
from darkfactory.model.events import Drifted
from darkfactory.model.fleet import NightwatchConfig
from darkfactory.model.signals import Counts
from darkfactory.model.state import Phase, State
from darkfactory.policy import correction
from darkfactory.policy.drift import NightwatchMonitor
from darkfactory.policy.limits import HELD_UP_SECS
from darkfactory.policy.quoting import plain
from darkfactory.runtime.inbox import Sender
from darkfactory.tools.tally import Tally

AT_ONCE: Final = 20
"""So many agents are evaluated before others have their turn, in a fraction of a millisecond."""
TROUBLES: Final = 2
"""So many different failures of an agent are remembered in their own words, the last ones."""


@define(eq=False)
class Nightwatch:
    """The monitor of one factory's life. Its methods are no checkpoints unless they say so."""

    config: NightwatchConfig
    state: AsyncValue[State]
    sender: Sender
    monitor: NightwatchMonitor = field(init=False)
    _living: dict[str, tuple[str, Tally]] = field(factory=dict)
    """By run id: whose it is, and what it has said so far."""
    _ended: dict[str, None] = field(factory=dict)
    """Agents to evaluate because a run of them has ended."""
    _any_ended: trio.Event = field(factory=trio.Event)
    _troubles: dict[str, list[str]] = field(factory=dict)
    """By agent: its last failures in their own words, oldest first."""
    _notes: dict[str, str] = field(factory=dict)
    """By agent: what its next prompt says besides the task."""

    def __attrs_post_init__(self) -> None:
        self.monitor = NightwatchMonitor(self.config)

    def observe(self, agent: str, counts: Counts) -> None:
        """Count what a stretch of the agent's output showed."""
        self.monitor.observe(agent, counts, trio.current_time())

    def observe_trouble(self, agent: str, words: str) -> None:
        """Remember how the agent, or its tool, put a failure."""
        troubles = self._troubles.setdefault(agent, [])
        told = plain(words)
        if told in troubles:
            troubles.remove(told)
        troubles.append(told)
        del troubles[:-TROUBLES]

    @contextmanager
    def watching(self, run_id: str, agent: str, tally: Tally) -> Iterator[None]:
        """Have a run looked at while the block lasts, which is as long as its leader lives.

        Its `tally` tells whether it has a reason to be silent: it waits for its provider, or one of its tools works.
        """
        self._living[run_id] = agent, tally
        try:
            yield
        finally:
            del self._living[run_id]

    def hear(self, order: actions.Drifting) -> None:
        """What the supervisor decided."""
        match order:
            case actions.JudgeDrift():
                if order.healthy is not None:
                    self.monitor.observe_health(order.agent, order.healthy, trio.current_time())
                if not self.monitor.is_settled(order.agent):  # nor is a task woken for those
                    self._ended[order.agent] = None
                    self._any_ended.set()
            case actions.ResetDrift():
                self.monitor.reset(order.agent)
                self._troubles.pop(order.agent, None)
            case actions.RefreshContext():
                agent = order.drift_score.agent_name
                self._notes[agent] = correction.note(order.drift_score, self._troubles.get(agent, ()))
            case _:
                assert_never(order)

    def take_note(self, agent: str) -> str:
        """What the agent's next prompt says besides the task, once; empty when there is nothing to say."""
        return self._notes.pop(agent, "")

    def scores(self) -> dict[str, DriftScore]:
        """By agent: its drift now; of every one of which something was seen."""
        return {score.agent_name: score for score in self.monitor.all_drift_scores(trio.current_time())}

    async def run(self) -> None:
        """Evaluate and tell, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._evaluate_ended)
            nursery.start_soon(self._evaluate_all)

    def look(self) -> None:
        """Count how each living run is; for every beat."""
        now, agents = trio.current_time(), self.state.value.agents
        if now < self.state.value.lenient_until or now > self.state.value.next_deadline() + HELD_UP_SECS:
            return  # we were held up, and what they printed meanwhile is being read
        for run_id, (agent, tally) in self._living.items():
            state = agents[agent]
            run = state.run
            if run is not None and run.id == run_id and run.phase is Phase.RUNNING and not tally.excused:
                silent_since = run.since if run.last_output is None else run.last_output
                good = now - silent_since <= state.definition.stall_timeout_secs / 2
                self.monitor.observe_health(agent, good, now)

    async def _evaluate_ended(self) -> None:
        while True:
            await self._any_ended.wait()
            self._any_ended = trio.Event()
            ended, self._ended = self._ended, {}
            await self._evaluate_each(ended)

    async def _evaluate_all(self) -> None:
        while True:
            await trio.sleep(self.config.eval_interval_secs)
            await self._evaluate_each(self.monitor.seen)

    async def _evaluate_each(self, agents: Iterable[str]) -> None:  # noqa: ASYNC910 - the callers have waited
        for number, agent in enumerate(agents, 1):
            alert = self._evaluate(agent)
            if alert is not None:
                await self.sender.send(Drifted(self.sender.now(), alert))
            elif number % AT_ONCE == 0:
                await trio.lowlevel.checkpoint()

    def _evaluate(self, agent: str) -> DriftAlert | None:
        if self.state.value.agents[agent].hold is not None:
            return None  # it does nothing, and a person will look at it
        return self.monitor.evaluate(agent, trio.current_time())
