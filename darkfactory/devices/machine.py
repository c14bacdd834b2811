"""Everything a factory stands on, in one value: the real machine, or a simulated one (`darkfactory.testing`)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from attrs import field, frozen

from darkfactory.devices import containment
from darkfactory.devices.clock import CivilClock, SystemClock
from darkfactory.devices.journal import FileJournal, Journal
from darkfactory.devices.launcher import RealLauncher
from darkfactory.devices.process import Launcher
from darkfactory.devices.runstore import RunDirectories, RunStore
from darkfactory.devices.segments import Line
from darkfactory.devices.statedir import StateDir
from darkfactory.errors import StateDirError


@frozen
class Machine:
    """Clock, processes, memory and files."""

    clock: CivilClock
    launcher: Launcher
    journal: Journal
    runs: RunStore
    history: Iterable[Line] = field(default=(), repr=False)
    """What the journal held at the start; to be read once, before anything is appended."""
    environ: Mapping[str, str] = field(factory=dict, repr=False)
    """Where the agents' `env_pass` is taken from."""


@contextmanager
def open_machine(state_dir: Path, fleet_file: Path | None, *, keep: timedelta) -> Iterator[Machine]:
    """The real machine, with the state directory locked for us; `keep` is how long old parts of the journal stay.

    Raises AlreadyRunning, StateDirError or JournalDamaged; then nothing is held.
    """
    clock = SystemClock()
    directory = StateDir.open(state_dir, fleet_file)
    try:
        try:
            journal = FileJournal(directory.journal, clock.utc(), keep)
        except OSError as error:
            raise StateDirError(f"{directory.journal}: cannot be opened: {error}") from error
        try:
            yield Machine(
                clock=clock,
                launcher=RealLauncher(directory.instance, outer_mark=os.environ.get(containment.MARK)),
                journal=journal,
                runs=RunDirectories(directory.runs),
                history=journal.history(),
                environ=dict(os.environ),
            )
        finally:
            journal.close()
    finally:
        directory.close()
