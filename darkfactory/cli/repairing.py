"""`darkfactory FLEET --repair`: a journal that can be read again, and a list of what that has cost.

It starts nothing. What was left out may have been a hold or a run's end, so a person is to read the list first.
"""

from __future__ import annotations

import click

from darkfactory.cli.command import EXIT_CODES
from darkfactory.devices import segments
from darkfactory.devices.clock import SystemClock
from darkfactory.devices.statedir import StateDir
from darkfactory.errors import AlreadyRunning, StateDirError
from darkfactory.model.fleet import OrchestratorConfig
from darkfactory.runtime.factory import state_dir_of

SHOWN_BYTES = 200
"""Of each line that was left out; the whole of it is in the file that was kept."""


def repair(config: OrchestratorConfig) -> int:
    """Repair the journal of that fleet, and tell what was done; the exit code."""
    path = state_dir_of(config)
    if not path.exists():
        click.echo(f"{path}: there is no journal, so there is nothing to repair")
        return 0
    try:
        directory = StateDir.open(path, config.source)
        try:
            repairs = segments.repair(directory.journal, SystemClock().utc())
        finally:
            directory.close()
    except (AlreadyRunning, StateDirError) as error:
        click.echo(str(error), err=True)
        return EXIT_CODES[type(error)]
    for done in repairs:
        for number, raw in done.dropped:
            more = f" and {len(raw) - SHOWN_BYTES} bytes more" if len(raw) > SHOWN_BYTES else ""
            click.echo(f"{done.path}:{number}: left out {raw[:SHOWN_BYTES].decode(errors='replace')!a}{more}")
        if done.forgotten:
            click.echo(f"{done.path}: its first line held what the factory knew before, and that is lost")
        click.echo(f"{done.path}: the file as it was is {done.kept}")
    if not repairs:
        click.echo(f"{directory.journal}: every line can be read; there is nothing to repair")
    return 0
