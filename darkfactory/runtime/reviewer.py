"""The room of the compound reviews, one at a time: each begins when the supervisor says so, and ends with an outcome.

A side room: whatever goes wrong in it is an outcome of the review, and stops nobody. Each step can be cancelled, by the
review's own time or by a factory that stops. What is left of it then is put in order by the next review: a worktree, by
`Worktrees.retire`; a branch, because it is found and passed over; a pull request that is missing, because it is opened
then.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from traceback import format_exc
from typing import Final

import structlog
import trio
from attrs import define, field
from trio_util import AsyncValue

from darkfactory.devices import threads
from darkfactory.devices.machine import Machine
from darkfactory.errors import CompoundReviewFailed
from darkfactory.model.actions import BeginReview, Reviewing
from darkfactory.model.events import ReviewEnded
from darkfactory.model.fleet import OrchestratorConfig
from darkfactory.model.review import CompoundReviewResult, ReviewOutcome
from darkfactory.model.state import State
from darkfactory.policy.quoting import plain
from darkfactory.policy.review_report import markdown, to_json
from darkfactory.runtime.inbox import Sender
from darkfactory.runtime.review_look import Over
from darkfactory.runtime.review_work import Work

REPORT_SECS: Final = 10.0
"""How long its reports, and a place in the inbox, may keep the end of a review waiting."""
LAST_RESULTS: Final = 8
"""Kept for those who wait for one."""

_log = structlog.get_logger("darkfactory")


@define(eq=False)
class CompoundReviewWorkflow:
    """The room of the reviews of one factory's life; one at a time is in it."""

    config: OrchestratorConfig
    state: AsyncValue[State]
    machine: Machine
    sender: Sender
    _order: tuple[BeginReview, int] | None = None
    """What is to be begun, and the number of the journal's line that says so."""
    _ordered: trio.Event = field(factory=trio.Event)
    _scope: trio.CancelScope = field(factory=trio.CancelScope)
    """Around the one that is under way."""
    _patience: trio.CancelScope = field(factory=trio.CancelScope)
    """Of that one with its gate: see `run_command`."""
    results: AsyncValue[Mapping[str, CompoundReviewResult]] = field(factory=lambda: AsyncValue({}))
    """By review: the last ones."""

    def hear(self, action: Reviewing, journalled: int) -> None:
        """Do what the supervisor orders. No checkpoint."""
        if isinstance(action, BeginReview):
            self._order = action, journalled
            self._scope, self._patience = trio.CancelScope(), trio.CancelScope()
            self._ordered.set()
        else:
            self._patience.deadline = min(self._patience.deadline, trio.current_time() + action.grace_secs)
            self._scope.cancel(reason="the factory stops")

    async def run(self) -> None:
        """Review whenever it is ordered, until cancelled."""
        while True:
            await self._ordered.wait()
            self._ordered = trio.Event()
            assert self._order is not None
            await self._review(*self._order)

    async def _review(self, order: BeginReview, journalled: int) -> None:
        began = trio.current_time()
        work = Work(self.config, self.state, self.machine, self.sender, order, self._patience)
        over = Over(ReviewOutcome.STOPPED, "the factory stopped", "the next review looks at the same commits")
        try:
            with self._scope:
                with trio.move_on_after(work.section.max_duration_secs) as patience:
                    over = await self._work(work, journalled)
                if patience.cancelled_caught:
                    over = Over(
                        ReviewOutcome.TIMED_OUT, work.where, "raise max_duration_secs, or see what took so long"
                    )
                await self._wind_up(work, f"the review ended: {over.outcome.value}")
        finally:
            result = work.result(over, trio.current_time() - began)
            # whatever became of it, the supervisor must hear of it: there would never be another review
            with trio.CancelScope(shield=True, deadline=trio.current_time() + REPORT_SECS):
                await self._report(work, result)
            with trio.CancelScope(shield=True, deadline=trio.current_time() + REPORT_SECS):
                await self.sender.send(ReviewEnded(self.sender.now(), result))
            kept = [*self.results.value.items()][-LAST_RESULTS:]
            self.results.value = {**dict(kept), order.review: result}

    async def _work(self, work: Work, journalled: int) -> Over:
        """All the steps; what they came to."""
        await trio.lowlevel.checkpoint()
        try:
            await self.machine.journal.wait_durable(journalled)
            await work.steps()
        except Over as over:
            return over
        except CompoundReviewFailed as failure:
            return Over(ReviewOutcome(failure.outcome), failure.detail, failure.remedy)
        except Exception as bug:
            _log.error("review_failed", detail=str(bug), exception=format_exc())
            refused = isinstance(bug, OSError) or (isinstance(bug, RuntimeError) and threads.none_left(bug))
            remedy = "see that the machine has room, files and threads left" if refused else "this is a bug: report it"
            return Over(ReviewOutcome.ERROR, f"{type(bug).__name__}: {plain(str(bug))}", remedy)
        raise AssertionError("a review ends with an outcome")

    async def _wind_up(self, work: Work, why: str) -> None:
        await trio.lowlevel.checkpoint()
        try:
            await work.wind_up(why)
        except Exception as bug:
            _log.error("review_failed", detail=str(bug), exception=format_exc())

    async def _report(self, work: Work, result: CompoundReviewResult) -> None:
        await trio.lowlevel.checkpoint()
        since = work.began - timedelta(days=self.config.keep_days)
        try:
            page, told = markdown(result), json.dumps(to_json(result), indent=1) + "\n"
            await self.machine.in_thread(partial(work.devices.reports.write, result.id, page, told, since))
        except Exception as error:  # the disk's, as a rule; the outcome itself goes to the journal
            _log.warning("review_report_lost", review=result.id, detail=str(error))
