"""What git prints is read as it was meant, whatever names and lines it is about."""

from __future__ import annotations

import os
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkfactory.devices import git_output
from darkfactory.devices.git_output import Named

SHAS = st.integers(0, 2**160 - 1).map(lambda number: f"{number:040x}")
PATHS = st.binary(min_size=1, max_size=30).filter(lambda name: b"\0" not in name)
COUNTS = st.none() | st.integers(0, 10**9)
STATUSES = st.sampled_from("AMDT")
CHANGES = st.lists(st.tuples(STATUSES, st.none() | PATHS, PATHS, COUNTS, COUNTS), max_size=5, unique_by=lambda c: c[2])
HISTORIES = st.lists(st.tuples(SHAS, CHANGES), max_size=5, unique_by=lambda commit: commit[0])


def ended(*parts: bytes | str) -> bytes:
    return b"".join((part.encode() if isinstance(part, str) else part) + b"\0" for part in parts)


def written(count: int | None) -> bytes:
    return b"-" if count is None else str(count).encode()


@given(HISTORIES)
def test_changes_come_back_as_they_were(history: list) -> None:
    output = b""
    for sha, changes in history:
        records, counts = [], []
        for status, old, path, added, deleted in changes:
            letter = status if old is None else "R087"
            records += [f":100644 100644 1234567 89abcde {letter}", *([] if old is None else [old]), path]
            told = written(added) + b"\t" + written(deleted) + b"\t"
            counts += [told + path] if old is None else [told, old, path]
        first = [b"\n" + records[0].encode(), *records[1:]] if records else []
        output += ended(sha, *first, *counts)
    found = git_output.changes(output)
    assert list(found) == [sha for sha, _ in history]
    for sha, changes in history:
        assert [(c.status, c.old_path, c.path, c.added, c.deleted) for c in found[sha]] == [
            (
                status if old is None else "R",
                None if old is None else os.fsdecode(old),
                os.fsdecode(path),
                added,
                deleted,
            )
            for status, old, path, added, deleted in changes
        ]


@given(HISTORIES, st.integers(0, 3))
def test_of_names_so_many_are_kept_and_all_are_counted(history: list, keep: int) -> None:
    output = b""
    for sha, changes in history:
        records: list[bytes | str] = []
        for status, old, path, *_ in changes:
            records += [status, path] if old is None else ["R100", old, path]
        output += ended(sha, *([f"\n{records[0]}", *records[1:]] if records else []))
    found = git_output.names(output, keep)
    for sha, changes in history:
        told = [
            Named(status, os.fsdecode(path)) if old is None else Named("R100", os.fsdecode(path), os.fsdecode(old))
            for status, old, path, *_ in changes
        ]
        assert (found[sha].told, found[sha].number) == (told[:keep], len(told))


def quoted(name: bytes) -> bytes:
    """As git does it for the names in a patch."""
    plain = all(0x20 <= byte < 0x7F and byte not in b'"\\' for byte in name)
    if plain:
        return name
    short = {7: b"\\a", 8: b"\\b", 9: b"\\t", 10: b"\\n", 11: b"\\v", 12: b"\\f", 13: b"\\r", 34: b'\\"', 92: b"\\\\"}
    return b'"' + b"".join(
        short.get(byte) or (bytes([byte]) if 0x20 <= byte < 0x7F else b"\\%03o" % byte) for byte in name
    ) + b'"'  # fmt: skip


@given(PATHS)
def test_a_quoted_name_is_the_name_again(name: bytes) -> None:
    assert git_output.unquoted(quoted(b"b/" + name)) == b"b/" + name


LINES = st.binary(max_size=20).filter(lambda line: b"\n" not in line) | st.sampled_from(
    [b"++ b/other", b"@@ -1 +1 @@ f", b"diff --git a/x b/x", b"\\ No newline at end of file", b"-- a/x"]
)
FUNCTION = st.text("abc xyz(){}é", max_size=10).map(str.strip)
HUNKS = st.lists(st.tuples(PATHS, FUNCTION, st.lists(LINES, max_size=3), st.lists(LINES, min_size=1, max_size=3)))


@given(HUNKS, st.booleans())
def test_lines_that_look_like_a_patch_are_lines(hunks: list, whole: bool) -> None:
    output = b""
    for path, function, deleted, added in hunks:
        name = quoted(b"b/" + path)
        tab = b"\t" if b" " in path and not name.startswith(b'"') else b""
        lines = [
            b"diff --git " + quoted(b"a/" + path) + b" " + name,
            b"--- " + quoted(b"a/" + path) + tab,
            b"+++ " + name + tab,
            b"@@ -3,%d +7,%d @@" % (len(deleted), len(added)) + (b" " + function.encode() if function else b""),
            *(b"-" + line for line in deleted),
            *([b"\\ No newline at end of file"] if deleted and not whole else []),
            *(b"+" + line for line in added),
            *([] if whole else [b"\\ No newline at end of file"]),
        ]
        output += b"".join(line + b"\n" for line in lines)
    assert [(hunk.path, hunk.function, hunk.line, hunk.added) for hunk in git_output.hunks(output)] == [
        (os.fsdecode(path), function, 7, added) for path, function, _, added in hunks
    ]


@pytest.mark.parametrize(
    ("told", "year"),
    [(b"0", 1970), (b"1767225600", 2026), (b"99999999999999999999", 9999), (b"", 1970), (b"-5", 1970)],
)
def test_a_commit_of_any_time_has_a_time(told: bytes, year: int) -> None:
    assert git_output.instant(told).astimezone(UTC).year == year
    assert git_output.instant(told) <= datetime(9999, 12, 31, tzinfo=UTC)


def test_what_commits_say_of_themselves_is_cut_and_repaired() -> None:
    output = ended("ab" * 20, "cd" * 20 + " " + "ef" * 20, b"Ann\xff", "1767225600", "s" * 1000, "é" * 5000)
    output += ended("cd" * 20, "", "", "0", "", "")
    first, second = git_output.headers(output)
    assert (first.parents, first.author) == (("cd" * 20, "ef" * 20), "Ann\N{REPLACEMENT CHARACTER}")
    assert len(first.subject) == git_output.SUBJECT_CHARACTERS
    assert first.body == "é" * (git_output.BODY_BYTES // 2)
    assert (second.parents, second.subject, second.body, second.at.year) == ((), "", "", 1970)


def test_submodules_have_no_size() -> None:
    output = ended("100644 blob " + "ab" * 20 + "      12\ta b", "160000 commit " + "cd" * 20 + "       -\tsub")
    assert git_output.sizes(output) == {"a b": 12}
