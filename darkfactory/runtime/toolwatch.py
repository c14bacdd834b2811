"""Whether the agents' programs are there: looked up at the start, and again every minute.

A program that is missing is nobody's failure: its agent is refused with that reason, the others run, and when
somebody installs it the agent starts without being asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

from attrs import frozen

from darkfactory.devices.process import Launcher
from darkfactory.model.events import ToolsChecked
from darkfactory.runtime.beat import Beat
from darkfactory.runtime.body import Workplace
from darkfactory.runtime.inbox import Sender

CHECK_BEATS: Final = 2
"""A minute."""


@frozen
class _Program:
    """What is looked up; once for all the agents that have it in common."""

    name: str
    path: str | None
    """The PATH of its runs, if they have one."""
    working_dir: Path

    @classmethod
    def of(cls, place: Workplace) -> _Program:
        return cls(place.tool.program, place.env.get("PATH"), place.working_dir)

    def is_there(self, launcher: Launcher) -> bool:
        env = {} if self.path is None else {"PATH": self.path}
        return launcher.locate(self.name, env, self.working_dir) is not None

    def missed_by(self, place: Workplace) -> str:
        """What is missing, for a person to read."""
        if "/" in self.name:
            return f"{self.name} is no executable file"
        if "PATH" in place.agent.env:  # its value may hold a secret
            return f"{self.name} was not found on the PATH that the agent's env sets"
        return f"{self.name} was not found on PATH ({self.path or 'which is not set'})"


async def watch_tools(places: Mapping[str, Workplace], launcher: Launcher, sender: Sender, beat: Beat) -> None:
    """Tell the supervisor what is missing: once at the start, then when it has changed; until cancelled."""
    users = {name: _Program.of(place) for name, place in places.items() if place.agent.enabled}
    fallbacks = {name: _Program.of(place.fallback) for name, place in places.items() if place.fallback is not None}
    programs = {*users.values(), *fallbacks.values()}

    def missed() -> set[_Program]:
        return {program for program in programs if not program.is_there(launcher)}

    def missed_others_than(told: set[_Program]) -> bool:
        return missed() != told

    while True:
        gone = missed()
        missing = {name: program.missed_by(places[name]) for name, program in users.items() if program in gone}
        without = frozenset(name for name, program in fallbacks.items() if program in gone)
        await sender.send(ToolsChecked(sender.now(), missing, without))
        await beat.wait(CHECK_BEATS, finds=partial(missed_others_than, gone))
