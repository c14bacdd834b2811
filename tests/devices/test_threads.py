"""Work in threads where there are none."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import assert_checkpoints

from darkfactory.devices import threads


@pytest.mark.parametrize("limiter", [None, 1])
async def test_where_no_thread_is_to_be_had_work_is_done_in_the_loop_and_others_go_on(
    monkeypatch: pytest.MonkeyPatch, limiter: int | None
) -> None:
    def none_left(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("trio._threads.start_thread_soon", none_left)
    limit = None if limiter is None else trio.CapacityLimiter(limiter)
    with assert_checkpoints():
        assert await threads.run_sync(lambda: "done", limiter=limit) == "done"


async def test_without_a_limiter_a_thread_does_it_and_its_error_comes_back() -> None:
    with assert_checkpoints(), pytest.raises(ZeroDivisionError):
        await threads.run_sync(lambda: 1 / 0)
