"""The page of the compound review says what the code does."""

from __future__ import annotations

import re
from collections.abc import Callable

from darkfactory.model.review import DEFAULT_WEIGHTS
from darkfactory.policy import findings

Tables = Callable[[str], dict[str, list[list[str]]]]


def test_every_kind_of_finding_is_there_with_its_weight(tables: Tables):
    rows = tables("review")["Findings"]
    assert {(row[0].strip("`"), float(row[1])) for row in rows} == {
        (kind.value, weight) for kind, weight in DEFAULT_WEIGHTS.items()
    }
    assert all(len(row) == 5 and all(row) for row in rows)


def test_the_figures_of_the_findings_are_those_that_they_are_made_by(page: Callable[[str], str], tables: Tables):
    rows = {(row[0].strip("`"), row[2]): row[3] for row in tables("review")["Findings"]}
    assert f"{findings.CHURN_COMMITS} commits" in rows["churn", "a file"]
    assert f"{findings.UNTESTED_LINES} lines" in rows["untested", "a file of code"]
    least = [findings.LARGE_LINES, findings.GREW_LINES]
    assert [*map(int, re.findall(r"\d+", rows["grew", "a file of code"]))] == least
    assert f"{findings.GREW_LINES} lines" in rows["grew", "a function"]
    text = page("review")
    assert f"strength of {findings.MEDIUM:g} on a finding is `medium`, from {findings.HIGH:g} on `high`" in text
    assert f"divided by {findings.HANDLED_DIVISOR:g}." in text
    assert f"the {findings.MOST_OF_A_KIND} strongest are told, and {findings.MOST} in all" in text
