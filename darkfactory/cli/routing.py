"""`darkfactory route TEXT FLEET`: who would get this task, and why; asked of nobody who could act on it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any, Final

import attrs
import click

from darkfactory.devices import segments
from darkfactory.devices.clock import SystemClock
from darkfactory.devices.spawning import locate
from darkfactory.devices.statedir import journal_to_read
from darkfactory.errors import JournalDamaged, StateDirError
from darkfactory.model.events import Moment
from darkfactory.model.fleet import OrchestratorConfig
from darkfactory.model.routing import Route, RoutedBy, Standing
from darkfactory.model.state import Durable
from darkfactory.policy import routing
from darkfactory.policy.decide import initial
from darkfactory.policy.draft import Draft
from darkfactory.policy.history import fold
from darkfactory.policy.quoting import plain
from darkfactory.runtime.factory import state_dir_of
from darkfactory.tools import tool_for
from darkfactory.tools.environment import environment

NOBODY: Final = 1
SHOWN: Final = 3
"""Runners-up told to people."""


def explain(config: OrchestratorConfig, text: str, capabilities: Sequence[str], *, as_json: bool) -> int:
    """Print the choice; 0, or 1 when there is none."""
    when = Moment(0.0, SystemClock().utc())
    chosen = routing.route(config, text, capabilities, standing(config, remembered(config), when))
    click.echo(json.dumps(_for_programs(chosen), indent=1) if as_json else _for_people(chosen))
    if chosen.agent is not None:
        doubt(config, chosen.agent)
    return NOBODY if chosen.agent is None else 0


def standing(config: OrchestratorConfig, durable: Durable, when: Moment) -> dict[str, Standing]:
    """How it stands with every agent, as far as the journal tells.

    A run without an end counts as alive: while a factory is at work it is, and else it counts for little.
    """
    state, _ = initial(config, durable, when)
    return routing.standing_of(Draft.of(attrs.evolve(state, runs=durable.alive), when))


def remembered(config: OrchestratorConfig) -> Durable:
    """What the fleet's journal amounts to; nothing where there is none, or, which is told, where it cannot be read."""
    try:
        journal = journal_to_read(state_dir_of(config), config.source)
        return Durable() if journal is None else fold(segments.look(journal), config.timezone)
    except (JournalDamaged, StateDirError, OSError) as error:
        detail = str(error)
    except (ValueError, LookupError, TypeError, AttributeError) as error:  # a record that says what none can say
        detail = f"{state_dir_of(config)}: a record of the journal is not understood: {error!r}"
    click.echo(f"warning: answered without the journal, so holds and blocks are not known: {detail}", err=True)
    return Durable()


def doubt(config: OrchestratorConfig, name: str) -> None:
    """Tell if the agent's program is not here: the factory, which may have another PATH, would pass it over."""
    agent = config.agent(name)
    tool = tool_for(agent, config.tools)
    if locate(tool.program, environment(agent, tool, os.environ), config.working_dir) is None:
        click.echo(f"warning: {name}: its tool is missing here; a factory that misses it passes it over", err=True)


def _for_programs(route: Route) -> dict[str, Any]:
    return attrs.asdict(route, value_serializer=_word)


def _word(_route: object, _field: object, value: Any) -> Any:
    return value.value if isinstance(value, RoutedBy) else value


def _for_people(route: Route) -> str:
    lines = [f"{route.agent} (by {route.by.value})" if route.by is not None else "no agent can be given this"]
    lines += _rows("because", route.reasons)
    if route.agent is None:
        lines += _rows("looked for", [*map(plain, route.looked_for)] or ["nothing that is known"])
    shown = [f"{runner.agent}: {'; '.join(runner.reasons)}" for runner in route.runners_up[:SHOWN]]
    if len(route.runners_up) > SHOWN:
        shown.append(f"and {len(route.runners_up) - SHOWN} more")
    lines += _rows("else", shown)
    lines += _rows("passed over", [f"{agent}: {why}" for agent, why in route.passed_over.items()])
    return "\n".join(lines)


def _rows(name: str, told: Sequence[str]) -> list[str]:
    return [f"  {f'{name}:' if number == 0 else '':<13}{text}" for number, text in enumerate(told)]
