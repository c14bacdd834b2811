"""A directory for each run: what it was told, what it said, and how it ended."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from attrs import frozen

from darkfactory.devices.statedir import write_atomically


@frozen
class RunFiles:
    """Where a run's files are. The output files are made by the launcher."""

    prompt: Path
    stdout: Path
    stderr: Path


class RunStore(Protocol):
    """Keeps the files of runs. Small files, written at once: no checkpoints."""

    def begin(self, run_id: str, prompt: str) -> RunFiles:
        """Make room for a run and write its prompt. OSError when the disk refuses."""
        ...

    def end(self, run_id: str, summary: Mapping[str, Any]) -> None:
        """Write how it ended. OSError when the disk refuses."""
        ...


@frozen
class RunDirectories:
    """Run files below one directory: `<run id>/{prompt.md, stdout, stderr, run.json}`."""

    path: Path

    def begin(self, run_id: str, prompt: str) -> RunFiles:
        """Make the run's directory (mode 0700) and write its prompt."""
        directory = self.path / run_id
        directory.mkdir(mode=0o700)
        files = RunFiles(directory / "prompt.md", directory / "stdout", directory / "stderr")
        write_atomically(files.prompt, prompt, sync=False)
        return files

    def end(self, run_id: str, summary: Mapping[str, Any]) -> None:
        """Write `run.json`."""
        write_atomically(self.path / run_id / "run.json", json.dumps(summary, indent=1) + "\n", sync=False)
