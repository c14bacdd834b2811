"""What is decided about reviews: when they begin, what of theirs is wanted, and what is left when they are over."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from darkfactory.model.actions import Cause
from darkfactory.model.ends import Reason
from darkfactory.model.events import CompoundReview, ErrandAsked, MessageSent, ReviewAsked, ReviewEnded
from darkfactory.model.fleet import CompoundReviewConfig
from darkfactory.model.review import CompoundReviewResult, Errand, ReviewOutcome

from .world import EPOCH, GROWTH, World, agent, moment

SECTION = CompoundReviewConfig("0 2 * * *", Path("/repository"), create_prs=True)
IMPROVER = agent("improver", GROWTH)


def reviewing(*agents: object, at: float = 10.0, **fields: object) -> World:
    """A world in which a review is under way."""
    world = World.begun(*(agents or (IMPROVER,)), compound_review=SECTION, **fields)  # type: ignore[arg-type]
    world.tell(ReviewAsked(moment(at), None, 1))
    return world


def errand(world: World, name: str = "improver", at: float | None = None) -> None:
    """The review wants something done by that agent."""
    assert world.state.review is not None
    wanted = Errand(world.state.review.id, name, "task", Path("/repository"), "c" * 40, "main", "branch")
    world.tell(ErrandAsked(world.now(at), wanted))


def over(world: World, outcome: ReviewOutcome = ReviewOutcome.TIMED_OUT, at: float | None = None) -> None:
    """The review is over."""
    assert world.state.review is not None
    result = CompoundReviewResult((), None, False, None, 1.0, outcome, id=world.state.review.id, dry_run=False)
    world.tell(ReviewEnded(world.now(at), result))


def test_what_a_review_that_is_over_wanted_is_wanted_no_more() -> None:
    world = reviewing()
    world.asks("improver", 20)
    errand(world, at=30)
    assert ("improver", Cause.REVIEW) in world.state.queue
    over(world, at=40)
    assert not world.state.queue
    world.ends("improver", Reason.SUCCEEDED, 50)
    assert not world.lives("improver")


def test_a_run_that_began_when_its_review_was_over_already_is_stopped() -> None:
    world = reviewing()
    errand(world, at=30)
    over(world, at=40)
    assert world.stop_reason("improver") is Reason.CANCELLED
    assert world.state.review is None


def test_a_schedule_that_was_dealt_with_up_to_a_time_that_lies_far_ahead_begins_now() -> None:
    world = reviewing()
    over(world)
    ahead = EPOCH + timedelta(days=4000)
    world.tell(CompoundReview(moment(4000 * 86400.0), ahead))
    over(world, ReviewOutcome.NOTHING_FOUND)
    again = world.reborn(at=100.0)
    assert again.state.reviews.cursor == moment(100.0).utc
    (armed,) = again.kinds("review_armed")
    assert armed.data["schedule"] == SECTION.schedule
    again.misses()
    again.tell(CompoundReview(moment(7200.0), moment(7200.0).utc))
    assert again.state.review is not None


def test_the_clock_may_be_set_back_by_a_day_and_nothing_is_reviewed_twice() -> None:
    world = reviewing()
    over(world)
    world.tell(CompoundReview(moment(86400.0), moment(86400.0).utc))
    over(world, ReviewOutcome.NOTHING_FOUND)
    again = world.reborn(at=100.0)
    assert again.state.reviews.cursor == moment(86400.0).utc


def test_a_message_does_not_wait_behind_a_run_for_a_review_that_would_not_be_told_it() -> None:
    world = reviewing(max_worktrees=0)
    errand(world, at=20)
    assert world.state.queue["improver", Cause.REVIEW].waits_for == "max_worktrees"
    world.tell(MessageSent(moment(30), "do this", "improver", (), None, None, 3600.0, 5))
    (order,) = world.orders.values()
    assert order.cause is Cause.MESSAGE


def test_an_agent_that_is_held_while_its_errand_waits_refuses_it() -> None:
    world = reviewing(max_worktrees=0)
    errand(world, at=20)
    world.holds("improver", 30)
    assert world.state.review is not None
    assert world.state.review.refused is not None
    assert world.state.review.refused.reason == "held"
