"""Leases in an MCP Agent Mail server, which agents of other factories and people's own sessions use as well.

The server advises and does not refuse: who asks for paths that somebody has is given them all the same, and told of the
conflict. So we ask, look, and give back what we got if anybody else had it.

Each of our agents is an agent of its own there, under a name that no other factory has and that stays the same from
one life of the factory to the next. So all that the server holds in that name is of one run, the agent's last: what is
to be given back need not be remembered, and what a crash left is found again. Our agents among each other are the
gate's business, which knows better than the server whether two globs can meet: their names are no conflict.

The SDK is imported when a fleet wants it and not before (it takes most of a second). Every conversation is a session of
its own, from its first request to its last inside one call and one deadline: nothing of the SDK lives on in between.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, Protocol, TypeVar

import trio
from attrs import define, field

from darkfactory.model.fleet import AgentMailConfig, Reservation

_T = TypeVar("_T")

LONGEST_NAME: Final = 64
"""Characters of an agent's name at the server, without what makes it unique."""
_PROGRAM: Final = "darkfactory"


class ServerAway(Exception):
    """The server did not answer, or not as it should; the text is for a person, and not to be trusted."""


class LeaseServer(Protocol):
    """Who gives leases, besides our own gate."""

    async def grant(self, agent: str, run_id: str, leases: Iterable[Reservation]) -> tuple[str, ...]:
        """Take these leases, and nothing else, for the agent.

        The conflicts with others, in words; if there are any the caller must `release`. So it must whatever else is
        raised: when it is not known what the server did. ServerAway, within a bound.
        """
        ...

    async def renew(self, agents: Mapping[str, float]) -> frozenset[str]:
        """Have these agents' leases last so many seconds longer; those of them that no longer have all of theirs.

        ServerAway, within a bound.
        """
        ...

    async def release(self, agent: str) -> None:
        """Give back all that the server holds in the agent's name. ServerAway, within a bound."""
        ...


class _Client(Protocol):
    """What we use of the SDK's client."""

    async def call_tool(self, name: str, arguments: dict[str, Any]) -> Any: ...


Connect = Callable[[], AbstractAsyncContextManager[_Client]]


@define(eq=False)
class AgentMail:
    """An MCP Agent Mail server (`LeaseServer`)."""

    config: AgentMailConfig
    project: str
    names: Mapping[str, str]
    """Of our agents: what they are called there."""
    connect: Connect
    _granted: dict[str, int] = field(factory=dict)
    """Agent -> how many leases the server should hold; 0 while that is not known."""

    async def grant(self, agent: str, run_id: str, leases: Iterable[Reservation]) -> tuple[str, ...]:
        """Ask for them; see `LeaseServer`."""
        leases = tuple(leases)

        async def talk(client: _Client) -> tuple[str, ...]:
            await _call(client, "ensure_project", {"human_key": self.project})
            await self._register(client, agent)
            await _extended(client, "release_file_reservations", self._who(agent))
            self._granted[agent], granted = 0, 0
            conflicts: list[str] = []
            for shared in (False, True):
                paths = [path for lease in leases if lease.shared is shared for path in spelled(lease.glob)]
                if paths:
                    wish = {"paths": paths, "ttl_seconds": round(self.config.ttl_secs), "exclusive": not shared}
                    answer = await _extended(
                        client, "file_reservation_paths", {**self._who(agent), **wish, "reason": run_id}
                    )
                    if len(_list(answer, "granted")) != len(paths):
                        raise ServerAway(f"it was asked for {len(paths)} paths and gave {len(answer['granted'])}")
                    conflicts += self._conflicts(_list(answer, "conflicts"))
                    granted += len(paths)
            self._granted[agent] = granted
            return tuple(conflicts)

        return await self._talk(talk)

    async def renew(self, agents: Mapping[str, float]) -> frozenset[str]:
        """Ask for more time, for all of them in one conversation; see `LeaseServer`."""

        async def talk(client: _Client) -> frozenset[str]:
            lost: set[str] = set()
            await trio.lowlevel.checkpoint()
            for agent, secs in agents.items():
                await self._register(client, agent)  # one that is silent for long is taken to be gone
                wish = {**self._who(agent), "extend_seconds": round(secs)}
                answer = await _extended(client, "renew_file_reservations", wish)
                renewed = answer.get("renewed")
                if not isinstance(renewed, int):
                    raise ServerAway("it did not say how many leases it renewed")
                if renewed < self._granted.get(agent, 0):
                    lost.add(agent)
            return frozenset(lost)

        return await self._talk(talk)

    async def release(self, agent: str) -> None:
        """Give them back; see `LeaseServer`."""
        if agent not in self._granted:  # it was never asked for any
            await trio.lowlevel.checkpoint()
            return

        async def talk(client: _Client) -> None:
            # without ids it is all that the name has: that is this run's, and what nobody knows of
            await _extended(client, "release_file_reservations", self._who(agent))
            del self._granted[agent]

        await self._talk(talk)

    def _who(self, agent: str) -> dict[str, Any]:
        return {"project_key": self.project, "agent_name": self.names[agent]}

    async def _register(self, client: _Client, agent: str) -> None:
        name = self.names[agent]
        wish = {"project_key": self.project, "program": _PROGRAM, "model": agent, "name": name}
        answer = await _call(client, "register_agent", wish)
        if answer.get("name") != name:
            raise ServerAway(f"it does not take the name {name} for an agent")

    def _conflicts(self, found: list[Any]) -> list[str]:
        """In words, without those among ourselves."""
        ours = set(self.names.values())
        told: list[str] = []
        for conflict in found:
            holders = _list(conflict, "holders")
            others = [holder for holder in holders if not (isinstance(holder, dict) and holder.get("agent") in ours)]
            told += (
                f"{_word(conflict, 'path')}: {_word(each, 'agent')} has {_word(each, 'path_pattern')}"
                for each in others
            )
            if not holders:
                told.append(f"{_word(conflict, 'path')}: it does not say who has it")
        return told

    async def _talk(self, work: Callable[[_Client], Awaitable[_T]]) -> _T:
        """One session. Whatever happens in it comes out as ServerAway, save what cancels us."""
        await trio.lowlevel.checkpoint()
        secs = self.config.timeout_secs
        try:
            with trio.fail_after(secs):
                async with self.connect() as client:
                    return await work(client)
        except trio.TooSlowError:
            raise ServerAway(f"it did not answer within {secs:g} s") from None
        except Exception as error:
            raise ServerAway(_first(error)) from None
        except BaseExceptionGroup as group:
            # a failure beside our own cancellation would travel on when that has been dealt with
            cancelled = group.subgroup(lambda error: not isinstance(error, Exception))
            assert cancelled is not None
            raise cancelled from None


