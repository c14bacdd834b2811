"""What a program that is called `gh` gets of us, and what we take from it: scripts in its place that say anything."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import pytest

from darkfactory.devices import forge
from darkfactory.devices.forge import PullRequest, Target
from darkfactory.devices.git import Git
from darkfactory.devices.github import GitHub
from darkfactory.devices.launcher import RealLauncher
from darkfactory.errors import CompoundReviewFailed

pytestmark = pytest.mark.real

TARGET = Target("/srv/git/repo.git", "ghe.corp/owner/repo", trusted=True)
BRANCH = "darkfactory/review/2026-11-23-todo-abc"
SECRET = "gho_" + "0123456789" * 4
PULL: dict[str, Any] = {
    "number": 7,
    "url": "https://ghe.corp/owner/repo/pull/7",
    "state": "OPEN",
    "isDraft": True,
    "headRefName": BRANCH,
    "body": "x\n<!-- darkfactory-finding: other -->\n<!-- darkfactory-finding: todo-abc -->",
}


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """The only directory of the factory's PATH."""
    place = tmp_path / "programs"
    place.mkdir()
    git = shutil.which("git")
    assert git is not None
    (place / "git").symlink_to(git)
    return place


@pytest.fixture
def environ(programs: Path, tmp_path: Path) -> dict[str, str]:
    return {"PATH": str(programs), "HOME": str(tmp_path / "home")}


@pytest.fixture
def ours(tmp_path: Path, environ: dict[str, str]) -> GitHub:
    launcher = RealLauncher(f"test-{uuid.uuid4().hex}", os.environ["DARKFACTORY_RUN"])
    return GitHub(launcher, Git(launcher, tmp_path / "git", environ), tmp_path / "scratch", environ)


def says(programs: Path, text: str) -> None:
    program = programs / "gh"
    program.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{text}\n")
    program.chmod(0o755)


async def failure(ours: GitHub) -> CompoundReviewFailed:
    with pytest.raises(CompoundReviewFailed) as caught:
        await ours.waiting(TARGET)
    assert list(ours.scratch.iterdir()) == []
    return caught.value


async def test_without_gh_it_says_so_and_what_lies_where_agents_write_is_not_taken(
    ours: GitHub, environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agents = tmp_path / "agents"
    agents.mkdir()
    says(agents, "echo []")
    monkeypatch.chdir(agents)
    environ["PATH"] = f".::agents:{environ['PATH']}"
    caught = await failure(ours)
    assert (caught.outcome, caught.detail) == ("gh_missing", "there is no gh")
    assert "install it" in caught.remedy


async def test_it_gets_no_more_of_the_environment_than_it_needs_and_an_empty_directory(
    ours: GitHub, environ: dict[str, str], programs: Path, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    says(programs, f"{{ env; echo; ls -A; readlink /proc/self/fd/0; }} > {told}; echo []")
    passed = {"GH_TOKEN": "a", "GH_ENTERPRISE_TOKEN": "b", "HTTPS_PROXY": "http://proxy", "GH_CONFIG_DIR": "/c"}
    environ |= passed
    environ |= {"AWS_SECRET_ACCESS_KEY": "x", "GH_DEBUG": "api", "GH_REPO": "else/where", "GIT_CONFIG_GLOBAL": "/x"}
    environ |= {"GH_FORCE_TTY": "1", "EDITOR": "vi", "BROWSER": "firefox", "LD_PRELOAD_32": "x", "HTTP_PROXY": "x"}
    assert await ours.waiting(TARGET) == ()
    env, _, rest = told.read_text().partition("\n\n")
    found = dict(line.split("=", 1) for line in env.splitlines())
    assert passed.items() <= found.items()
    assert found["GIT_CONFIG_GLOBAL"] == os.devnull
    assert not {"AWS_SECRET_ACCESS_KEY", "GH_DEBUG", "GH_REPO", "GH_FORCE_TTY", "EDITOR", "BROWSER"} & found.keys()
    assert not {"LD_PRELOAD_32", "HTTP_PROXY"} & found.keys()
    assert rest.splitlines() == [".err", ".out", "/dev/null"]


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("exit 4", "gh_logged_out"),
        ("echo 'HTTP 401: Bad credentials (https://ghe.corp/api/graphql)' >&2; exit 1", "gh_logged_out"),
        ("echo 'HTTP 403: Resource not accessible' >&2; exit 1", "pr_failed"),
        ("kill -KILL $$", "pr_failed"),
        ("head -c 20000000 /dev/zero", "pr_failed"),
        ("printf '\\377\\376'", "pr_failed"),
        ("echo null", "pr_failed"),
        ("echo 7", "pr_failed"),
        ("echo '[7]'", "pr_failed"),
        ("printf '%0100000d' 0 | tr 0 '['", "pr_failed"),
    ],
)
async def test_what_it_says_is_one_of_few_outcomes(ours: GitHub, programs: Path, text: str, outcome: str) -> None:
    says(programs, text)
    caught = await failure(ours)
    assert (caught.outcome, bool(caught.remedy)) == (outcome, True)
    assert caught.detail.isprintable()


