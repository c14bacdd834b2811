"""What is decided about reviews: when they begin, what of theirs is wanted, and what is left when they are over."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import attrs

from darkfactory.model.actions import Cause, Refuse
from darkfactory.model.ends import Reason
from darkfactory.model.events import (
    CompoundReview,
    DiskChecked,
    ErrandAsked,
    MessageSent,
    Moment,
    ReviewAsked,
    ReviewEnded,
)
from darkfactory.model.fleet import AgentDefinition, CompoundReviewConfig
from darkfactory.model.review import CompoundReviewResult, Errand, ReviewOutcome
from darkfactory.policy.history import durable_of, fold

from .world import CORE, EPOCH, GROWTH, World, agent, fleet, moment

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


def alone(*agents: AgentDefinition, world: World | None = None, at: float = 0.0) -> World:
    """A world that was begun for a review alone, after another one if that is given."""
    config = fleet(IMPROVER, *agents, compound_review=SECTION)
    world = (world or World(config)).reborn(config, at, only_review=True)
    world.misses()
    return world


def test_a_factory_for_a_review_alone_moves_no_schedule_on() -> None:
    hourly, nightly = agent("hourly", CORE, schedule="0 * * * *"), agent("nightly", CORE)
    before = World(fleet(IMPROVER, nightly, compound_review=SECTION))
    world = alone(hourly, attrs.evolve(nightly, schedule="30 3 * * *"), world=before, at=100.0)
    world.passes(200)
    assert not world.kinds("schedule_armed")
    at = Moment(300.0, moment(300.0).utc)
    assert durable_of(world.state, at).cursors == fold(world.lines(), world.config.timezone).cursors
    assert durable_of(world.state, at).cursors == {"nightly": ("0 3 * * *", EPOCH)}
    assert not world.kinds("state_kept")
    later = world.reborn(at=1000.0)
    assert {record.data["agent"] for record in later.kinds("schedule_armed")} == {"hourly", "nightly"}


def test_what_waits_is_neither_begun_nor_forgotten_by_a_factory_for_a_review_alone() -> None:
    nightly = agent("nightly", CORE, enabled=True)
    other = agent("other", GROWTH)
    before = World.begun(IMPROVER, nightly, other, compound_review=SECTION, min_free_bytes=1)
    before.tell(DiskChecked(before.now(), 0, "full"))
    before.due("nightly", 10)
    before.asks("improver", 20)
    before.tell(MessageSent(moment(30), "do this", "improver", (), None, "m1", 3600.0, 5))
    before.holds("other", 40)
    known = fold(before.lines(), before.config.timezone)
    assert set(known.pending) == {("nightly", Cause.CRON), ("improver", Cause.OPERATOR)}
    for changed in (nightly, attrs.evolve(nightly, schedule="1 1 * * *"), attrs.evolve(nightly, enabled=False)):
        world = alone(changed, other, world=before, at=50.0)
        world.passes(200)
        assert not world.orders
        at = Moment(300.0, moment(300.0).utc)
        for after in (durable_of(world.state, at), fold(world.lines(), world.config.timezone)):
            assert (after.pending, after.holds, after.mail, after.cursors) == (
                known.pending,
                known.holds,
                known.mail,
                known.cursors,
            )


def test_a_factory_for_a_review_alone_starts_no_process_ahead() -> None:
    world = World.begun(compound_review=SECTION)
    warm = attrs.evolve(IMPROVER, name="warm", warm=1)
    world = alone(warm)
    world.tell(ReviewAsked(moment(10), None, 1))
    errand(world, "warm", at=20)
    assert world.lives("warm")
    assert not world.warm


def test_who_asks_a_factory_for_a_review_alone_to_start_something_is_refused() -> None:
    world = alone()
    answer = world.asks("improver", 10)
    assert isinstance(answer, Refuse)
    assert answer.reason == "only_review"
