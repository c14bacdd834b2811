"""Leases from an MCP Agent Mail server: the real one where it can be had, a fake that speaks the same tools always."""

from __future__ import annotations

import faulthandler
import itertools
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from attrs import evolve

from darkfactory import (
    Admit,
    AgentDefinition,
    AgentLayer,
    AgentMailConfig,
    ConfigError,
    OrchestratorConfig,
    Queue,
    Reservation,
    Secret,
    open_factory,
)
from darkfactory.config import machine, missing_paths
from darkfactory.devices.agent_mail import AgentMail, ServerAway, name_of, open_agent_mail, spelled
from darkfactory.testing import CancelAtStep

from .agent_mail_server import FakeAgentMail, fake_agent_mail

pytestmark = pytest.mark.real

PACKAGE = "mcp-agent-mail==0.1.0"
"""The real one wants Python 3.12 or newer, and gets an environment of its own."""
PYTHONS = ("python3.12", "python3.13")
INSTALL_SECS = 600.0
START_SECS = 120.0
SRC, DOCS = Reservation("src/**"), Reservation("docs", shared=True)


def client(url: str, instance: str = "first", project: str = "/the/project", **settings: object) -> AgentMail:
    config = AgentMailConfig(url, **settings)  # type: ignore[arg-type]
    return open_agent_mail(config, project, instance, ["one", "two-b"])


# --- what both servers do


def pythons() -> Iterator[str]:
    """Interpreters that can have the real server."""
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    found = [shutil.which(name) for name in PYTHONS]
    found += [str(path) for version in ("3.12", "3.13") for path in root.glob(f"versions/{version}.*/bin/python")]
    if sys.version_info[:2] in ((3, 12), (3, 13)):
        found.insert(0, sys.executable)
    for python in found:
        if python is not None and subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0:
            yield python


