"""The directory that holds everything a factory keeps: lock, identity, journal, runs.

One factory at a time, and always the same fleet file: two factories on one journal, or one journal for two fleets,
would each undo what the other decided.
"""

from __future__ import annotations

import fcntl
import json
import os
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from attrs import define

from darkfactory.errors import AlreadyRunning, StateDirError


def default_state_dir(name: str, environ: Mapping[str, str]) -> Path:
    """`darkfactory/<name>` in the user's state directory (XDG base directory specification).

    StateDirError when the environment does not say where that is.
    """
    base, home = environ.get("XDG_STATE_HOME", ""), environ.get("HOME", "")
    if base.startswith("/"):
        return Path(base) / "darkfactory" / name
    if home.startswith("/"):
        return Path(home) / ".local" / "state" / "darkfactory" / name
    raise StateDirError("neither XDG_STATE_HOME nor HOME is an absolute path; name a directory with --state-dir")


def write_atomically(path: Path, text: str, *, sync: bool) -> None:
    """Replace a file by a whole new one (mode 0600), or leave the old one as it is; with `sync`, also in a power cut.

    A sync may take milliseconds, on a busy disk seconds.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
            if sync:
                file.flush()
                os.fsync(fd)
        temporary.replace(path)
    except OSError:  # a full disk must not fill with beginnings
        temporary.unlink(missing_ok=True)
        raise


_OURS = {"lock", "fleet.json", "handoffs", "journal", "reviews", "runs", "worktrees"}
"""What a state directory may hold before its first factory: somebody may have mounted a disk in a room of it."""


@define(eq=False)
class StateDir:
    """A state directory that is ours until `close`."""

    path: Path
    instance: str
    """The same for every factory that uses this directory; runs carry it in their mark."""
    _lock: int

    @classmethod
    def open(cls, path: Path, fleet_file: Path | None) -> StateDir:
        """Make it (mode 0700) or take it over. No checkpoint.

        Raises AlreadyRunning, or StateDirError when it cannot be used or belongs to another fleet file.
        """
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            _refuse_others(path)
            others = [entry.name for entry in path.iterdir() if entry.name not in _OURS]
            if others and not (path / "lock").exists():
                raise StateDirError(
                    f"{path}: this directory holds other things ({min(others)}); use --state-dir to name a new one"
                )
            path.chmod(0o700)
            lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StateDirError(
                f"{path}: cannot be used as state directory: {error.strerror}; use --state-dir to name another"
            ) from error
        try:
            _take_lock(lock, path)
            instance = _identify(path, fleet_file)
            for room in ("journal", "runs"):
                (path / room).mkdir(mode=0o700, exist_ok=True)
        except OSError as error:  # a full disk, one without inodes, or somebody's file in the place of a room
            os.close(lock)
            raise StateDirError(f"{path}: cannot be used as state directory: {error}") from error
        except BaseException:
            os.close(lock)
            raise
        return cls(path, instance, lock)

    @property
    def journal(self) -> Path:
        """Where the journal's segments are."""
        return self.path / "journal"

    @property
    def runs(self) -> Path:
        """Where each run has its directory."""
        return self.path / "runs"

    @property
    def handoffs(self) -> Path:
        """Where the contexts of handoffs are."""
        return self.path / "handoffs"

    @property
    def worktrees(self) -> Path:
        """Where worktrees are, once there was one."""
        return self.path / "worktrees"

    @property
    def reviews(self) -> Path:
        """Where reviews have their reports, once there was one."""
        return self.path / "reviews"

    def close(self) -> None:
        """Let the next factory in."""
        os.close(self._lock)


def journal_to_read(path: Path, fleet_file: Path | None) -> Path | None:
    """Where the journal in that state directory is; None where there is none. Changes nothing, and takes no lock.

    StateDirError when it cannot be trusted, or belongs to another fleet file.
    """
    journal = path / "journal"
    try:
        if not journal.is_dir():
            return None
        _refuse_others(path)
        _known(path, fleet_file)
    except OSError as error:
        raise StateDirError(f"{path}: cannot be read: {error.strerror}") from error
    return journal


def _refuse_others(path: Path) -> None:
    """Refuse a directory that others could have prepared for us, or could write to."""
    found = path.stat()
    if found.st_uid != os.geteuid():
        raise StateDirError(f"{path}: this directory belongs to another user; use --state-dir to name one of your own")
    if path.is_symlink() and path.lstat().st_uid not in (0, os.geteuid()):
        raise StateDirError(f"{path}: this link belongs to another user; use --state-dir to name a directory itself")
    if found.st_mode & 0o022:
        raise StateDirError(
            f"{path}: others may write to this directory, so what is in it cannot be trusted; look at it, then "
            "chmod 700 it, or use --state-dir to name another"
        )


def _take_lock(lock: int, path: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        with suppress(OSError):
            holder = os.pread(lock, 32, 0).decode(errors="replace").strip()
            raise AlreadyRunning(
                f"{path}: a factory is running on this state directory (pid {holder or 'unknown'})"
            ) from None
        raise AlreadyRunning(f"{path}: a factory is running on this state directory") from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)


def _identify(path: Path, fleet_file: Path | None) -> str:
    """Read or make `fleet.json`, which ties the directory to its fleet file."""
    instance = _known(path, fleet_file)
    if instance is None:
        instance = uuid.uuid4().hex
        ours = str(fleet_file) if fleet_file is not None else None
        known = json.dumps({"instance": instance, "fleet_file": ours}, indent=1) + "\n"
        write_atomically(path / "fleet.json", known, sync=True)
    return instance


def _known(path: Path, fleet_file: Path | None) -> str | None:
    """The instance in `fleet.json`; None where there is none yet. StateDirError if it is another fleet file's."""
    file = path / "fleet.json"
    ours = str(fleet_file) if fleet_file is not None else None
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
        instance, theirs = str(known["instance"]), known["fleet_file"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise StateDirError(f"{file}: cannot be read: {error}; use --state-dir to name another directory") from error
    if theirs != ours:
        nameless = "a fleet without a file"
        raise StateDirError(
            f"{path}: this state directory belongs to {theirs or nameless}, not to {ours or nameless}; "
            "give this fleet a `name` of its own, or name another directory with --state-dir"
        )
    return instance
