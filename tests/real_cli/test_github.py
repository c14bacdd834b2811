"""The real `gh`, against a GitHub Enterprise on loopback: pull requests are found, opened once, and told apart."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
import trio

from darkfactory.devices import github
from darkfactory.devices.forge import PullRequest, Target
from darkfactory.devices.git import Git
from darkfactory.devices.github import GitHub
from darkfactory.devices.launcher import RealLauncher
from darkfactory.errors import CompoundReviewFailed
from tests.real.repositories import Checkout

from . import clis
from .fake_github import HANG, TOKEN, Answer, FakeGitHub, fake_github

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


async def test_only_open_ones_of_our_own_branches_are_waiting(ours: GitHub, server: FakeGitHub, target: Target) -> None:
    for number in range(120):  # more than a page
        server.pull(f"somebody/{number}")
    first = server.pull(BRANCH, "x <!-- darkfactory-finding: todo-abc -->", isDraft=True)
    server.pull(f"{BRANCH}-2", state="MERGED")
    server.pull(f"{BRANCH}-3", state="CLOSED")
    server.pull(f"{BRANCH}-4", isCrossRepository=True)
    server.pull(f"{BRANCH}-5", repo="owner/other")
    for number in range(120):
        server.pull(f"somebody/{number}")
    wanted = PullRequest(first.number, server.url(first), "open", True, BRANCH, "todo-abc")
    assert await ours.waiting(target) == (wanted,)


async def test_one_is_found_by_its_branch_whatever_became_of_it_or_by_its_finding_while_it_is_open(
    ours: GitHub, server: FakeGitHub, target: Target
) -> None:
    marker = f"<!-- darkfactory-finding: {FINDING} -->"
    assert await ours.find(target, BRANCH, FINDING) is None
    server.pull("somebody/else", marker)
    server.pull(f"{BRANCH}-of-a-fork", marker, isCrossRepository=True)
    server.pull(f"{BRANCH}-of-more", marker.replace(FINDING, f"{FINDING}-more"))
    assert await ours.find(target, BRANCH, FINDING) is None
    server.pull(f"{BRANCH}-1", marker, state="CLOSED")
    server.pull(f"{BRANCH}-2", marker, state="MERGED")
    assert await ours.find(target, BRANCH, FINDING) is None, "what comes back is new"
    there = server.pull(f"{BRANCH}-3", marker)
    found = await ours.find(target, BRANCH, FINDING)
    assert found == PullRequest(there.number, server.url(there), "open", False, there.headRefName, FINDING)
    server.pull(BRANCH, "changed by somebody", state="MERGED")
    found = await ours.find(target, BRANCH, FINDING)
    assert found is not None
    assert (found.branch, found.state, found.finding) == (BRANCH, "merged", None)


async def pushed(ours: GitHub, target: Target, checkout: Checkout) -> None:
    await ours.push(checkout.path, target, checkout.commit("better"), BRANCH)


async def test_one_that_was_made_although_the_answer_was_lost_is_found(
    ours: GitHub, server: FakeGitHub, target: Target, checkout: Checkout
) -> None:
    await pushed(ours, target, checkout)
    server.forgets = True
    pull, new = await opened(ours, target)
    assert (pull.number, pull.finding, new) == (1, FINDING, False)
    assert len(server.pulls) == 1


async def test_one_that_somebody_opened_in_the_meantime_is_not_doubled(
    ours: GitHub, server: FakeGitHub, target: Target, checkout: Checkout
) -> None:
    """It was not there when it was looked for: the server's lists are behind for a moment, as they can be."""
    await pushed(ours, target, checkout)
    server.pull(BRANCH, "by hand")
    server.late = 2
    pull, new = await opened(ours, target)
    assert (pull.number, new, len(server.pulls)) == (1, False, 1)
    assert server.late == 0


async def test_a_branch_that_was_not_pushed_has_no_pull_request(
    ours: GitHub, server: FakeGitHub, target: Target
) -> None:
    with pytest.raises(CompoundReviewFailed, match="Head ref must be a branch") as caught:
        await opened(ours, target)
    assert (caught.value.outcome, server.pulls) == ("pr_failed", [])


async def test_a_text_that_is_too_long_is_cut_and_still_found_by_its_finding(
    ours: GitHub, server: FakeGitHub, target: Target, checkout: Checkout
) -> None:
    await pushed(ours, target, checkout)
    await opened(ours, target, title="\x1b[2J\n" + "t" * 1000, body="\udcff\0" + "b" * 100_000)
    (there,) = server.pulls
    assert len(there.body) < 65_536
    assert "\x1b" not in there.title
    (found,) = await ours.waiting(target)
    assert found.finding == FINDING


LOGGED_OUT: list[dict[str, str | None]] = [
    {"GH_ENTERPRISE_TOKEN": None},
    {"GH_ENTERPRISE_TOKEN": "gho_anotherOneThatNobodyKnows0001"},
    {"GH_ENTERPRISE_TOKEN": None, "GH_TOKEN": TOKEN},
]


