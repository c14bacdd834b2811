"""The journal on a real disk: what was acknowledged is there, whatever happens and whenever."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio
from structlog.testing import capture_logs

from darkfactory.devices import journal as journal_module
from darkfactory.devices import segments
from darkfactory.devices.journal import FileJournal
from darkfactory.devices.reserve import RESERVE_BYTES, SLICE_BYTES, Reserve
from darkfactory.devices.segments import encode
from darkfactory.errors import JournalDamaged, StateDirError

T = TypeVar("T")
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


def line(number: int, utc: datetime = NOON, **data: Any) -> dict[str, Any]:
    return {"utc": utc.isoformat(), "kind": "test", "number": number, **data}


def sum_of(total: int, utc: datetime = NOON) -> dict[str, Any]:
    """A snapshot, in a world where all that is remembered is how many lines there were."""
    return {"utc": utc.isoformat(), "kind": "snapshot", "total": total}


def total(lines: Iterator[Any]) -> int:
    """The fold of that world; the numbers must follow each other."""
    known = 0
    for record in lines:
        if record["kind"] == "snapshot":
            known = record.get("total", 0)
        else:
            assert record["number"] == known
            known += 1
    return known


async def in_place(work: Callable[[], T]) -> T:
    await trio.lowlevel.checkpoint()
    return work()


def opened(directory: Path, **fields: Any) -> FileJournal:
    return FileJournal(directory, NOON, **{"offload": in_place, **fields})


def remembered(directory: Path) -> int:
    """What the next start would know."""
    journal = opened(directory)
    try:
        return total(journal.history())
    finally:
        journal.close()


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.name != "reserve")


def contents(directory: Path) -> list[list[dict[str, Any]]]:
    return [[json.loads(raw) for raw in path.read_bytes().splitlines()] for path in segments.paths(directory)]


async def settle(journal: FileJournal, nursery: trio.Nursery) -> None:
    """Serve until everything that was asked for is done, then let go."""
    nursery.start_soon(journal.serve)
    with trio.fail_after(20):
        await journal.wait_durable(journal._written)
        await trio.testing.wait_all_tasks_blocked()
    nursery.cancel_scope.cancel()


async def rotated(journal: FileJournal, snapshot: dict[str, Any]) -> None:
    async with trio.open_nursery() as nursery:
        journal.begin_segment(snapshot)
        await settle(journal, nursery)


async def grown(directory: Path, *per_segment: int) -> int:
    """A journal of segments with that many lines each; how many in all."""
    journal = opened(directory)
    count = 0
    for index, lines in enumerate(per_segment):
        if index:
            await rotated(journal, sum_of(count))
        for number in range(count, count + lines):
            journal.append([line(number)], durable=True)
        count += lines
    journal.close()
    return count


async def test_what_was_appended_is_there_at_the_next_start(tmp_path: Path) -> None:
    assert await grown(tmp_path, 3) == 3
    assert remembered(tmp_path) == 3
    assert names(tmp_path) == ["00000001.jsonl"]
    assert (tmp_path / "00000001.jsonl").stat().st_mode & 0o777 == 0o600


async def test_the_first_segment_begins_with_a_snapshot_of_nothing_and_the_version(tmp_path: Path) -> None:
    await grown(tmp_path, 0)
    assert contents(tmp_path) == [[{"utc": "2026-01-05T12:00:00.000000Z", "kind": "snapshot", "version": 1}]]


async def test_many_who_wait_share_few_syncs(tmp_path: Path) -> None:
    syncs = 0

    async def counting(work: Callable[[], T]) -> T:
        nonlocal syncs
        syncs += 1
        return await trio.to_thread.run_sync(work)

    journal = opened(tmp_path, offload=counting)

    async def act_on(number: int) -> None:
        await journal.wait_durable(journal.append([line(number)], durable=True))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(journal.serve)
        async with trio.open_nursery() as actors:
            for number in range(500):
                actors.start_soon(act_on, number)
        nursery.cancel_scope.cancel()
    journal.close()
    assert 1 <= syncs <= 5
    assert len(contents(tmp_path)[0]) == 501


async def test_a_line_that_is_to_be_durable_is_synced_though_nobody_waits_for_it(tmp_path: Path) -> None:
    synced = trio.Event()

    async def noting(work: Callable[[], T]) -> T:
        synced.set()
        return await in_place(work)

    journal = opened(tmp_path, offload=noting)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.serve)
            journal.append([line(0)], durable=False)
            await trio.testing.wait_all_tasks_blocked()
            assert not synced.is_set()
            journal.append([line(1)], durable=True)
            await synced.wait()
            nursery.cancel_scope.cancel()
    journal.close()


async def test_nobody_is_told_that_a_line_is_durable_before_a_sync_that_began_after_it(tmp_path: Path) -> None:
    gates = [trio.Event() for _ in range(3)]
    begun: list[trio.Event] = []

    async def gated(work: Callable[[], T]) -> T:
        begun.append(trio.Event())
        await gates[len(begun) - 1].wait()
        return work()

    journal = opened(tmp_path, offload=gated)
    told: list[int] = []

    async def wait(number: int) -> None:
        await journal.wait_durable(number)
        told.append(number)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.serve)
            first = journal.append([line(0)], durable=True)
            nursery.start_soon(wait, first)
            await trio.testing.wait_all_tasks_blocked()
            second = journal.append([line(1)], durable=True)
            nursery.start_soon(wait, second)
            gates[0].set()
            await trio.testing.wait_all_tasks_blocked()
            assert told == [first]
            gates[1].set()
            await trio.testing.wait_all_tasks_blocked()
            assert told == [first, second]
            nursery.cancel_scope.cancel()
    journal.close()


async def test_a_start_reads_the_newest_segment_and_no_older_one(tmp_path: Path) -> None:
    assert await grown(tmp_path, 3, 2, 4) == 9
    oldest, older, _ = segments.paths(tmp_path)
    oldest.write_bytes(b"{broken\n" + oldest.read_bytes())
    older.write_bytes(b"{broken\n" + older.read_bytes())
    assert remembered(tmp_path) == 9


async def test_a_segment_is_due_when_it_is_full_or_of_another_day(tmp_path: Path) -> None:
    journal = opened(tmp_path, segment_bytes=200)
    assert not journal.wants_snapshot(NOON)
    assert not journal.wants_snapshot(NOON + timedelta(hours=11))
    assert journal.wants_snapshot(NOON + timedelta(hours=12))
    assert journal.wants_snapshot(NOON - timedelta(days=1)), "a clock that was set back"
    journal.append([line(0)], durable=True)
    assert not journal.wants_snapshot(NOON)
    journal.append([line(number) for number in (1, 2, 3)], durable=True)
    assert journal.wants_snapshot(NOON)
    large = sum_of(4) | {"text": "x" * 1000}
    async with trio.open_nursery() as nursery:
        journal.begin_segment(large)
        assert not journal.wants_snapshot(NOON), "one at a time"
        await settle(journal, nursery)
    assert not journal.wants_snapshot(NOON), "the snapshot's own size does not fill it"
    journal.close()
    again = opened(tmp_path, segment_bytes=200)
    assert not again.wants_snapshot(NOON)
    again.close()
    assert remembered(tmp_path) == 4


async def test_what_is_appended_while_a_segment_is_made_is_in_both_and_not_acknowledged(tmp_path: Path) -> None:
    made, go_on = trio.Event(), trio.Event()

    async def slow(work: Callable[[], T]) -> T:
        result = work()
        if not made.is_set():
            made.set()
            await go_on.wait()
        return result

    journal = opened(tmp_path, offload=slow)
    journal.append([line(0), line(1)], durable=True)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.serve)
            journal.begin_segment(sum_of(2))
            await made.wait()
            number = journal.append([line(2)], durable=True)
            assert names(tmp_path) == [".00000002.jsonl.new", "00000001.jsonl"]
            with trio.move_on_after(0) as told:
                await journal.wait_durable(number)
            assert told.cancelled_caught
            assert len(contents(tmp_path)[0]) == 4
            go_on.set()
            await journal.wait_durable(number)
            assert names(tmp_path) == ["00000001.jsonl", "00000002.jsonl"]
            journal.append([line(3)], durable=True)
            nursery.cancel_scope.cancel()
    journal.close()
    old, new = contents(tmp_path)
    assert [record.get("number") for record in old] == [None, 0, 1, 2]
    assert [record.get("number") for record in new] == [None, 2, 3]
    assert remembered(tmp_path) == 4


class Killed(BaseException):
    """The process was killed: from here on it does nothing more."""


class Mortal:
    """Stands in for `os` and dies before its n-th call that changes something; also in the middle of a write."""

    CHANGES = ("open", "write", "fsync", "fdatasync", "close", "truncate", "ftruncate", "link")

    def __init__(self, lives: int, *, torn: bool = False) -> None:
        self.lives, self.torn = lives, torn
        self.open_files: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return self.mortal(name, real) if name in self.CHANGES else real

    def mortal(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.spend(lambda: os.write(args[0], args[1][: len(args[1]) // 2]) if name == "write" and self.torn else 0)
            result = real(*args, **kwargs)
            if name == "open":
                self.open_files.add(result)
            elif name == "close":
                self.open_files.discard(args[0])
            return result

        return call

    def spend(self, last_deed: Callable[[], object]) -> None:
        self.lives -= 1
        if self.lives == 0:
            last_deed()
        if self.lives <= 0:
            raise Killed


def mortal_os(monkeypatch: pytest.MonkeyPatch, mortal: Mortal) -> None:
    """Have the journal call that system; pathlib makes these two calls for it."""

    def called(true: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            mortal.spend(bool)
            return true(*args, **kwargs)

        return call

    for module in (journal_module, segments):
        monkeypatch.setattr(module, "os", mortal)
    for name in ("rename", "unlink"):
        monkeypatch.setattr(Path, name, called(getattr(Path, name)))


@pytest.mark.parametrize("torn", [False, True])
async def test_killed_at_any_step_it_keeps_what_was_written_and_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torn: bool
) -> None:
    survived, steps = False, 0
    while not survived:
        steps += 1
        directory = tmp_path / str(steps)
        directory.mkdir()
        mortal = Mortal(steps, torn=torn)
        written = 0

        async def live(journal: FileJournal) -> None:
            nonlocal written
            for number in range(8):
                appended = journal.append([line(number)], durable=True)
                written = number + 1
                if number in (1, 4):
                    journal.begin_segment(sum_of(written, NOON + timedelta(days=number)))
                elif number in (3, 7):
                    await journal.wait_durable(appended)

        with monkeypatch.context() as patch:
            mortal_os(patch, mortal)
            try:
                journal = opened(directory, keep=timedelta(0))
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(journal.serve)
                    await live(journal)
                    nursery.cancel_scope.cancel()
                journal.close()
                survived = True
            except* Killed:
                pass
        for fd in mortal.open_files:
            os.close(fd)
        assert written <= remembered(directory) <= written + 1
        assert not list(directory.glob(".*"))
    assert steps > 30
    assert segments.paths(directory)[-1].name == "00000003.jsonl"


async def test_torn_at_any_byte_of_its_last_record_it_starts_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for sync in ("fsync", "fdatasync"):  # a thousand of them, and none is what this is about
        monkeypatch.setattr(os, sync, bool)
    for shape in [(3,), (2, 2), (2, 0), (0,)]:
        directory = tmp_path / str(shape)
        directory.mkdir()
        count = await grown(directory, *shape)
        last = segments.paths(directory)[-1]
        data = last.read_bytes()
        beginning = data[:-1].rfind(b"\n") + 1
        lost = 1 if shape[-1] else 0
        for size in range(beginning, len(data)):
            for debris in (b"", b"\0" * 7):  # a file system may leave zeros where data was to come
                last.write_bytes(data[:size] + debris)
                journal = opened(directory)
                known = total(journal.history())
                assert known == count - lost
                journal.append([line(known)], durable=True)
                journal.close()
                assert remembered(directory) == known + 1
                for path in segments.paths(directory):
                    if path != last:
                        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[: 1 + shape[0]]))


def test_torn_at_any_byte_it_can_be_looked_at_and_tells_what_the_next_start_would_know(tmp_path: Path) -> None:
    begin = {**sum_of(0), "version": segments.VERSION}
    old = b"".join(map(encode, [begin, *map(line, range(3))]))
    new = b"".join(map(encode, [{**begin, "total": 3}, line(3), {**line(4), "more": True}, line(5)]))
    first, second = segments.path_of(tmp_path, 1), segments.path_of(tmp_path, 2)
    first.write_bytes(old)
    for cut in range(len(new) + 1):
        second.write_bytes(new[:cut])
        seen = segments.look(tmp_path)
        assert [path.read_bytes() for path in (first, second)] == [old, new[:cut]]
        assert seen == [segments.decode(raw) for segment in segments.recover(tmp_path) for raw in segment.records()]
    assert total(iter(seen)) == 6
    assert names(tmp_path) == [first.name, second.name]
    assert segments.look(tmp_path / "nowhere") == []


async def test_of_lines_that_were_appended_together_a_crash_leaves_all_or_none(tmp_path: Path) -> None:
    await grown(tmp_path, 2)
    journal = opened(tmp_path)
    journal.append([line(number) for number in (2, 3, 4)], durable=True)
    journal.close()
    (path,) = segments.paths(tmp_path)
    data = path.read_bytes()
    beginning = data.index(encode(line(2))[:-2])
    for size in range(beginning, len(data) + 1):
        path.write_bytes(data[:size])
        assert remembered(tmp_path) == (5 if size == len(data) else 2)
    path.write_bytes(data[:-1])
    (done,) = segments.repair(tmp_path, NOON)
    assert [number for number, _ in done.dropped] == [4, 5, 6], "the repair tells of those too"
    assert remembered(tmp_path) == 2


@pytest.mark.parametrize(
    "bad", [b"{broken\n", b"\0\0\0\n", b"[]\n", b"\xff\n", b'{"kind":"x"}\n', b"[" * 99999 + b"\n"]
)
async def test_a_bad_line_before_a_good_one_is_refused_by_name_and_nothing_is_changed(
    tmp_path: Path, bad: bytes
) -> None:
    await grown(tmp_path, 2, 3)
    newest = segments.paths(tmp_path)[-1]
    lines = newest.read_bytes().splitlines(keepends=True)
    for index in range(len(lines) - 1):
        damaged = b"".join([*lines[:index], bad, *lines[index + 1 :]])
        newest.write_bytes(damaged)
        with pytest.raises(JournalDamaged, match=rf"00000002.jsonl:{index + 1}: .*--repair"):
            opened(tmp_path)
        assert newest.read_bytes() == damaged


async def test_a_closed_segment_that_ends_badly_is_damage(tmp_path: Path) -> None:
    """The newest has lost its snapshot in a repair, so the one before is read as well."""
    await grown(tmp_path, 2, 2)
    older, newest = segments.paths(tmp_path)
    newest.write_bytes(b"".join(newest.read_bytes().splitlines(keepends=True)[1:]))
    older.write_bytes(older.read_bytes() + b"{torn")
    with pytest.raises(JournalDamaged, match=r"00000001\.jsonl:4"):
        opened(tmp_path)


async def test_a_journal_of_a_newer_program_is_refused_untouched(tmp_path: Path) -> None:
    await grown(tmp_path, 1)
    (path,) = segments.paths(tmp_path)
    newer = path.read_bytes().replace(b'"version":1', b'"version":2') + b"(what we would call torn"
    path.write_bytes(newer)
    for use in (opened, lambda directory: segments.repair(directory, NOON)):
        with pytest.raises(StateDirError, match=r"newer darkfactory .*version 2.*this one knows 1"):
            use(tmp_path)
    assert path.read_bytes() == newer


async def test_a_journal_without_snapshots_is_read_from_its_beginning_and_gets_one(tmp_path: Path) -> None:
    (tmp_path / "00000001.jsonl").write_bytes(encode(line(0)) + encode(line(1)))
    assert remembered(tmp_path) == 2
    journal = opened(tmp_path)
    assert journal.wants_snapshot(NOON)
    await rotated(journal, sum_of(2))
    journal.close()
    assert [record["kind"] for record in contents(tmp_path)[1]] == ["snapshot"]
    assert remembered(tmp_path) == 2


async def test_repair_leaves_out_what_cannot_be_read_keeps_the_old_file_and_tells(tmp_path: Path) -> None:
    await grown(tmp_path, 2, 3)
    newest = segments.paths(tmp_path)[-1]
    lines = newest.read_bytes().splitlines(keepends=True)
    damaged = b"".join([lines[0], b"{broken\n", *lines[1:], b"{torn"])
    newest.write_bytes(damaged)
    (done,) = segments.repair(tmp_path, NOON)
    assert done.path == newest
    assert done.dropped == ((2, b"{broken"), (6, b"{torn"))
    assert not done.forgotten
    assert done.kept.read_bytes() == damaged
    assert newest.read_bytes() == b"".join(lines)
    assert newest.stat().st_mode & 0o777 == 0o600
    assert segments.repair(tmp_path, NOON) == []
    assert remembered(tmp_path) == 5


async def test_repair_of_a_snapshot_falls_back_on_the_segment_before_and_counts_nothing_twice(tmp_path: Path) -> None:
    await grown(tmp_path, 3, 2)
    older, newest = segments.paths(tmp_path)
    # lines 1 and 2 came in while the snapshot was written: they are in both files
    carried = older.read_bytes().splitlines(keepends=True)[2:]
    newest.write_bytes(b"".join([b"{broken\n", *carried, *newest.read_bytes().splitlines(keepends=True)[1:]]))
    (done,) = segments.repair(tmp_path, NOON)
    assert (done.path, done.forgotten) == (newest, False)
    assert remembered(tmp_path) == 5
    journal = opened(tmp_path)
    assert journal.wants_snapshot(NOON), "soon it has a snapshot again"
    journal.close()


async def test_repair_tells_when_what_was_known_is_lost(tmp_path: Path) -> None:
    await grown(tmp_path, 2)
    (path,) = segments.paths(tmp_path)
    path.write_bytes(b"{broken\n" + path.read_bytes().split(b"\n", 1)[1])
    (done,) = segments.repair(tmp_path, NOON)
    assert done.forgotten
    assert remembered(tmp_path) == 2


async def test_repair_of_nothing_but_garbage_leaves_no_segment(tmp_path: Path) -> None:
    (tmp_path / "00000001.jsonl").write_bytes(b"garbage\nmore\n")
    with pytest.raises(JournalDamaged):
        opened(tmp_path)
    (done,) = segments.repair(tmp_path, NOON)
    assert len(done.dropped) == 2
    assert remembered(tmp_path) == 0


@pytest.mark.parametrize("torn", [False, True])
async def test_killed_at_any_step_of_a_repair_it_can_be_repaired_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torn: bool
) -> None:
    survived, steps = False, 0
    while not survived:
        steps += 1
        directory = tmp_path / str(steps)
        directory.mkdir()
        await grown(directory, 2, 3)
        newest = segments.paths(directory)[-1]
        damaged = newest.read_bytes().replace(b'"snapshot"', b'"snap\n"')
        newest.write_bytes(damaged)
        mortal = Mortal(steps, torn=torn)
        with monkeypatch.context() as patch:
            mortal_os(patch, mortal)
            try:
                segments.repair(directory, NOON)
                survived = True
            except Killed:
                pass
        for fd in mortal.open_files:
            os.close(fd)
        segments.repair(directory, NOON + timedelta(seconds=1))
        assert remembered(directory) == 5
        assert damaged in [path.read_bytes() for path in directory.glob("*.damaged-*")]
    assert steps > 5


async def test_segments_go_when_what_made_them_needless_is_older_than_they_are_kept(tmp_path: Path) -> None:
    journal = opened(tmp_path, keep=timedelta(days=3))
    for day in range(1, 11):
        await rotated(journal, sum_of(0, NOON + timedelta(days=day)))
        left = [path.name for path in segments.paths(tmp_path)]
        # number n holds day n - 1 and was closed on day n
        assert left == [f"{n:08}.jsonl" for n in range(max(1, day - 3), day + 2)]
    journal.close()
    assert len(left) == 5
    opened(tmp_path, keep=timedelta(days=1)).close()
    assert [path.name for path in segments.paths(tmp_path)] == left[2:]
    assert remembered(tmp_path) == 0


async def test_the_newest_segment_stays_however_old_it_is(tmp_path: Path) -> None:
    await grown(tmp_path, 2)
    journal = FileJournal(tmp_path, NOON + timedelta(days=1000), timedelta(days=1), offload=in_place)
    assert total(journal.history()) == 2
    journal.close()


async def test_a_write_that_takes_a_part_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true_write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: true_write(fd, data[:7]))
    journal = opened(tmp_path)
    journal.append([line(0), line(1)], durable=True)
    monkeypatch.undo()
    journal.close()
    assert remembered(tmp_path) == 2


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
async def test_a_disk_that_refuses_gets_its_reserve_and_then_raises_with_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    journal = opened(tmp_path)
    true_write = os.write
    refused = 0

    def write(fd: int, data: bytes) -> int:
        nonlocal refused
        if len(data) > 20:
            return true_write(fd, data[:20])  # the disk's last bytes
        refused += 1
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "write", write)
    with capture_logs() as logs, pytest.raises(OSError, match=rf"{os.strerror(number)}: '.*00000001\.jsonl'$"):
        journal.append([line(0)], durable=True)
    monkeypatch.undo()
    assert refused == RESERVE_BYTES // SLICE_BYTES + 1
    assert [log["event"] for log in logs] == ["journal_reserve_used"] * (refused - 1)
    assert (tmp_path / "reserve").stat().st_size == 0
    journal.append([line(0)], durable=True)
    journal.close()
    assert remembered(tmp_path) == 1


async def test_a_disk_error_that_is_no_lack_of_room_is_raised_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = opened(tmp_path)

    def write(fd: int, data: bytes) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(OSError, match="Input/output"):
        journal.append([line(0)], durable=True)
    monkeypatch.undo()
    journal.close()
    assert (tmp_path / "reserve").stat().st_size == RESERVE_BYTES


async def test_a_sync_that_the_disk_refuses_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = opened(tmp_path)
    journal.append([line(0)], durable=True)

    def refuse(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", refuse)
        with pytest.raises(OSError, match=r"Input/output error: '.*00000001\.jsonl'$"):
            await journal.serve()
    journal.close()


async def test_a_beginning_of_a_segment_that_cannot_be_removed_either_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    journal = opened(tmp_path)

    def refuse(self: Path, *_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr(Path, "rename", refuse)
        patch.setattr(Path, "unlink", refuse)
        await rotated(journal, sum_of(0))
    assert [log["event"] for log in logs] == ["journal_segment_failed"]
    await trio.sleep(60)
    await rotated(journal, sum_of(1, NOON + timedelta(days=1)))
    journal.close()
    assert names(tmp_path) == ["00000001.jsonl", "00000002.jsonl"]


async def test_what_was_written_to_a_file_that_was_deleted_is_never_called_durable(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    number = journal.append([line(0)], durable=True)
    (tmp_path / "00000001.jsonl").unlink()
    told = False

    async def wait(nursery: trio.Nursery) -> None:
        nonlocal told
        await journal.wait_durable(number)
        told = True
        nursery.cancel_scope.cancel()

    with pytest.RaisesGroup(pytest.RaisesExc(FileNotFoundError, match=r"deleted under the factory.*00000001\.jsonl")):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, nursery)
            nursery.start_soon(journal.serve)
    journal.close()
    assert not told


async def test_a_segment_that_cannot_be_made_is_tried_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    journal = opened(tmp_path)

    def refuse(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr(os, "fsync", refuse)
        await rotated(journal, sum_of(0))
    assert [log["event"] for log in logs] == ["journal_segment_failed"]
    assert names(tmp_path) == ["00000001.jsonl"]
    tomorrow = NOON + timedelta(days=1)
    assert not journal.wants_snapshot(tomorrow)
    await trio.sleep(60)
    assert journal.wants_snapshot(tomorrow)
    journal.append([line(0)], durable=True)
    await rotated(journal, sum_of(1, tomorrow))
    journal.close()
    assert names(tmp_path) == ["00000001.jsonl", "00000002.jsonl"]
    assert remembered(tmp_path) == 1


def test_a_reserve_that_lost_slices_is_filled_again(tmp_path: Path) -> None:
    reserve = Reserve(tmp_path / "reserve")
    assert reserve.fill()
    assert reserve.path.stat().st_blocks * 512 >= RESERVE_BYTES
    assert reserve.give_up()
    assert not reserve.whole
    later = Reserve(tmp_path / "reserve")
    assert later.fill()
    assert later.path.stat().st_size == RESERVE_BYTES


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 8 MiB."""
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "darkfactory-test", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    if mount.returncode != 0:
        pytest.skip(f"no small file system can be mounted here: {mount.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


def fill(directory: Path) -> Path:
    """A file that takes all the room there is."""
    path = directory / "ballast"
    with path.open("ab", buffering=0) as file:
        for size in (65536, 4096):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * size)
    return path


