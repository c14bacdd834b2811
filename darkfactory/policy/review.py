"""When a compound review begins, what it may have an agent do, and what is remembered of it.

One at a time. Its beginning is on the record before it does anything, with the occurrence that it stands for: so none
fires twice, whatever happens to it. What it wants done goes through the gate as everything else does, and is wanted
for as long as the review waits for it, and no longer.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from attrs import evolve

from darkfactory.model import actions, events
from darkfactory.model.actions import Begun, Cause, Refuse, Severity
from darkfactory.model.review import (
    FAILED_NIGHTS,
    HANDED_IN,
    REVIEWED,
    CompoundReviewResult,
    Errand,
    Handled,
    Improvement,
    ReviewMemory,
    ReviewOutcome,
)
from darkfactory.model.state import ErrandEnd, ErrandWork, Request, Review, Run
from darkfactory.policy.chance import token
from darkfactory.policy.draft import Draft
from darkfactory.policy.history import timestamp
from darkfactory.policy.schedule import LARGEST_SET_BACK

CATCHUP_SECS: Final = 3600.0
"""The oldest that a missed occurrence may be when it would begin."""
ESCALATE_AFTER: Final = 3
"""Reviews that failed in a row, at which a person is called; and at each multiple of it."""


def remember(draft: Draft, memory: ReviewMemory) -> None:
    """Go on from what the journal knows: a review that had begun is lost, and a schedule that is new begins now."""
    draft.reviews = memory
    if memory.alive is not None:
        detail = "the factory was killed while it reviewed"
        _over(draft, memory.alive, ReviewOutcome.LOST, detail)
    section = draft.config.compound_review
    schedule = section.schedule if section is not None else None
    if draft.only_review:
        return
    cursor = memory.cursor
    ahead = cursor is not None and cursor - draft.when.utc > LARGEST_SET_BACK
    if schedule == memory.schedule and not ahead:
        return
    if schedule is None:
        draft.record("review_disarmed")
        draft.reviews = evolve(draft.reviews, schedule=None, cursor=None)
    else:
        if cursor is not None and ahead:
            detail = "reviews were dealt with up to a time that lies ahead: the clock must have been wrong"
            told = timestamp(cursor)
            draft.record("schedule_ahead", Severity.WARNING, durable=False, cursor=told, detail=detail)
        draft.record("review_armed", schedule=schedule)
        draft.reviews = evolve(draft.reviews, schedule=schedule, cursor=draft.when.utc)


def due(draft: Draft, event: events.CompoundReview) -> None:
    """An occurrence of its schedule has come."""
    section, cursor = draft.config.compound_review, draft.reviews.cursor
    if section is None or cursor is None or event.occurrence <= cursor or draft.stopping is not None:
        return  # dealt with already; or, while stopping, left to the next start
    if draft.review is not None:
        _skip(draft, event, "overlap", f"{draft.review.id} is under way")
    elif draft.when.utc - event.occurrence > timedelta(seconds=CATCHUP_SECS):
        _skip(draft, event, "missed", f"older than {CATCHUP_SECS:g} s when it could begin")
    else:
        _begin(draft, event.occurrence, event.first_missed, dry_run=not section.create_prs)


def _skip(draft: Draft, event: events.CompoundReview, reason: str, detail: str) -> None:
    draft.reviews = evolve(draft.reviews, cursor=event.occurrence)
    draft.record(
        "review_skipped",
        Severity.WARNING,
        occurrence=timestamp(event.occurrence),
        first_missed=timestamp(event.first_missed) if event.first_missed else None,
        reason=reason,
        detail=detail,
    )


def asked(draft: Draft, event: events.ReviewAsked) -> None:
    """Somebody wants one now."""
    section = draft.config.compound_review
    outcome: Begun | Refuse
    if section is None:
        outcome = Refuse("not_configured", "the fleet has no [compound_review]")
    elif draft.stopping is not None:
        outcome = Refuse("stopping", "the factory stops")
    elif draft.review is not None:
        outcome = Refuse("overlap", f"{draft.review.id} is under way")
    else:
        dry_run = not section.create_prs if event.dry_run is None else event.dry_run
        outcome = Begun(_begin(draft, None, None, dry_run=dry_run).id)
    draft.actions.append(actions.Answer(event.request, outcome))


def _begin(draft: Draft, occurrence: datetime | None, first_missed: datetime | None, *, dry_run: bool) -> Review:
    utc = draft.when.utc
    review_id = f"review-{utc:%Y%m%d-%H%M%S}-{token(draft.seed, 'review', draft.reviews.begun_so_far, timestamp(utc))}"
    draft.review = Review(review_id, dry_run, utc)
    draft.reviews = draft.reviews.begun(review_id, occurrence)
    draft.record(
        "review_begun",
        review=review_id,
        dry_run=dry_run,
        occurrence=timestamp(occurrence) if occurrence else None,
        first_missed=timestamp(first_missed) if first_missed else None,
    )
    draft.actions.append(actions.BeginReview(review_id, dry_run))
    return draft.review


def errand_asked(draft: Draft, errand: Errand) -> None:
    """The review wants something done: its agent's request is made at the next look."""
    review = draft.review
    if review is None or review.id != errand.review:
        return
    draft.review = evolve(review, errand=errand)
    draft.touched[errand.agent] = None


