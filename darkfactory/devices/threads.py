"""Threads are not to be had without end: a user's processes and threads are counted together (RLIMIT_NPROC)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import trio

T = TypeVar("T")
InThread = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Does some work away from the loop, and waits for its result."""


def none_left(error: RuntimeError) -> bool:
    """Whether Python says with this that the system gave it no thread (EAGAIN); it has no class of its own."""
    return str(error).startswith("can't start new thread")


async def run_sync(work: Callable[[], T], *, limiter: trio.CapacityLimiter) -> T:
    """Call it in a thread; where none is to be had, in the loop, which is held up for that long.

    For what cannot wait until the agents have left their user room for a thread. A checkpoint; once it was called, its
    end is waited for, also under cancellation.
    """
    try:
        return await trio.to_thread.run_sync(work, limiter=limiter)
    except RuntimeError as error:
        if not none_left(error):
            raise
    return work()  # noqa: ASYNC910 - to_thread.run_sync was a checkpoint


async def in_thread(work: Callable[[], Any]) -> Any:
    """Do some work in a thread that nobody else waits for. Cancelled, the work goes on and its result is lost."""
    return await trio.to_thread.run_sync(work, limiter=trio.CapacityLimiter(1), abandon_on_cancel=True)
