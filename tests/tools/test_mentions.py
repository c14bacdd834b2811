"""What an agent wrote for others: where Markdown says that it is its own words, and nowhere else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkfactory.model.messages import Mention
from darkfactory.model.signals import Finished, Said
from darkfactory.tools.fences import LONGEST_BLOCK
from darkfactory.tools.mentions import written
from darkfactory.tools.tally import Tally


def mentions(text: str) -> list[tuple[str, str]]:
    return [(mention.to, mention.text) for mention in written(text).mentions]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("@helper look", [("helper", "look")]),
        ("@helper: look", [("helper", "look")]),
        ("@helper, look", [("helper", "look")]),
        ("@helper:\nlook\nhere\n\nnot this", [("helper", "look\nhere")]),
        ("@helper\nlook", [("helper", "look")]),
        ("@helper one\n@other-1.x two", [("helper", "one"), ("other-1.x", "two")]),
        ("before\n@helper look", [("helper", "look")]),
        ("@helper a\r\nb\r\n\r\nc", [("helper", "a\nb")]),
        ("@helper a\n    b", [("helper", "a\n    b")]),
        ("@helper a\n> b\nc", [("helper", "a")]),
        ("@helper a\n```\nb\n```\nc", [("helper", "a")]),
        ("@helper see @other", [("helper", "see @other")]),
        ("@helper", []),
        ("@helper\n\nlook", []),
        ("please @helper look", []),
        (" @helper look", []),
        ("- @helper look", []),
        ("> @helper look", []),
        ("    @helper look", []),
        ("`@helper look`", []),
        ("@helper.look", []),
        ("@helper? look", []),
        ("@@helper look", []),
        ("@ helper look", []),
        ("me@helper look", []),
        ("```\n@helper look\n```", []),
        ("```\n@helper look", []),
        ("~~~sh\n@helper look\n```\n@helper look\n~~~", []),
        ("````\n```\n@helper look\n```\n````\n@helper now", [("helper", "now")]),
        ("  ```\n@helper look\n  ```", []),
        ("``` not a fence` \n@helper look", [("helper", "look")]),
    ],
)
def test_a_mention_is_at_a_lines_start_outside_of_code_and_quotations(text: str, found: list[tuple[str, str]]) -> None:
    assert mentions(text) == found


def test_a_handoff_is_a_block_fenced_as_one() -> None:
    assert written('Done.\n```handoff\n{"a": 1,\n"b": 2}\n```\nbye').handoffs == ('{"a": 1,\n"b": 2}',)
    assert written("~~~ handoff\n1\n~~~\n```handoff x\n2\n```").handoffs == ("1", "2")
    for none in ("```json\nhandoff\n```", "````\n```handoff\n{}\n```\n````", "> ```handoff\n> {}\n> ```", "handoff"):
        assert written(none).handoffs == ()
    (cut,) = written("```handoff\n" + "x\n" * LONGEST_BLOCK).handoffs
    assert len(cut) <= LONGEST_BLOCK


@given(st.text(alphabet="@helper \n`~>\t.:", max_size=200))
def test_whatever_is_said_a_mention_has_a_name_and_words(text: str) -> None:
    found = written(text)
    for mention in found.mentions:
        assert mention.to
        assert mention.text.strip() == mention.text != ""


@pytest.mark.parametrize("piece", ["@a b\n", "```\n", "@", "`", "~~~handoff\n", "@a ", "> ", " ", "@a b\n```\n"])
def test_reading_takes_time_in_proportion_to_the_text(piece: str) -> None:
    """A megabyte takes a moment; squared it would take longer than a test may."""
    written(piece * (2**20 // len(piece)))
    written(piece * (2**20 // len(piece)) + "`")


def test_a_run_says_each_mention_once_although_its_answer_repeats_them() -> None:
    tally = Tally()
    tally.take(Said("@helper look"))
    tally.take(Said("@other look\n\n@helper look"))
    tally.take(Finished(True, answer="@helper look"))
    assert [*tally.mentions] == [Mention("helper", "look"), Mention("other", "look")]


def test_a_run_hands_over_by_the_last_thing_that_it_said() -> None:
    tally = Tally()
    tally.take(Said("```handoff\nold\n```"))
    tally.take(Said("thinking again"))
    assert tally.handoffs == ()
    tally.take(Said("```handoff\nnew\n```"))
    tally.take(Finished(True))
    assert tally.handoffs == ("new",)


def test_a_run_that_mentions_thousands_is_remembered_for_the_first_few() -> None:
    tally = Tally()
    tally.take(Said("".join(f"@helper {number}\n" for number in range(5000))))
    assert len(tally.mentions) == 32


def mentioned(text: str) -> list[str]:
    """Whom."""
    return [mention.to for mention in written(text).mentions]


@pytest.mark.parametrize(
    "text",
    [
        "```\n@helper look\n```",
        "~~~~\n```\n@helper look\n~~~~",
        "    @helper look",
        "> @helper look",
        "hello @helper look",
        "```\nlog\x0c```\n@helper look\n```",
        "```\nlog\u2028```\n@helper look\n```",
        "> quoted\u2028@helper look",
        "> quoted\x85@helper look",
        "1. ```\n   code\n   ```\n\n```\n@helper look\n```",
        "* + ```sh\n    code\n    ```\n\n```\n@helper look\n```",
        "```in line``` it is\n\n```\n@helper look\n```",
    ],
)
def test_what_others_wrote_tasks_nobody(text: str) -> None:
    assert mentioned(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "@helper look",
        "Done.\r\n@helper look\r\n\r\n@",
        "> quoted\n\n@helper look",
        "- ```sh\n  code\n  ```\n@helper look",
        "10. ```sh\n    code\n    ```\n@helper look",
        "```in line``` it is\n@helper look",
        "```\n```not the end\n```\n@helper look",
    ],
)
def test_what_it_says_itself_behind_all_that_does(text: str) -> None:
    assert mentioned(text) == ["helper"]


def test_a_handoff_may_be_an_item_of_a_list_and_not_an_example_in_a_block() -> None:
    assert written('- ```handoff\n  {"to": "helper"}\n  ```').handoffs == ('  {"to": "helper"}',)
    assert written("````\n```handoff\n{}\n```\n````").handoffs == ()
