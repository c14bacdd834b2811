"""The room of the worktrees in a state directory: which there are, whose they are, and how they are taken away.

    worktrees/<run id>/           the files; an agent may have done anything to them, and to this path
    worktrees/.records/           <run id>.json: what we know of it; .lock: held while its run lives; .index
    worktrees/.doomed/            what is being deleted

A worktree exists for us as long as its record does. What is deleted is renamed into `.doomed` first, through
descriptors of directories that were opened without following links: so nothing outside is ever deleted, wherever a
link leads.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from attrs import asdict, evolve, field, frozen

from darkfactory.devices.git import OBJECT
from darkfactory.devices.statedir import write_atomically
from darkfactory.model.review import BRANCH_PREFIX

_RUN_ID: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_REVIEW_BRANCH: Final = re.compile(re.escape(BRANCH_PREFIX) + r"[a-z0-9][a-z0-9-]*")
_MOMENT_SECS: Final = 3600.0
"""No command that has files of the moment takes as long."""
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@frozen
class Record:
    """What is known of one worktree."""

    run: str
    agent: str
    common: str
    """The repository's common directory."""
    prefix: str
    """Where in the repository the agent works; empty for its top."""
    branch: str
    """Without `refs/heads/`."""
    commit: str
    """Where it began."""
    base: str | None
    """The branch that HEAD pointed to then, whole name; None where it was detached."""
    created: str
    """UTC, ISO 8601."""
    made: bool = False
    """All its files were there, and the agent may have been at work."""
    kept: str | None = None
    """Why it was kept when its run had ended; None before."""

    @property
    def ref(self) -> str:
        """Its branch's whole name."""
        return f"refs/heads/{self.branch}"

    @property
    def own(self) -> Path:
        """What git keeps of this worktree alone: HEAD, index, logs."""
        return Path(self.common) / "worktrees" / self.run


