"""Recorded runs of real agent CLIs, and how they are read (tests/data/agent_cli/README.md)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from attrs import frozen

from darkfactory.model.ends import Verdict
from darkfactory.model.signals import Stream
from darkfactory.tools import BUILTIN
from darkfactory.tools.reader import Reader
from darkfactory.tools.tally import Tally
from darkfactory.tools.verdict import Evidence, judge

RECORDED = datetime(2026, 11, 23, 3, 53, 20, tzinfo=UTC)
"""About when."""
RECORDINGS = Path(__file__).parents[1] / "data" / "agent_cli"


@frozen
class Recording:
    """One recorded run."""

    tool: str
    stdout: bytes
    stderr: bytes
    exit_code: int | None

    def read(self, chunks: Iterable[tuple[Stream, bytes]] | None = None) -> Tally:
        """What it amounts to, read whole or in these pieces."""
        reader = Reader(BUILTIN[self.tool](self.tool))
        for stream, data in chunks or [(Stream.STDOUT, self.stdout), (Stream.STDERR, self.stderr)]:
            reader.feed(stream, data)
        reader.finish()
        return reader.tally

    def judge(self, tally: Tally) -> Verdict:
        """The verdict on it."""
        tool = BUILTIN[self.tool](self.tool)
        return judge(
            Evidence(
                tally=tally,
                finished=tally.finished,
                now=RECORDED,
                zone=lambda: UTC,
                exit_code=self.exit_code,
                output_bytes=len(self.stdout) + len(self.stderr),
                reports=tool.reports,
                exit_classes=tool.exit_classes,
            )
        )


def record(tool: str, case: str) -> Recording:
    """The recording of that name."""
    path = RECORDINGS / tool
    stderr = path / f"{case}.stderr.txt"
    return Recording(
        tool,
        (path / f"{case}.stdout.jsonl").read_bytes(),
        stderr.read_bytes() if stderr.exists() else b"",
        json.loads((path / f"{case}.meta.json").read_text())["exit_code"],
    )


@pytest.fixture(scope="session")
def recording() -> Callable[[str, str], Recording]:
    """A recording, by tool and case."""
    return record


@pytest.fixture(scope="session")
def recordings() -> dict[tuple[str, str], Recording]:
    """All of them."""
    return {
        (path.parent.name, path.name.removesuffix(".meta.json")): record(
            path.parent.name, path.name.removesuffix(".meta.json")
        )
        for path in sorted(RECORDINGS.glob("*/*.meta.json"))
    }
