"""Everything a factory stands on, in one value: the real machine, or a simulated one (`darkfactory.testing`)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from attrs import field, frozen

from darkfactory.devices import procfs, segments, threads
from darkfactory.devices.agent_mail import LeaseServer
from darkfactory.devices.cgroup import Cgroups, NoCgroup
from darkfactory.devices.clock import CivilClock, SystemClock
from darkfactory.devices.disk import Disk, Mounts
from darkfactory.devices.git import Git
from darkfactory.devices.guard import Guard
from darkfactory.devices.handoffs import HandoffFiles, HandoffStore
from darkfactory.devices.journal import FileJournal, Journal
from darkfactory.devices.launcher import RealLauncher
from darkfactory.devices.process import Launcher
from darkfactory.devices.reviews import ReportFiles, ReviewDevices
from darkfactory.devices.runstore import RunDirectories, RunStore
from darkfactory.devices.segments import Line
from darkfactory.devices.statedir import StateDir
from darkfactory.devices.worktree_directories import WorktreeDirectories
from darkfactory.devices.worktree_store import WorktreeStore
from darkfactory.devices.worktrees import Worktrees
from darkfactory.errors import SpawnFailed, StateDirError
from darkfactory.model.fleet import Containment


@frozen
class Contained:
    """By what means runs are kept together on this machine, and what those means cannot do."""

    level: Containment
    """CGROUP or GUARD."""
    kernel_limits_memory: bool
    not_guaranteed: tuple[str, ...]
    """Plain sentences."""
    why: str | None = None
    """Why there are no cgroups; None where there are, or where none were wanted."""


@frozen
class Machine:
    """Clock, processes, memory and files."""

    clock: CivilClock
    launcher: Launcher
    journal: Journal
    runs: RunStore
    disk: Disk
    handoffs: HandoffStore
    worktrees: Worktrees
    history: Iterable[Line] = field(default=(), repr=False)
    """What the journal held at the start; to be read once, before anything is appended."""
    contained: Contained | None = None
    """None for a simulated machine."""
    environ: Mapping[str, str] = field(factory=dict, repr=False)
    """Where the agents' `env_pass` is taken from."""
    in_thread: threads.InThread = threads.in_thread
    leases: LeaseServer | None = None
    """Who gives leases besides the gate; None where nobody does."""
    review: ReviewDevices | None = None
    """None where the fleet has no review."""


@contextmanager
def open_machine(
    state_dir: Path,
    fleet_file: Path | None,
    wanted: Containment = Containment.AUTO,
    *,
    keep: timedelta,
    adopts: bool = False,
    open_files: int | None = None,
    leases: Callable[[str], LeaseServer] | None = None,
    isolates: bool = False,
    reviews: bool = False,
) -> Iterator[Machine]:
    """The real machine, with the state directory locked for us and a guard that waits for our death.

    `keep` is how long old parts of the journal stay.

    `adopts`: this process is a child subreaper, and the orphans that come to it are those of runs. `open_files`: the
    soft limit that runs get in place of ours. `isolates`: runs write to worktrees as well. `leases` is told by what
    this factory can be told from all others. `reviews`: the repository is reviewed.

    Raises AlreadyRunning, StateDirError, JournalDamaged, or NoCgroup where one was demanded; then nothing is held.
    """
    clock = SystemClock()
    directory = StateDir.open(state_dir, fleet_file)
    try:
        try:
            journal = FileJournal(directory.journal, clock.utc(), keep)
        except OSError as error:
            raise StateDirError(f"{directory.journal}: the journal cannot be opened: {error.strerror}") from error
        try:
            with _launcher(directory.instance, wanted, adopts=adopts, open_files=open_files) as (launcher, contained):
                store = WorktreeStore(directory.worktrees)
                if isolates:
                    _prepare(store, clock.utc())
                yield Machine(
                    clock=clock,
                    launcher=launcher,
                    journal=journal,
                    runs=RunDirectories(directory.runs),
                    disk=Mounts((directory.journal, directory.runs, *([store.path] if isolates else ()))),
                    worktrees=WorktreeDirectories(Git(launcher, store.scratch, os.environ), store),
                    handoffs=HandoffFiles(directory.handoffs),
                    history=journal.history(),
                    contained=contained,
                    environ=dict(os.environ),
                    leases=leases(directory.instance) if leases is not None else None,
                    review=_review_devices(directory, launcher) if reviews else None,
                )
        finally:
            journal.close()
    finally:
        directory.close()


def _review_devices(directory: StateDir, launcher: RealLauncher) -> ReviewDevices:
    from darkfactory.devices.github import GitHub  # most fleets have no review
    from darkfactory.devices.scan import GitScanner

    reports = ReportFiles(directory.reviews)
    shutil.rmtree(reports.scratch, ignore_errors=True)  # what a life that was killed has left; the lock is ours
    git = Git(launcher, reports.scratch, os.environ)
    return ReviewDevices(
        scanner=GitScanner(git),
        forge=GitHub(launcher, git, reports.scratch, os.environ),
        reports=reports,
        lines=partial(segments.since, directory.journal),
    )


def _prepare(store: WorktreeStore, now: datetime) -> None:
    try:
        store.prepare()
        store.tidy(now)
    except OSError as error:
        raise StateDirError(f"{store.path}: there can be no worktrees: {error.strerror}") from error


@contextmanager
def _launcher(
    instance: str,
    wanted: Containment,
    *,
    adopts: bool,
    open_files: int | None,
) -> Iterator[tuple[RealLauncher, Contained]]:
    outer_mark = os.environ.get(procfs.MARK)
    cgroups, why = None, None
    if wanted is not Containment.GUARD:
        try:
            cgroups = Cgroups.open(instance)
        except NoCgroup as reason:
            if wanted is Containment.CGROUP:
                raise
            why = str(reason)
    guard = Guard(instance, outer_mark, cgroups.path if cgroups else None)
    try:
        guard.start()
    except OSError as error:
        if cgroups:
            cgroups.close()
        raise SpawnFailed("guard", f"the guard cannot be started, and nothing starts without it: {error}") from error
    launcher = RealLauncher(instance, outer_mark, cgroups=cgroups, guard=guard, adopts=adopts, open_files=open_files)
    try:
        yield launcher, contained(cgroups, why, adopts=adopts)
    finally:
        launcher.close()


def contained(cgroups: Cgroups | None, why: str | None, *, adopts: bool) -> Contained:
    """What these means come to (docs/containment.md has the whole table)."""
    both_killed = "if the factory and its guard are both killed, agents live on until the next start"
    if cgroups is not None:
        moved = "a process that moves itself into a cgroup outside, and drops its mark, its session and its parents"
        return Contained(Containment.CGROUP, cgroups.limits_memory, (moved, both_killed))
    if adopts:
        lost = "a process that drops its mark, its session and its parents, less than a second before a SIGKILL"
        early = "such a process lives on until the runs end that were alive when it began"
        return Contained(Containment.GUARD, False, (lost, early, both_killed), why)
    lost = "a process that drops its mark, its session and its parents between two looks"
    return Contained(Containment.GUARD, False, (lost, both_killed), why)
