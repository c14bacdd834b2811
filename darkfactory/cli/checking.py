"""`darkfactory check FLEET`: what would run, with which program, and when."""

from __future__ import annotations

import os
import sys
from datetime import datetime

import click
from rich.console import Console
from rich.table import Table

from darkfactory.config import missing_paths, warnings_of
from darkfactory.devices.clock import SystemClock
from darkfactory.devices.launcher import locate
from darkfactory.model.fleet import AgentDefinition, OrchestratorConfig
from darkfactory.policy.schedule import Schedule
from darkfactory.tools import tool_for
from darkfactory.tools.environment import environment

TOOL_MISSING = 4
FIRES_SHOWN = 3
_WIDE = 160
"""Columns where there is no terminal to ask."""


def check(config: OrchestratorConfig, *, strict: bool) -> int:
    """Print the fleet; 0, or with `strict` 4 when a program is missing."""
    console = Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False)
    table = Table("agent", "layer", "tool", "program", f"next {FIRES_SHOWN} starts", box=None, pad_edge=False)
    now = SystemClock().utc()
    missing: list[str] = []
    for agent in config.agents:
        program = _program(agent, config)
        if program is None:
            missing.append(agent.name)
        table.add_row(agent.name, agent.layer.value, agent.cli_tool, program or "MISSING", _starts(agent, config, now))
    console.print(table)
    for warning in (*warnings_of(config), *missing_paths(config)):
        click.echo(f"warning: {warning.render(str(config.source))}", err=True)
    for name in missing:
        click.echo(f"{name}: its tool is missing; the fleet runs without this agent until it is installed", err=True)
    return TOOL_MISSING if strict and missing else 0


def _program(agent: AgentDefinition, config: OrchestratorConfig) -> str | None:
    tool = tool_for(agent, config.tools)
    return locate(tool.program, environment(agent, tool, os.environ), config.working_dir)


def _starts(agent: AgentDefinition, config: OrchestratorConfig, now: datetime) -> str:
    if not agent.enabled:
        return "disabled"
    if agent.schedule is None:
        return "always on" if agent.layer.value == "Safety" else "on demand"
    schedule = Schedule(agent.schedule, config.timezone)
    found: list[str] = []
    at: datetime | None = now
    while at is not None and len(found) < FIRES_SHOWN:
        at = schedule.after(at)
        if at is not None:
            found.append(f"{at.astimezone(config.timezone):%a %Y-%m-%d %H:%M %Z}")
    return ", ".join(found) or "never"