@pytest.mark.parametrize("changed", LOGGED_OUT, ids=["no token", "a wrong one", "that of github.com"])
async def test_without_a_login_it_says_so(
    ours: GitHub, environ: dict[str, str], server: FakeGitHub, target: Target, changed: dict[str, str | None]
) -> None:
    for name, value in changed.items():
        environ.pop(name, None)
        if value is not None:
            environ[name] = value
    with pytest.raises(CompoundReviewFailed, match="gh auth login") as caught:
        await ours.waiting(target)
    assert caught.value.outcome == "gh_logged_out"
    assert "gho_" not in str(caught.value)
    assert TOKEN not in {(each.authorization or "").removeprefix("token ") for each in server.asked}


async def test_the_enterprise_s_token_does_not_go_where_only_the_repository_says(
    ours: GitHub, environ: dict[str, str], server: FakeGitHub, checkout: Checkout
) -> None:
    del environ["GH_HOST"]
    target = await ours.target(checkout.path, "origin", None)
    with pytest.raises(CompoundReviewFailed, match=f"GH_HOST={server.host}") as caught:
        await ours.waiting(target)
    assert (caught.value.outcome, server.asked) == ("gh_logged_out", [])


async def test_a_login_of_its_own_is_used_for_its_host(
    ours: GitHub, environ: dict[str, str], server: FakeGitHub, checkout: Checkout, tmp_path: Path
) -> None:
    del environ["GH_HOST"], environ["GH_ENTERPRISE_TOKEN"]
    config = tmp_path / "home" / ".config" / "gh"
    config.mkdir(parents=True)
    hosts = (server.host, "localhost")  # where there is a port, gh looks by either name
    logins = "".join(f"'{host}':\n    oauth_token: {TOKEN}\n    user: octocat\n" for host in hosts)
    (config / "hosts.yml").write_text(logins)
    target = await ours.target(checkout.path, "origin", None)
    await pushed(ours, target, checkout)
    _, new = await opened(ours, target)
    assert new


@pytest.mark.parametrize(
    "answer",
    [
        Answer(b"not JSON"),
        Answer(b'{"data": {"repository": {"pullRequests": {"nodes": [{"headRefName": "darkfactory/review/x"}]}}}}'),
        Answer(b'{"data": {"repository": {"pullRequests": {"nodes": "x"}}}}'),
        Answer(b'{"data": null, "errors": [{"type": "NOT_FOUND", "message": "Could not resolve"}]}'),
        Answer(b'{"message": "no ghp_0123456789012345678901234567890123456789"}', 403),
        Answer(b"<html>", 502),
        Answer(b"[" * 100_000),
    ],
    ids=["no JSON", "other fields", "other types", "an error", "forbidden", "a proxy's", "deep"],
)
async def test_an_answer_that_is_none_is_a_failure(
    ours: GitHub, server: FakeGitHub, target: Target, answer: Answer
) -> None:
    server.pull(BRANCH)
    server.answers["PullRequestList"] = answer
    with pytest.raises(CompoundReviewFailed) as caught:
        await ours.waiting(target)
    assert caught.value.outcome == "pr_failed"
    assert caught.value.detail.isprintable()
    assert "ghp_" not in str(caught.value)


async def test_a_server_that_is_not_there_is_a_failure(ours: GitHub, environ: dict[str, str]) -> None:
    environ["GH_HOST"] = "localhost:1"
    with pytest.raises(CompoundReviewFailed, match="refused") as caught:
        await ours.waiting(Target("x", "localhost:1/owner/repo", trusted=True))
    assert caught.value.outcome == "pr_failed"


async def test_a_server_that_does_not_answer_is_waited_for_only_so_long(
    ours: GitHub, server: FakeGitHub, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers["PullRequestList"] = HANG
    monkeypatch.setattr(github, "COMMAND_SECS", 0.5)
    with pytest.raises(CompoundReviewFailed, match=r"did not end within 0\.5 s") as caught:
        await ours.waiting(target)
    assert caught.value.outcome == "pr_failed"
    assert list(ours.scratch.iterdir()) == []


@pytest.mark.parametrize("operation", ["PullRequestList", "RepositoryInfo", "PullRequestCreate"])
async def test_cancelled_anywhere_it_leaves_nothing_and_can_be_done_again(
    ours: GitHub, server: FakeGitHub, target: Target, checkout: Checkout, operation: str
) -> None:
    await pushed(ours, target, checkout)
    server.answers[operation] = HANG
    async with trio.open_nursery() as nursery:
        nursery.start_soon(opened, ours, target)
        await server.held.wait()
        nursery.cancel_scope.cancel()
    assert list(ours.scratch.iterdir()) == []
    server.answers.clear()
    _, new = await opened(ours, target)
    assert (new, len(server.pulls)) == (True, 1)
