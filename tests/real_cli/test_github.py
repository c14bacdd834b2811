"""The real `gh`, against a GitHub Enterprise on loopback: pull requests are found, opened once, and told apart."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
import trio

from darkfactory.devices.git import Git
from darkfactory.devices.github import GitHub, PullRequest, Target
from darkfactory.devices.launcher import RealLauncher
from tests.real.repositories import Checkout

from . import clis
from .fake_github import TOKEN, FakeGitHub, fake_github

BRANCH = "darkfactory/review/2026-11-23-todo-abc"
FINDING = "todo-abc"


@pytest.fixture(scope="module")
def gh() -> Path:
    """The real program."""
    try:
        return clis.gh_installed()
    except clis.NotToBeHad as reason:
        pytest.skip(f"gh is not to be had here: {reason}")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[FakeGitHub]:
    root = tmp_path / "github"
    root.mkdir()
    with trio.fail_after(60):
        async with fake_github(root) as served:
            served.repository()
            yield served


@pytest.fixture
def checkout(tmp_path: Path, server: FakeGitHub) -> Checkout:
    made = Checkout.begun(tmp_path / "repository")
    made.git("remote", "add", "origin", f"https://{server.host}/owner/repo.git")
    return made


@pytest.fixture
def environ(tmp_path: Path, gh: Path, server: FakeGitHub) -> dict[str, str]:
    (tmp_path / "home").mkdir()
    return {
        "PATH": f"{gh.parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path / "home"),
        "SSL_CERT_FILE": str(server.authority),
        "GH_HOST": server.host,
        "GH_ENTERPRISE_TOKEN": TOKEN,
    }


@pytest.fixture
def ours(tmp_path: Path, environ: Mapping[str, str]) -> GitHub:
    launcher = RealLauncher(f"test-{uuid.uuid4().hex}", os.environ["DARKFACTORY_RUN"])
    return GitHub(launcher, Git(launcher, tmp_path / "git", environ), tmp_path / "scratch", environ)


@pytest.fixture
def target(server: FakeGitHub) -> Target:
    return Target(f"https://{server.host}/owner/repo.git", f"{server.host}/owner/repo", trusted=True)


async def opened(ours: GitHub, target: Target, **more: str) -> tuple[PullRequest, bool]:
    said = {"branch": BRANCH, "base": "main", "title": "Less to do", "body": "As was found.", "finding": FINDING}
    return await ours.open_draft(target, **said | more)  # type: ignore[arg-type]


async def test_a_branch_is_pushed_and_its_draft_opened_and_all_of_it_again_changes_nothing(
    ours: GitHub, server: FakeGitHub, checkout: Checkout, tmp_path: Path
) -> None:
    checkout.git("push", "--quiet", str(server.root / "owner/repo.git"), "main")
    commit = checkout.commit("better")
    target = await ours.target(checkout.path, "origin", None)
    assert target.repo == f"{server.host}/owner/repo"
    for made in (True, False):
        await ours.push(checkout.path, target, commit, BRANCH)
        pull, new = await opened(ours, target, title="--web", body="Said.\n<!-- darkfactory-finding: other -->\nMore.")
        url = f"https://{server.host}/owner/repo/pull/1"
        assert (pull, new) == (PullRequest(1, url, "open", True, BRANCH, FINDING), made)
    (there,) = server.pulls
    assert (there.title, there.baseRefName, there.isDraft) == ("--web", "main", True)
    assert there.body == f"Said.\n\nMore.\n\n<!-- darkfactory-finding: {FINDING} -->\n"
    assert await ours.waiting(target) == (pull,)
    assert server.operations().count("PullRequestCreate") == 1
    assert [*ours.scratch.iterdir(), *(tmp_path / "home").iterdir()] == []
