"""Threads are not to be had without end: a user's processes and threads are counted together (RLIMIT_NPROC)."""

from __future__ import annotations


def none_left(error: RuntimeError) -> bool:
    """Whether Python says with this that the system gave it no thread (EAGAIN); it has no class of its own."""
    return str(error).startswith("can't start new thread")
