"""The beat: those that look regularly wake together, each as often as it wants."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from darkfactory.runtime.beat import BEAT_SECS, Beat

from .fleets import beating


async def test_whoever_waits_for_every_other_beat_wakes_together_with_those_that_wait_for_each(
    autojump_clock: MockClock,
) -> None:
    beat = Beat(lambda: None)
    woken: dict[int, list[float]] = {1: [], 2: [], 3: []}

    async def look(every: int) -> None:
        while True:
            await beat.wait(every)
            woken[every].append(trio.current_time() / BEAT_SECS)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(beating, beat)
        for every in woken:
            nursery.start_soon(look, every)
        await trio.sleep(6.5 * BEAT_SECS)
        nursery.cancel_scope.cancel()
    assert woken == {1: [1, 2, 3, 4, 5, 6], 2: [2, 4, 6], 3: [3, 6]}


async def test_the_beat_itself_looks_before_those_that_wait_for_it_do(autojump_clock: MockClock) -> None:
    looks: list[tuple[str, float]] = []

    def looked(who: str) -> None:
        looks.append((who, trio.current_time() / BEAT_SECS))

    beat = Beat(lambda: looked("itself"))

    async def look() -> None:
        while True:
            await beat.wait()
            looked("waiting")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(beating, beat)
        nursery.start_soon(look)
        await trio.sleep(2.5 * BEAT_SECS)
        nursery.cancel_scope.cancel()
    assert looks == [("itself", 1), ("waiting", 1), ("itself", 2), ("waiting", 2)]


async def test_one_that_looks_for_longer_than_a_beat_holds_up_nobody(autojump_clock: MockClock) -> None:
    beat = Beat(lambda: None)
    woken = []

    async def look() -> None:
        while True:
            await beat.wait()
            woken.append(trio.current_time() / BEAT_SECS)

    async def take_long() -> None:
        await beat.wait()
        await trio.sleep(2.5 * BEAT_SECS)
        await beat.wait()
        assert trio.current_time() == 4 * BEAT_SECS

    async with trio.open_nursery() as nursery:
        nursery.start_soon(beating, beat)
        nursery.start_soon(look)
        await take_long()
        nursery.cancel_scope.cancel()
    assert woken[:3] == [1, 2, 3]


async def test_a_task_is_woken_at_none_but_the_beats_at_which_there_is_something_to_do(
    autojump_clock: MockClock,
) -> None:
    beat = Beat(lambda: None)
    asked: list[float] = []
    woken: list[float] = []

    def finds() -> bool:
        asked.append(trio.current_time() / BEAT_SECS)
        return asked[-1] in {4, 6}

    async def look() -> None:
        while True:
            await beat.wait(2, finds=finds)
            woken.append(trio.current_time() / BEAT_SECS)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(beating, beat)
        nursery.start_soon(look)
        await trio.sleep(9.5 * BEAT_SECS)
        nursery.cancel_scope.cancel()
    assert asked == [2, 4, 6, 8]
    assert woken == [4, 6]


async def test_who_no_longer_waits_is_not_asked(autojump_clock: MockClock) -> None:
    beat = Beat(lambda: None)
    asked: list[float] = []

    def finds() -> bool:
        asked.append(trio.current_time() / BEAT_SECS)
        return False

    async with trio.open_nursery() as nursery:
        nursery.start_soon(beating, beat)
        with trio.move_on_after(1.5 * BEAT_SECS):
            await beat.wait(finds=finds)
        await trio.sleep(3 * BEAT_SECS)
        nursery.cancel_scope.cancel()
    assert asked == [1]
