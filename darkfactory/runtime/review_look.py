"""What a review looks at, and what it would do about that: the same for one that acts and for one that only looks."""

from __future__ import annotations

from datetime import datetime, timedelta

import trio
from attrs import evolve

from darkfactory.devices.reviews import ReviewDevices
from darkfactory.devices.threads import InThread
from darkfactory.errors import CompoundReviewFailed
from darkfactory.model.events import Moment
from darkfactory.model.fleet import AgentDefinition, OrchestratorConfig
from darkfactory.model.review import (
    CompoundReviewResult,
    Finding,
    Improvement,
    ReviewMemory,
    ReviewOutcome,
    Scan,
)
from darkfactory.model.state import State
from darkfactory.policy.choice import Choice, Waiting, choose, unfit
from darkfactory.policy.draft import Draft
from darkfactory.policy.findings import findings
from darkfactory.policy.routing import standing_of
from darkfactory.policy.story import KINDS, story
from darkfactory.tools import tool_for


class Over(Exception):
    """The review has its outcome."""

    def __init__(self, outcome: ReviewOutcome, detail: str = "", remedy: str = "") -> None:
        super().__init__(outcome.value)
        self.outcome, self.detail, self.remedy = outcome, detail, remedy


async def examine(
    config: OrchestratorConfig, devices: ReviewDevices, in_thread: InThread, memory: ReviewMemory, now: datetime
) -> tuple[Scan, tuple[Finding, ...]]:
    """Scan the repository and read the journal, and rank what is found. CompoundReviewFailed if that cannot be done."""
    section = config.compound_review
    assert section is not None
    lookback = timedelta(hours=section.lookback_hours)
    scan = await devices.scanner.scan(
        section.repo_path,
        section.base_branch,
        since=memory.commit,
        lookback=lookback,
        now=now,
        remote=section.remote,
    )
    told = memory.told_until
    told_since = told if told is not None and told <= now else now - lookback  # it lies ahead where the clock was wrong
    handled = {finding: str(each) for finding, each in memory.handled.items()}

    def rank() -> tuple[Finding, ...]:
        lines = devices.lines(told_since, KINDS)
        return findings(scan, story(lines), weights=section.weights, handled=handled)

    return scan, await in_thread(rank)  # half a second on a large night


async def preview(
    config: OrchestratorConfig, devices: ReviewDevices, in_thread: InThread, state: State, now: Moment
) -> CompoundReviewResult:
    """What a review would find now, and what it would have done, for whoever asks without a factory.

    `state` tells how it stands with the agents, and what reviews remember. Changes nothing, and asks no server.
    """
    await trio.lowlevel.checkpoint()
    began = trio.current_time()
    over, scan, found, choice = Over(ReviewOutcome.DRY_RUN), None, tuple[Finding, ...](), Choice()
    try:
        scan, found = await examine(config, devices, in_thread, state.reviews, now.utc)
        if found:
            choice = choose_now(config, state, now, scan, found, ())
            over = Over(ReviewOutcome.DRY_RUN, *would(choice))
        else:
            over = nothing(scan)
    except CompoundReviewFailed as failure:
        over = Over(ReviewOutcome(failure.outcome), failure.detail, failure.remedy)
    return result_of(over, trio.current_time() - began, now.utc, scan, found, choice.improvement)


def result_of(
    over: Over,
    secs: float,
    began: datetime,
    scan: Scan | None,
    found: tuple[Finding, ...],
    improvement: Improvement | None,
) -> CompoundReviewResult:
    """What a review came to, as far as one that only looks can tell."""
    result = CompoundReviewResult(
        findings=found,
        top_improvement=improvement,
        pr_created=False,
        pr_url=None,
        duration=round(secs, 3),
        outcome=over.outcome,
        detail=over.detail,
        remedy=over.remedy,
        began=began,
    )
    if scan is None:
        return result
    return evolve(
        result,
        notices=scan.notices,
        commit=scan.commit,
        since=scan.since,
        commits=len(scan.commits),
        left_out=scan.left_out,
    )


def nothing(scan: Scan) -> Over:
    """The outcome where nothing was found."""
    count = "1 commit" if len(scan.commits) == 1 else f"{len(scan.commits)} commits"
    return Over(ReviewOutcome.NOTHING_FOUND, f"{count}, and nothing to say")


def choose_now(
    config: OrchestratorConfig,
    state: State,
    now: Moment,
    scan: Scan,
    found: tuple[Finding, ...],
    waiting: tuple[Waiting, ...],
) -> Choice:
    """Choose by what is so at this moment."""
    mute = frozenset(agent.name for agent in config.agents if _is_mute(agent, config))
    return choose(
        config,
        scan,
        found,
        handled=state.reviews.handled,
        waiting=waiting,
        standing=standing_of(Draft.of(state, now)),
        unfit=unfit(config.agents, mute=mute),
        today=now.utc.astimezone(config.timezone).date(),
    )


def _is_mute(agent: AgentDefinition, config: OrchestratorConfig) -> bool:
    """Whether it runs, or would fall back on, a plain program: that says nothing at its end, and may obey any text."""
    ways = (agent,) if agent.fallback is None else (agent, agent.fallen_back())
    return not all(tool_for(each, config.tools).reports for each in ways)


def would(choice: Choice) -> tuple[str, str]:
    """What a review would do that is no dry run, and what there is to do about that."""
    improvement = choice.improvement
    if choice.outcome is not None or improvement is None:
        word = choice.outcome.value if choice.outcome is not None else "nothing"
        return f"it would end as {word}: {choice.detail}", choice.remedy
    if choice.owed:
        return f"it would open the pull request for {improvement.branch}", ""
    return f"it would have {improvement.agent} improve {improvement.finding}", ""