def withdrawn(draft: Draft, event: events.ErrandWithdrawn) -> Run | None:
    """The review wants it no more; the run that does it and is to be stopped, if there is one."""
    review = draft.review
    if review is None or review.id != event.review:
        return None
    draft.review = evolve(review, errand=None)
    return _wanted_no_more(draft, review)


def _wanted_no_more(draft: Draft, review: Review) -> Run | None:
    """Take what the review wants from the gate; the run that does it already, if there is one."""
    if review.errand is not None and draft.queue.pop((review.errand.agent, Cause.REVIEW), None) is not None:
        draft.gate_moved = True  # others may have waited behind it
    return draft.run(review.run) if review.run is not None else None


def want_run(draft: Draft, name: str) -> None:
    """Have a run of the agent at the gate if the review wants one."""
    review = draft.review
    if review is None or review.errand is None or review.errand.agent != name or draft.stopping is not None:
        return
    draft.queue.setdefault((name, Cause.REVIEW), Request(name, Cause.REVIEW, wanted_at=draft.when.utc))
    draft.gate_moved = True


def refused(draft: Draft, why: Refuse) -> None:
    """The gate will not have it."""
    assert draft.review is not None
    draft.review = evolve(draft.review, errand=None, refused=why)


def begun(draft: Draft, run_id: str) -> Errand:
    """A run takes it on; what that is."""
    review = draft.review
    assert review is not None
    errand = review.errand
    assert errand is not None
    draft.review = evolve(review, errand=None, run=run_id)
    return errand


def worktree_made(draft: Draft, event: events.WorktreeMade) -> None:
    """Its run has a worktree."""
    if draft.review is not None and draft.review.run == event.run_id:
        draft.review = evolve(draft.review, cwd=event.cwd)


def worktree_settled(draft: Draft, event: events.WorktreeSettled) -> None:
    """It is known what its run has left."""
    if draft.review is not None and draft.review.run == event.run_id:
        draft.review = evolve(draft.review, work=ErrandWork(event.path, event.commit, event.kept))


def run_ended(draft: Draft, event: events.RunEnded) -> None:
    """Its run is over."""
    if draft.review is not None and draft.review.run == event.run_id:
        draft.review = evolve(draft.review, end=ErrandEnd(event.verdict, event.answer))


def finished(draft: Draft, event: events.ImprovementFinished) -> None:
    """It is on the record before anything leaves the machine: if we are killed, the next review hands it in."""
    improvement = event.improvement
    if draft.review is None or draft.review.id != event.review:
        return
    assert improvement.commit is not None
    # how the review ends is not known yet; if nobody can say any more, it is lost
    handled = Handled(draft.when.utc, ReviewOutcome.LOST, improvement.branch, improvement.commit, owed=True)
    draft.reviews = draft.reviews.handling(improvement.finding, handled)
    draft.record(
        "review_improved",
        review=event.review,
        finding=improvement.finding,
        branch=improvement.branch,
        tip=improvement.commit,
    )


def ended(draft: Draft, result: CompoundReviewResult) -> Run | None:
    """It is over, and its reports are written; its run, which is to be stopped, where it has left one.

    That happens where its time is over just as it asks for one.
    """
    review = draft.review
    if review is None or review.id != result.id:
        return None
    draft.review = None
    section = draft.config.compound_review
    preview = result.dry_run and section is not None and section.create_prs
    reviewed = result.outcome in REVIEWED and not preview
    improvement = result.top_improvement
    tried = improvement is not None and (improvement.run is not None or improvement.commit is not None)
    _over(
        draft,
        review.id,
        result.outcome,
        result.detail,
        commit=result.commit if reviewed else None,
        told_until=review.began if reviewed else None,
        improvement=improvement if tried else None,
        pr_url=result.pr_url,
        findings=len(result.findings),
        secs=round(result.duration, 3),
    )
    return _wanted_no_more(draft, review)


def _over(
    draft: Draft,
    review: str,
    outcome: ReviewOutcome,
    detail: str,
    *,
    commit: str | None = None,
    told_until: datetime | None = None,
    improvement: Improvement | None = None,
    pr_url: str | None = None,
    findings: int | None = None,
    secs: float | None = None,
) -> None:
    finding, handled = None, None
    if improvement is not None:
        branch = improvement.branch if improvement.commit is not None else None
        finding = improvement.finding
        owed = improvement.finished and outcome not in HANDED_IN
        handled = Handled(draft.when.utc, outcome, branch, improvement.commit, pr_url, owed)
    draft.reviews = draft.reviews.ended(outcome, commit=commit, told_until=told_until, finding=finding, handled=handled)
    failed = outcome in FAILED_NIGHTS
    draft.record(
        "review_ended",
        Severity.WARNING if failed else Severity.INFO,
        review=review,
        outcome=outcome.value,
        detail=detail or None,
        findings=findings,
        finding=finding,
        branch=handled.branch if handled is not None else None,
        tip=handled.commit if handled is not None else None,
        pr_url=pr_url,
        owed=(handled is not None and handled.owed) or None,
        commit=commit,
        told_until=timestamp(told_until) if told_until is not None else None,
        secs=secs,
    )
    failures = draft.reviews.failures
    if failed and failures % ESCALATE_AFTER == 0:
        draft.record(
            "review_escalated",
            Severity.ERROR,
            review=review,
            failures=failures,
            outcome=outcome.value,
            detail=f"{failures} reviews in a row have failed, the last: {detail or outcome.value}",
        )
