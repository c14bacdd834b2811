"""A fake MCP Agent Mail server on loopback: the tools that we use, as 0.1.0 has them, and the vices of servers.

It speaks streamable HTTP as far as the SDK's client needs it, one JSON answer to each request.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from fnmatch import fnmatchcase
from typing import Any

import h11
import trio
from attrs import define, field

LARGEST_BYTES = 1024**2
LISTED = ("ensure_project", "register_agent", "call_extended_tool")
"""The others are called through the last of these."""


@define
class Reserved:
    """One reservation, as the server keeps it."""

    id: int
    agent: str
    path: str
    exclusive: bool
    expires: float
    reason: str


@define(eq=False)
class FakeAgentMail:
    """What it keeps, and how it misbehaves."""

    port: int = 0
    token: str | None = None
    agents: set[str] = field(factory=set)
    projects: set[str] = field(factory=set)
    reserved: list[Reserved] = field(factory=list)
    calls: list[str] = field(factory=list)
    """The tools that were called, in order."""
    hangs_at: str | None = None
    """A tool that it does not answer."""
    answers: dict[str, Any] = field(factory=dict)
    """Tool -> what it answers instead."""
    raw: bytes | None = None
    """What it sends to any request instead of HTTP."""
    renames: bool = False
    """It gives agents names of its own choosing."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp/"

    def held(self) -> list[tuple[str, str, bool]]:
        """What is reserved now, by whom, and whether for him alone."""
        return [(each.agent, each.path, each.exclusive) for each in self.reserved if each.expires > trio.current_time()]

    async def take(self, stream: trio.SocketStream) -> None:
        """Serve one connection."""
        async with stream:
            connection = h11.Connection(h11.SERVER)
            try:
                while True:
                    request, body = await self._read(stream, connection)
                    if request is None:
                        return
                    if self.raw is not None:
                        await stream.send_all(self.raw)
                        return
                    status, answer = await self._answer(request, body)
                    head = h11.Response(
                        status_code=status,
                        headers=[("content-type", "application/json"), ("content-length", str(len(answer)))],
                    )
                    data = connection.send(head) or b""
                    data += connection.send(h11.Data(data=answer)) or b""
                    data += connection.send(h11.EndOfMessage()) or b""
                    await stream.send_all(data)
                    if connection.our_state is h11.MUST_CLOSE:
                        return
                    connection.start_next_cycle()
            except (trio.BrokenResourceError, trio.ClosedResourceError, h11.ProtocolError):
                return  # the client went away, as it may

    async def _read(self, stream: trio.SocketStream, connection: h11.Connection) -> tuple[h11.Request | None, bytes]:
        request, body = None, b""
        while True:
            await trio.lowlevel.checkpoint()
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await stream.receive_some(65536))
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += event.data
                assert len(body) < LARGEST_BYTES
            elif isinstance(event, h11.EndOfMessage):
                return request, body
            else:
                return None, b""

    async def _answer(self, request: h11.Request, body: bytes) -> tuple[int, bytes]:
        headers = dict(request.headers)
        if self.token is not None and headers.get(b"authorization") != f"Bearer {self.token}".encode():
            return 401, b'{"detail": "Unauthorized"}'
        if request.method != b"POST":
            return 405, b"{}"
        message = json.loads(body)
        if "id" not in message:
            return 202, b""
        try:
            answer = {"result": await self._result(message["method"], message.get("params", {}))}
        except LookupError as error:
            answer = {"error": {"code": -32601, "message": f"Method not found: {error}"}}
        return 200, json.dumps({"jsonrpc": "2.0", "id": message["id"], **answer}).encode()

    async def _result(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        if method == "initialize":
            return {
                "protocolVersion": params["protocolVersion"],
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "fake-agent-mail", "version": "0.1.0"},
            }
        if method == "tools/list":
            return {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in LISTED]}
        if method != "tools/call":
            raise LookupError(method)
        tool, arguments = params["name"], params["arguments"]
        if tool == "call_extended_tool":
            tool, arguments = arguments["tool_name"], arguments["arguments"]
        elif tool not in LISTED:
            return _told(f"Unknown tool: {tool}", error=True)
        self.calls.append(tool)
        if tool == self.hangs_at:
            await trio.sleep_forever()
        if tool in self.answers:
            return self.answers[tool]
        try:
            found = getattr(self, f"_{tool}")(**arguments)
        except KeyError as error:
            return _told(f"{error} not found", error=True)
        return _told(json.dumps(found), structured=found)

    def _ensure_project(self, human_key: str) -> dict[str, Any]:
        self.projects.add(human_key)
        return {"id": 1, "slug": "x", "human_key": human_key}

    def _register_agent(self, project_key: str, program: str, model: str, name: str) -> dict[str, Any]:
        self._known(project_key)
        name = "BlueLake" if self.renames else name
        self.agents.add(name)
        return {"id": 1, "name": name, "program": program, "model": model}

    def _file_reservation_paths(
        self, project_key: str, agent_name: str, paths: list[str], ttl_seconds: int, exclusive: bool, reason: str
    ) -> dict[str, Any]:
        self._known(project_key, agent_name)
        granted, conflicts = [], []
        for path in paths:
            holders = [
                {"agent": each.agent, "path_pattern": each.path, "exclusive": each.exclusive}
                for each in self.reserved
                if each.expires > trio.current_time() and each.agent != agent_name and (exclusive or each.exclusive)
                if fnmatchcase(path, each.path) or fnmatchcase(each.path, path)
            ]
            if holders:
                conflicts.append({"path": path, "holders": holders})
            number = len(granted) + max((each.id for each in self.reserved), default=0) + 1
            self.reserved.append(
                Reserved(number, agent_name, path, exclusive, trio.current_time() + max(60, ttl_seconds), reason)
            )
            granted.append({"id": number, "path_pattern": path, "exclusive": exclusive, "reason": reason})
        return {"granted": granted, "conflicts": conflicts}

    def _renew_file_reservations(self, project_key: str, agent_name: str, extend_seconds: int) -> dict[str, Any]:
        self._known(project_key, agent_name)
        mine = [each for each in self.reserved if each.agent == agent_name]
        for each in mine:
            each.expires = max(each.expires, trio.current_time()) + max(60, extend_seconds)
        return {"renewed": len(mine), "file_reservations": []}

    def _release_file_reservations(self, project_key: str, agent_name: str) -> dict[str, Any]:
        self._known(project_key, agent_name)
        before = len(self.reserved)
        self.reserved = [each for each in self.reserved if each.agent != agent_name]
        return {"released": before - len(self.reserved)}

    def _known(self, project: str, agent: str | None = None) -> None:
        if project not in self.projects:
            raise KeyError(project)
        if agent is not None and agent not in self.agents:
            raise KeyError(agent)


def _told(text: str, *, structured: object = None, error: bool = False) -> dict[str, Any]:
    told: dict[str, Any] = {"content": [{"type": "text", "text": text}], "isError": error}
    return told if structured is None else told | {"structuredContent": structured}


@asynccontextmanager
async def fake_agent_mail(**vices: Any) -> AsyncIterator[FakeAgentMail]:
    """A server for the length of the block."""
    server = FakeAgentMail(**vices)
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        server.port = listener.socket.getsockname()[1]
        await nursery.start(trio.serve_listeners, server.take, [listener])
        try:
            yield server
        finally:
            nursery.cancel_scope.cancel()