@frozen
class WorktreeStore:
    """The room. Small files, written at once: no checkpoints; OSError when the disk refuses."""

    path: Path
    _records: Path = field(init=False)
    _doomed: Path = field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "_records", self.path / ".records")
        object.__setattr__(self, "_doomed", self.path / ".doomed")

    @property
    def scratch(self) -> Path:
        """For files of the moment."""
        return self.path / ".scratch"

    def prepare(self) -> None:
        """Make the room."""
        for directory in (self.path, self._records, self._doomed):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def tidy(self, now: datetime) -> None:
        """Delete the files of the moment that lives which were killed have left: those that have been there for long.

        Younger ones may be another process's: people list and prune worktrees while a factory runs.
        """
        try:
            with opened(self.scratch) as scratch:
                for name in os.listdir(scratch):  # noqa: PTH208 - names alone
                    with contextlib.suppress(OSError):  # it is gone, or goes the next time
                        changed = os.stat(name, dir_fd=scratch, follow_symlinks=False).st_ctime
                        if now.timestamp() - changed > _MOMENT_SECS:
                            delete(name, scratch, [])
        except OSError:  # there are none
            return

    def files(self, run_id: str) -> Path:
        """Where the worktree's files are, or would be."""
        return self.path / run_id

    def index(self, run_id: str) -> Path:
        """A copy of its index as it began: what a file looked like then need not be read again."""
        return self._records / f"{run_id}.index"

    def write(self, record: Record) -> None:
        """Write a record, for the first time or anew."""
        write_atomically(self._records / f"{record.run}.json", json.dumps(asdict(record), indent=1) + "\n", sync=False)

    def read(self, run_id: str) -> Record | None:
        """The record of that run; None where there is none, or none that we wrote."""
        try:
            return _record(json.loads((self._records / f"{run_id}.json").read_text(encoding="utf-8")), run_id)
        except (OSError, ValueError, TypeError):
            return None

    def all(self) -> list[Record]:
        """Every record, the oldest first."""
        found = (self.read(run_id) for run_id in self.run_ids())
        return sorted((record for record in found if record is not None), key=lambda record: record.created)

    def run_ids(self) -> list[str]:
        """The runs that have a record; none where it cannot be told: then none can be made either."""
        try:
            names = os.listdir(self._records)  # noqa: PTH208 - names alone
        except OSError:
            return []
        return [name.removesuffix(".json") for name in names if name.endswith(".json") and name[0] != "."]

    def hold(self, run_id: str) -> int | None:
        """Lock a worktree against everybody else who would settle or prune it; None if somebody has it already.

        Closing the descriptor gives it back, and so does our end, whatever it is.
        """
        descriptor = os.open(
            self._records / f"{run_id}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return None
        return descriptor

    def forget(self, run_id: str) -> None:
        """Take its record away; whoever does this holds it, and has dealt with its files."""
        for suffix in ("index", "json", "lock"):
            (self._records / f"{run_id}.{suffix}").unlink(missing_ok=True)

    def doom(self, run_id: str) -> None:
        """Take its files away: they are gone from their place at once, and deleted by `bury`."""
        with opened(self.path) as room, opened(self._doomed) as doomed, contextlib.suppress(FileNotFoundError):
            os.rename(run_id, f"{run_id}.{os.urandom(4).hex()}", src_dir_fd=room, dst_dir_fd=doomed)

    def renew(self, run_id: str, git_file: str) -> None:
        """Take its files away, and put a directory in their place that holds nothing but a `.git`."""
        with tempfile.TemporaryDirectory(prefix=f"{run_id}-", dir=self.scratch) as room:
            new = Path(room) / "new"
            new.mkdir()
            (new / ".git").write_text(git_file)
            self.doom(run_id)
            new.rename(self.files(run_id))

    def bury(self) -> None:
        """Delete what was doomed. Blocks for as long as that takes; interrupted, it goes on the next time.

        OSError names the first thing that would not be deleted.
        """
        problems: list[str] = []
        try:
            names = os.listdir(self._doomed)  # noqa: PTH208 - names alone
        except FileNotFoundError:
            return
        for name in names:
            with opened(self._doomed) as doomed:
                delete(name, doomed, problems)
        if problems:
            raise OSError(problems[0])


@contextlib.contextmanager
def opened(directory: Path | str, within: int | None = None) -> Iterator[int]:
    """A descriptor of a directory that is no link. OSError if it is one, or is not there."""
    descriptor = os.open(directory, _DIRECTORY, dir_fd=within)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def delete(name: str, within: int, problems: list[str]) -> None:
    """Delete a file or a whole directory, following no link. Blocks; what would not go is added to the problems.

    Directories are moved up and emptied one after the other: an agent may have nested them deeper than a path is long.
    """
    try:
        if not _is_directory(name, within):
            os.unlink(name, dir_fd=within)
            return
        _unlock(name, within)
        stubborn: set[str] = set()
        with opened(name, within) as top:
            while names := set(os.listdir(top)) - stubborn:  # noqa: PTH208 - names alone
                stubborn |= {each for each in names if not _empties(each, top, problems)}
        os.rmdir(name, dir_fd=within)
    except FileNotFoundError:
        pass
    except OSError as error:
        problems.append(f"{name}: {error.strerror}")


def _empties(name: str, top: int, problems: list[str]) -> bool:
    """Delete an entry of a directory; what directories are in it are moved up beside it. False if it is still there."""
    try:
        if not _is_directory(name, top):
            os.unlink(name, dir_fd=top)
            return True
        _unlock(name, top)
        with opened(name, top) as here:
            for each in os.listdir(here):  # noqa: PTH208 - names alone
                if _is_directory(each, here):
                    _unlock(each, here)
                    os.rename(each, os.urandom(8).hex(), src_dir_fd=here, dst_dir_fd=top)
                else:
                    os.unlink(each, dir_fd=here)
        os.rmdir(name, dir_fd=top)
    except OSError as error:
        problems.append(f"{name}: {error.strerror}")
        return False
    return True


def _is_directory(name: str, within: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=within, follow_symlinks=False).st_mode)


def _unlock(name: str, within: int) -> None:
    """Give ourselves a directory that an agent has closed to us."""
    handle = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=within)
    try:
        os.chmod(f"/proc/self/fd/{handle}", 0o700)  # noqa: PTH101 - without a descriptor a link would be followed
    finally:
        os.close(handle)


def _record(line: Any, run_id: str) -> Record:
    """ValueError or TypeError unless it is one of ours: what it says is used as names of files and branches."""
    record = Record(**line)
    texts = (record.run, record.agent, record.common, record.prefix, record.branch, record.commit, record.created)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("not text")
    good = (
        record.run == run_id
        and _RUN_ID.fullmatch(run_id)
        and (record.branch == branch_of(record.agent, run_id) or _REVIEW_BRANCH.fullmatch(record.branch))
        and OBJECT.fullmatch(record.commit)
        and (record.base is None or (isinstance(record.base, str) and record.base.startswith("refs/heads/")))
    )
    if not good:
        raise ValueError("not ours")
    datetime.fromisoformat(record.created)
    return evolve(record, made=record.made is True, kept=None if record.kept is None else str(record.kept))


def branch_of(agent: str, run_id: str) -> str:
    """The name of a run's branch."""
    return f"darkfactory/{agent}/{run_id}"