@pytest.fixture(scope="session")
def real_server_python() -> Path:
    """The Python of an environment that has the real server; it is kept, since it takes minutes to make.

    The place is `$DARKFACTORY_AGENT_MAIL_CACHE`, or `darkfactory/agent-mail` in the user's cache directory.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = Path(os.environ.get("DARKFACTORY_AGENT_MAIL_CACHE") or home / "darkfactory" / "agent-mail")
    installed, python = place / PACKAGE, place / "bin" / "python"
    faulthandler.cancel_dump_traceback_later()  # it takes longer than a test may
    if not installed.exists():
        found = next(pythons(), None)
        if found is None:
            pytest.skip(f"the real Agent Mail server needs {' or '.join(PYTHONS)}, and neither is here")
        shutil.rmtree(place, ignore_errors=True)
        try:
            subprocess.run([found, "-m", "venv", place], check=True, capture_output=True, timeout=INSTALL_SECS)
            install = [python, "-m", "pip", "install", "-q", PACKAGE]
            subprocess.run(install, check=True, capture_output=True, timeout=INSTALL_SECS)
        except (subprocess.SubprocessError, OSError) as error:
            pytest.skip(f"the real Agent Mail server cannot be installed here: {error}")
        installed.touch()
    return python


@pytest.fixture
def real_server(real_server_python: Path, tmp_path: Path) -> Iterator[str]:
    """The address of the real server."""
    root = tmp_path
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(root),
        "STORAGE_ROOT": str(root / "store"),
        "DATABASE_URL": f"sqlite+aiosqlite:///{root}/mail.sqlite3",
        "LLM_ENABLED": "false",
        "LITELLM_LOCAL_MODEL_COST_MAP": "true",  # else it looks for one in the internet
    }
    argv = [real_server_python, "-m", "mcp_agent_mail.http", "--host", "127.0.0.1", "--port", str(port)]
    with (root / "log").open("wb") as log:
        server = subprocess.Popen(argv, cwd=root, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        give_up = time.monotonic() + START_SECS
        while True:
            assert server.poll() is None, (root / "log").read_text()[-3000:]
            assert time.monotonic() < give_up, (root / "log").read_text()[-3000:]
            with socket.socket() as attempt:
                if attempt.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)  # noqa: TID251 - there is no Trio here
        yield f"http://127.0.0.1:{port}/mcp/"
    finally:
        server.kill()
        server.wait()


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.real_cli)])
async def url(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> AsyncIterator[str]:
    """The address of a server; the output says of which one."""
    real = request.getfixturevalue("real_server") if request.param == "real" else None
    with capsys.disabled():
        print(f"\nleases from {f'the real {PACKAGE}' if real else 'a fake Agent Mail server'}", end=" ")  # noqa: T201
    if real is not None:
        yield real
    else:
        async with fake_agent_mail() as server:
            yield server.url


@pytest.fixture
def factories(url: str) -> Callable[[str], AgentMail]:
    """Clients of factories that work in one directory."""
    return lambda instance: client(url, instance, timeout_secs=30.0)


async def test_who_comes_second_is_told_who_came_first_and_has_it_when_that_one_has_left(
    factories: Callable[[str], AgentMail],
) -> None:
    ours, theirs = factories("ours"), factories("theirs")
    assert await ours.grant("one", "run-1", [SRC, DOCS]) == ()
    conflicts = await theirs.grant("one", "run-2", [Reservation("src/a.py")])
    assert conflicts == (f"src/a.py: {ours.names['one']} has src/**", f"src/a.py/**: {ours.names['one']} has src/**")
    await theirs.release("one")
    await ours.release("one")
    assert await theirs.grant("one", "run-3", [Reservation("src/a.py")]) == ()
    assert await ours.grant("one", "run-4", [Reservation("other")]) == (), "what was given back is in nobody's way"
    await ours.release("one")
    await theirs.release("one")


async def test_what_is_shared_is_shared(factories: Callable[[str], AgentMail]) -> None:
    ours, theirs = factories("ours"), factories("theirs")
    assert await ours.grant("one", "run-1", [DOCS]) == ()
    assert await theirs.grant("one", "run-2", [DOCS]) == ()
    assert len(await theirs.grant("two-b", "run-3", [Reservation("docs")])) == 2, "docs, and docs/**"
    for mail, agent in ((ours, "one"), (theirs, "one"), (theirs, "two-b")):
        await mail.release(agent)


async def test_our_own_agents_are_the_gates_business(factories: Callable[[str], AgentMail]) -> None:
    ours = factories("ours")
    assert await ours.grant("one", "run-1", [Reservation("src/*")]) == ()
    assert await ours.grant("two-b", "run-2", [Reservation("src/a/b.py")]) == ()
    await ours.release("one")
    await ours.release("two-b")


async def test_a_factory_that_has_crashed_finds_its_agents_leases_again_and_others_find_them_taken(
    factories: Callable[[str], AgentMail],
) -> None:
    assert await factories("ours").grant("one", "run-1", [SRC]) == ()
    theirs, again = factories("theirs"), factories("ours")
    assert await theirs.grant("one", "run-2", [SRC]) != ()
    await theirs.release("one")
    assert await again.grant("one", "run-3", [SRC]) == ()
    await again.release("one")
    assert await theirs.grant("one", "run-4", [SRC]) == ()
    await theirs.release("one")


async def test_leases_are_renewed_until_they_are_gone(factories: Callable[[str], AgentMail]) -> None:
    ours = factories("ours")
    await ours.grant("one", "run-1", [SRC, DOCS])
    await ours.grant("two-b", "run-2", [Reservation("tests")])
    assert await ours.renew({"one": 300.0, "two-b": 300.0}) == frozenset()
    same = factories("ours")
    await same.grant("one", "run-3", [DOCS])  # a second life of the same factory, that should not be
    assert await ours.renew({"one": 300.0, "two-b": 300.0}) == {"one"}
    await ours.release("one")
    await ours.release("two-b")
    await ours.release("two-b")


# --- vices, which only the fake has


async def away(mail: AgentMail) -> str:
    """What it says of a server from which no leases are to be had."""
    with pytest.raises(ServerAway) as caught, trio.fail_after(30):
        await mail.grant("one", "run", [SRC])
    assert caught.value.__cause__ is None
    return str(caught.value)


async def test_a_port_where_nobody_listens() -> None:
    async with fake_agent_mail() as server:
        url = server.url
    assert "connect" in (await away(client(url))).lower()


@pytest.mark.parametrize("tool", ["ensure_project", "register_agent", "file_reservation_paths"])
async def test_a_server_that_does_not_answer_is_given_up_in_time(tool: str) -> None:
    async with fake_agent_mail(hangs_at=tool) as server:
        assert await away(client(server.url, timeout_secs=0.5)) == "it did not answer within 0.5 s"


RAW = [b"", b"\0" * 1000, b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 500 no\r\ncontent-length: 0\r\n\r\n", b"SSH-2.0-x\r\n"]
RAW += [
    b"HTTP/1.1 302 x\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{",
]
RAW += [b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 4\r\n\r\nnull"]


@pytest.mark.parametrize("raw", RAW)
async def test_a_server_of_another_kind(raw: bytes) -> None:
    async with fake_agent_mail(raw=raw) as server:
        assert await away(client(server.url, timeout_secs=3.0))


NONSENSE = [
    {"content": [], "isError": False},
    {"content": [{"type": "text", "text": "welcome"}], "isError": False},
    {"content": [{"type": "text", "text": "[1, 2]"}], "isError": False},
    {"content": [{"type": "text", "text": '{"granted": 7, "conflicts": []}'}], "isError": False},
    {"content": [{"type": "text", "text": '{"granted": [], "conflicts": []}'}], "isError": False},
    {"content": [{"type": "text", "text": '{"granted": [1], "conflicts": "none"}'}], "isError": False},
    {"content": [{"type": "text", "text": '{"granted": [1], "conflicts": [5]}'}], "isError": False},
    {"content": [{"type": "text", "text": "database is locked"}], "isError": True},
    {"content": "no list"},
    7,
]


@pytest.mark.parametrize("answer", NONSENSE, ids=str)
async def test_a_server_that_talks_nonsense_has_given_nothing(answer: object) -> None:
    async with fake_agent_mail(answers={"file_reservation_paths": answer}) as server:
        assert await away(client(server.url, timeout_secs=3.0))


async def test_a_conflict_with_nobody_is_one_all_the_same() -> None:
    text = '{"granted": [{"id": 1}], "conflicts": [{"path": "src/**", "holders": []}]}'
    answer = {"content": [{"type": "text", "text": text}], "isError": False}
    async with fake_agent_mail(answers={"file_reservation_paths": answer}) as server:
        assert await client(server.url).grant("one", "run", [SRC]) == ("src/**: it does not say who has it",)


async def test_a_server_that_calls_our_agents_what_it_likes_is_no_use() -> None:
    async with fake_agent_mail(renames=True) as server:
        assert "does not take the name" in await away(client(server.url))
        assert server.held() == []


async def test_the_token_is_sent_and_never_told() -> None:
    async with fake_agent_mail(token="s3cret") as server:
        good, bad = (client(server.url, token=Secret(token)) for token in ("s3cret", "wr0ng"))
        assert await good.grant("one", "run", [SRC]) == ()
        assert "wr0ng" not in await away(bad)
        assert "s3cret" not in repr(good.config)


async def test_wherever_asking_is_cancelled_it_is_our_cancellation_and_nothing_else_that_comes_out() -> None:
    steps = 0
    async with fake_agent_mail() as server:
        for step in itertools.count(1, 5):
            mail, cancel = client(server.url), CancelAtStep(step)
            trio.lowlevel.add_instrument(cancel)
            try:
                with cancel.scope:
                    await mail.grant("one", "run", [SRC, DOCS])
            finally:
                if cancel.at is None:
                    trio.lowlevel.remove_instrument(cancel)
            if not cancel.scope.cancelled_caught:
                break
            steps += 1
            await mail.release("one")
        await mail.release("one")
    assert steps > 20


def test_names_at_the_server_are_letters_and_digits_and_no_other_factorys() -> None:
    assert name_of("code-reviewer.2", "x").startswith("codereviewer2")
    assert name_of("a-b", "x").isalnum()
    assert len({name_of("a-b", "x"), name_of("ab", "x"), name_of("a-b", "y")}) == 3


@pytest.mark.parametrize(
    ("glob", "paths"),
    [
        ("src/**", ["src/**"]),
        ("src", ["src", "src/**"]),
        ("./src//core/", ["src/core", "src/core/**"]),
        ("src/*/", ["src/*", "src/*/**"]),
        ("**/*.py", ["**/*.py", "*.py"]),
        (".", ["**"]),
    ],
)
def test_a_glob_is_spelled_so_that_the_server_sees_all_of_it(glob: str, paths: list[str]) -> None:
    assert spelled(glob) == paths


# --- a whole factory


@asynccontextmanager
async def factory_of(server: FakeAgentMail, tmp_path: Path, **settings: object) -> AsyncIterator[object]:
    agent = AgentDefinition("writer", AgentLayer.GROWTH, "bash", "cat > /dev/null; exec sleep 1000", reserve=(SRC,))
    fleet = OrchestratorConfig(
        working_dir=tmp_path,
        agents=(agent, evolve(agent, name="other", reserve=())),
        state_dir=tmp_path / "state",
        agent_mail=AgentMailConfig(server.url, **settings),  # type: ignore[arg-type]
    )
    with trio.fail_after(60):
        async with open_factory(fleet) as factory:
            yield factory


async def test_a_run_waits_for_a_stranger_and_keeps_him_out_while_it_lives(tmp_path: Path) -> None:
    async with fake_agent_mail() as server:
        stranger = client(server.url, "stranger", project=str(tmp_path))
        assert await stranger.grant("one", "his", [Reservation("src/main.py")]) == ()
        async with factory_of(server, tmp_path) as factory:
            assert isinstance(await factory.start("writer"), Admit)
            await factory.wait_statuses(lambda agents: agents[0].reason == "agent_mail")
            assert not [*(tmp_path / "state" / "runs").iterdir()]
            await stranger.release("one")
            await factory.wait_statuses(lambda agents: agents[0].pid is not None)
            assert (await stranger.grant("one", "his", [Reservation("src/main.py")])) != ()
            await stranger.release("one")
            await factory.hold("writer")
            await factory.wait_statuses(lambda agents: not agents[0].running)
            assert server.held() == []
            await factory.resume("writer")
            await factory.start("writer")
            await factory.wait_statuses(lambda agents: agents[0].pid is not None)
            assert [path for _, path, _ in server.held()] == ["src/**"]
        assert server.held() == []


async def test_without_the_server_nothing_that_reserves_runs_and_everything_else_does(tmp_path: Path) -> None:
    async with (
        fake_agent_mail(hangs_at="register_agent") as server,
        factory_of(server, tmp_path, timeout_secs=0.5) as factory,
    ):
        assert isinstance(await factory.start("writer"), Admit)
        status, _ = await factory.wait_statuses(lambda agents: agents[0].reason == "agent_mail")
        assert status.pid is None
        assert isinstance(await factory.start("writer"), Queue)
        assert isinstance(await factory.start("other"), Admit)
        await factory.wait_statuses(lambda agents: agents[1].pid is not None)
    assert server.held() == []


def test_a_fleet_that_needs_the_extra_is_told_so_where_it_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "find_spec", lambda _: None)
    agent = AgentDefinition("a", AgentLayer.GROWTH, "bash", "true")
    fleet = OrchestratorConfig(tmp_path, (agent,), agent_mail=AgentMailConfig("http://127.0.0.1:1/"))
    (fault,) = missing_paths(fleet)
    assert (fault.path, fault.remedy) == ("agent_mail", "pip install 'darkfactory[agent-mail]'")
    assert not missing_paths(evolve(fleet, agent_mail=None))

    async def live() -> None:
        async with open_factory(fleet):
            pass

    with pytest.raises(ConfigError):
        trio.run(live)


def test_the_sdk_is_not_imported_by_a_fleet_without_a_server() -> None:
    """It takes most of a second."""
    program = (
        "import darkfactory.facade, darkfactory.cli, sys; sys.exit('mcp' in sys.modules or 'httpx2' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
