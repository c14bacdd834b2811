"""Whether the agents' programs are there: looked up at the start, and again every minute.

A program that is missing is nobody's failure: its agent is refused with that reason, the others run, and when
somebody installs it the agent starts without being asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import trio

from darkfactory.model.events import ToolsChecked
from darkfactory.runtime.agent_run import Workplace
from darkfactory.runtime.inbox import Sender
from darkfactory.tools.environment import environment

CHECK_SECS: Final = 60.0


def missing_program(place: Workplace) -> str | None:
    """What is missing for this agent's runs, for a person to read; None when its program is there."""
    env = environment(place.agent, place.tool, place.machine.environ)
    if place.machine.launcher.locate(place.tool.program, env, place.working_dir) is not None:
        return None
    if "/" in place.tool.program:
        return f"{place.tool.program} is no executable file"
    if "PATH" in place.agent.env:  # its value may hold a secret
        return f"{place.tool.program} was not found on the PATH that the agent's env sets"
    return f"{place.tool.program} was not found on PATH ({env.get('PATH', 'which is not set')})"


async def watch_tools(places: Mapping[str, Workplace], sender: Sender) -> None:
    """Tell the supervisor what is missing: once at the start, then when it has changed; until cancelled."""
    told: Mapping[str, str] | None = None
    while True:
        found = {name: missing_program(place) for name, place in places.items() if place.agent.enabled}
        missing = {name: what for name, what in found.items() if what is not None}
        if missing != told:
            told = missing
            await sender.send(ToolsChecked(sender.now(), missing))
        await trio.sleep(CHECK_SECS)
