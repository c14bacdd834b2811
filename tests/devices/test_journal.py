"""The journal on a real disk: what was acknowledged is there, whatever happens and whenever."""

from __future__ import annotations

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
        await journal.wait_durable(journal.append([], durable=True))
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
        journal.append([line(count + n) for n in range(lines)], durable=True)
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
    large = sum_of(4) | {"more": "x" * 1000}
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


@pytest.mark.parametrize("torn", [False, True])
async def test_killed_at_any_step_of_a_rotation_nothing_is_lost_or_told_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torn: bool
) -> None:
    steps = 0
    while True:
        steps += 1
        directory = tmp_path / str(steps)
        directory.mkdir()
        mortal = Mortal(10**9, torn=torn)
        for module in (journal_module, segments):
            monkeypatch.setattr(module, "os", mortal)
        true_rename, true_unlink = Path.rename, Path.unlink
        # these two are os calls as well, made by pathlib
        monkeypatch.setattr(Path, "rename", lambda *args, m=mortal, t=true_rename: (m.spend(bool), t(*args))[1])
        monkeypatch.setattr(Path, "unlink", lambda *args, m=mortal, t=true_unlink: (m.spend(bool), t(*args))[1])
        written = acknowledged = 0
        survived = False
        try:
            journal = opened(directory, keep=timedelta(0))
            journal.append([line(0), line(1)], durable=True)
            written = 2
            mortal.lives = steps
            with pytest.raises(BaseException) if False else trio.fail_after(20):  # noqa: PT012
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(journal.serve)
                    journal.begin_segment(sum_of(2))
                    number = journal.append([line(2)], durable=True)
                    written = 3
                    await journal.wait_durable(number)
                    acknowledged = 3
                    await trio.testing.wait_all_tasks_blocked()
                    nursery.cancel_scope.cancel()
            mortal.lives = 10**9
            journal.close()
            survived = True
        except BaseExceptionGroup as group:
            assert group.subgroup(Killed) is not None
        except Killed:
            pass
        finally:
            monkeypatch.undo()
            for fd in mortal.open_files:
                os.close(fd)
        known = remembered(directory)
        assert acknowledged <= known <= max(written, 3)
        assert known >= 2
        assert not list(directory.glob(".*"))
        if survived:
            break
    assert steps > 10
