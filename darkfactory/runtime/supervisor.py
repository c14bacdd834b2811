"""The supervisor: one task that reads the inbox, has `policy.decide` decide, and does what that says.

It waits in one place only. Everything it does is quick: bytes to the journal, a task started, a scope cancelled; so
an event waits for the events before it and for nothing else. How long they take is watched, and a slow step is named.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, assert_never

import structlog
import trio
from attrs import define, field
from trio_util import AsyncValue

from darkfactory.devices.journal import Journal
from darkfactory.model import actions
from darkfactory.model.actions import Action, Finish
from darkfactory.model.events import Event, Moment, Tick
from darkfactory.model.state import State
from darkfactory.policy.admission import EARLY_SECS
from darkfactory.policy.decide import decide
from darkfactory.policy.history import durable_of, line_of, snapshot
from darkfactory.runtime.beat import Beat
from darkfactory.runtime.definitions import Definitions
from darkfactory.runtime.inbox import Sender
from darkfactory.runtime.layers import Layers
from darkfactory.runtime.nightwatch import Nightwatch

if TYPE_CHECKING:  # most fleets have no review
    from darkfactory.runtime.reviewer import CompoundReviewWorkflow

SLOW_STEP_SECS: Final = 0.1
"""A decision with its actions that takes longer is named in the log."""
LAST_SYNC_SECS: Final = 1.0
"""How long the end waits for the journal's last lines; they are written, and survive the factory, in any case."""

_log = structlog.get_logger("darkfactory")

Answerer = Callable[[actions.Answer, int], None]
"""Is told an answer, and the number of the journal's line that makes it last."""


@define(eq=False)
class Supervisor:
    """The reader of the inbox."""

    state: AsyncValue[State]
    """For everyone to look at; set here alone."""
    layers: Layers
    journal: Journal
    answer: Answerer
    nightwatch: Nightwatch
    definitions: Definitions
    beat: Beat
    reviewer: CompoundReviewWorkflow | None
    """None where the fleet has no review."""
    journalled: int = 0
    """The number of the last line written."""
    _bound: Any = field(factory=_log.bind)
    """The log as it is configured when the factory starts: `_log` would look that up anew for every record."""

    async def run(self, inbox: trio.MemoryReceiveChannel[Event], clock: Sender) -> Finish:
        """Decide and act until the factory has stopped; what it came to.

        `clock` stamps the ticks; nothing is sent with it. An exception is a bug, or a journal that cannot be written.
        """
        self.beat.begin()
        with inbox:
            while True:
                finish: Finish | None = None
                with trio.CancelScope(deadline=self._next_deadline()) as patience:
                    finish = await self._hear(inbox, patience)
                finish = finish or self._wake(clock.now())
                if finish is not None:
                    with trio.move_on_after(LAST_SYNC_SECS):  # a disk that hangs must not hold up the end
                        await self.journal.wait_durable(self.journalled)
                    return finish

    async def _hear(self, inbox: trio.MemoryReceiveChannel[Event], patience: trio.CancelScope) -> Finish:
        """Decide about what comes. One scope serves for as long as something comes before its deadline, which moves."""
        while True:
            finish = self.step(await inbox.receive())
            if finish is not None:
                return finish
            deadline = self._next_deadline()
            if deadline != patience.deadline:  # setting it costs as much as half a decision
                patience.deadline = deadline

    def _next_deadline(self) -> float:
        state: State = self.state.value
        return min(state.next_deadline(), self.beat.next_at)

    def _wake(self, now: Moment) -> Finish | None:
        """A deadline has come: do what is due."""
        if self.beat.next_at <= now.at + EARLY_SECS:
            self.beat.strike()
        if self.state.value.next_deadline() <= now.at + EARLY_SECS:
            return self.step(Tick(now))
        return None

    def step(self, event: Event) -> Finish | None:
        """Decide about one event and act; what the factory came to if that was its end. No checkpoint."""
        started = perf_counter()
        state, todo = decide(self.state.value, event)
        finish = self.act(todo)
        self.state.value = state
        if finish is None:
            self.remember(event.when)
        took = perf_counter() - started
        if took > SLOW_STEP_SECS:
            _log.warning("slow_step", step=type(event).__name__, secs=round(took, 3))
        return finish

    def remember(self, when: Moment) -> None:
        """Sum up for the journal what it holds, if it wants to begin a new segment with that. No checkpoint."""
        if self.journal.wants_snapshot(when.utc):
            self.journal.begin_segment(line_of(snapshot(durable_of(self.state.value, when), when)))

    def act(self, todo: tuple[Action, ...]) -> Finish | None:
        """Do these actions in order; the last one, if it ends the factory. No checkpoint."""
        if not todo:  # as after nearly every line that an agent prints
            return None
        records = [action for action in todo if isinstance(action, actions.Record)]
        if records:
            durable = any(record.durable for record in records)
            self.journalled = self.journal.append(map(line_of, records), durable=durable)
        finish: Finish | None = None
        for action in todo:
            match action:
                case actions.Record():
                    getattr(self._bound, action.severity.value)(action.kind, **action.data)
                case actions.StartRun():
                    self.layers.start(action, self.journalled)
                case actions.StartWarm():
                    self.layers.start_warm(action)
                case actions.StopRun():
                    self.layers.stop_run(action.layer, action.run_id, action.stop)
                case actions.StopAgent():
                    self.layers.stop_agent(action.layer, action.run_id, action.stop)
                case actions.StopLayer():
                    self.layers.stop_layer(action.layer, action.stops)
                case actions.JudgeDrift() | actions.ResetDrift() | actions.RefreshContext():
                    self.nightwatch.hear(action)
                case actions.ReadDefinition():
                    self.definitions.read(action.agent)
                case actions.Redefine():
                    self.definitions.redefine(action)
                case actions.BeginReview() | actions.StopReview():
                    assert self.reviewer is not None
                    self.reviewer.hear(action, self.journalled)
                case actions.Answer():
                    self.answer(action, self.journalled)
                case Finish():
                    finish = action
                case _:
                    assert_never(action)
        return finish
