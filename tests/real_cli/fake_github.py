"""A GitHub Enterprise on loopback: as much of its API as `gh` asks for about pull requests, and pushes over https.

Repositories are bare ones on disk. Who speaks to it must trust its certificate, which is made on the fly, and have its
token. Answers can be replaced by others, wrong ones too.
"""

from __future__ import annotations

import base64
import json
import os
import re
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import h11
import trio
import trustme
from attrs import asdict, define, field, frozen

TOKEN = "gho_thisIsTheOnlyOneThatIsTaken0001"
LARGEST_BYTES = 16 * 1024**2
GIT_ENV = {"PATH": os.environ["PATH"], "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}


@frozen
class Asked:
    """One request."""

    method: str
    path: str
    authorization: str | None
    operation: str | None
    """Of GraphQL."""


@frozen
class Answer:
    """What it says instead of what is so."""

    body: bytes
    status: int = 200


HANG = Answer(b"", 0)
"""The request is read, and nothing is ever said to it."""


@define
class Pull:
    """A pull request."""

    number: int
    repo: str
    headRefName: str  # noqa: N815 -- as GitHub calls it
    body: str
    baseRefName: str = "main"  # noqa: N815
    title: str = "a title"
    state: str = "OPEN"
    isDraft: bool = False  # noqa: N815
    isCrossRepository: bool = False  # noqa: N815


@define(eq=False)
class FakeGitHub:
    """What it keeps, and how it misbehaves."""

    root: Path
    """The repository `OWNER/NAME` is `OWNER/NAME.git` in it."""
    authority: Path
    """The certificate that its own is signed by."""
    port: int = 0
    token: str = TOKEN
    pulls: list[Pull] = field(factory=list)
    asked: list[Asked] = field(factory=list)
    answers: dict[str, Answer] = field(factory=dict)
    """By operation of GraphQL, or path."""
    held: trio.Event = field(factory=trio.Event)
    """A request is not answered."""
    late: int = 0
    """So many lists are empty, whatever there is."""
    forgets: bool = False
    """A pull request is made, and the answer is an error."""

    @property
    def host(self) -> str:
        return f"localhost:{self.port}"

    def repository(self, name: str = "owner/repo", names: str = "sha1") -> Path:
        """Make an empty one."""
        place = self.root / f"{name}.git"
        init = ["git", "init", "--quiet", "--bare", f"--object-format={names}", "--initial-branch=main", place]
        subprocess.run(init, env=GIT_ENV, check=True, timeout=60)
        return place

    def pull(self, branch: str, body: str = "", **more: Any) -> Pull:
        """A pull request that is there already."""
        made = Pull(len(self.pulls) + 1, more.pop("repo", "owner/repo"), branch, body, **more)
        self.pulls.append(made)
        return made

    def url(self, pull: Pull) -> str:
        return f"https://{self.host}/{pull.repo}/pull/{pull.number}"

    def operations(self) -> list[str]:
        """What was asked by GraphQL, in order."""
        return [each.operation for each in self.asked if each.operation is not None]

    async def take(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        """Serve one connection."""
        connection = h11.Connection(h11.SERVER)
        try:
            while connection.our_state is h11.IDLE:
                request, body = await _read(stream, connection)
                if request is None:
                    return
                status, headers, answer = await self._answer(request, body)
                headers = [*headers, ("content-length", str(len(answer)))]
                data = connection.send(h11.Response(status_code=status, headers=headers)) or b""
                data += connection.send(h11.Data(data=answer)) or b""
                data += connection.send(h11.EndOfMessage()) or b""
                await stream.send_all(data)
                if connection.our_state is not h11.MUST_CLOSE:
                    connection.start_next_cycle()
        except (trio.BrokenResourceError, trio.ClosedResourceError, h11.ProtocolError, ssl.SSLError):
            return  # the client went away, as it may
        finally:
            await trio.aclose_forcefully(stream)

    async def _answer(self, request: h11.Request, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        headers = {name.decode(): value.decode() for name, value in request.headers}
        path, _, query = request.target.decode().partition("?")
        question = json.loads(body) if path == "/api/graphql" else None
        operation = _operation(question["query"]) if question else None
        self.asked.append(Asked(request.method.decode(), path, headers.get("authorization"), operation))
        answer = self.answers.get(operation or path)
        if answer is HANG:
            self.held.set()
            await trio.sleep_forever()
        if answer is not None:
            return (
                answer.status,
                [("content-type", "application/json"), ("location", answer.body.decode())],
                answer.body,
            )
        if not path.startswith("/api/"):
            return await self._git(request.method.decode(), path, query, headers, body)
        if headers.get("authorization") != f"token {self.token}":
            return 401, [("content-type", "application/json")], b'{"message": "Bad credentials"}'
        told = (
            await self._data(operation, question.get("variables", {})) if question else {"installed_version": "3.17.0"}
        )
        return 200, [("content-type", "application/json")], json.dumps(told).encode()

    async def _data(self, operation: str | None, said: dict[str, Any]) -> dict[str, Any]:
        match operation:
            case "RepositoryInfo":
                name = f"{said['owner']}/{said['name']}"
                if not (self.root / f"{name}.git").is_dir():
                    return _refused(f"Could not resolve to a Repository with the name '{name}'.", "NOT_FOUND")
                about = {"id": name, "name": said["name"], "owner": {"login": said["owner"]}, "parent": None}
                about |= {"viewerPermission": "WRITE", "defaultBranchRef": {"name": "main"}}
                return {"data": {"repository": about}}
            case "PullRequestList" if self.late > 0:
                self.late -= 1
                return {"data": {"repository": {"pullRequests": self._page([], said)}}}
            case "PullRequestList" | "PullRequestForBranch":
                name, head = f"{said['owner']}/{said['repo']}", said.get("headBranch") or said.get("headRefName")
                states = said.get("state") or said["states"]
                found = [
                    each
                    for each in reversed(self.pulls)
                    if each.repo == name and each.state in states and head in (None, each.headRefName)
                ]
                return {"data": {"repository": {"pullRequests": self._page(found, said)}}}
            case "Issue_fields":  # what kind of server this is
                return {"data": {"Issue": {"fields": [{"name": "assignees"}, {"name": "stateReason"}]}}}
            case "PullRequestCreate":
                return await self._create(said["input"])
        raise LookupError(f"{operation} {said}")

    def _page(self, found: list[Pull], said: dict[str, Any]) -> dict[str, Any]:
        begin = int(said.get("endCursor") or 0)
        end = begin + said.get("limit", 30)
        nodes = [asdict(each) | {"url": self.url(each)} for each in found[begin:end]]
        more = {"hasNextPage": end < len(found), "endCursor": str(end)}
        return {"totalCount": len(found), "nodes": nodes, "pageInfo": more}

    async def _create(self, said: dict[str, Any]) -> dict[str, Any]:
        name, head = said["repositoryId"], said["headRefName"]
        place = self.root / f"{name}.git"
        there = await trio.run_process(
            ["git", f"--git-dir={place}", "rev-parse", "--quiet", "--verify", f"refs/heads/{head}"],
            env=GIT_ENV,
            check=False,
            capture_stdout=True,
        )
        if there.returncode != 0:
            return _refused("Head sha can't be blank, Head ref must be a branch", "UNPROCESSABLE")
        for each in self.pulls:
            if (each.repo, each.headRefName, each.state) == (name, head, "OPEN"):
                return _refused(f"A pull request already exists for {name.partition('/')[0]}:{head}.", "UNPROCESSABLE")
        made = self.pull(
            head,
            said["body"],
            repo=name,
            baseRefName=said["baseRefName"],
            title=said["title"],
            isDraft=said["draft"],
        )
        if self.forgets:
            return _refused("Something went wrong while executing your query.", "INTERNAL")
        return {"data": {"createPullRequest": {"pullRequest": {"id": "PR_1", "url": self.url(made)}}}}

    async def _git(
        self, method: str, path: str, query: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        """A push or a fetch, which git's own CGI program does."""
        basic = base64.b64encode(f"x-access-token:{self.token}".encode()).decode()
        if headers.get("authorization") != f"Basic {basic}":
            return 401, [("www-authenticate", 'Basic realm="GitHub"')], b""
        env = GIT_ENV | {
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "REMOTE_USER": "x-access-token",
            "REQUEST_METHOD": method,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": headers.get("content-type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": headers.get("content-encoding", ""),
            "GIT_PROTOCOL": headers.get("git-protocol", ""),
        }
        done = await trio.run_process(["git", "http-backend"], stdin=body, env=env, capture_stdout=True)
        head, _, answer = done.stdout.partition(b"\r\n\r\n")
        lines = [line.partition(": ") for line in head.decode().split("\r\n")]
        told = [(name.casefold(), value) for name, _, value in lines]
        status = next((int(value.split()[0]) for name, value in told if name == "status"), 200)
        return status, [each for each in told if each[0] != "status"], answer


async def _read(stream: trio.abc.ReceiveStream, connection: h11.Connection) -> tuple[h11.Request | None, bytes]:
    request, body = None, b""
    while True:
        await trio.lowlevel.checkpoint()
        event = connection.next_event()
        if event is h11.NEED_DATA:
            if connection.they_are_waiting_for_100_continue:
                go_on = connection.send(h11.InformationalResponse(status_code=100, headers=[])) or b""
                await stream.send_all(go_on)  # type: ignore[attr-defined]
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


def _operation(query: str) -> str:
    """The name of the query or mutation in a text of GraphQL."""
    words = re.split(r"[\s({]+", query)
    return next((words[at + 1] for at, word in enumerate(words) if word in ("query", "mutation")), "")


def _refused(message: str, kind: str) -> dict[str, Any]:
    return {"data": None, "errors": [{"type": kind, "message": message}]}


@asynccontextmanager
async def fake_github(root: Path) -> AsyncIterator[FakeGitHub]:
    """A server for the length of the block, with its files in `root`."""
    authority = trustme.CA()
    certificate = root / "authority.pem"
    authority.cert_pem.write_to_path(str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    server = FakeGitHub(root, certificate)
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_ssl_over_tcp_listeners(0, context, host="127.0.0.1", https_compatible=True)
        server.port = listener.transport_listener.socket.getsockname()[1]  # type: ignore[attr-defined]
        await nursery.start(trio.serve_listeners, server.take, [listener])
        try:
            yield server
        finally:
            nursery.cancel_scope.cancel()
