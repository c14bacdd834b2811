"""What an agent reports of its improvement: exactly what was asked for, or unreadable."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkfactory.model.review import ReviewVerdict
from darkfactory.tools.fences import LONGEST_BLOCK, LONGEST_TEXT
from darkfactory.tools.review_verdict import SUMMARY_CHARS, review_verdict

ID = "churn-0a1b2c3d"
GOOD = {"finding": ID, "outcome": "improved", "summary": "done"}


def answer(tree: object, fence: str = "```") -> str:
    return f"It is done.\n\n{fence}json\n{json.dumps(tree)}\n{fence}\n"


@pytest.mark.parametrize(("outcome", "improved"), [("improved", True), ("declined", False)])
@pytest.mark.parametrize("fence", ["```", "````", "~~~"])
def test_a_verdict_is_one_block_of_json(outcome: str, improved: bool, fence: str):
    found = review_verdict(answer({**GOOD, "outcome": outcome, "more": [1, 2.5, None]}, fence), ID)
    assert found == ReviewVerdict(improved, "done")


@pytest.mark.parametrize(
    "around",
    [
        "%s",
        "- ```py\n  x\n  ```\n%s",
        "```handoff\n{}\n```\n%s\nbye @you",
        "%s\n```\n{}\n```",
        "> ```json\n> {}\n> ```\n\n%s",
        "````\n```json\n{}\n```\n````\n%s",
        "    ```json\n    {}\n    ```\n\n%s",
    ],
)
def test_other_blocks_and_quotations_are_not_meant(around: str):
    assert review_verdict(around % answer(GOOD), ID) == ReviewVerdict(True, "done")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "the answer has no ```json block, one was asked for"),
        (json.dumps(GOOD), "no ```json block"),
        (answer(GOOD).replace("json", ""), "no ```json block"),
        (answer(GOOD).replace("json", "json5"), "no ```json block"),
        (answer(GOOD).replace("json", "JSON"), "no ```json block"),
        ("````\n" + answer(GOOD) + "````\n", "no ```json block"),
        ("> " + answer(GOOD).replace("\n", "\n> "), "no ```json block"),
        (answer(GOOD) + answer(GOOD), "2 ```json blocks, one was asked for"),
        (answer(GOOD)[:-20], "is no JSON"),
        (answer([GOOD]), "holds no object"),
        (answer("improved"), "holds no object"),
        (answer({**GOOD, "finding": "churn-00000000"}), f"about the finding 'churn-00000000', not {ID}"),
        (answer({**GOOD, "finding": [ID]}), "about the finding no string (list)"),
        (answer({"outcome": "improved", "summary": "x"}), "about the finding no string (NoneType)"),
        (answer({**GOOD, "outcome": "Improved"}), "its outcome is 'Improved'"),
        (answer({**GOOD, "outcome": True}), "its outcome is no string (bool)"),
        (answer({**GOOD, "outcome": ["improved"]}), "its outcome is no string (list)"),
        (answer({**GOOD, "summary": None}), "it has no summary"),
        (answer({"finding": ID, "outcome": "improved"}), "it has no summary"),
        (f'```json\n{{"finding": "{ID}", "finding": "{ID}"}}\n```', "a key of it comes twice"),
        (f'```json\n{{"finding": "{ID}", "a": {{"b": 1, "b": 2}}}}\n```', "a key of it comes twice"),
        (answer({**GOOD, "x": float("nan")}), "NaN is no number of JSON"),
        (answer({**GOOD, "x": float("-inf")}), "-Infinity is no number of JSON"),
        ("```json\n" + "[" * 50_000 + "\n```", "is no JSON"),
        ("```json\n" + '{"a":' * 20_000 + "\n```", "is no JSON"),
        ("```json\n{'finding': 1}\n```", "is no JSON"),
        ("```json\n" + json.dumps({**GOOD, "x": "y" * LONGEST_BLOCK}) + "\n```", "is no JSON"),
        ("x" * (LONGEST_TEXT + 1), "at most"),
    ],
)
def test_anything_else_is_unreadable_and_says_why(text: str, why: str):
    found = review_verdict(text, ID)
    assert isinstance(found, str)
    assert why in found


def test_numbers_without_end_are_no_way_in():
    short, long = (f'```json\n{json.dumps(GOOD)[:-1]}, "x": {"9" * digits}}}\n```' for digits in (400, 50_000))
    assert review_verdict(short, ID) == ReviewVerdict(True, "done")
    assert isinstance(review_verdict(long, ID), str)


def test_the_reason_does_not_repeat_an_answer_without_end():
    found = review_verdict(answer({**GOOD, "finding": "x\x1b\n" * 10_000}), ID)
    assert isinstance(found, str)
    assert found.isprintable()
    assert len(found) < 200


def test_a_summary_is_capped_and_can_be_written_to_a_file():
    found = review_verdict(answer({**GOOD, "summary": "a\r\nb\t\x1b\ud800" + "c" * 5000}), ID)
    assert isinstance(found, ReviewVerdict)
    assert found.summary.startswith("a\nb\t\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}c")
    assert len(found.summary) == SUMMARY_CHARS
    assert found.summary.encode()


PIECES = ["```json\n", "```\n", "~~~json\n", "````", "> ", "- ", json.dumps(GOOD), "{", "}", '"', ":", ",", "[", "NaN"]


@given(st.lists(st.sampled_from([*PIECES, "1", "\n", "\\ud800", "\r", "finding", ID, "improved"]), max_size=30))
def test_whatever_is_said_there_is_an_answer(pieces: list[str]):
    found = review_verdict("".join(pieces), ID)
    assert isinstance(found, ReviewVerdict) or found
    if isinstance(found, ReviewVerdict):
        assert ID in "".join(pieces)


@given(st.text(), st.booleans())
def test_what_was_asked_for_is_read_whatever_the_summary(summary: str, improved: bool):
    tree = {**GOOD, "outcome": "improved" if improved else "declined", "summary": summary}
    found = review_verdict(answer(tree), ID)
    assert isinstance(found, ReviewVerdict)
    assert found.improved is improved
