"""What an agent wrote for others: where Markdown says that it is its own words, and nowhere else."""

from __future__ import annotations

import pytest

from darkfactory.tools.mentions import written


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
