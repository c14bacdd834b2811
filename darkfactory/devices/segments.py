"""The files of a journal: segments of JSON lines, named by ascending numbers.

Each segment begins with a snapshot, which stands for everything before it; so a start reads the newest one and no
other. Two things can be wrong with the bytes. A write that was cut off by a crash leaves bad lines at the very end, and
nobody was told that they were on the disk: they are cut off. A bad line with a good one behind it is nothing that a
crash leaves: it is refused until a person has the journal repaired.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from attrs import evolve, frozen

from darkfactory.errors import JournalDamaged, StateDirError

VERSION: Final = 1
"""Of what the lines say; every snapshot carries it. To be raised when an older program would misread newer lines."""

SNAPSHOT: Final = "snapshot"
"""The kind of the line that a segment begins with."""

MORE: Final = "more"
"""True in every line but the last of those that were appended together: a crash between them leaves none of them."""

Line = Mapping[str, Any]

_NAME = re.compile(r"\d{8}\.jsonl")
_ENCODER = json.JSONEncoder(separators=(",", ":"))


def encode(line: Line) -> bytes:
    """One line of the file: compact, ASCII, keys in the order given."""
    return _ENCODER.encode(line).encode() + b"\n"


def encode_together(lines: Iterable[Line]) -> list[bytes]:
    """Lines that are written together or not at all."""
    *others, last = lines
    return [*(encode({**line, MORE: True}) for line in others), encode(last)]


def decode(raw: bytes) -> Line | None:
    """The record that a line holds, its newline cut off; None when it is none."""
    try:
        line = json.loads(raw)
        datetime.fromisoformat(line["utc"])
    except (ValueError, TypeError, KeyError, RecursionError):  # of bad JSON and bad UTF-8, or of JSON that is no record
        return None
    return line if isinstance(line.get("kind"), str) else None


@frozen
class Segment:
    """What one file holds."""

    path: Path
    snapshot: Line | None
    """Its first line, if that is a whole snapshot."""
    good: int
    """How many lines are records."""
    whole: int
    """The size in bytes up to the end of the last of them."""
    bad: tuple[tuple[int, bytes], ...]
    """The lines that are none, with their numbers."""
    damaged: bool
    """One of the bad lines has a good one behind it."""
    size: int

    @property
    def number(self) -> int:
        """What its name says."""
        return int(self.path.stem)

    @property
    def stillborn(self) -> bool:
        """It ends within its first line: whatever it was to hold, the segment before still holds."""
        return self.size == sum(len(raw) for _, raw in self.bad)

    def records(self) -> Iterator[bytes]:
        """The good lines, each with its newline. The file may have grown since."""
        bad = {number for number, _ in self.bad}
        for number, raw in enumerate(self.path.read_bytes()[: self.whole].split(b"\n")[:-1], 1):
            if number not in bad:
                yield raw + b"\n"


def path_of(directory: Path, number: int) -> Path:
    """The file of the segment of that number."""
    return directory / f"{number:08}.jsonl"


def temporary(path: Path) -> Path:
    """The name of a file that becomes `path` when it is whole."""
    return path.with_name(f".{path.name}.new")


def paths(directory: Path) -> list[Path]:
    """The segments, oldest first; [] when there is no such directory."""
    with suppress(FileNotFoundError):
        return sorted(path for path in directory.iterdir() if _NAME.fullmatch(path.name))
    return []


def read(path: Path) -> Segment:
    """Look at every line of a file. StateDirError when a newer program wrote it."""
    data = path.read_bytes()
    *raws, rest = data.split(b"\n")
    snapshot: Line | None = None
    bad: list[tuple[int, bytes]] = []
    begun: list[tuple[int, bytes]] = []
    damaged = False
    good = position = whole = 0
    for number, raw in enumerate(raws, 1):
        position += len(raw) + 1
        line = decode(raw)
        if line is None:
            bad.append((number, raw))
        elif line.get(MORE) is True:
            begun.append((number, raw))
        else:
            if number == 1 and line["kind"] == SNAPSHOT:
                snapshot = line
                _understand(path, line)
            damaged = damaged or bool(bad)
            good += len(begun) + 1
            begun.clear()
            whole = position
    bad += begun  # the rest of them was never written
    if rest:
        bad.append((len(raws) + 1, rest))
    return Segment(path, snapshot, good, whole, tuple(sorted(bad)), damaged, len(data))


def _understand(path: Path, snapshot: Line) -> None:
    version = snapshot.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise StateDirError(
            f"{path}: a newer darkfactory wrote this journal (version {version}; this one knows {VERSION}); "
            "run the newer one, or use --state-dir to name another directory"
        )


def newest(directory: Path) -> list[Segment]:
    """The segments from the one with the newest whole snapshot on, oldest first; all, where none has one."""
    found: list[Segment] = []
    for path in reversed(paths(directory)):
        found.insert(0, read(path))
        if found[0].snapshot is not None:
            break
    return found


def look(directory: Path) -> list[Line]:
    """The records that a start would read, oldest first. Nothing is changed, so a factory may be at work there.

    What it is just writing, and what a crash has torn, is passed over. JournalDamaged, StateDirError as in `recover`;
    OSError if a file cannot be read.
    """
    found: list[Segment] = []
    for path in reversed(paths(directory)):
        segment = read(path)
        if found or not segment.stillborn:
            found.insert(0, segment)
        if segment.snapshot is not None:
            break
    _refuse_damaged(found)
    decoded = (decode(raw) for segment in found for raw in segment.records())
    return [line for line in decoded if line is not None]


def since(directory: Path, utc: datetime, kinds: Collection[str]) -> list[Line]:
    """The records of these kinds from then on, oldest first, as far back as segments are kept. Changes nothing.

    What cannot be read is passed over: it is the next start that refuses. OSError if a file cannot be read.
    """
    wanted = [f'"kind":{json.dumps(kind)}'.encode() for kind in kinds]
    found: list[list[Line]] = []
    for path in reversed(paths(directory)):
        lines = (decode(raw) for raw in path.read_bytes().split(b"\n") if any(word in raw for word in wanted))
        found.append([line for line in lines if line is not None and datetime.fromisoformat(line["utc"]) >= utc])
        head = _head(path)
        if head is not None and head < utc:
            break
    return [line for lines in reversed(found) for line in lines]


def recover(directory: Path) -> list[Segment]:
    """`newest`, with what a crash can have left taken away: torn lines at the very end, files that never got a name.

    JournalDamaged names a bad line that is none of these; StateDirError tells of a newer program's journal.
    """
    segments = newest(directory)
    if segments and segments[-1].stillborn:
        segments[-1].path.unlink()
        return recover(directory)
    _refuse_damaged(segments)
    if segments and segments[-1].bad:  # a torn tail must not become the beginning of the next line
        last = segments[-1]
        os.truncate(last.path, last.whole)
        segments[-1] = evolve(last, bad=(), size=last.whole)
    for leftover in directory.glob(".*.new"):
        leftover.unlink()
    return segments


def _refuse_damaged(segments: list[Segment]) -> None:
    """Bad lines may stand at the end of the last one alone."""
    for segment in segments:
        if segment.damaged or (segment.bad and (segment.good == 0 or segment is not segments[-1])):
            raise _damage(segment)


def _damage(segment: Segment) -> JournalDamaged:
    number = segment.bad[0][0]
    return JournalDamaged(
        f"{segment.path}:{number}: this line is no journal record, and it was not torn by a crash; "
        "start once with --repair, which leaves out what cannot be read, tells what that was, and keeps the old file"
    )


@frozen
class Repair:
    """What was done to one segment."""

    path: Path
    kept: Path
    """Where the old file is now."""
    dropped: tuple[tuple[int, bytes], ...]
    """The lines that are in the new one no more, with their numbers in the old one."""
    forgotten: bool
    """The snapshot was among them, and there is no older segment to fold instead: what it told of is lost."""


def repair(directory: Path, now: datetime) -> list[Repair]:
    """Write every segment that a start reads and that has bad lines anew without them, and keep the old one aside.

    A crash in between leaves each segment either old or new. StateDirError when a newer program wrote the journal.
    """
    done: list[Repair] = []
    before: list[bytes] = []
    for index, segment in enumerate(newest(directory)):
        records = list(segment.records())
        if segment.bad:
            if segment.snapshot is None:  # what came in while the snapshot was being written stands in both
                records = records[_repeated(before, records) :]
            kept = segment.path.with_name(f"{segment.path.name}.damaged-{now.astimezone(UTC):%Y%m%dT%H%M%S.%fZ}")
            new = temporary(segment.path)
            os.close(create(new, b"".join(records)))
            os.link(segment.path, kept)
            if records:
                new.rename(segment.path)
            else:
                new.unlink()
                segment.path.unlink()
            sync_directory(directory)
            forgotten = index == 0 and segment.bad[0][0] == 1 and segment.good > 0
            done.append(Repair(segment.path, kept, segment.bad, forgotten))
        before = records
    return done


def _repeated(before: Sequence[bytes], after: Sequence[bytes]) -> int:
    """How many lines at the beginning of `after` are the last ones of `before`."""
    for count in range(min(len(before), len(after)), 0, -1):
        if before[-count:] == after[:count]:
            return count
    return 0


def expired(directory: Path, keep: timedelta) -> list[Path]:
    """The segments that may go: the newest snapshot is newer by `keep` than the snapshot that made them needless."""
    heads = [(path, _head(path)) for path in paths(directory)]
    now = heads[-1][1] if heads else None
    if now is None:
        return []
    return [path for (path, _), (_, successor) in pairwise(heads) if successor is not None and successor < now - keep]


def _head(path: Path) -> datetime | None:
    """When the segment's snapshot was taken; None when it has no whole one."""
    with path.open("rb") as file:
        line = decode(file.readline())
    return datetime.fromisoformat(line["utc"]) if line is not None and line["kind"] == SNAPSHOT else None


def create(path: Path, data: bytes) -> int:
    """A new file (mode 0600) with that content, synced; its descriptor, for appending. OSError leaves no file."""
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        write_all(fd, data)
        os.fsync(fd)
    except OSError:
        os.close(fd)
        path.unlink()
        raise
    return fd


def write_all(fd: int, data: bytes) -> None:
    """Write it all, in as many pieces as the system wants."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def sync_directory(directory: Path) -> None:
    """Make names in the directory durable: those made, changed and removed."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
