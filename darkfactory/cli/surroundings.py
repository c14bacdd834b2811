"""Whether an agent will find what it needs on this machine: a HOME of its own, and a login.

Files are looked at and never read, and nothing that is told has the value of a variable in it: names, and paths as
`~/.codex/auth.json`. What cannot be known is told as that: a login may come out of a configuration that only its tool
understands, and to refuse a fleet that would run is worse than to say nothing.
"""

from __future__ import annotations

import os
import pwd
import stat
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import trio
from attrs import define, field, frozen

from darkfactory.devices.launcher import RealLauncher
from darkfactory.devices.process import LaunchSpec
from darkfactory.errors import SpawnFailed
from darkfactory.model.fleet import AgentDefinition
from darkfactory.model.signals import Stream
from darkfactory.tools.login import Kept, Login, variable

ASK_SECS: Final = 10.0
"""Beyond all that a tool was seen to take to tell whether it is logged in (0.4 s)."""
CLEAN_UP_SECS: Final = 10.0
_HEARD_BYTES: Final = 64 * 1024
"""Of its answer."""
_EMPTY: Final = len("{}\n")
"""A file of no more bytes holds nothing: pi leaves a `{}` behind when it is only asked for help."""


@frozen
class Answer:
    """What there is to say about a login."""

    logged_in: bool | None
    """None where that is not known."""
    why: str
    """What was found; or why it is not known; or what was looked for in vain."""


def home_of(env: Mapping[str, str]) -> Path | None:
    """The HOME that a program sees with this environment; without a variable it is that of the user."""
    try:
        return Path(env.get("HOME") or pwd.getpwuid(os.geteuid()).pw_dir)
    except KeyError:
        return None


def fault_of_home(env: Mapping[str, str]) -> str | None:
    """What is wrong with HOME; None when programs can keep their files in it."""
    home = home_of(env)
    if home is None:
        return "is not set, and the system knows of none"
    if not home.is_absolute():
        return "is no absolute path"
    try:
        found = home.stat()
    except (OSError, ValueError) as error:
        return "does not exist" if isinstance(error, FileNotFoundError) else "cannot be reached"
    if not stat.S_ISDIR(found.st_mode):
        return "is no directory"
    if found.st_uid != os.geteuid():
        return f"belongs to another user ({_user(found.st_uid)})"
    if not os.access(home, os.W_OK | os.X_OK, effective_ids=True):
        return "cannot be written"
    return None


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


@define(eq=False)
class Logins:
    """Looks for logins, and asks each tool once that can tell."""

    outer: Mapping[str, str]
    """Our own environment."""
    working_dir: Path
    _told: dict[tuple[str, tuple[tuple[str, str], ...]], bool | None] = field(factory=dict)

    async def look(self, agent: AgentDefinition, login: Login, program: str | None, env: Mapping[str, str]) -> Answer:
        """Whether the agent's tool is logged in with this environment. A checkpoint."""
        await trio.lowlevel.checkpoint()
        if found := variable(login.names(agent), env):
            return Answer(True, found)
        told = None
        if login.ask and program is not None:
            told = await self._ask(login, program, env)
        if told:
            return Answer(True, f"it says so ({' '.join(login.ask[:2])})")
        home = home_of(env)
        looked_for = [*login.names(agent), *(["its own word for it"] if told is False else [])]
        for kept in login.files if told is None else ():
            state = self._state(kept, env, home)
            if state == "there":
                return Answer(True, kept.shown(env))
            looked_for.append(kept.shown(env) + (f" (it {state})" if state else ""))
        unknown = self._unknown(agent, login, env, home, told)
        return Answer(False, self._in_vain(agent, login, env, looked_for)) if unknown is None else Answer(None, unknown)

    def _unknown(
        self, agent: AgentDefinition, login: Login, env: Mapping[str, str], home: Path | None, told: bool | None
    ) -> str | None:
        """Why it may be logged in although nothing was found."""
        if part := login.brought_by(agent):
            return f"its args may bring one ({part})"
        if chosen := variable(login.chosen_by, env):
            return f"{chosen} may choose one"
        if login.ask and told is None:
            return f"it could not be asked ({' '.join(login.ask[:2])})"
        for kept in login.settings:
            if self._state(kept, env, home):
                return f"{kept.shown(env)} may name one"
        return "some of its models need none" if login.optional else None

    def _in_vain(self, agent: AgentDefinition, login: Login, env: Mapping[str, str], looked_for: list[str]) -> str:
        words = f"looked for {', '.join(looked_for)}"
        withheld = variable((*login.names(agent), *login.chosen_by), {**self.outer, **dict.fromkeys(env, "")})
        if withheld is not None:
            return f"{words}; {withheld} is set here and does not reach it: name it in its env_pass"
        return f"{words}; {login.remedy}"

    def _state(self, kept: Kept, env: Mapping[str, str], home: Path | None) -> str:
        """Whether it is "there", or what keeps its contents from being of use; empty when there is no such file."""
        state = ""
        for path in kept.paths(env, home, self.working_dir):
            try:
                found = path.stat()
            except (OSError, ValueError):
                continue
            if not stat.S_ISREG(found.st_mode) or not os.access(path, os.R_OK, effective_ids=True):
                state = "cannot be read"
            elif found.st_size <= _EMPTY:
                state = "is empty"
            else:
                return "there"
        return state

    async def _ask(self, login: Login, program: str, env: Mapping[str, str]) -> bool | None:
        question = program, tuple(sorted(env.items()))
        if question not in self._told:
            self._told[question] = await self._asked(login, (program, *login.ask), env)
        await trio.lowlevel.checkpoint()
        return self._told[question]

    async def _asked(self, login: Login, argv: tuple[str, ...], env: Mapping[str, str]) -> bool | None:
        """Run it for a moment; whatever it starts is ended with it."""
        launcher = RealLauncher(f"check-{uuid.uuid4().hex}", self.outer.get("DARKFACTORY_RUN"))
        heard = _Heard()
        code: int | None = None
        with tempfile.TemporaryDirectory(prefix="darkfactory-") as directory:
            files = Path(directory, "stdout"), Path(directory, "stderr")
            spec = LaunchSpec("check", argv, env, self.working_dir, None, *files, max_output_bytes=_HEARD_BYTES)
            try:
                process = await launcher.launch(spec, heard)
            except SpawnFailed:
                await trio.lowlevel.checkpoint()
                return None
            try:
                with trio.move_on_after(ASK_SECS):
                    code = await process.wait()
            finally:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + CLEAN_UP_SECS):
                    await process.sweep()
                    await process.drain()
        if code == 0:
            return True
        return False if login.denial and login.denial.encode() in heard.stdout else None


@define(eq=False)
class _Heard:
    """A sink that keeps what was printed on stdout; the launcher bounds it."""

    stdout: bytearray = field(factory=bytearray)

    def feed(self, stream: Stream, data: bytes) -> None:
        """Take the next bytes of a stream."""
        if stream is Stream.STDOUT:
            self.stdout += data

    def written(self, size: int) -> None:
        """The size of both files is of no interest."""

    def truncated(self, stream: Stream) -> None:
        """What was said before is no answer any more."""
        if stream is Stream.STDOUT:
            self.stdout.clear()

    async def flush(self) -> None:
        """Nothing is passed on."""
        await trio.lowlevel.checkpoint()
