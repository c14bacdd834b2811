"""Everything a factory stands on, in one value: the real machine, or a simulated one (`darkfactory.testing`)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from attrs import field, frozen

from darkfactory.devices import containment
from darkfactory.devices.clock import CivilClock, SystemClock
from darkfactory.devices.disk import Disk, Mounts
from darkfactory.devices.journal import FileJournal, Journal, Line
from darkfactory.devices.launcher import RealLauncher
from darkfactory.devices.process import Launcher
from darkfactory.devices.runstore import RunDirectories, RunStore
from darkfactory.devices.statedir import StateDir
from darkfactory.errors import StateDirError


@frozen
class Machine:
    """Clock, processes, memory and files."""

    clock: CivilClock
    launcher: Launcher
    journal: Journal
    runs: RunStore
    disk: Disk
    history: tuple[Line, ...] = field(default=(), repr=False)
    """What the journal held at the start."""
    environ: Mapping[str, str] = field(factory=dict, repr=False)
    """Where the agents' `env_pass` is taken from."""


@contextmanager
def open_machine(state_dir: Path, fleet_file: Path | None) -> Iterator[Machine]:
    """The real machine, with the state directory locked for us.

    Raises AlreadyRunning, StateDirError or JournalDamaged; then nothing is held.
    """
    directory = StateDir.open(state_dir, fleet_file)
    try:
        try:
            journal = FileJournal(directory.journal)
        except OSError as error:
            raise StateDirError(f"{directory.journal}: the journal cannot be opened: {error.strerror}") from error
        try:
            yield Machine(
                clock=SystemClock(),
                launcher=RealLauncher(directory.instance, outer_mark=os.environ.get(containment.MARK)),
                journal=journal,
                runs=RunDirectories(directory.runs),
                disk=Mounts((directory.journal.parent, directory.runs)),
                history=journal.history,
                environ=dict(os.environ),
            )
        finally:
            journal.close()
    finally:
        directory.close()
