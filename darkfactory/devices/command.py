"""A command of our own: it is started as a run is, heard, and ended in time with all that it has started."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import trio
from attrs import define, field, frozen

from darkfactory.devices.process import Launcher, LaunchSpec, Process
from darkfactory.errors import SpawnFailed
from darkfactory.model.signals import Stream

END_SECS: Final = 7.0
"""The longest that it takes to end one that is cancelled, or all that one has left."""
TAIL_BYTES: Final = 2000
"""Of what it says on stderr."""
_MEMORY_SECS: Final = 1.0
"""How often its memory is looked at where the system does not keep the limit."""


@frozen
class Completed:
    """What became of a command."""

    exit_code: int | None
    """Minus the number of the signal that ended it; None when it was we who ended it."""
    stdout: bytes
    """What it had printed, cut at the limit; or the end of that."""
    stderr: bytes
    """The end of it."""
    ended: str | None = None
    """Why we ended it, as "did not end within 3 s"; None when it ended by itself."""
    too_much: bool = False
    """It printed more than the limit, whether we ended it for that or not."""


async def run_command(
    launcher: Launcher,
    spec: LaunchSpec,
    *,
    secs: float,
    grace_secs: float,
    patience: trio.CancelScope | None = None,
    last_bytes: int | None = None,
) -> Completed:
    """Start a command, wait for it for `secs` at most, and take away the files of its output.

    `max_output_bytes`, which must be set, and `max_memory_bytes` of its specification hold for it. SpawnFailed if it
    cannot be started. Cancelled, it is ended first, politely for `grace_secs`, with all that it started; `patience`, a
    scope that nobody has entered, ends that sooner by its deadline, which may be set at any time. Of what it prints on
    stdout the `last_bytes` are kept; None: all.
    """
    assert spec.max_output_bytes is not None
    heard = _Heard(spec.max_output_bytes, last_bytes)
    code: int | None = None
    try:
        process = await _launched(launcher, spec, heard)
        try:
            with heard.patience:
                heard.patience.deadline = trio.current_time() + secs
                code = await _wait(process, heard, spec.max_memory_bytes)
        finally:
            try:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + END_SECS):
                    if code is None:
                        await _ask_to_end(process, grace_secs, patience or trio.CancelScope())
                    await process.sweep()
            finally:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + END_SECS):
                    await process.drain()
    finally:
        for file in (spec.stdout, spec.stderr):
            with suppress(OSError):  # a file too many makes no failure of it
                file.unlink()
    ended = (heard.why or f"did not end within {secs:g} s") if code is None else None
    return Completed(code, bytes(heard.stdout), bytes(heard.stderr), ended, heard.too_much)


async def _launched(launcher: Launcher, spec: LaunchSpec, heard: _Heard) -> Process:
    try:
        return await launcher.launch(spec, heard)
    except SpawnFailed as failure:
        name = spec.argv[0]
        if failure.reason != "tool_missing" or "/" in name:
            raise
        # what the launcher says of a PATH is for agents, which have one of their own
        raise SpawnFailed(failure.reason, f"there is no {name} on the PATH of the factory: install {name}") from failure


def absolute_path(environ: Mapping[str, str]) -> str:
    """The PATH of an environment without relative entries: those would be looked up where agents write."""
    path = environ.get("PATH", os.defpath).split(os.pathsep)
    return os.pathsep.join(entry for entry in path if entry.startswith("/"))


def last_words(stderr: bytes) -> str:
    """The last thing that was said, in one line that is safe to print."""
    lines = stderr.decode(errors="replace").strip().splitlines()
    return printable("; ".join(line.strip() for line in lines[-3:]))


def printable(text: str) -> str:
    """The same in one line that is safe to print."""
    return "".join(character if character.isprintable() else "?" for character in text)


async def _wait(process: Process, heard: _Heard, max_memory_bytes: int | None) -> int:
    if max_memory_bytes is None:
        return await process.wait()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_watch_memory, process, heard, max_memory_bytes)
        code = await process.wait()
        nursery.cancel_scope.cancel(reason="it has ended")
    return code


async def _watch_memory(process: Process, heard: _Heard, limit: int) -> None:
    while (taken := await process.memory_bytes()) is not None:
        if taken > limit:
            heard.give_up(f"took {taken} bytes of memory, of {limit}")
        await trio.sleep(_MEMORY_SECS)


async def _ask_to_end(process: Process, grace_secs: float, patience: trio.CancelScope) -> None:
    await process.terminate()
    with patience:
        patience.deadline = min(patience.deadline, trio.current_time() + grace_secs)
        await process.wait()


@define(eq=False)
class _Heard:
    """A sink that keeps what was printed, and loses patience when that is too much."""

    limit: int
    last_bytes: int | None
    patience: trio.CancelScope = field(factory=trio.CancelScope)
    stdout: bytearray = field(factory=bytearray)
    stderr: bytearray = field(factory=bytearray)
    too_much: bool = False
    why: str = ""

    def feed(self, stream: Stream, data: bytes) -> None:
        if stream is Stream.STDERR:
            self.stderr = (self.stderr + data)[-TAIL_BYTES:]
        elif self.last_bytes is None:
            self.stdout += data[: self.limit - len(self.stdout)]
        else:
            self.stdout = (self.stdout + data)[-self.last_bytes :]

    def written(self, size: int) -> None:
        if size > self.limit:
            self.too_much = True
            self.give_up("printed more than we take")

    def give_up(self, why: str) -> None:
        self.why = self.why or why
        self.patience.cancel(reason=why)

    def truncated(self, stream: Stream) -> None:
        """Then it begins anew; what was said before stays said."""

    async def flush(self) -> None:
        await trio.lowlevel.checkpoint()
