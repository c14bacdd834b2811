"""Real disks: a small one that an agent fills, room as the kernel tells it, and the end of old run directories."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio

from darkfactory import Admit, AgentDefinition, AgentLayer, OrchestratorConfig, open_factory
from darkfactory.devices import disk
from darkfactory.devices.disk import Mounts
from darkfactory.devices.runstore import Keep, RunDirectories, prune

from .test_behaviours import journal

pytestmark = pytest.mark.real

MIB = 1024**2


def mounted(directory: Path, options: str) -> Iterator[Path]:
    directory.mkdir(parents=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"this test needs to mount a tmpfs and may not: {done.stderr.strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MiB, where a factory keeps its runs."""
    yield from mounted(tmp_path / "state" / "runs", "size=8m,mode=700")


def fleet(tmp_path: Path, *agents: AgentDefinition) -> OrchestratorConfig:
    (tmp_path / "work").mkdir()
    (tmp_path / "state").chmod(0o700)
    return OrchestratorConfig(
        working_dir=tmp_path / "work", state_dir=tmp_path / "state", agents=agents, min_free_bytes=4 * MIB
    )


def outputs(runs: Path) -> list[Path]:
    return list(runs.glob("*/stdout"))


async def test_an_agent_that_fills_its_disk_is_not_to_blame_and_everything_goes_on_when_there_is_room(
    tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("darkfactory.runtime.beat.BEAT_SECS", 0.05)
    # fills the disk by its own output, unless it was told enough before
    hog = AgentDefinition("hog", AgentLayer.SAFETY, "bash", "test -e enough && sleep 1000; head -c 100M /dev/zero")
    other = AgentDefinition("other", AgentLayer.GROWTH, "bash", "echo done")
    config = fleet(tmp_path, hog, other)
    with trio.fail_after(30):
        async with open_factory(config) as factory:
            statuses = await factory.wait_statuses(lambda all_of_them: all_of_them[0].reason == "disk")
            assert statuses[0].condition == "queued"
            queued = await factory.start("other")
            assert not isinstance(queued, Admit)
            assert queued.reason == "disk"
            assert str(small) in queued.detail
            assert factory.agent_statuses()[1].reason == "disk"
            (line,) = [line for line in journal(tmp_path / "state") if line["kind"] == "run_ended"]
            assert line["reason"] == "disk"
            assert line["exit_code"] == 1  # ENOSPC met the agent itself, and not even its complaint found room
            assert 7 * MIB < sum(path.stat().st_size for path in outputs(small)) < 8 * MIB
            (tmp_path / "work" / "enough").touch()
            for output in outputs(small):
                os.truncate(output, 0)
            await factory.wait_statuses(lambda all_of_them: all_of_them[0].condition == "running")
            await factory.wait_statuses(lambda all_of_them: all_of_them[1].condition == "idle")
    lines = journal(tmp_path / "state")
    assert [line["kind"] for line in lines if line["kind"].startswith("disk")] == ["disk_low", "disk_has_room"]
    assert [line["reason"] for line in lines if line["kind"] == "run_ended"] == ["disk", "succeeded", "shutdown"]
    assert not [line for line in lines if line["kind"] == "held"]


def test_room_is_that_of_the_fullest_file_system(tmp_path: Path, small: Path) -> None:
    room = disk.tightest([tmp_path, small])
    assert room.free_bytes == 8 * MIB
    assert room.what == f"{small}: 8.0 MiB are free"
    (small / "taken").write_bytes(b"x" * MIB)
    assert disk.tightest([small, tmp_path]).free_bytes == 7 * MIB


def test_a_file_system_without_inodes_is_full(tmp_path: Path) -> None:
    for small in mounted(tmp_path / "few", "size=8m,nr_inodes=40"):
        assert disk.tightest([small]) == disk.Room(0, f"{small}: 39 inodes are free")


def test_a_directory_that_is_gone_says_nothing_about_room(tmp_path: Path) -> None:
    assert disk.tightest([tmp_path / "gone", tmp_path]) == disk.tightest([tmp_path])
    assert disk.tightest([tmp_path / "gone"]).free_bytes == 0


async def test_for_a_while_one_directory_stands_for_all_that_are_on_its_file_system(
    tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Path, ...]] = []

    def tightest(directories: Iterable[Path]) -> disk.Room:
        asked.append(tuple(directories))
        return whole_look(directories)

    whole_look = disk.tightest
    monkeypatch.setattr(disk, "tightest", tightest)
    monkeypatch.setattr(disk, "_are_one", lambda among: small not in among)  # a busy disk may change between two looks
    journal, work, other = tmp_path / "journal", tmp_path / "work", tmp_path / "other"
    for directory in (journal, work, other):
        directory.mkdir()
    mounts = Mounts((journal,))
    for working_dir in (small, small, work, work, other):
        await mounts.room(working_dir)
    assert asked == [(journal, small), (journal, small), (journal, work), (journal,), (journal, other)]
    asked.clear()
    assert mounts.room_at_once(work) is None  # it was another one that they were found on one file system with
    assert mounts.room_at_once(other) == whole_look([journal])
    assert asked == [(journal,)]
    monkeypatch.setattr(disk, "ONE_SECS", 0)
    asked.clear()
    mounts = Mounts((journal,))
    for _ in range(2):
        await mounts.room(work)
    assert asked == [(journal, work), (journal, work)]


