from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkfactory.tools import lines
from darkfactory.tools.lines import LineSplitter

pieces = st.sampled_from([b"a", b"bc", b"\n", b"\r", b"\r\n", b"\n\n", b"0123456789", b"\x00\xff"])


def cut_naively(data: bytes) -> tuple[list[bytes], int]:
    *complete, last = data.split(b"\n")
    raw = [*complete, *([last] if last else [])]
    oversized = sum(len(line) > lines.MAX_LINE_BYTES for line in raw)
    return [
        line[: lines.HEAD_BYTES] if len(line) > lines.MAX_LINE_BYTES else line.removesuffix(b"\r") for line in raw
    ], oversized


@contextmanager
def limits(line: int, head: int):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "MAX_LINE_BYTES", line)
        patch.setattr(lines, "HEAD_BYTES", head)
        yield


@given(st.lists(st.lists(pieces, max_size=8).map(b"".join), max_size=12))
def test_however_the_bytes_are_cut_the_lines_are_the_same(chunks):
    with limits(line=8, head=3):
        splitter = LineSplitter()
        seen = [line for chunk in chunks for line in splitter.feed(chunk)] + splitter.finish()
        expected, oversized = cut_naively(b"".join(chunks))
    assert seen == expected
    assert (splitter.lines, splitter.oversized) == (len(expected), oversized)
    assert splitter.finish() == []


def test_a_line_comes_when_it_is_complete_and_not_before():
    splitter = LineSplitter()
    assert splitter.feed(b"one\ntw") == [b"one"]
    assert splitter.feed(b"o") == []
    assert splitter.feed(b"\n\n") == [b"two", b""]


def test_a_carriage_return_is_stripped_even_when_the_newline_comes_later():
    splitter = LineSplitter()
    assert splitter.feed(b"dos\r") == []
    assert splitter.feed(b"\n") == [b"dos"]


def test_a_line_of_exactly_the_limit_is_whole_and_one_byte_more_is_cut():
    splitter = LineSplitter()
    whole = b"x" * lines.MAX_LINE_BYTES
    assert splitter.feed(whole + b"\n" + whole + b"x\n") == [whole, b"x" * lines.HEAD_BYTES]
    assert splitter.oversized == 1


def test_a_line_that_is_too_long_comes_once_and_only_at_its_end():
    with limits(line=8, head=3):
        splitter = LineSplitter()
        assert [splitter.feed(b"0123456789") for _ in range(5)] == [[]] * 5
        assert splitter.feed(b"\nnext\n") == [b"012", b"next"]
    assert (splitter.lines, splitter.oversized) == (2, 1)


def test_after_a_reset_the_unfinished_line_is_forgotten_and_the_counts_are_not():
    splitter = LineSplitter()
    splitter.feed(b"one\nhalf a very long line")
    splitter.reset()
    assert splitter.feed(b"new\n") == [b"new"]
    assert (splitter.lines, splitter.oversized) == (2, 0)


def test_fifty_megabytes_without_a_newline_hold_no_more_than_one_line():
    splitter = LineSplitter()
    chunk = b"x" * 65536
    for _ in range(800):
        assert splitter.feed(chunk) == []
        assert len(splitter._held) <= lines.MAX_LINE_BYTES + 1
    assert splitter.finish() == [b"x" * lines.HEAD_BYTES]