def open_agent_mail(config: AgentMailConfig, project: str, instance: str, agents: Iterable[str]) -> AgentMail:
    """The server's client. `instance` tells this factory from all others. ImportError without the SDK."""
    import logging

    import httpx2
    from mcp.client.client import Client
    from mcp.client.streamable_http import streamable_http_client

    logging.getLogger("mcp").addHandler(logging.NullHandler())  # what is wrong we tell ourselves
    headers = {} if config.token is None else {"Authorization": f"Bearer {config.token.value}"}

    @asynccontextmanager
    async def connect() -> AsyncIterator[_Client]:
        async with httpx2.AsyncClient(headers=headers, timeout=config.timeout_secs) as http:
            transport = streamable_http_client(config.url, http_client=http)
            async with Client(transport, cache=None) as client:
                yield client

    return AgentMail(config, project, {agent: name_of(agent, instance) for agent in agents}, connect)


def name_of(agent: str, instance: str) -> str:
    """What an agent is called at the server, which takes letters and digits; no other factory's is called that."""
    from hashlib import sha256  # 4 MiB with what is around it

    digest = sha256(f"{instance}/{agent}".encode()).hexdigest()[:12]
    return re.sub("[^A-Za-z0-9]", "", agent)[:LONGEST_NAME] + digest


def spelled(glob: str) -> list[str]:
    """A glob of ours as the server's `fnmatch` understands it, where `*` crosses slashes: what is below comes apart."""
    path = "/".join(name for name in glob.split("/") if name not in ("", "."))
    if not path:
        return ["**"]
    below = glob.endswith("/") or not set(path.rpartition("/")[2]) & set("*?[")
    return [path, *([f"{path}/**"] if below else []), *([path[3:]] if path.startswith("**/") else [])]


async def _extended(client: _Client, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Call one of the tools that the server does not list, to be short."""
    return await _call(client, "call_extended_tool", {"tool_name": tool, "arguments": arguments})


async def _call(client: _Client, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    answer = await client.call_tool(tool, arguments)
    text = "".join(getattr(part, "text", "") for part in answer.content)
    if answer.is_error:
        raise ServerAway(f"{tool}: {text}")
    found = answer.structured_content
    if found is None:
        try:
            found = json.loads(text)
        except ValueError:
            raise ServerAway(f"{tool}: its answer is no JSON") from None
    if isinstance(found, dict) and found.keys() == {"result"}:
        found = found["result"]
    if not isinstance(found, dict):
        raise ServerAway(f"{tool}: its answer is no object")
    return found


def _list(answer: Any, key: str) -> list[Any]:
    found = answer.get(key) if isinstance(answer, dict) else None
    if not isinstance(found, list):
        raise ServerAway(f"there is no list of {key} in its answer")
    return found


def _word(answer: Any, key: str) -> str:
    return str(answer.get(key, "?")) if isinstance(answer, dict) else "?"


def _first(error: BaseException) -> str:
    """What went wrong, out of whatever it is wrapped in."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    text = str(error)
    return (
        text
        if isinstance(error, ServerAway) and text
        else f"{type(error).__name__}: {text}"
        if text
        else type(error).__name__
    )
