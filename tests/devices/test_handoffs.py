"""The files of handoffs: whole or not there, private, and gone when they are old."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio

from darkfactory import HandoffContext, HandoffFailed, read_handoff
from darkfactory.devices.clock import SystemClock
from darkfactory.devices.handoffs import HandoffFiles
from darkfactory.policy.handoff import HANDOFF_BYTES, to_json

CONTEXT = HandoffContext(task="go on", id="h-1", from_agent="a", to_agent="b")


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def modes(*paths: Path) -> list[int]:
    return [path.stat().st_mode & 0o777 for path in paths]


async def test_a_file_is_whole_private_and_can_be_read(tmp_path: Path) -> None:
    store = HandoffFiles(tmp_path / "handoffs")
    file = Path(await store.write("h-1", to_json(CONTEXT)))
    assert file == tmp_path / "handoffs" / "h-1.json"
    assert read_handoff(file) == CONTEXT
    assert modes(file, file.parent) == [0o600, 0o700]
    assert names(file.parent) == {"h-1.json"}


async def test_the_same_again_is_no_harm_and_another_of_that_id_is_refused(tmp_path: Path) -> None:
    store = HandoffFiles(tmp_path)
    assert await store.write("h-1", "one") == await store.write("h-1", "one")
    with pytest.raises(FileExistsError, match="another handoff of this id"):
        await store.write("h-1", "two")
    assert (tmp_path / "h-1.json").read_text() == "one"
    await store.remove("h-1")
    await store.remove("h-1")
    assert names(tmp_path) == set()


async def test_old_files_go_and_others_stay(tmp_path: Path) -> None:
    store = HandoffFiles(tmp_path)
    now = SystemClock().utc()
    for name, days in (("old", 31), ("new", 29)):
        await store.write(name, "x")
        at = (now - timedelta(days=days)).timestamp()
        os.utime(tmp_path / f"{name}.json", (at, at))
    (tmp_path / "other.txt").write_text("x")
    os.utime(tmp_path / "other.txt", (0, 0))
    await store.prune(now - timedelta(days=30), ())
    assert names(tmp_path) == {"new.json", "other.txt"}
    await HandoffFiles(tmp_path / "absent").prune(now, ())


def test_a_file_that_is_no_handoff_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    with pytest.raises(HandoffFailed, match=r"x\.json: cannot be read: No such file"):
        read_handoff(file)
    for data, told in ((b"{", "is torn"), (b"\xff\xfe", "is torn"), (b" " * (HANDOFF_BYTES + 1), "has more than")):
        file.write_bytes(data)
        with pytest.raises(HandoffFailed, match=rf"x\.json: .*{told}"):
            read_handoff(file)


async def test_a_handoff_that_was_not_told_yet_is_kept_however_old_it_is(tmp_path: Path) -> None:
    store = HandoffFiles(tmp_path / "handoffs")
    old, waiting, new = [Path(await store.write(name, "text\n")) for name in ("old", "waiting", "new")]
    for file in (old, waiting):
        os.utime(file, (1000.0, 1000.0))
    await store.prune(datetime.fromtimestamp(2000, UTC), {"waiting"})
    assert names(old.parent) == {waiting.name, new.name}


async def test_what_an_id_has_already_stays_unless_it_is_something_else(tmp_path: Path) -> None:
    store = HandoffFiles(tmp_path / "handoffs")
    file = Path(await store.write("one", "first\n"))
    assert await store.write("one", "second\n", lambda old, new: (old, new) == ("first\n", "second\n")) == str(file)
    assert await trio.Path(file).read_text() == "first\n"
    with pytest.raises(FileExistsError, match="another handoff of this id"):
        await store.write("one", "second\n")
    assert names(file.parent) == {"one.json"}
