"""Threads are not to be had without end: a user's processes and threads are counted together (RLIMIT_NPROC)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

import trio

T = TypeVar("T")
InThread = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Does some work away from the loop, and waits for its result."""


def none_left(error: RuntimeError) -> bool:
    """Whether Python says with this that the system gave it no thread (EAGAIN); it has no class of its own."""
    return str(error).startswith("can't start new thread")


class _NoLimit:
    """In place of a `trio.CapacityLimiter`, which costs a round of the loop also where there is nothing to limit."""

    async def acquire_on_behalf_of(self, _: object) -> None:  # noqa: ASYNC910 - what follows is a checkpoint
        """Go on."""

    def release_on_behalf_of(self, _: object) -> None:
        """Nothing was taken."""


_NO_LIMIT = _NoLimit()


async def run_sync(work: Callable[[], T], *, limiter: trio.CapacityLimiter | None = None) -> T:
    """Call it in a thread, without a limiter at once; where none is to be had, in the loop, held up for that long.

    For what cannot wait until the agents have left their user room for a thread. A checkpoint; once it was called, its
    end is waited for, also under cancellation.
    """
    try:
        return await trio.to_thread.run_sync(work, limiter=limiter or cast(trio.CapacityLimiter, _NO_LIMIT))
    except RuntimeError as error:
        if not none_left(error):
            raise
    await trio.lowlevel.cancel_shielded_checkpoint()
    return work()


async def in_thread(work: Callable[[], Any]) -> Any:
    """Do some work in a thread that nobody else waits for. Cancelled, the work goes on and its result is lost."""
    return await trio.to_thread.run_sync(work, limiter=trio.CapacityLimiter(1), abandon_on_cancel=True)
