import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkfactory.tools.text import MAX_DETAIL, MAX_MESSAGE, in_full, json_object, one_line


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"plain words",
        b"[1, 2]",
        b'"a string"',
        b"null",
        b"17",
        b'{"torn": ',
        b"{'python': 1}",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"n": ' + b"9" * 10_000 + b"}",
    ],
    ids=lambda line: repr(line[:12]),
)
def test_what_holds_no_json_object_says_nothing(line):
    assert json_object(line) == {}


def test_one_bad_byte_in_an_answer_does_not_cost_the_object():
    assert json_object(b'{"type": "result", "text": "caf\xe9"}') == {"type": "result", "text": "caf\ufffd"}


@given(st.binary())
def test_no_bytes_raise(line):
    assert isinstance(json_object(line), dict)


@given(st.text(st.characters(codec=None)) | st.none() | st.integers() | st.lists(st.text()))
def test_a_detail_is_one_printable_line_of_limited_length(value):
    detail = one_line(value)
    assert detail.isprintable()
    assert len(detail) <= MAX_DETAIL
    detail.encode()


def test_white_space_collapses_and_control_characters_are_shown_as_replaced():
    assert one_line(" two\r\n\twords ") == "two words"
    assert one_line("red \x1b[31m, bell \x07") == "red \ufffd[31m, bell \ufffd"
    assert one_line("half a pair \ud800") == "half a pair \ufffd"


def test_a_long_detail_says_that_it_was_cut():
    assert one_line("x" * MAX_DETAIL) == "x" * MAX_DETAIL
    assert one_line("x" * (MAX_DETAIL + 1)) == "x" * (MAX_DETAIL - 1) + "…"


def test_what_is_searched_is_kept_longer_than_what_is_shown():
    told = "You are out of credits. " * 20 + "Try again at 4:53 AM."
    assert in_full(told) == told
    assert in_full(" x\n\x07" * MAX_MESSAGE).startswith("x \ufffd x")
    assert len(in_full("x" * 10**6)) == MAX_MESSAGE
    assert in_full(None) == ""
