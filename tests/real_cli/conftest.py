"""One agent of a real factory, a real program, and a provider on loopback that says what the test wants.

Home, keys, configuration and temporary files are the test's own; of this machine's environment nothing is passed on.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import evolve, frozen

from darkfactory import (
    Admit,
    AgentDefinition,
    AgentLayer,
    AgentOrchestrator,
    OrchestratorConfig,
    Secret,
    open_factory,
)
from darkfactory.devices.machine import Machine
from darkfactory.runtime.factory import this_machine

from . import clis
from .accounts import account
from .model_server import ModelServer, Step, model_server

LIMIT_SECS = 90
"""Beyond all that the programs were seen to take."""
ELSEWHERE = {"GITHUB_TOKEN": "not-for-agents", "AWS_SECRET_ACCESS_KEY": "not-for-agents"}
"""What is in the factory's environment and is no business of its agents."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = []
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.real)
            item.add_marker(pytest.mark.real_cli)
            callspec = getattr(item, "callspec", None)
            if callspec is not None and callspec.params.get("cli") in clis.PACKAGES.keys() - clis.chosen():
                left_out.append(item)
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def only(*names: str) -> pytest.MarkDecorator:
    """A test for these programs; without it one that takes a `cli` is for claude and codex."""
    return pytest.mark.parametrize("cli", names, indirect=True)


@frozen
class Ended:
    """A run that is over."""

    directory: Path
    server: ModelServer
    record: dict[str, Any]
    """Its `run_ended` in the journal."""

    @property
    def outcome(self) -> tuple[str, str | None]:
        """Its terminal reason, and what went wrong."""
        return self.record["reason"], self.record.get("error_class")

    @property
    def session(self) -> str:
        """The program's own id of it, taken from its first event."""
        first = self.events[0]
        return next(first[key] for key in ("session_id", "thread_id", "sessionID", "id") if key in first)

    @property
    def summary(self) -> dict[str, Any]:
        """Its `run.json`."""
        return json.loads((self.directory / "run.json").read_text())

    @property
    def events(self) -> list[dict[str, Any]]:
        """What it printed on stdout."""
        return [json.loads(line) for line in (self.directory / "stdout").read_text().splitlines()]

    def told(self) -> str:
        """All that helps to see why a test has failed."""
        words = [(self.directory / name).read_text()[-3000:] for name in ("stdout", "stderr")]
        return "\n".join([json.dumps(self.record), *words])


@frozen
class Stage:
    """Where one test plays."""

    root: Path

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def environ(self) -> dict[str, str]:
        """The factory's whole environment."""
        path = f"{clis.node_directory()}:/usr/local/bin:/usr/bin:/bin"
        return {"PATH": path, "HOME": str(self.root / "home"), "TMPDIR": str(self.root / "tmp"), **ELSEWHERE}

    def agent(self, cli: str, server: ModelServer, **options: Any) -> AgentDefinition:
        """An agent of that program, whose provider is the server. codex goes without its sandbox unless it is said."""
        for name, value in account(cli, server.url, Path(self.environ["HOME"]), options.pop("key", None)).items():
            match name:
                case "env":
                    options["env"] = value | options.get("env", {})
                case "args":
                    options["args"] = (*value, *options.get("args", ()))
                case _:
                    options.setdefault(name, value)
        options["env"] = {name: Secret(value) for name, value in options["env"].items()}
        options.setdefault("task", "Do as you are told.")
        return AgentDefinition("agent", AgentLayer.GROWTH, str(clis.installed(cli)), **options)

    @contextmanager
    def machine(self, config: OrchestratorConfig) -> Iterator[Machine]:
        with this_machine(config) as machine:
            yield evolve(machine, environ=self.environ)

    @asynccontextmanager
    async def factory(self, agent: AgentDefinition) -> AsyncIterator[tuple[AgentOrchestrator, Path]]:
        """A factory with that agent, which has been started; and the directory of its run."""
        fleet = OrchestratorConfig(working_dir=self.work, agents=(agent,), state_dir=self.state, nice=0)
        with trio.fail_after(LIMIT_SECS):
            async with open_factory(fleet, machine=self.machine) as factory:
                admission = await factory.start("agent")
                assert isinstance(admission, Admit)
                yield factory, self.state / "runs" / admission.run_id

    async def run(self, cli: str, *steps: Step, **options: Any) -> Ended:
        """A whole run of such an agent, from its start to its end."""
        async with model_server(*steps) as server:
            async with self.factory(self.agent(cli, server, **options)) as (factory, directory):
                await factory.wait_statuses(lambda agents: not agents[0].running)
            return self.ended(directory, server)

    def ended(self, directory: Path, server: ModelServer) -> Ended:
        (record,) = (each for each in self.records("run_ended") if each["run"] == directory.name)
        return Ended(directory, server, record)

    def records(self, kind: str) -> list[dict[str, Any]]:
        """The journal's records of that kind."""
        files = sorted((self.state / "journal").glob("*.jsonl"))
        lines = (json.loads(line) for file in files for line in file.read_text().splitlines())
        return [line for line in lines if line["kind"] == kind]


@pytest.fixture(params=["claude", "codex"])
def cli(request: pytest.FixtureRequest) -> str:
    """A program that is installed."""
    try:
        clis.node_directory()
        clis.installed(request.param)
    except clis.NotToBeHad as reason:
        pytest.skip(f"{request.param} is not to be had here: {reason}")
    return str(request.param)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    for name in ("home", "tmp", "work"):
        (tmp_path / name).mkdir()
    return Stage(tmp_path)


@pytest.fixture
def sandbox(cli: str, stage: Stage) -> None:
    """What needs codex's sandbox is skipped where that does not work."""
    if cli != "codex":
        return
    command = [clis.installed("codex"), "sandbox", "--", "/bin/true"]
    done = subprocess.run(
        command,
        cwd=stage.work,
        env=stage.environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"codex's sandbox does not work on this machine: {done.stderr.strip()[-200:]}")