def test_file_systems_are_told_apart_and_one_of_the_network_stands_for_nothing(
    tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (small / "below").mkdir()
    assert disk._are_one((small, small / "below"))
    assert not disk._are_one((small, tmp_path))
    assert not disk._are_one((small, small / "gone"))
    monkeypatch.setattr(disk, "LOCAL", {"ext4"})
    assert not disk._are_one((small, small / "below"))


async def test_a_file_system_that_does_not_answer_counts_as_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = os.pipe()
    monkeypatch.setattr(disk, "ANSWER_SECS", 0.05)
    monkeypatch.setattr(disk, "tightest", lambda _: os.read(answer[0], 1))
    try:
        assert (await Mounts(()).room(tmp_path)).free_bytes == 0
    finally:
        os.close(answer[1])  # it answers after all, and its thread ends
        os.close(answer[0])


NOW = datetime(2026, 6, 1, tzinfo=UTC)
ALL = Keep(per_agent=10**6, since=datetime(2000, 1, 1, tzinfo=UTC), total_bytes=10**15)


def made(runs: Path, agent: str, age_days: float, *, ended: bool = True, size: int = 100) -> str:
    """A run that ended so long ago."""
    at = NOW - timedelta(days=age_days)
    name = f"{agent}-{at:%Y%m%d-%H%M%S}-{abs(hash((agent, age_days))) % 0xFFFFFF:06x}"
    directory = runs / name
    directory.mkdir(parents=True)
    (directory / "stdout").write_bytes(b"x" * size)
    if ended:
        (directory / "run.json").write_text("{}")
    for path in (*directory.iterdir(), directory):
        os.utime(path, (at.timestamp(), at.timestamp()))
    return name


def left(runs: Path) -> set[str]:
    return {path.name for path in runs.iterdir()}


def test_of_each_agent_the_newest_are_kept(tmp_path: Path) -> None:
    a = [made(tmp_path, "a", age) for age in (5, 1, 3)]
    b = [made(tmp_path, "a-b", age) for age in (9, 8)]
    pruned = prune(tmp_path, Keep(2, ALL.since, ALL.total_bytes), ())
    assert left(tmp_path) == {*a[1:], *b}
    assert (pruned.runs, pruned.problem) == (1, None)
    assert pruned.freed_bytes > 0


def test_what_is_too_old_goes_also_without_its_summary(tmp_path: Path) -> None:
    old = [made(tmp_path, "a", 31), made(tmp_path, "b", 32, ended=False)]
    young = [made(tmp_path, "a", 29), made(tmp_path, "b", 28, ended=False)]
    assert prune(tmp_path, Keep(9, NOW - timedelta(days=30), ALL.total_bytes), ()).runs == len(old)
    assert left(tmp_path) == set(young)


def test_all_together_take_no_more_than_they_may_and_the_oldest_go_first(tmp_path: Path) -> None:
    names = [made(tmp_path, f"agent{age}", age, size=MIB) for age in (4, 2, 3, 1)]
    assert prune(tmp_path, Keep(9, ALL.since, 2 * MIB + MIB // 2), ()).runs == 2
    assert left(tmp_path) == {names[1], names[3]}


def test_neither_a_living_run_nor_one_without_a_summary_nor_a_strangers_file_is_touched(tmp_path: Path) -> None:
    living = made(tmp_path, "a", 400)
    unfinished = made(tmp_path, "a", 3, ended=False)
    gone = made(tmp_path, "a", 2)
    outside = tmp_path.parent / "outside"
    outside.mkdir(exist_ok=True)
    linked = tmp_path / gone.replace("a-", "linked-")
    linked.symlink_to(outside)
    (tmp_path / "notes-20200101-000000-abcdef").write_text("a file, though named like a run")
    (tmp_path / "my notes").mkdir()
    prune(tmp_path, Keep(0, NOW - timedelta(days=30), 0), {living})
    assert left(tmp_path) == {living, unfinished, linked.name, "notes-20200101-000000-abcdef", "my notes"}


def test_a_crash_in_the_middle_leaves_whole_runs_and_what_the_next_pruning_deletes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(tmp_path, "a", 3)
    kept = made(tmp_path, "a", 1)

    class Crash(Exception):
        pass

    def crash(*_: object, **__: object) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", crash)
        with pytest.raises(Crash):
            prune(tmp_path, Keep(1, ALL.since, ALL.total_bytes), ())
    assert len(left(tmp_path)) == 2
    prune(tmp_path, ALL, ())
    assert left(tmp_path) == {kept}


def test_what_cannot_be_deleted_is_told_and_the_rest_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stuck, _ = made(tmp_path, "a", 3), made(tmp_path, "b", 2)
    true_rmdir = os.rmdir

    def rmdir(path: str, **fields: int) -> None:
        if stuck in str(path):
            raise PermissionError(1, "Operation not permitted")
        true_rmdir(path, **fields)

    monkeypatch.setattr(os, "rmdir", rmdir)
    pruned = prune(tmp_path, Keep(0, ALL.since, 0), ())
    assert pruned.runs == 1
    assert "Operation not permitted" in str(pruned.problem)
    assert left(tmp_path) == {f".pruned-{stuck}"}


async def test_a_factory_that_stops_does_not_wait_for_a_long_pruning(tmp_path: Path) -> None:
    for age in range(50):
        made(tmp_path, "a", age)
    with trio.CancelScope() as scope:
        scope.cancel()
        await RunDirectories(tmp_path).prune(Keep(0, ALL.since, 0), living=())
    assert scope.cancelled_caught
    assert len(left(tmp_path)) == 50


async def test_the_factory_prunes_as_its_fleet_file_says(tmp_path: Path) -> None:
    old = [made(tmp_path / "state" / "runs", "it", 400 + age) for age in range(3)]
    it = AgentDefinition("it", AgentLayer.GROWTH, "bash", "true")
    with trio.fail_after(20):
        async with open_factory(fleet(tmp_path, it)):
            while left(tmp_path / "state" / "runs") & set(old):  # noqa: ASYNC110 -- the disk tells nobody
                await trio.sleep(0.01)
