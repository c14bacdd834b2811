"""Which finding is improved, and by whom."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from darkfactory.model.fleet import CompoundReviewConfig, OrchestratorConfig, Permissions
from darkfactory.model.review import (
    Branch,
    Finding,
    FindingKind,
    FindingSeverity,
    Handled,
    ReviewOutcome,
    Scan,
)
from darkfactory.model.routing import Standing
from darkfactory.policy.choice import Choice, Waiting, choose, unfit
from darkfactory.policy.findings import finding_id

from .world import CORE, GROWTH, SAFETY, agent, fleet

NOW = datetime(2026, 1, 5, tzinfo=UTC)
SECTION = CompoundReviewConfig("@daily", Path("/r"), create_prs=True)
TESTER = agent("tester", GROWTH, capabilities=("testing",))
REVIEWER = agent("reviewer", GROWTH, capabilities=("code-review", "architecture"))


def found(kind: FindingKind, about: str) -> Finding:
    return Finding(finding_id(kind, about), kind, f"{about} is not as it should be", FindingSeverity.HIGH, 9.0, "why")


UNTESTED = found(FindingKind.UNTESTED, "src/a.py")
CHURN = found(FindingKind.CHURN, "src/b.py")


def branch(finding: Finding, sha: str = "1" * 40) -> Branch:
    return Branch(f"darkfactory/review/2026-01-04-{finding.id}", sha, 1, NOW)


def chosen(
    *findings: Finding,
    config: OrchestratorConfig | None = None,
    branches: tuple[Branch, ...] = (),
    handled: dict[str, Handled] | None = None,
    waiting: tuple[Waiting, ...] = (),
    standing: dict[str, Standing] | None = None,
    **keys: Any,
) -> Choice:
    config = config or fleet(TESTER, REVIEWER, compound_review=evolve(SECTION, **keys))
    return choose(
        config,
        Scan("c" * 40, None, branches=branches),
        findings or (UNTESTED, CHURN),
        handled=handled or {},
        waiting=waiting,
        standing=standing or {},
        unfit=unfit(config.agents, mute=()),
        today=date(2026, 1, 5),
    )


def who(choice: Choice) -> tuple[str | None, str]:
    assert choice.improvement is not None
    return choice.improvement.agent, choice.improvement.finding


def test_the_first_one_goes_to_whom_its_kind_asks_for():
    choice = chosen()
    assert who(choice) == ("tester", UNTESTED.id)
    assert choice.improvement is not None
    assert choice.improvement.branch == f"darkfactory/review/2026-01-05-{UNTESTED.id}"
    assert choice.improvement.why
    assert who(chosen(CHURN)) == ("reviewer", CHURN.id)


def test_an_agent_that_is_named_gets_it_whatever_it_is():
    assert who(chosen(CHURN, agent="tester")) == ("tester", CHURN.id)


@pytest.mark.parametrize(
    "there", [{"branches": (branch(UNTESTED),)}, {"waiting": (Waiting(UNTESTED.id, "https://x/1"),)}]
)
def test_one_for_which_something_waits_is_passed_over(there: dict[str, Any]):
    assert who(chosen(**there))[1] == CHURN.id


def test_where_something_waits_for_each_that_is_said():
    taken = chosen(branches=(branch(UNTESTED), branch(CHURN)))
    assert taken.outcome is ReviewOutcome.BRANCH_TAKEN
    assert branch(UNTESTED).name in taken.detail
    waits = chosen(branches=(branch(CHURN),), waiting=(Waiting(UNTESTED.id, "https://x/1"),))
    assert (waits.outcome, waits.pr_url) == (ReviewOutcome.PR_EXISTS, "https://x/1")


def test_a_branch_of_a_longer_name_is_another_ones():
    other = evolve(branch(UNTESTED), name=f"darkfactory/review/2026-01-04-{UNTESTED.id}0")
    assert who(chosen(branches=(other,)))[1] == UNTESTED.id


@pytest.mark.parametrize("owed", [False, True])
@pytest.mark.parametrize("sha", ["1" * 40, "2" * 40])
def test_a_pull_request_that_is_owed_comes_first_while_its_branch_is_as_it_was(owed: bool, sha: str):
    before = Handled(NOW, ReviewOutcome.PR_FAILED, branch(CHURN).name, "1" * 40, owed=owed)
    choice = chosen(handled={CHURN.id: before}, branches=(branch(CHURN, sha),))
    assert choice.owed == (owed and sha == before.commit)
    assert who(choice)[1] == (CHURN.id if choice.owed else UNTESTED.id)


def test_one_that_is_open_already_is_not_owed():
    before = Handled(NOW, ReviewOutcome.PR_FAILED, branch(CHURN).name, "1" * 40, owed=True)
    there = (Waiting(CHURN.id, "https://x/1"),)
    assert not chosen(handled={CHURN.id: before}, branches=(branch(CHURN),), waiting=there).owed


def test_nobody_is_a_named_outcome_with_the_reasons_and_a_remedy():
    config = fleet(REVIEWER, compound_review=SECTION)
    choice = chosen(UNTESTED, config=config, standing={"reviewer": Standing("held: by a person")})
    assert choice.outcome is ReviewOutcome.NO_AGENT
    assert choice.improvement is not None
    assert (choice.improvement.agent, bool(choice.improvement.task)) == (None, True)
    assert "testing" in choice.detail
    assert "capability" in choice.remedy


def test_who_is_in_trouble_does_not_mend_that_himself():
    trouble = found(FindingKind.AGENT, "reviewer")
    second = evolve(REVIEWER, name="second")
    config = fleet(REVIEWER, second, compound_review=SECTION)
    assert who(chosen(trouble, config=config)) == ("second", trouble.id)


def test_why_some_can_improve_nothing():
    agents = (
        agent("always", SAFETY),
        agent("reads", CORE, permissions=Permissions.READ_ONLY),
        agent("mute", GROWTH),
        agent("writes", GROWTH),
    )
    assert {name: why.partition(":")[0] for name, why in unfit(agents, mute={"mute"}).items()} == {
        "always": "always_on",
        "reads": "read-only",
        "mute": "its tool, or its fallback's, does not tell what it said at its end",
    }
