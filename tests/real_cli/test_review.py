"""A whole review with a real program as the improver, the real git, the real gh, and a GitHub on loopback over TLS."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
from attrs import evolve

from darkfactory import CompoundReviewConfig, OrchestratorConfig, open_factory
from darkfactory.devices.github import GitHub
from darkfactory.devices.machine import Machine
from darkfactory.model.review import CompoundReviewResult, ReviewOutcome
from tests.real.repositories import Checkout

from . import clis
from .conftest import LIMIT_SECS, Stage
from .fake_github import TOKEN, FakeGitHub, fake_github
from .model_server import ModelServer, Say, Shell, model_server

CHANGE = "printf 'from engine import run\\n\\n\\ndef test_run():\\n    assert run() == 42\\n' > test_engine.py"
GATE = ("python3", "-c", "import test_engine; test_engine.test_run()")


@pytest.fixture
def checkout(stage: Stage) -> Checkout:
    """A repository in which code was changed again and again, and no test of it."""
    made = Checkout.begun(stage.root / "repository")
    for number in range(4):
        lines = "".join(f"value_{line} = {line * number}\n" for line in range(20))
        made.write("engine.py", f"{lines}\n\ndef run():\n    return 42\n")
        made.commit(f"the engine, version {number}")
    return made


def fleet(stage: Stage, cli: str, server: ModelServer) -> OrchestratorConfig:
    agent = stage.agent(cli, server, capabilities=("testing", "architecture", "code-review"))
    review = CompoundReviewConfig("0 2 * * *", stage.root / "repository", create_prs=True, gate=GATE)
    return OrchestratorConfig(
        working_dir=stage.work, agents=(agent,), state_dir=stage.state, nice=0, compound_review=review, min_free_bytes=0
    )


@contextmanager
def machine_with(stage: Stage, forge: FakeGitHub, config: OrchestratorConfig) -> Iterator[Machine]:
    with stage.machine(config) as machine:
        assert machine.review is not None
        real = machine.review.forge
        assert isinstance(real, GitHub)
        environ = {
            **stage.environ,
            "PATH": f"{gh_directory()}:{stage.environ['PATH']}",
            "SSL_CERT_FILE": str(forge.authority),
            "GH_HOST": forge.host,
            "GH_ENTERPRISE_TOKEN": TOKEN,
        }
        yield evolve(machine, review=evolve(machine.review, forge=evolve(real, environ=environ)))


def gh_directory() -> Path:
    try:
        return clis.gh_installed().parent
    except clis.NotToBeHad as reason:
        pytest.skip(f"gh is not to be had here: {reason}")


async def reviewed(stage: Stage, cli: str, forge: FakeGitHub, outcome: str) -> tuple[CompoundReviewResult, ModelServer]:
    """What a review came to whose agent changed something and reported that outcome; and whom it asked."""
    async with model_server(Say()) as server:
        config = fleet(stage, cli, server)
        with trio.fail_after(LIMIT_SECS):
            async with open_factory(config, machine=lambda config: machine_with(stage, forge, config)) as factory:
                would = await factory.trigger_compound_review(dry_run=True)
                report = {"finding": would.findings[0].id, "outcome": outcome, "summary": "@all: a test of `run`"}
                answer = Say(f"There was no test of it.\n\n```json\n{json.dumps(report)}\n```")
                server.steps = [Shell(CHANGE, "I will add a test."), answer]
                return await factory.trigger_compound_review(), server


async def test_a_real_program_improves_what_was_found_and_a_draft_is_opened(
    stage: Stage, cli: str, checkout: Checkout, tmp_path: Path
) -> None:
    gh_directory()
    root = tmp_path / "github"
    root.mkdir()
    async with fake_github(root) as forge:
        remote = Checkout(forge.repository())
        checkout.git("push", "--quiet", str(remote.path), "main")
        checkout.git("remote", "add", "origin", f"https://{forge.host}/owner/repo.git")
        head = checkout.git("rev-parse", "HEAD")
        result, server = await reviewed(stage, cli, forge, "improved")
        assert result.outcome is ReviewOutcome.PR_CREATED, result
        improvement = result.top_improvement
        assert improvement is not None
        assert improvement.gate is not None
        assert improvement.gate.passed
        (pull,) = forge.pulls
        assert (pull.headRefName, pull.baseRefName, pull.isDraft) == (improvement.branch, "main", True)
        assert result.pr_url == forge.url(pull)
        assert improvement.finding in pull.body
    assert remote.branches() == {"main": head, improvement.branch: improvement.commit}
    assert "def test_run" in remote.files(improvement.branch)["test_engine.py"]
    assert (checkout.git("rev-parse", "HEAD"), checkout.git("status", "--porcelain")) == (head, "")
    told = repr(server.requests[0])
    assert improvement.finding in told
    assert TOKEN not in told
    (begun,) = stage.records("run_begun")
    assert (begun["cause"], begun["agent"]) == ("review", "agent")
    assert TOKEN.encode() not in b"".join(path.read_bytes() for path in stage.state.rglob("*") if path.is_file())


async def test_what_does_not_pass_the_gate_is_shown_to_nobody(
    stage: Stage, cli: str, checkout: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gh_directory()
    root = tmp_path / "github"
    root.mkdir()
    monkeypatch.setattr("tests.real_cli.test_review.CHANGE", CHANGE.replace("42", "43"))
    async with fake_github(root) as forge:
        forge.repository()
        checkout.git("remote", "add", "origin", f"https://{forge.host}/owner/repo.git")
        result, _ = await reviewed(stage, cli, forge, "improved")
        assert result.outcome is ReviewOutcome.GATE_FAILED, result
        assert result.top_improvement is not None
        assert result.top_improvement.gate is not None
        assert "AssertionError" in result.top_improvement.gate.tail
        assert forge.pulls == []
    assert result.top_improvement.branch in checkout.branches()
