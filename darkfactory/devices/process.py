"""The seam between the runtime and processes: what a launcher and a launched process promise.

Two things stand behind it: `devices.launcher` (real processes) and `darkfactory.testing` (scripted ones on a mock
clock). Both pass the same checks (tests/real/test_launcher_contract.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from attrs import field, frozen

from darkfactory.model.signals import Stream


@frozen
class LaunchSpec:
    """One program to start."""

    run_id: str
    argv: tuple[str, ...]
    """The first word is looked up on the PATH of `env` unless it holds a slash."""
    env: Mapping[str, str] = field(repr=False)
    """The whole environment; the launcher adds only the run's mark."""
    cwd: Path
    stdin: Path | None
    """A file; None means /dev/null, or with `prompt_later` a pipe."""
    stdout: Path
    stderr: Path
    """Made by the launcher (mode 0600) and opened for appending by the child."""
    max_memory_bytes: int | None = None
    max_output_bytes: int | None = None
    """Once the sink was fed more than this, `drain` reads no further (a sparse file is made in no time); None: all."""
    nice: int = 0
    """Added to our own niceness, as far as that goes."""
    prompt_later: bool = False
    """Its standard input is a pipe, on which nothing comes before `Process.deliver`."""


class Sink(Protocol):
    """Who takes a run's output. The launcher calls it from one task at a time."""

    def feed(self, stream: Stream, data: bytes) -> None:
        """Take the next bytes of a stream, any number, cut anywhere. Must be quick."""
        ...

    def written(self, size: int) -> None:
        """How large the files are together, read or not; told before each round of feeding."""
        ...

    def truncated(self, stream: Stream) -> None:
        """The file shrank (the child truncated it); what is fed next begins anew."""
        ...

    async def flush(self) -> None:
        """A round of feeding is over: pass on what it amounted to. May wait, which slows this run's reading only."""
        ...


class Process(Protocol):
    """A started program: the leader of a session of its own, and whatever it starts."""

    @property
    def pid(self) -> int:
        """The leader's."""
        ...

    def deliver(self, prompt: bytes) -> bool:
        """Give one that was started with `prompt_later` its prompt, and then the end of its input; no checkpoint.

        To be called once. False if it cannot be had that way: it has ended or closed its input, or the prompt does not
        fit into a pipe. Then it has read nothing, as far as can be known, and has not seen the end of its input.
        """
        ...

    async def wait(self) -> int:
        """Wait for the leader's exit; its exit code, or minus the signal's number.

        A checkpoint; may be called any number of times, also after it was cancelled.
        """
        ...

    async def terminate(self) -> None:
        """Ask it to end: note who belongs to it, then SIGTERM and SIGCONT to its group."""
        ...

    def kill(self) -> None:
        """SIGKILL to its group; at once, no checkpoint."""
        ...

    async def sweep(self) -> tuple[str, ...]:
        """Kill whatever still belongs to the run, the leader included, until nothing is left.

        Bounded: what could not be killed within the launcher's limit is named in the result, "PID NAME" each.
        """
        ...

    async def memory_bytes(self) -> int | None:
        """What all of the run's processes take together now; None if it need not be measured, now or later.

        That is where the system itself keeps the limit.
        """
        ...

    def out_of_memory(self) -> bool:
        """Whether the system has ended it because of its memory limit. For after the sweep, before `drain`."""
        ...

    async def drain(self) -> None:
        """After the sweep: feed the sink whatever the files still hold, flush it, and forget them.

        Must be called exactly once for every process, whatever happened before; it releases what the process held.
        """
        ...


class Launcher(Protocol):
    """Starts processes and follows their output."""

    async def serve(self) -> None:
        """Follow output and look after processes until cancelled. `launch` may be called before and while it runs."""
        ...

    def locate(self, program: str, env: Mapping[str, str], cwd: Path) -> str | None:
        """Where the program would be started from: looked up on the PATH of `env` unless it holds a slash.

        Relative paths begin at `cwd`, as they do for the started program. None when there is no such executable.
        A few calls of stat, no checkpoint.
        """
        ...

    async def launch(self, spec: LaunchSpec, sink: Sink) -> Process:
        """Start a program. SpawnFailed when it cannot be started; then nothing is left behind.

        Cancellation is not delivered while the start is under way: either a process is returned or SpawnFailed raised.
        """
        ...

    async def sweep_leftovers(self) -> tuple[str, ...]:
        """Before anything is started: end what former factories of this instance left, "PID NAME" of each."""
        ...
