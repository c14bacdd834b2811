"""`darkfactory worktrees`: what runs have left in worktrees of their own, and the only way to throw it away.

It works while a factory runs: a worktree that a run is in is locked by it, and left alone here.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import click
import trio
from attrs import asdict, frozen
from rich.console import Console
from rich.table import Table

from darkfactory.devices.clock import SystemClock
from darkfactory.devices.git import Git, GitError
from darkfactory.devices.launcher import RealLauncher
from darkfactory.devices.worktree_directories import WorktreeDirectories
from darkfactory.devices.worktree_store import Record, WorktreeStore
from darkfactory.devices.worktrees import Loss, counted
from darkfactory.errors import OrchestratorError
from darkfactory.model.fleet import OrchestratorConfig
from darkfactory.runtime.factory import state_dir_of

FAILED = 1
UNKNOWN = 2
_WIDE = 180
"""Columns where there is no terminal to ask."""


@frozen
class _Seen:
    """One worktree, now."""

    record: Record
    lives: bool
    """Its run does, or somebody settles it at this moment: then it is not looked into."""
    loss: Loss | None = None
    problem: str | None = None
    """Why nobody knows what it holds."""

    @property
    def state(self) -> str:
        if self.lives:
            return "in use"
        if self.loss is None:
            return f"unknown: {self.problem}"
        words = [counted(len(self.loss.commits))] if self.loss.commits else []
        words += ["dirty"] if self.loss.dirty else []
        words += [self.loss.oddity] if self.loss.oddity else []
        return ", ".join(words) or "merged"


def show(config: OrchestratorConfig, *, as_json: bool) -> int:
    """Print every worktree of the fleet; the exit code."""
    device = _device(config)
    if device is None:
        return FAILED
    seen = trio.run(_look, device, device.store.all())
    if as_json:
        click.echo(json.dumps([_told(device, one) for one in seen], indent=1))
        return 0
    if not seen:
        click.echo("there are no worktrees")
        return 0
    table = Table("run", "agent", "branch", "age", "holds", box=None, pad_edge=False)
    now = SystemClock().utc()
    for one in seen:
        branches = _shown(", ".join(_branches(one)))
        table.add_row(one.record.run, one.record.agent, branches, _age(one.record, now), _shown(one.state))
    Console(width=None if os.isatty(1) else _WIDE, highlight=False, markup=False).print(table)
    click.echo(f"their files are in {device.store.path}")
    return 0


def prune(config: OrchestratorConfig, runs: tuple[str, ...], *, yes: bool) -> int:
    """Remove the worktrees of these runs, or else all with which nothing is lost; the exit code.

    What would be lost is shown first; without `yes`, that is all.
    """
    device = _device(config)
    if device is None:
        return FAILED
    records = {record.run: record for record in device.store.all()}
    unknown = [run for run in runs if run not in records]
    if unknown:
        click.echo(f"no worktree is that of {', '.join(map(_shown, unknown))}", err=True)
        return UNKNOWN
    wanted = [records[run] for run in runs] if runs else list(records.values())
    seen = trio.run(_look, device, wanted)
    if not runs:
        seen = [one for one in seen if one.loss is not None and not one.loss]
    bad = False
    for one in seen:
        run = one.record.run
        if one.lives:
            click.echo(f"{run}: its run lives, or somebody else is at it; it stays", err=True)
            bad = True
        elif one.loss is None:
            click.echo(f"{run}: it stays, as nobody knows what it holds: {_shown(one.problem or '')}", err=True)
            bad = True
        else:
            _tell_loss(device, one.record, one.loss)
            if yes:
                bad = not trio.run(_remove, device, one.record, one.loss) or bad
    if not seen:
        click.echo("nothing can be removed without losing something; name the runs whose work you do not want")
    elif not yes:
        click.echo("nothing was removed: say --yes for that")
    return FAILED if bad else 0


def _device(config: OrchestratorConfig) -> WorktreeDirectories | None:
    try:
        store = WorktreeStore(state_dir_of(config) / "worktrees")
    except OrchestratorError as error:
        click.echo(str(error), err=True)
        return None
    launcher = RealLauncher(f"worktrees-{uuid.uuid4().hex}", os.environ.get("DARKFACTORY_RUN"))
    return WorktreeDirectories(Git(launcher, store.scratch, os.environ), store)


async def _look(device: WorktreeDirectories, records: Iterable[Record]) -> list[_Seen]:
    found = []
    await trio.lowlevel.checkpoint()
    for record in records:
        try:
            lives = device.lives(record.run)
            found.append(_Seen(record, lives, None if lives else await device.loss(record)))
        except (GitError, OSError) as error:
            found.append(_Seen(record, lives=False, problem=str(error)))
    return found


async def _remove(device: WorktreeDirectories, record: Record, loss: Loss) -> bool:
    try:
        if not await device.remove(record, loss):
            click.echo(f"{record.run}: somebody else is at it now; it stays", err=True)
            return False
    except (GitError, OSError) as error:
        click.echo(f"{record.run}: {_shown(str(error))}", err=True)
        return False  # noqa: ASYNC910 - git is one
    problem = await device.bury()
    if problem is not None:
        click.echo(f"{record.run}: not everything could be deleted: {_shown(problem)}", err=True)
    click.echo(f"{record.run}: removed")
    return problem is None


def _tell_loss(device: WorktreeDirectories, record: Record, loss: Loss) -> None:
    click.echo(f"{record.run} of {record.agent}: {device.store.files(record.run)}")
    for name, at in loss.branches.items():
        click.echo(f"  branch {_shown(name.removeprefix('refs/heads/'))} at {at}")
    if loss.oddity:
        click.echo(f"  not as it was left: {_shown(loss.oddity)}")
    for sha, subject in loss.commits:
        click.echo(f"  commit {sha[:12]} {_shown(subject)}")
    for line in loss.files:
        click.echo(f"    {_shown(line)}")
    for line in loss.dirty:
        click.echo(f"  not committed: {_shown(line)}")
    if not loss:
        click.echo("  nothing is lost with it")


def _told(device: WorktreeDirectories, one: _Seen) -> dict[str, Any]:
    loss = None if one.loss is None else asdict(one.loss)
    return {
        "run": one.record.run,
        "agent": one.record.agent,
        "path": str(device.store.files(one.record.run)),
        "branches": _branches(one),
        "begun_at": one.record.commit,
        "base": one.record.base,
        "created": one.record.created,
        "in_use": one.lives,
        "kept": one.record.kept,
        "commits": None if loss is None else [{"commit": sha, "subject": text} for sha, text in loss["commits"]],
        "files": None if loss is None else loss["files"],
        "dirty": None if loss is None else loss["dirty"],
        "oddity": None if loss is None else loss["oddity"],
        "problem": one.problem,
    }


def _branches(one: _Seen) -> list[str]:
    if one.loss is None:
        return [one.record.branch]
    return [name.removeprefix("refs/heads/") for name in one.loss.branches]


def _age(record: Record, now: datetime) -> str:
    secs = (now - datetime.fromisoformat(record.created)).total_seconds()
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if secs >= length:
            return f"{secs // length:.0f} {unit}"
    return f"{max(secs, 0):.0f} s"


def _shown(text: str) -> str:
    """What agents named, without what a terminal would obey."""
    return "".join(character if character.isprintable() else "?" for character in text)
