"""What git prints for programs (`-z`), read.

Names are any bytes but NUL, so nothing is split at lines, and what comes next is told by its place. Outputs may be of
many megabytes: they are walked through, never cut into lists.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from attrs import define, field, frozen

from darkfactory.model.review import Commit, FileChange

HEADER: Final = "%H%x00%P%x00%an%x00%ct%x00%s%x00%b"
"""The format that `headers` reads."""
SUBJECT_CHARACTERS: Final = 300
BODY_BYTES: Final = 2048
_AUTHOR_CHARACTERS: Final = 100
_LAST_SECOND: Final = int(datetime(9999, 12, 31, tzinfo=UTC).timestamp())
_OBJECT: Final = re.compile(rb"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_HUNK: Final = re.compile(rb"@@ -\d+(?:,(\d+))? \+(\d+)(?:,(\d+))? @@ ?(.*)", re.DOTALL)
_ESCAPE: Final = re.compile(rb'\\([0-3][0-7]{2}|[abtnvfr"\\])')
_ESCAPES: Final = {
    b"a": b"\a",
    b"b": b"\b",
    b"t": b"\t",
    b"n": b"\n",
    b"v": b"\v",
    b"f": b"\f",
    b"r": b"\r",
    b'"': b'"',
    b"\\": b"\\",
}


@frozen
class Named:
    """A file that differs."""

    status: str
    """As git tells it: `M`, or `R100` where it is told how much is the same."""
    path: str
    old_path: str | None = None


@define
class Names:
    """The files that differ in one commit."""

    told: list[Named] = field(factory=list)
    """The first of them."""
    number: int = 0
    """Of all."""


@define
class Hunk:
    """Lines that were put in at one place."""

    path: str
    function: str
    """The line that git takes for the beginning of the function around; empty where it knows none."""
    line: int
    """1-based: of the first of the lines, as the file is now."""
    added: list[bytes]


def names(output: bytes, keep: int) -> dict[str, Names]:
    """What `--name-status -z` says, by commit; of `diff-tree`, which names none, under the empty name."""
    found: dict[str, Names] = {}
    current = ""
    rest = parts(output, b"\0")
    for part in rest:
        if _OBJECT.fullmatch(part):
            current = part.decode()
            found[current] = Names()
            continue
        status, old, path = part.lstrip(b"\n").decode(), None, next(rest)
        if status[0] in "RC":
            old, path = path, next(rest)
        of = found.setdefault(current, Names())
        of.number += 1
        if len(of.told) < keep:
            of.told.append(Named(status, os.fsdecode(path), None if old is None else os.fsdecode(old)))
    return found


def changes(output: bytes) -> dict[str, tuple[FileChange, ...]]:
    """What `--raw --numstat -z` say together, by commit; of `diff-tree`, which names none, under the empty name."""
    found: dict[str, dict[str, FileChange]] = {}
    current = ""
    rest = parts(output, b"\0")
    for part in rest:
        if _OBJECT.fullmatch(part):
            current = part.decode()
            found[current] = {}
            continue
        word, old = part.lstrip(b"\n"), None
        of = found.setdefault(current, {})
        if word.startswith(b":"):
            status, path = word.rpartition(b" ")[2].decode()[0], next(rest)
            if status in "RC":
                old, path = path, next(rest)
            name = os.fsdecode(path)
            of[name] = FileChange(name, status, old_path=None if old is None else os.fsdecode(old))
            continue
        added, deleted, path = word.split(b"\t", 2)
        if not path:
            old, path = next(rest), next(rest)
        name = os.fsdecode(path)
        before = of.get(name)
        status = "M" if before is None else before.status
        old_path = None if before is None else before.old_path
        of[name] = FileChange(name, status, _count(added), _count(deleted), old_path)
    return {sha: tuple(of.values()) for sha, of in found.items()}


def headers(output: bytes) -> Iterator[Commit]:
    """What `log -z` says in the format `HEADER`: the commits, without their changes."""
    rest = parts(output, b"\0")
    for sha in rest:
        parents, author, at, subject, body = (next(rest) for _ in range(5))
        yield Commit(
            sha.decode(),
            tuple(parents.decode().split()),
            author.decode(errors="replace")[:_AUTHOR_CHARACTERS],
            instant(at),
            subject.decode(errors="replace")[:SUBJECT_CHARACTERS],
            body[:BODY_BYTES].decode(errors="ignore" if len(body) > BODY_BYTES else "replace").strip(),
        )


def hunks(output: bytes) -> Iterator[Hunk]:
    """What a patch without context (`-U0`) puts in. Lines are counted as its headers say, whatever they hold."""
    path = ""
    lines = parts(output, b"\n")
    for line in lines:
        if line.startswith(b"+++ "):
            path = os.fsdecode(unquoted(line[4:].removesuffix(b"\t")).partition(b"/")[2])
        elif (header := _HUNK.match(line)) is not None:
            deleted, begins, added, function = header.groups()
            for _ in range(_number(deleted)):
                _next_line(lines)
            yield Hunk(
                path,
                function.decode(errors="ignore").strip(),
                int(begins),
                [_next_line(lines)[1:] for _ in range(_number(added))],
            )


def sizes(output: bytes) -> dict[str, int]:
    """What `ls-tree -l -z` says: the bytes of the files, by path; of submodules it knows none."""
    found = {}
    for part in parts(output, b"\0"):
        words, _, path = part.partition(b"\t")
        size = words.split()[3]
        if size.isdigit():
            found[os.fsdecode(path)] = int(size)
    return found


def unquoted(name: bytes) -> bytes:
    """A file's name as a patch has it: in quotes, with escapes, where it has odd characters."""
    if len(name) < 2 or not (name.startswith(b'"') and name.endswith(b'"')):
        return name
    return _ESCAPE.sub(lambda found: _ESCAPES.get(found[1]) or bytes([int(found[1], 8)]), name[1:-1])


def parts(output: bytes, end: bytes) -> Iterator[bytes]:
    """What stands before each end; what stands behind the last one too, if there is anything."""
    begin = 0
    while (at := output.find(end, begin)) >= 0:
        yield output[begin:at]
        begin = at + 1
    if begin < len(output):
        yield output[begin:]


def _next_line(lines: Iterator[bytes]) -> bytes:
    """The next line of a hunk; between them, git says of files whose last line has no end that it has none."""
    line = next(lines)
    return next(lines) if line.startswith(b"\\") else line


def _number(told: bytes | None) -> int:
    return 1 if told is None else int(told)


def _count(told: bytes) -> int | None:
    return None if told == b"-" else int(told)


def instant(told: bytes) -> datetime:
    """A commit may say that it is of any time at all, or of none."""
    seconds = int(told) if told.isdigit() else 0
    return datetime.fromtimestamp(min(seconds, _LAST_SECOND), UTC)
