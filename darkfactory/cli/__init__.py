"""The command: `darkfactory [run] FLEET`; and `check`, `review`, `route`, `verdict` and `worktrees`.

Exit codes: 0 stopped in order, 1 our failure, something that could not be ended, a review that failed, or a task that
no agent can get, 2 usage or configuration, 3 already running, 4 a tool is missing or logged out (`check --tools`),
128 + N after being asked twice by signal N.
"""

from __future__ import annotations

import gc
import linecache
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Final, NoReturn

import attrs
import click

from darkfactory.cli import sparing
from darkfactory.config import load_config
from darkfactory.errors import ConfigError, Fault
from darkfactory.model.fleet import BUILTIN_TOOLS, AgentDefinition, AgentLayer, OrchestratorConfig
from darkfactory.model.signals import Stream

BAD_USAGE: Final = 2


class _RunByDefault(click.Group):
    """`darkfactory FLEET` means `darkfactory run FLEET`; a file named like a command is written `./check`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in {"--help", "--version"}:
            args.insert(0, "run")
        return super().parse_args(ctx, args)


@click.group(cls=_RunByDefault, context_settings={"help_option_names": ["--help"]})
@click.version_option(package_name="darkfactory")
def main() -> None:
    """Supervise a fleet of command-line AI agents, unattended.

    `darkfactory FLEET` runs the fleet that the file FLEET declares.
    """


FLEET = click.argument("fleet", type=click.Path(path_type=Path))


@main.command()
@FLEET
@click.option("--state-dir", type=click.Path(path_type=Path), help="Where journal and runs are kept.")
@click.option("--resume", "resume", metavar="AGENT", multiple=True, help="End this agent's hold. May be repeated.")
@click.option("--repair", "repair", is_flag=True, help="Mend a damaged journal, tell what was left out, and exit.")
def run(fleet: Path, state_dir: Path | None, resume: tuple[str, ...], repair: bool) -> None:
    """Run the fleet until SIGTERM or SIGINT; a second signal kills at once."""
    if repair and resume:
        raise click.UsageError("--repair starts nothing: use --resume at the start after it")
    gc.disable()  # what is made until the start is no garbage, so looking for it is 35 ms in vain
    config = load(fleet, paths_exist=True)
    if state_dir is not None:
        config = attrs.evolve(config, state_dir=state_dir.absolute())
    if repair:
        from darkfactory.cli import repairing

        sys.exit(repairing.repair(config))
    with sparing.hidden("rich"), sparing.postponed("asyncio", "hmac", "idna", "ssl"):
        from darkfactory.cli import command

    linecache.clearcache()  # where attrs leaves the source of whatever it has made, 0.7 MiB for nothing but debuggers
    gc.freeze()  # nor later: a look at all of it would make the supervisor deaf for 30 ms
    gc.enable()
    sys.exit(command.run(config, resume))


@main.command()
@FLEET
@click.option("--tools", is_flag=True, help="Look for logins too; exit 4 if a tool is missing or logged out.")
def check(fleet: Path, tools: bool) -> None:
    """Show the agents of the fleet, or what is wrong with its file.

    What this machine lacks (a directory, a tool) is a warning, since a file may be checked elsewhere than it runs.
    With --tools it is not: then each agent's HOME and login are looked for, with the environment that it would have.
    """
    config = load(fleet, paths_exist=False)
    from darkfactory.cli import checking

    sys.exit(checking.check(config, strict=tools))


def _capability(_context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if not any(map(str.isalnum, value)):
            raise click.BadParameter(f"{value!r} has neither a letter nor a digit")
    return values


@main.command()
@click.argument("text")
@FLEET
@click.option(
    "--capability",
    "capabilities",
    metavar="NAME",
    multiple=True,
    callback=_capability,
    help="The agent must declare it. May be repeated: then it must declare all of them.",
)
@click.option("--state-dir", type=click.Path(path_type=Path), help="Where the journal is kept.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object; its agent is null where none can be chosen.")
def route(text: str, fleet: Path, capabilities: tuple[str, ...], state_dir: Path | None, as_json: bool) -> None:
    """Tell which agent a task with this TEXT would go to, and why; exit 1 if to none.

    Nothing is started or written. Who is held and which provider is blocked is read from the fleet's journal, also
    while a factory runs.
    """
    config = load(fleet, paths_exist=False)
    if state_dir is not None:
        config = attrs.evolve(config, state_dir=state_dir.absolute())
    from darkfactory.cli import routing

    sys.exit(routing.explain(config, text, capabilities, as_json=as_json))


def _instant(_context: click.Context, _option: click.Parameter, value: str | None) -> datetime | None:
    try:
        return None if value is None else datetime.fromisoformat(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is no time such as 2026-11-23T04:53:00Z") from None


FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@main.command()
@click.option(
    "--tool",
    required=True,
    metavar="NAME",
    help="claude, codex, gemini, opencode, pi, qwen, bash or demo, or the path of one.",
)
@click.option("--fleet", type=click.Path(path_type=Path), help="A fleet file, whose [tools] may be named too.")
@click.option("--exit-code", type=int, required=True, help="Minus the signal's number where one ended it.")
@click.option("--stdout", type=FILE, required=True, help="What it printed.")
@click.option("--stderr", type=FILE, help="What it printed there.")
@click.option("--former", type=FILE, help="stdout of the run before, if this one resumed its session.")
@click.option("--at", callback=_instant, metavar="ISO", help="When it ended; else when stdout was last written to.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def verdict(
    tool: str,
    fleet: Path | None,
    exit_code: int,
    stdout: Path,
    stderr: Path | None,
    former: Path | None,
    at: datetime | None,
    as_json: bool,
) -> None:
    """Explain how a run ended, from what it left: its files, and its exit code.

    A run's files are in the state directory, below runs/.
    """
    from darkfactory.tools import tool_for

    tools = {} if fleet is None else load(fleet, paths_exist=False).tools
    try:
        adapter = tool_for(AgentDefinition("a", AgentLayer.GROWTH, tool, ""), tools)
    except KeyError:
        known = ", ".join((*BUILTIN_TOOLS, *tools))
        raise click.BadParameter(f"{tool!r} is none of: {known}", param_hint="--tool") from None
    from darkfactory.cli.verdict import explain

    files = {Stream.STDOUT: stdout} | ({Stream.STDERR: stderr} if stderr is not None else {})
    try:
        explain(adapter, exit_code, files, former, at, as_json=as_json)
    except OSError as error:
        refuse(error)


@main.command()
@FLEET
@click.argument("runs", metavar="[RUN]...", nargs=-1)
@click.option("--state-dir", type=click.Path(path_type=Path), help="Where journal and runs are kept.")
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
@click.option(
    "--prune", is_flag=True, help="Show what would be lost with those of the RUNs; else all that lose nothing."
)
@click.option("--yes", is_flag=True, help="Remove them, their branches, and what was shown.")
def worktrees(
    fleet: Path, runs: tuple[str, ...], state_dir: Path | None, as_json: bool, prune: bool, yes: bool
) -> None:
    """List the worktrees of agents with isolation = "worktree", or throw some away.

    A factory may run meanwhile; the worktree of a run that lives stays.
    """
    if not prune and (runs or yes):
        raise click.UsageError("RUN and --yes go with --prune")
    if prune and as_json:
        raise click.UsageError("--json lists; it does not go with --prune")
    config = load(fleet, paths_exist=False)
    if state_dir is not None:
        config = attrs.evolve(config, state_dir=state_dir.absolute())
    from darkfactory.cli import trees

    sys.exit(trees.prune(config, runs, yes=yes) if prune else trees.show(config, as_json=as_json))


@main.command()
@FLEET
@click.option("--dry-run", is_flag=True, help="Only look, beside a factory that runs too. Nothing is written.")
@click.option("--last", is_flag=True, help="Show the report of the last one; exit 1 if there is none.")
@click.option("--state-dir", type=click.Path(path_type=Path), help="Where journal and reports are kept.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def review(fleet: Path, dry_run: bool, last: bool, state_dir: Path | None, as_json: bool) -> None:
    """Review the repository now, as [compound_review] says; exit 1 if that fails.

    No agent runs for anything else meanwhile. Where a factory runs it is refused with 3: that one reviews by its
    schedule.
    """
    if dry_run and last:
        raise click.UsageError("--last shows a review that is over; it does not go with --dry-run")
    config = load(fleet, paths_exist=not (dry_run or last))
    if config.compound_review is None:
        remedy = 'add it, with schedule = "0 2 * * *" and repo_path = "."'
        refuse(ConfigError(str(fleet), (Fault("compound_review", "is missing: nothing is reviewed", None, remedy),)))
    if state_dir is not None:
        config = attrs.evolve(config, state_dir=state_dir.absolute())
    from darkfactory.cli import reviewing

    if last:
        sys.exit(reviewing.last(config, as_json=as_json))
    sys.exit((reviewing.look if dry_run else reviewing.review)(config, as_json=as_json))


def load(fleet: Path, *, paths_exist: bool) -> OrchestratorConfig:
    """The fleet of a file; with a fault in it, tell every one and exit."""
    try:
        return load_config(fleet, os.environ, paths_exist=paths_exist)
    except ConfigError as error:
        refuse(error)


def refuse(error: Exception, exit_code: int = BAD_USAGE) -> NoReturn:
    """Tell what is wrong, without a traceback, and exit."""
    click.echo(str(error), err=True)
    sys.exit(exit_code)
