"""How fast is output read, and does a long transcript hold the supervisor up?

First, each adapter alone: the recorded transcripts of its tool, one after the other until they are 20 MB, fed in chunks
as the follower feeds them. Plain output is 20 MB of lines of 100 bytes. A chunk is read in one go, and nobody else has
a turn meanwhile: so the longest chunk bounds what reading adds to the supervisor's lag.

Then a real factory, whose one agent prints a transcript of 100 MB as fast as it can: how late the supervisor decides
meanwhile (`lag.py` tells how that is measured).

    python benchmarks/signals.py
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import trio
from common import print_table, silence, spread

import darkfactory
from darkfactory.devices.capture import CHUNK_BYTES
from darkfactory.model.events import Event, Tick
from darkfactory.model.fleet import JsonlMap, ToolConfig
from darkfactory.model.signals import Stream
from darkfactory.runtime import supervisor
from darkfactory.tools import BUILTIN
from darkfactory.tools.command import Command
from darkfactory.tools.lines import MAX_LINE_BYTES
from darkfactory.tools.reader import Reader
from darkfactory.tools.tally import Tally
from darkfactory.tools.tool import Tool

RECORDINGS = Path(__file__).parents[1] / "tests" / "data" / "agent_cli"
ALONE_BYTES = 20_000_000
LONG_BYTES = 100_000_000
PROBE_SECS = 0.005
MAP = JsonlMap(started=("started",), said=("say",), tool_call=("tool",), finished=("result",), session="session")
DEMO = b"".join(
    [
        b'{"type": "started", "session": "demo-1"}\n',
        *[b'{"type": "say", "text": "' + b"step by step, " * 8 + b'"}\n'] * 10,
        b'{"type": "tool", "name": "shell", "command": "uname -s", "exit_code": 0, "output": "Linux"}\n',
        b'{"type": "result", "ok": true, "text": "the task is done"}\n',
    ]
)
PLAIN = (b"x" * 99 + b"\n") * 100
LONG_LINE = (
    b'{"type":"user","message":{"content":[{"tool_use_id":"t","type":"tool_result","content":"'
    + b"a line of output\\n" * ((MAX_LINE_BYTES - 400) // 18)
    + b'","is_error":false}]}}\n'
)
"""As long as a line can be that is read as a whole."""


class Counting(Tally):
    """A tally that counts what it takes."""

    signals = 0

    def take(self, *args: object) -> None:
        """Count it."""
        self.signals += 1
        super().take(*args)


def transcripts(tool: str, size: int) -> bytes:
    """All recordings of a tool's output, over and over."""
    once = b"".join(path.read_bytes() for path in sorted((RECORDINGS / tool).glob("*.stdout.jsonl")))
    return once * (size // len(once) + 1)


def alone(what: str, tool: Tool, data: bytes, stream: Stream = Stream.STDOUT) -> tuple[object, ...]:
    """A row: reading that data, chunk by chunk."""
    counting = Reader(tool, Counting())
    for start in range(0, len(data), CHUNK_BYTES):
        counting.feed(stream, data[start : start + CHUNK_BYTES])
    reader, chunks = Reader(tool), []
    for start in range(0, len(data), CHUNK_BYTES):
        chunk = data[start : start + CHUNK_BYTES]
        begun = time.perf_counter()
        reader.feed(stream, chunk)
        chunks.append(time.perf_counter() - begun)
    secs = sum(chunks)
    signals = counting.tally.signals / secs
    lines = data.count(b"\n") / secs
    figures = (f"{len(data) / secs / 1e6:.0f}", f"{lines / 1e6:.3g}", f"{signals / 1e6:.3g}" if signals else "none")
    return what, *figures, *spread(chunks)


async def lags(transcript: Path, directory: Path) -> tuple[float, list[float], list[float]]:
    """Seconds that the transcript took, lags of events and delays of a sleep meanwhile."""
    events: list[float] = []
    delays: list[float] = []
    decide = supervisor.decide

    def timed(state: object, event: Event) -> object:
        if not isinstance(event, Tick):
            events.append(trio.current_time() - event.when.at)
        return decide(state, event)

    program = directory / "claude"
    program.write_text(f"#!/bin/sh\nexec cat {transcript}\n")
    program.chmod(0o700)
    agents = (
        darkfactory.AgentDefinition("printer", darkfactory.AgentLayer.GROWTH, str(program), "print"),
        darkfactory.AgentDefinition("asked", darkfactory.AgentLayer.GROWTH, "bash", "true"),
    )
    fleet = darkfactory.OrchestratorConfig(working_dir=directory, state_dir=directory / "state", agents=agents)
    async with darkfactory.open_factory(fleet) as factory:
        await trio.sleep(1)
        supervisor.decide = timed
        begun = trio.current_time()
        await factory.start("printer")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(probe, factory, delays)
            await factory.wait_statuses(lambda statuses: not statuses[0].running)
            nursery.cancel_scope.cancel()
        supervisor.decide = decide
        return trio.current_time() - begun, events, delays


async def probe(factory: darkfactory.AgentOrchestrator, delays: list[float]) -> None:
    """Ask the supervisor something all the time, and see how late every sleep ends."""
    while True:
        wake = trio.current_time() + PROBE_SECS
        await trio.sleep_until(wake)
        delays.append(trio.current_time() - wake)
        await factory.resume("asked")


def main() -> None:
    """Print the tables."""
    silence()
    patterns = Command(ToolConfig(("x",), success="^all is done", error="^E: ", throttle="429|slow down"))
    plain, demo = PLAIN * (ALONE_BYTES // len(PLAIN)), DEMO * (ALONE_BYTES // len(DEMO))
    rows = [
        alone("claude", BUILTIN["claude"]("claude"), transcripts("claude", ALONE_BYTES)),
        alone("claude, lines of 1 MiB", BUILTIN["claude"]("claude"), LONG_LINE * 20),
        alone("claude, no events", BUILTIN["claude"]("claude"), plain),
        alone("claude, lines of 9 bytes", BUILTIN["claude"]("claude"), b'{"t":"x"}\n' * 500_000),
        alone("codex", BUILTIN["codex"]("codex"), transcripts("codex", ALONE_BYTES)),
        alone("demo", BUILTIN["demo"]("demo"), demo),
        alone("a program with a map", Command(ToolConfig(("x",), jsonl=MAP)), demo),
        alone("a program with patterns", patterns, plain),
        alone("bash, stdout", BUILTIN["bash"]("bash"), plain),
        alone("bash, stderr", BUILTIN["bash"]("bash"), plain, Stream.STDERR),
        alone("bash, stderr full of errors", BUILTIN["bash"]("bash"), b"error: x\n" * 500_000, Stream.STDERR),
    ]
    head = ("what", "MB/s", "M lines/s", "M signals/s", "chunk p50, ms", "p99", "max")
    print_table(f"Reading output, chunks of {CHUNK_BYTES // 1024} KiB", head, rows)
    rows = []
    for what, data in (
        ("recordings", transcripts("claude", LONG_BYTES)),
        ("lines of 1 MiB", LONG_LINE * (LONG_BYTES // len(LONG_LINE))),
    ):
        with tempfile.TemporaryDirectory(prefix="darkfactory-signals-") as name:
            transcript = Path(name) / "transcript"
            transcript.write_bytes(data)
            secs, events, delays = trio.run(lags, transcript, Path(name))
        rows.append((what, f"{secs:.1f}", len(events), *spread(events), *spread(delays)))
    columns = ("p50", "p99", "max")
    head = ("100 MB of", "secs", "events", *[f"{kind} {column}" for kind in ("lag", "probe") for column in columns])
    print_table("Lag of the supervisor while claude prints 100 MB, ms", head, rows)


if __name__ == "__main__":
    main()
