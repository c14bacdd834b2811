"""The files of handoffs, on a real disk."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio

from darkfactory.devices.handoffs import HandoffFiles


async def test_a_handoff_that_was_not_told_yet_is_kept_however_old_it_is(tmp_path: Path) -> None:
    store = HandoffFiles(tmp_path / "handoffs")
    old, waiting, new = [Path(await store.write(name, "text\n")) for name in ("old", "waiting", "new")]
    for file in (old, waiting):
        os.utime(file, (1000.0, 1000.0))
    await store.prune(datetime.fromtimestamp(2000, UTC), {"waiting"})
    assert [file.exists() for file in (old, waiting, new)] == [False, True, True]


async def test_what_an_id_has_already_stays_unless_it_is_something_else(tmp_path: Path) -> None:
    store = HandoffFiles(tmp_path / "handoffs")
    path = await store.write("one", "first\n")
    assert await store.write("one", "second\n", lambda old, new: (old, new) == ("first\n", "second\n")) == path
    file = trio.Path(path)
    assert await file.read_text() == "first\n"
    with pytest.raises(FileExistsError, match="another handoff of this id"):
        await store.write("one", "second\n")
    assert [entry.name for entry in await file.parent.iterdir()] == ["one.json"]
