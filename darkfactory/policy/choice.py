"""Which finding is improved, and by whom.

The first one for which nothing waits already, neither a branch that nobody has merged nor an open pull request, and for
which there is somebody. Where an earlier night left no more than the pull request to be done, that is done.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import date
from types import MappingProxyType
from typing import Final

from attrs import evolve, frozen

from darkfactory.model.fleet import AgentDefinition, AgentLayer, CompoundReviewConfig, OrchestratorConfig, Permissions
from darkfactory.model.review import (
    BRANCH_PREFIX,
    Branch,
    Finding,
    FindingKind,
    Handled,
    Improvement,
    ReviewOutcome,
    Scan,
)
from darkfactory.model.routing import Standing
from darkfactory.policy.findings import finding_id
from darkfactory.policy.improvement import task, words
from darkfactory.policy.routing import route

NOBODY: Final = "give an agent a fitting capability, name one by [compound_review] agent, or a [routing] fallback"


@frozen
class Waiting:
    """An open pull request of an earlier review."""

    finding: str | None
    url: str


@frozen
class Choice:
    """What is to be done, or why nothing is."""

    finding: Finding | None = None
    improvement: Improvement | None = None
    """None where nothing can be improved."""
    outcome: ReviewOutcome | None = None
    """Why nothing is done; None where something is."""
    detail: str = ""
    remedy: str = ""
    pr_url: str | None = None
    owed: bool = False
    """Nothing is to be improved any more: the pull request alone is missing."""


def choose(
    config: OrchestratorConfig,
    scan: Scan,
    findings: Sequence[Finding],
    *,
    handled: Mapping[str, Handled],
    waiting: Collection[Waiting],
    standing: Mapping[str, Standing],
    unfit: Mapping[str, str],
    today: date,
) -> Choice:
    """Choose of the findings, of which there is one at least, the best first.

    `waiting` are the open pull requests, as far as they are known; `standing` tells how it stands with every agent, and
    `unfit` agent -> why it can improve nothing. `today` is the date in the branch's name.
    """
    review = config.compound_review
    assert review is not None
    branches = {branch.name: branch for branch in scan.branches}
    urls = {each.finding: each.url for each in waiting if each.finding is not None}
    for finding in findings if review.create_prs else ():
        before = handled.get(finding.id)
        if before is not None and finding.id not in urls and _owed(before, branches):
            assert before.branch is not None
            done = Improvement(finding.id, finding.title, "", None, (), before.branch, commit=before.commit)
            why = (f"only its pull request is missing ({before})",)
            return Choice(finding, evolve(done, why=why, finished=True), owed=True)
    nobody: list[Choice] = []
    for finding in findings:
        if finding.id not in urls and _branch_for(finding, branches) is None:
            choice = _for_someone(config, review, scan, finding, standing, unfit, today)
            if choice.outcome is None:
                return _past(nobody, choice)
            nobody.append(choice)
    if nobody:
        return nobody[0]
    first = findings[0]
    if first.id in urls:
        return Choice(
            first, outcome=ReviewOutcome.PR_EXISTS, detail="for each finding something waits", pr_url=urls[first.id]
        )
    branch = _branch_for(first, branches)
    detail = f"for each finding there is a branch that nobody has merged; for the first one {branch}"
    return Choice(first, outcome=ReviewOutcome.BRANCH_TAKEN, detail=detail, remedy="merge it, or delete it")


def _past(nobody: Sequence[Choice], choice: Choice) -> Choice:
    """The choice, which says what nobody was found for. One agent's trouble, which nobody else can look into, would
    else be in the way of everything, every night.
    """
    if not nobody or choice.improvement is None:
        return choice
    passed_over = ", ".join(each.finding.id for each in nobody if each.finding is not None)
    why = (f"nobody was found for {passed_over}", *choice.improvement.why)
    return evolve(choice, improvement=evolve(choice.improvement, why=why))


def _owed(before: Handled, branches: Mapping[str, Branch]) -> bool:
    """Whether a branch is as a review left it that could not open its pull request."""
    branch = branches.get(before.branch) if before.branch is not None else None
    return before.owed and branch is not None and branch.sha == before.commit


def _branch_for(finding: Finding, branches: Collection[str]) -> str | None:
    """The branch of an earlier review about it, if there is one."""
    ours = (name for name in branches if name.startswith(BRANCH_PREFIX) and name.endswith(f"-{finding.id}"))
    return next(ours, None)


def _for_someone(
    config: OrchestratorConfig,
    review: CompoundReviewConfig,
    scan: Scan,
    finding: Finding,
    standing: Mapping[str, Standing],
    unfit: Mapping[str, str],
    today: date,
) -> Choice:
    branch = f"{BRANCH_PREFIX}{today:%Y-%m-%d}-{finding.id}"
    told = task(finding, branch=branch, commit=scan.commit, gate=review.gate)
    improvement = Improvement(finding.id, finding.title, told, None, (), branch)
    if review.agent is not None:
        why = ("[compound_review] agent names it",)
        return Choice(finding, evolve(improvement, agent=review.agent, why=why))
    patients = {agent.name for agent in config.agents if finding.id == finding_id(FindingKind.AGENT, agent.name)}
    excluding = {**dict.fromkeys(patients, "it is the one in trouble"), **unfit}
    chosen = route(config, words(finding), (), standing, excluding=excluding)
    if chosen.agent is None:
        passed_over = (f"{agent}: {why}" for agent, why in chosen.passed_over.items())
        improvement = evolve(improvement, why=(*chosen.reasons, *passed_over))
        detail = "; ".join(chosen.reasons)
        return Choice(finding, improvement, ReviewOutcome.NO_AGENT, detail, NOBODY)
    return Choice(finding, evolve(improvement, agent=chosen.agent, why=chosen.reasons))


def unfit(agents: Sequence[AgentDefinition], *, mute: Collection[str]) -> Mapping[str, str]:
    """Agent -> why it can improve nothing. `mute` are those who have a tool that does not tell what it has said."""
    return MappingProxyType(dict(_unfit(agents, mute)))


def _unfit(agents: Sequence[AgentDefinition], mute: Collection[str]) -> Iterator[tuple[str, str]]:
    for agent in agents:
        if agent.layer is AgentLayer.SAFETY:
            yield agent.name, "always_on: it has its own task, always"
        elif agent.permissions is Permissions.READ_ONLY:
            yield agent.name, "read-only: it may change nothing"
        elif agent.name in mute:
            yield agent.name, "its tool, or its fallback's, does not tell what it said at its end"
