"""What a review came to, for programs and for the person who reads it in the morning."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from darkfactory.model.review import (
    CompoundReviewResult,
    Evidence,
    Finding,
    FindingKind,
    FindingSeverity,
    Gate,
    Improvement,
    Notice,
    ReviewOutcome,
)
from darkfactory.policy.findings import MOST
from darkfactory.policy.review_report import markdown, to_json

BEGAN = datetime(2026, 1, 5, 3, tzinfo=UTC)
HOSTILE = (
    "a|b <script>x</script> [l](http://x) ![i](y) `c` ``` **b** __init__ \\ &amp; ~~s~~ @user #1\n\n# H\n---\n```\nout"
)
FIRST = ["findings", "top_improvement", "pr_created", "pr_url", "duration", "outcome"]


def finding(text: str = "x", number: int = 0) -> Finding:
    told = Evidence((text,), (text,), (text,), (text,), (text,), (text,))
    its_id = f"churn-{number:08x}"
    return Finding(its_id, FindingKind.CHURN, text, FindingSeverity.HIGH, 3.25, text, told, handled=text)


def result(text: str = "x", **more: object) -> CompoundReviewResult:
    gate = Gate(("pytest", text), False, 1, 2.5, text)
    improvement = Improvement(
        "churn-00000000", text, text, "writer", (text, text), "darkfactory/review/b", "run-1", "c" * 40, text, gate
    )
    whole = CompoundReviewResult(
        (finding(text),),
        improvement,
        False,
        None,
        12.34,
        ReviewOutcome.GATE_FAILED,
        text,
        text,
        (Notice("dirty_tree", text, text),),
        "review-1",
        BEGAN,
        False,
        "d" * 40,
        "e" * 40,
        7,
        (text,),
    )
    return attrs.evolve(whole, **more)


def parsed(report: str) -> list[Token]:
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(report)


def shown(tokens: list[Token]) -> str:
    """The text outside of fences, as it is rendered."""
    return "\n".join("".join(each.content for each in token.children or ()) for token in tokens)


class TestJson:
    def test_the_keys_that_were_promised_come_first(self):
        tree = to_json(result())
        assert [*tree][: len(FIRST)] == FIRST
        assert set(tree) == {field.name for field in attrs.fields(CompoundReviewResult)}

    def test_its_values_are_those_of_json(self):
        tree = to_json(result())
        assert json.loads(json.dumps(tree)) == tree
        assert (tree["outcome"], tree["began"]) == ("gate_failed", "2026-01-05T03:00:00.000000Z")
        assert tree["findings"][0]["kind"] == "churn"
        assert tree["findings"][0]["evidence"]["files"] == ["x"]
        assert tree["top_improvement"]["gate"] == {
            "argv": ["pytest", "x"],
            "passed": False,
            "exit_code": 1,
            "secs": 2.5,
            "tail": "x",
        }

    def test_what_there_was_not_is_null(self):
        tree = to_json(CompoundReviewResult((), None, False, None, 0.0, ReviewOutcome.NOTHING_FOUND))
        assert tree["findings"] == []
        assert [tree[key] for key in ("top_improvement", "pr_url", "began", "commit")] == [None] * 4

    @given(st.text(st.characters(codec=None, categories=None)))
    def test_any_text_can_be_written_as_utf_8(self, text: str):
        assert json.dumps(to_json(result(text)), ensure_ascii=False).encode()


class TestMarkdown:
    def test_it_begins_with_what_came_of_it_and_what_to_do(self):
        report = markdown(result(detail="the gate was red", remedy="look at the branch"))
        head = "# Compound review, 2026-01-05 03:00 UTC\n\n**gate\\_failed**: the gate was red.\n\n"
        assert report.startswith(head + "What to do: look at the branch\n")
        assert "It took 12.3 seconds. It looked at 7 commits up to dddddddddddd, since eeeeeeeeeeee." in report

    def test_a_dry_run_says_so_and_what_would_have_been(self):
        would = attrs.evolve(result().top_improvement, run=None, commit=None, summary=None, gate=None)
        report = markdown(result(dry_run=True, outcome=ReviewOutcome.DRY_RUN, top_improvement=would))
        assert "It was a dry run: nothing was changed." in report
        assert "What it would have been told:" in report
        assert "The gate" not in report
        assert "What the agent says" not in report

    def test_the_improvement_names_who_why_where_and_how_it_went(self):
        report = markdown(result("because", pr_url="https://x/pull/1"))
        for line in ("- agent: writer", "- why: because", "- branch: darkfactory/review/b", "- run: run-1"):
            assert f"\n{line}\n" in report
        assert "The gate did not pass with exit code 1, after 2.5 seconds:" in report
        assert "pull request: https://x/pull/1" in shown(parsed(report))

    def test_nobody_to_do_it_is_said(self):
        nobody = attrs.evolve(result().top_improvement, agent=None)
        assert "- agent: nobody\n" in markdown(result(top_improvement=nobody))

    def test_findings_are_a_table_and_each_has_its_evidence(self):
        report = markdown(result(findings=(finding("one", 1), finding("two", 2))))
        assert "| 1 | churn-00000001 | high | 3.25 | one |\n| 2 | churn-00000002 | high | 3.25 | two |" in report
        assert "Handled before: two" in report
        evidence = [token.content for token in parsed(report) if token.type == "fence"][-2:]
        assert [each.count("one") for each in evidence] == [6, 0]

    def test_nothing_found_is_a_report_too(self):
        report = markdown(CompoundReviewResult((), None, False, None, 0.5, ReviewOutcome.NOTHING_FOUND))
        assert "**nothing\\_found**." in report
        assert "The repository was not looked at." in report
        assert "There are none." in report

    def test_what_was_left_out_is_said(self):
        findings = tuple(finding(number=number) for number in range(MOST))
        assert f"Only the {MOST} that matter most are told." in markdown(result(findings=findings))
        assert "that matter most" not in markdown(result(findings=findings[1:]))
        assert "## Left out\n\n- 7 of 9 commits\n" in markdown(result(left_out=("7 of 9 commits",)))
        assert "## Left out" not in markdown(result(left_out=()))

    def test_a_notice_has_its_remedy(self):
        report = markdown(result(notices=(Notice("shallow_clone", "history is cut", "git fetch --unshallow"),)))
        assert "- shallow\\_clone: history is cut (git fetch --unshallow)" in report

    @pytest.mark.parametrize(
        "text", [HOSTILE, "    code", "1. x", "- x", "> x", "=", "---", "\x1b[2J\udcff", "||", "\\"]
    )
    def test_other_peoples_words_render_as_themselves(self, text: str):
        plain, hostile = ([token.type for token in parsed(markdown(result(each)))] for each in ("x", text))
        assert plain == hostile
        children = {each.type for token in parsed(markdown(result(text))) for each in token.children or ()}
        assert children == {"text", "strong_open", "strong_close"}

    def test_and_nothing_of_them_is_lost(self):
        words = " ".join(HOSTILE.split())
        tokens = parsed(markdown(result(HOSTILE)))
        assert len(re.findall(re.escape(words), shown(tokens))) == 12
        assert all(token.content for token in tokens if token.type == "fence")

    @given(st.text(st.characters(codec=None, categories=None)))
    def test_any_text_can_be_written_to_a_file(self, text: str):
        assert markdown(result(text)).encode()
