"""An agent's definition, read anew from the fleet file while the factory runs.

The file is read in a thread, and what was found goes to the supervisor as an event; what that makes of it comes back as
an order, and holds from the agent's next run on.
"""

from __future__ import annotations

import os
import stat
from functools import partial
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

import trio
from attrs import define, evolve, field

from darkfactory.config import parse_config
from darkfactory.devices import threads
from darkfactory.errors import ConfigError
from darkfactory.model.actions import Redefine
from darkfactory.model.events import DefinitionRead
from darkfactory.model.fleet import OrchestratorConfig
from darkfactory.policy.quoting import plain
from darkfactory.policy.schedule import Schedule, ScheduledAgent
from darkfactory.runtime.body import Workplace
from darkfactory.runtime.inbox import Sender
from darkfactory.runtime.scheduler import TimeScheduler

READ_SECS: Final = 30.0
"""A file that cannot be read in this time is given up."""
LARGEST_BYTES: Final = 4 * 1024**2
"""Agents can write the file; one that is larger than this is not read."""


class _Unreadable(Exception):
    """Why the file was not read."""


@define(eq=False)
class Definitions:
    """What each agent's runs go by. Its methods are no checkpoints unless they say so."""

    places: dict[str, Workplace]
    """By the agent's name; a new definition takes the place of the old one in here."""
    timetable: TimeScheduler
    timezone: ZoneInfo
    source: Path | None
    """The fleet file; without one nobody asks for it."""
    sender: Sender
    in_thread: threads.InThread
    _wanted: dict[str, None] = field(factory=dict)
    _any_wanted: trio.Event = field(factory=trio.Event)

    def read(self, agent: str) -> None:
        """Have the agent's definition looked up."""
        self._wanted[agent] = None
        self._any_wanted.set()

    def redefine(self, order: Redefine) -> None:
        """Let the agent's next run, and its schedule, go by the new definition."""
        definition = order.definition
        place = self.places[definition.name]
        fallback = place.fallback and evolve(place.fallback, agent=definition.fallen_back())
        self.places[definition.name] = evolve(place, agent=definition, fallback=fallback)
        if order.cursor is not None and definition.schedule is not None:
            schedule = Schedule(definition.schedule, self.timezone)
            self.timetable.arm(ScheduledAgent(definition.name, schedule, order.cursor))

    async def run(self) -> None:
        """Read the file when somebody wants it, until cancelled."""
        while True:
            await self._any_wanted.wait()
            self._any_wanted = trio.Event()
            wanted, self._wanted = self._wanted, {}
            fleet, problem = await self._read()
            for agent in wanted:
                found = next((each for each in fleet.agents if each.name == agent), None) if fleet else None
                missing = "" if found is not None or problem else "it is no longer declared in the fleet file"
                await self.sender.send(DefinitionRead(self.sender.now(), agent, found, problem or missing))

    async def _read(self) -> tuple[OrchestratorConfig | None, str]:
        """The fleet that the file declares now, or why there is none."""
        assert self.source is not None
        await trio.lowlevel.checkpoint()
        with trio.move_on_after(READ_SECS):  # noqa: ASYNC912 - whatever a thread is, it is a checkpoint
            try:
                return await self.in_thread(partial(_load, self.source)), ""
            except ConfigError as error:
                more = f" ({len(error.faults)} faults in all)" if len(error.faults) > 1 else ""
                return None, plain(error.faults[0].render(Path(error.file).name)) + more
            except _Unreadable as error:
                return None, str(error)
            except RuntimeError as error:
                if not threads.none_left(error):
                    raise
                return None, "there was no thread to read the fleet file with"
        return None, f"the fleet file could not be read within {READ_SECS:g} s"


def _load(source: Path) -> OrchestratorConfig:
    """The fleet that the file declares; it is opened once, since whoever can write it could change it in between."""
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # to open a FIFO would block
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise _Unreadable("the fleet file is no regular file any more")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                content = file.read(LARGEST_BYTES + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _Unreadable(f"the fleet file cannot be read: {error.strerror}") from None
    if len(content) > LARGEST_BYTES:
        raise _Unreadable(f"the fleet file has more than {LARGEST_BYTES} bytes, and more are not read")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _Unreadable("the fleet file is not UTF-8 text") from None
    return parse_config(text, file=str(source), base=source.parent, environ=os.environ)