@pytest.mark.real
async def test_on_a_full_disk_decisions_are_still_written_and_the_reserve_comes_back_with_the_room(
    small_disk: Path, autojump_clock: trio.testing.MockClock
) -> None:
    state = small_disk / "journal"
    state.mkdir()
    journal = opened(state)
    count = 0
    with capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.serve)
            ballast = fill(small_disk)
            for _ in range(200):  # far more than the last page of the segment takes
                number = journal.append([line(count, text="x" * 200)], durable=True)
                count += 1
                await journal.wait_durable(number)
            assert {log["event"] for log in logs} == {"journal_reserve_used"}
            left = (state / "reserve").stat().st_size
            assert 0 < left < RESERVE_BYTES
            journal.begin_segment(sum_of(count))  # its first page would be one too many: the old segment goes on
            fill(small_disk)
            ballast.unlink()
            await trio.sleep(61)
            await journal.wait_durable(journal.append([line(count)], durable=True))
            count += 1
            await trio.testing.wait_all_tasks_blocked()
            assert (state / "reserve").stat().st_size == RESERVE_BYTES
            nursery.cancel_scope.cancel()
    journal.close()
    assert remembered(state) == count


@pytest.mark.real
async def test_when_the_reserve_is_used_up_too_it_raises_and_what_was_acknowledged_is_there(small_disk: Path) -> None:
    state = small_disk / "journal"
    state.mkdir()
    journal = opened(state)
    count = 0

    def write_on() -> None:
        nonlocal count
        while True:
            fill(small_disk)  # somebody else takes what is left of every slice
            journal.append([line(count, text="x" * 200)], durable=True)
            count += 1

    with pytest.raises(OSError, match="No space left"):
        write_on()
    assert count >= RESERVE_BYTES // SLICE_BYTES, "each slice was good for a record at least"
    journal.close()
    assert remembered(state) == count
