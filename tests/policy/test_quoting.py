"""Other people's words in our own: in Markdown they render as themselves, and to GitHub they are nothing."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from darkfactory.policy.quoting import block, escaped, inert, lines, plain, visible

MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])
SIGNS = st.sampled_from(
    [*"\\`*_{}[]()<>#+-.!|~@&:/=\n\t 1aw", "<b>", "&amp;", "```", "~~~", "http://x", "www.x.y", "<!--"]
)
HOSTILE = st.lists(SIGNS | st.characters(), max_size=30).map("".join)


def rendered(markdown: str) -> tuple[list[str], str]:
    """The kinds of what Markdown made of it, and its text."""
    kinds: list[str] = []
    text = ""
    for token in MARKDOWN.parse(markdown):
        kinds.append(token.type)
        for each in token.children or ():
            kinds.append(each.type)
            text += each.content
    return kinds, text


@given(HOSTILE)
def test_a_line_renders_as_itself(text: str):
    words = plain(text)
    if words:
        assert rendered(escaped(text)) == (["paragraph_open", "inline", "text", "paragraph_close"], words)


@given(HOSTILE)
def test_a_cell_of_a_table_renders_as_itself(text: str):
    kinds, found = rendered(f"| a | b |\n|---|---|\n| {escaped(text)} | end |")
    assert found == f"ab{plain(text)}end"
    assert set(kinds) <= {"inline", "text"} | {
        f"{each}_{side}" for each in ("table", "thead", "tbody", "tr", "th", "td") for side in ("open", "close")
    }


@given(HOSTILE)
def test_a_block_holds_all_of_a_text_and_nothing_gets_out(text: str):
    (fence, after, *rest) = MARKDOWN.parse(f"{block(lines(text, 1000))}\n\nafter")
    assert fence.type == "fence"
    assert (fence.content, after.type, len(rest)) == (lines(text, 1000) + "\n", "paragraph_open", 2)


@given(st.text())
def test_what_is_made_visible_can_be_seen_and_written(text: str):
    assert visible(text, 10_000).isprintable()
    for seen in (visible(text, 10_000), lines(text, 10_000)):
        assert seen.encode().decode() == seen


def test_an_odd_name_is_told_by_its_escapes():
    assert visible("a\udcff\n\u202eb\xa0") == "a\\udcff\\n\\u202eb\\xa0"
    assert visible("é 日本") == "é 日本"


@pytest.mark.parametrize("cap", [visible, lines, plain, escaped])
def test_all_of_them_are_capped(cap):
    for text in ("x" * 1000, "\x00" * 1000, "x" * 61, "日\n" * 100):
        assert len(cap(text, 60)) <= 60
        assert cap(text, 60).endswith("...") or cap is plain or cap is escaped
    assert cap("x" * 60, 60) == "x" * 60


@pytest.mark.parametrize(
    "text",
    [
        "@user",
        "ask @org/team now",
        "closes #1",
        "Fixes: owner/repo#12",
        "resolves GH-7",
        "fixes gh-7",
        "closes https://github.com/o/r/issues/1",
        "![x](http://x/y.png)",
        "<!-- darkfactory-finding: other -->",
        "a@example.com",
    ],
)
def test_github_finds_nothing_to_act_on(text: str):
    acted_on = r"@[\w]|#\d|(?i:\bgh-\d)|://|<!--"
    assert re.search(acted_on, text)
    assert not re.search(acted_on, inert(text))
    assert not re.search(acted_on, inert(text * 2))
