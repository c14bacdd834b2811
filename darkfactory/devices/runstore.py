"""A directory for each run: what it was told, what it said, and how it ended; and the end of old ones."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Protocol

import trio
from attrs import Factory, field, frozen

from darkfactory.devices import threads
from darkfactory.devices.statedir import write_atomically

_RUN_ID: Final = re.compile(r"(?P<agent>[^.].*)-[0-9]{8}-[0-9]{6}-[0-9a-f]{6}")
_DOOMED: Final = ".pruned-"
"""Begins the name of a directory that is being deleted."""


@frozen
class RunFiles:
    """Where a run's files are. The output files are made by the launcher."""

    prompt: Path
    stdout: Path
    stderr: Path
    messages: Path
    """What others tell the run; there is no such file unless they do."""

    @classmethod
    def below(cls, directory: Path) -> RunFiles:
        """Those in a run's directory."""
        return cls(directory / "prompt.md", directory / "stdout", directory / "stderr", directory / "messages.md")


@frozen
class Keep:
    """What is kept of ended runs; whatever is over any of these is deleted, the oldest first."""

    per_agent: int
    since: datetime
    """Those that ended earlier go."""
    total_bytes: int
    """Of all that have ended, as the disk counts."""


@frozen
class Pruned:
    """What a pruning came to."""

    runs: int = 0
    freed_bytes: int = 0
    problem: str | None = None
    """The first thing that would not be deleted, and why."""


class RunStore(Protocol):
    """Keeps the files of runs. Small files, written at once: no checkpoints, but for `prune`."""

    def begin(self, run_id: str, prompt: str, messages: str = "") -> RunFiles:
        """Make room for a run and write its prompt, and the messages if any. OSError when the disk refuses."""
        ...

    def prepare(self, run_id: str) -> RunFiles:
        """Make room for a run that has no prompt yet. OSError when the disk refuses."""
        ...

    def tell(self, run_id: str, prompt: str, messages: str = "") -> None:
        """Write the prompt, and the messages, of a run for which room was made. OSError when the disk refuses."""
        ...

    def discard(self, run_id: str) -> None:
        """Forget a run that did not begin; its id can be used again. OSError when the disk refuses."""
        ...

    def end(self, run_id: str, summary: Mapping[str, Any]) -> None:
        """Write how it ended. OSError when the disk refuses."""
        ...

    async def prune(self, keep: Keep, *, living: Collection[str]) -> Pruned:
        """Delete what is not kept, never a run of `living`. A checkpoint; cancelled, it ends after at most one run."""
        ...


@frozen
class RunDirectories:
    """Run files below one directory: `<run id>/{prompt.md, messages.md, stdout, stderr, run.json}`."""

    path: Path
    # of its own: a deletion may take minutes, and must not hold up a start
    _limiter: trio.CapacityLimiter = field(default=Factory(lambda: trio.CapacityLimiter(1)), repr=False, eq=False)

    def begin(self, run_id: str, prompt: str, messages: str = "") -> RunFiles:
        """Make the run's directory (mode 0700) and write its prompt and the messages (mode 0600)."""
        files = self.prepare(run_id)
        self.tell(run_id, prompt, messages)
        return files

    def prepare(self, run_id: str) -> RunFiles:
        """Make the run's directory."""
        directory = self.path / run_id
        directory.mkdir(mode=0o700)
        return RunFiles.below(directory)

    def tell(self, run_id: str, prompt: str, messages: str = "") -> None:
        """Write the prompt and the messages."""
        files = RunFiles.below(self.path / run_id)
        _write_first(files.prompt, prompt)
        if messages:
            _write_first(files.messages, messages)

    def discard(self, run_id: str) -> None:
        """Give the directory a name by which the next pruning deletes it: an agent may have put much into it."""
        directory = self.path / run_id
        directory.rename(directory.with_name(_DOOMED + run_id))

    def end(self, run_id: str, summary: Mapping[str, Any]) -> None:
        """Write `run.json`."""
        write_atomically(self.path / run_id / "run.json", json.dumps(summary, indent=1) + "\n", sync=False)

    async def prune(self, keep: Keep, *, living: Collection[str]) -> Pruned:
        """Delete in a thread what is not kept; see `RunStore.prune`."""
        try:
            return await trio.to_thread.run_sync(
                prune, self.path, keep, living, trio.from_thread.check_cancelled, limiter=self._limiter
            )
        except RuntimeError as error:
            if not threads.none_left(error):
                raise
            await trio.lowlevel.checkpoint()
            return Pruned(problem="the system has no thread left to delete from")


def _write_first(path: Path, text: str) -> None:
    """Write a new file; not atomically: nobody reads it before the run starts, and a run is begun once."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError:  # a full disk must not fill with beginnings
        path.unlink()
        raise


@frozen
class _Ended:
    path: Path
    agent: str
    at: float
    """When it was last written to, seconds since the epoch."""
    whole: bool
    """It has its `run.json`: it did end."""
    size_bytes: int


def prune(directory: Path, keep: Keep, living: Collection[str], go_on: Callable[[], None] = lambda: None) -> Pruned:
    """Delete what is not kept of the runs in a directory. Blocks; `go_on` is called between runs and may raise.

    What is no run's directory is left alone. One without `run.json`, which a crash or a full disk may have cost it, is
    kept until it is too old. A directory is renamed before it is deleted, so a crash in between leaves either a whole
    run or something that the next pruning deletes.
    """
    problems: list[str] = []

    def delete(path: Path) -> bool:
        shutil.rmtree(path, onerror=lambda _call, name, fault: problems.append(f"{name}: {fault[1]}"))
        return not path.exists()

    freed = count = 0
    try:
        for path in directory.glob(f"{_DOOMED}*"):
            go_on()
            delete(path)
        for run in _not_kept(list(_runs(directory, living, go_on)), keep):
            go_on()
            doomed = run.path.rename(run.path.with_name(_DOOMED + run.path.name))
            if delete(doomed):
                count += 1
                freed += run.size_bytes
    except OSError as error:
        problems.append(str(error))
    return Pruned(count, freed, problems[0] if problems else None)


def _not_kept(runs: list[_Ended], keep: Keep) -> Iterator[_Ended]:
    """Those to delete. Counted from the newest, so the oldest are those over the limits."""
    of_agent: Counter[str] = Counter()
    total = 0
    since = keep.since.timestamp()
    for run in sorted(runs, key=lambda run: run.at, reverse=True):
        of_agent[run.agent] += run.whole
        total += run.size_bytes
        over = run.whole and (of_agent[run.agent] > keep.per_agent or total > keep.total_bytes)
        if over or run.at < since:
            yield run


def _runs(directory: Path, living: Collection[str], go_on: Callable[[], None]) -> Iterator[_Ended]:
    with os.scandir(directory) as entries:
        for entry in entries:
            go_on()
            match = _RUN_ID.fullmatch(entry.name)
            if match is not None and entry.name not in living and entry.is_dir(follow_symlinks=False):
                path = Path(entry.path)
                summary = path / "run.json"
                whole = summary.is_file()
                at = (summary if whole else path).stat().st_mtime
                yield _Ended(path, match["agent"], at, whole, _size(path))


def _size(directory: Path) -> int:
    """What a directory takes on the disk, in bytes; an agent may have put anything into it."""
    blocks = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            blocks += os.lstat(Path(parent, name)).st_blocks
    return blocks * 512