async def test_one_pull_request_is_what_it_says_of_it(ours: GitHub, programs: Path) -> None:
    """The finding is the last one that is named: ours is written below everybody else's words."""
    says(programs, f"cat <<'END'\n{json.dumps([PULL])}\nEND")
    assert await ours.waiting(TARGET) == (PullRequest(7, PULL["url"], "open", True, BRANCH, "todo-abc"),)


@pytest.mark.parametrize(
    "changed",
    [
        {"number": True},
        {"number": "7"},
        {"url": "javascript:alert(1)"},
        {"url": "https://ghe.corp/\x1b[2J"},
        {"url": "https://ghe.corp/" + "x" * 600},
        {"url": None},
        {"state": "ODD"},
        {"state": ["OPEN"]},
        {"isDraft": 1},
        {"headRefName": "main"},
        {"headRefName": None},
        {"body": None},
    ],
)
async def test_a_pull_request_with_a_wrong_field_is_none(
    ours: GitHub, programs: Path, changed: dict[str, object]
) -> None:
    says(programs, f"cat <<'END'\n{json.dumps([PULL | changed])}\nEND")
    assert (await failure(ours)).outcome == "pr_failed"


async def test_no_token_is_told_on(ours: GitHub, environ: dict[str, str], programs: Path) -> None:
    environ["GH_ENTERPRISE_TOKEN"] = "not-like-one-of-github"
    said = f"no: $GH_ENTERPRISE_TOKEN {SECRET} https://me:word@ghe.corp/x Authorization: Basic d29yZA== \\033[2J end"
    says(programs, f'printf "{said}" >&2; exit 1')
    caught = await failure(ours)
    assert "no: *** *** https://***ghe.corp/x Authorization: *** ?[2J end" in caught.detail


async def test_much_that_it_says_is_cut(ours: GitHub, programs: Path) -> None:
    says(programs, "printf '%010000d' 0 >&2; exit 1")
    assert len((await failure(ours)).detail) < forge.TOLD_LENGTH + 100


async def test_a_made_one_that_it_does_not_name_is_a_failure_unless_it_is_found(ours: GitHub, programs: Path) -> None:
    says(programs, "[ $2 = list ] && echo [] || echo https://ghe.corp/owner/repo/issues/7")
    with pytest.raises(CompoundReviewFailed, match="did not say what it had made"):
        await ours.open_draft(TARGET, branch=BRANCH, base="main", title="t", body="b", finding="todo-abc")


async def test_without_room_for_its_files_it_says_so(ours: GitHub, programs: Path) -> None:
    says(programs, "echo []")
    ours.scratch.touch()
    with pytest.raises(CompoundReviewFailed, match="cannot be used") as caught:
        await ours.waiting(TARGET)
    assert caught.value.outcome == "pr_failed"
