"""`darkfactory check FLEET`: what would run, with which program, and when; and whether it would find what it needs."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from datetime import datetime

import click
import trio
from attrs import evolve, frozen
from rich.console import Console
from rich.table import Table

from darkfactory.cli import surroundings
from darkfactory.config import missing_paths, warnings_of
from darkfactory.devices.clock import SystemClock
from darkfactory.devices.spawning import locate
from darkfactory.model.fleet import AgentDefinition, CompoundReviewConfig, OrchestratorConfig
from darkfactory.policy.schedule import Schedule
from darkfactory.tools import tool_for
from darkfactory.tools.environment import environment
from darkfactory.tools.login import login_of

TOOL_MISSING = 4
"""Or logged out, or without the HOME that it keeps its files in."""
FIRES_SHOWN = 3
_FALLBACK = " (fallback)"
"""Behind the name of an agent, as no name can have it."""
_WIDE = 180
"""Columns where there is no terminal to ask."""


@frozen
class _Seen:
    """What was seen of one agent's surroundings."""

    program: str | None
    login: str = "-"
    faults: tuple[str, ...] = ()
    """What keeps it from running, each for a person to read."""
    doubts: tuple[str, ...] = ()


def check(config: OrchestratorConfig, *, strict: bool) -> int:
    """Print the fleet; 0, or with `strict` 4 when an enabled agent's tool is missing or logged out.

    Only with `strict` are logins looked for.
    """
    agents = _with_fallbacks(config)
    seen = trio.run(_look, agents, config) if strict else {agent.name: _glance(agent, config) for agent in agents}
    console = Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False)
    columns = ("agent", "layer", "tool", "program", *(("login",) if strict else ()), f"next {FIRES_SHOWN} starts")
    table = Table(*columns, box=None, pad_edge=False)
    now = SystemClock().utc()
    for agent in agents:
        found = seen[agent.name]
        cells = (agent.cli_tool, found.program or "MISSING", *((found.login,) if strict else ()))
        falls_back = agent.name.endswith(_FALLBACK)
        starts = "while its provider is blocked" if falls_back else _starts(agent, config, now)
        table.add_row(agent.name, agent.layer.value, *cells, starts)
    console.print(table)
    if config.compound_review is not None:
        _tell_review(config.compound_review, config, now)
    for warning in (*warnings_of(config), *missing_paths(config)):
        click.echo(f"warning: {warning.render(str(config.source))}", err=True)
    for name, found in seen.items():
        for doubt in found.doubts:
            click.echo(f"warning: {name}: {doubt}", err=True)
        for fault in found.faults:
            click.echo(f"{name}: {fault}", err=True)
    return TOOL_MISSING if strict and any(found.faults for found in seen.values()) else 0


def _tell_review(review: CompoundReviewConfig, config: OrchestratorConfig, now: datetime) -> None:
    kind = "with pull requests" if review.create_prs else "a dry run"
    click.echo(f"\ncompound review, {kind}: {_next(review.schedule, config, now)}")
    if review.create_prs and locate("gh", os.environ, config.working_dir) is None:
        remedy = "install it (https://cli.github.com)"
        click.echo(f"warning: compound review: there is no gh to open pull requests with; {remedy}", err=True)


def _with_fallbacks(config: OrchestratorConfig) -> list[AgentDefinition]:
    """The agents; behind each that has a fallback, itself as it runs with that."""
    found: list[AgentDefinition] = []
    for agent in config.agents:
        found.append(agent)
        if agent.fallback is not None:
            found.append(evolve(agent.fallen_back(), name=agent.name + _FALLBACK))
    return found


def _glance(agent: AgentDefinition, config: OrchestratorConfig) -> _Seen:
    """Whether its program is there."""
    tool = tool_for(agent, config.tools)
    program = locate(tool.program, environment(agent, tool, os.environ), config.working_dir)
    without = "it does not fall back" if agent.name.endswith(_FALLBACK) else "the fleet runs without this agent"
    missing = f"its tool is missing; {without} until it is installed"
    return _Seen(program, faults=(missing,) if program is None and agent.enabled else ())


async def _look(agents: list[AgentDefinition], config: OrchestratorConfig) -> dict[str, _Seen]:
    """The whole of it, for all of them that are enabled."""
    logins = surroundings.Logins(os.environ, config.working_dir)
    seen: dict[str, _Seen] = {}
    await trio.lowlevel.checkpoint()
    for agent in agents:
        seen[agent.name] = await _look_around(agent, config, logins) if agent.enabled else _glance(agent, config)
    return seen


async def _look_around(agent: AgentDefinition, config: OrchestratorConfig, logins: surroundings.Logins) -> _Seen:
    await trio.lowlevel.checkpoint()
    seen = _glance(agent, config)
    env = environment(agent, tool_for(agent, config.tools), os.environ)
    login = login_of(agent, config.tools)
    wrong = _home(agent, env, needed=login is not None)
    if login is None:
        return evolve(seen, doubts=wrong)
    # Not asked where its HOME is wrong: it would make one that is not there.
    answer = await logins.look(agent, login, None if wrong else seen.program, env)
    return _with_login(evolve(seen, faults=(*seen.faults, *wrong)), answer)


def _with_login(seen: _Seen, answer: surroundings.Answer) -> _Seen:
    match answer.logged_in:
        case True:
            return evolve(seen, login=answer.why)
        case False:
            return evolve(seen, login="NONE", faults=(*seen.faults, f"no login found: {answer.why}"))
    doubt = f"whether it is logged in is not known: {answer.why}"
    return evolve(seen, login="not known", doubts=(*seen.doubts, doubt))


def _home(agent: AgentDefinition, env: Mapping[str, str], *, needed: bool) -> tuple[str, ...]:
    """What is wrong with its HOME, if anything is; `needed` by a tool that keeps its login there."""
    wrong = surroundings.fault_of_home(env)
    if wrong is None:
        return ()
    own = "HOME" in agent.env  # its value may be a secret
    home = "HOME" if own or not env.get("HOME") else f"HOME ({env['HOME']})"
    remedy = "correct it in its env" if own else "correct it where the factory is started, or set another in its env"
    return (f"wrong {home}: it {wrong}; {remedy}" + ("" if needed else ", if its programs keep files there"),)


def _starts(agent: AgentDefinition, config: OrchestratorConfig, now: datetime) -> str:
    if not agent.enabled:
        return "disabled"
    if agent.schedule is None:
        return "always on" if agent.layer.value == "Safety" else "on demand"
    return _next(agent.schedule, config, now)


def _next(cron: str, config: OrchestratorConfig, now: datetime) -> str:
    schedule = Schedule(cron, config.timezone)
    found: list[str] = []
    at: datetime | None = now
    while at is not None and len(found) < FIRES_SHOWN:
        at = schedule.after(at)
        if at is not None:
            found.append(f"{at.astimezone(config.timezone):%a %Y-%m-%d %H:%M %Z}")
    return ", ".join(found) or "never"
