"""Branches are pushed by the real git, from repositories whose configuration would have them, or us, go elsewhere."""

from __future__ import annotations

import base64
import os
import shutil
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from darkfactory.devices.forge import Target
from darkfactory.devices.git import Git
from darkfactory.devices.github import GitHub
from darkfactory.devices.launcher import RealLauncher
from darkfactory.errors import CompoundReviewFailed
from tests.real_cli.fake_github import HANG, TOKEN, Answer, FakeGitHub, fake_github

from .repositories import Checkout

pytestmark = pytest.mark.real

BRANCH = "darkfactory/review/2026-11-23-todo-abc"
HEADER = "Basic " + base64.b64encode(f"x-access-token:{TOKEN}".encode()).decode()


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """The factory's; its `gh` knows one token, for whatever host."""
    programs = tmp_path / "programs"
    programs.mkdir()
    script(programs / "gh", f"echo {TOKEN}\n")
    return {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(tmp_path / "home")}


@pytest.fixture
def ours(tmp_path: Path, environ: dict[str, str]) -> GitHub:
    launcher = RealLauncher(f"test-{uuid.uuid4().hex}", os.environ["DARKFACTORY_RUN"])
    return GitHub(launcher, Git(launcher, tmp_path / "git", environ), tmp_path / "scratch", environ)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout.begun(tmp_path / "repository")


@pytest.fixture
def bare(tmp_path: Path, checkout: Checkout) -> Path:
    """What the checkout calls `origin`."""
    place = tmp_path / "bare.git"
    checkout.git("clone", "--quiet", "--bare", ".", str(place))
    checkout.git("remote", "add", "origin", str(place))
    return place


@pytest.fixture
async def server(tmp_path: Path, environ: dict[str, str]) -> AsyncIterator[FakeGitHub]:
    root = tmp_path / "github"
    root.mkdir()
    with trio.fail_after(60):
        async with fake_github(root) as served:
            served.repository()
            environ["SSL_CERT_FILE"] = str(served.authority)
            yield served


@pytest.fixture
def trap(tmp_path: Path) -> Callable[[], Path]:
    """A program that must not run; it leaves a file behind."""
    script(tmp_path / "trap", f'echo "$0 $*" >> {tmp_path}/sprung\n')
    return lambda: tmp_path / "sprung"


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}")
    path.chmod(0o755)
    return path


def branches(repository: Path) -> dict[str, str]:
    return Checkout(repository).branches()


def of_server(server: FakeGitHub, repo: str | None = "owner/repo") -> Target:
    return Target(f"https://{server.host}/owner/repo.git", repo and f"{server.host}/{repo}", trusted=True)


# --- where to


@pytest.mark.parametrize(
    ("url", "wanted", "repo", "trusted"),
    [
        ("https://github.com/o/r.git", None, "github.com/o/r", True),
        ("https://GitHub.com:443/o/r", None, "github.com/o/r", True),
        ("https://x-access-token:secret@github.com/o/r.git", "https://github.com/o/r.git", "github.com/o/r", True),
        ("https://ghe.corp:8443/o/r/", None, "ghe.corp:8443/o/r", True),
        ("https://agents.own/o/r", None, "agents.own/o/r", False),
        ("git@github.com:o/r.git", None, "github.com/o/r", True),
        ("github.com:o/r.name", None, "github.com/o/r.name", True),
        ("ssh://git@ssh.github.com:443/o/r.git", None, "github.com/o/r", True),
        ("ssh://git@ghe.corp:2222/o/r.git", None, "ghe.corp/o/r", False),
        ("https://gitlab.com/group/sub/r.git", None, None, False),
        ("/srv/git/r.git", None, None, False),
        ("file:///srv/git/r.git", None, None, False),
    ],
)
async def test_the_repository_of_pull_requests_is_what_the_url_says(
    ours: GitHub, checkout: Checkout, environ: dict[str, str], url: str, wanted: str | None, repo: str, trusted: bool
) -> None:
    """Trusted is github.com, and what GH_HOST says; a URL in the fleet file is, whatever it says."""
    environ["GH_HOST"] = "ghe.corp:8443"
    checkout.git("remote", "add", "up", url)
    assert await ours.target(checkout.path, "up", None) == Target(wanted or url, repo, trusted)
    assert await ours.target(checkout.path, url, None) == Target(wanted or url, repo, repo is not None)


async def test_a_person_can_say_which_repository_it_is(
    ours: GitHub, checkout: Checkout, bare: Path, environ: dict[str, str]
) -> None:
    told = await ours.target(checkout.path, "origin", "ghe.corp/o/r")
    assert told == Target(str(bare), "ghe.corp/o/r", trusted=True)
    assert (await ours.target(checkout.path, "origin", "o/r")).repo == "github.com/o/r"
    environ["GH_HOST"] = "ghe.corp"
    assert (await ours.target(checkout.path, "origin", "o/r")).repo == "ghe.corp/o/r"


async def test_the_url_to_push_to_comes_first_and_is_what_is_written_there(
    ours: GitHub, checkout: Checkout, bare: Path
) -> None:
    checkout.git("remote", "set-url", "--push", "origin", "../bare.git")
    for key in ("insteadOf", "pushInsteadOf"):
        checkout.git("config", "--add", f"url.https://agents.own/.{key}", "../")
        checkout.git("config", "--add", f"url.https://agents.own/.{key}", str(bare.parent))
    target = await ours.target(checkout.path, "origin", None)
    assert target.url == f"{checkout.path}/../bare.git"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://github.com/o/r", "over http without TLS"),
        ("git://github.com/o/r", "neither https nor ssh"),
        ("ext::sh -c touch% /tmp/x", "neither https nor ssh"),
        ("ssh://-oProxyCommand=x/o/r", "neither https nor ssh"),
        ("-oProxyCommand=x:o/r", "is none"),
        ("https://github.com/o/r\x1b[2J", "is none"),
    ],
)
async def test_a_url_that_is_none_of_ours_is_no_remote(ours: GitHub, checkout: Checkout, url: str, why: str) -> None:
    checkout.git("remote", "add", "up", "x")
    checkout.git("config", "remote.up.url", url)
    with pytest.raises(CompoundReviewFailed, match=why) as caught:
        await ours.target(checkout.path, "up", None)
    assert caught.value.outcome == "no_remote"
    assert caught.value.remedy


async def test_without_a_remote_or_a_repository_it_says_so(ours: GitHub, checkout: Checkout, tmp_path: Path) -> None:
    with pytest.raises(CompoundReviewFailed, match="has no remote called origin") as caught:
        await ours.target(checkout.path, "origin", None)
    assert caught.value.outcome == "no_remote"
    with pytest.raises(CompoundReviewFailed, match="no git repository") as caught:
        await ours.target(tmp_path, "origin", None)
    assert caught.value.outcome == "no_repository"


async def test_pull_requests_need_a_repository_of_github(ours: GitHub, checkout: Checkout, bare: Path) -> None:
    target = await ours.target(checkout.path, "origin", None)
    with pytest.raises(CompoundReviewFailed, match="github_repo = ") as caught:
        await ours.waiting(target)
    assert caught.value.outcome == "no_remote"


# --- to a path


async def test_a_branch_is_pushed_and_pushing_it_again_is_fine(ours: GitHub, checkout: Checkout, bare: Path) -> None:
    before = checkout.branches()
    commit = checkout.commit("better")
    target = await ours.target(checkout.path, "origin", None)
    for _ in range(2):
        await ours.push(checkout.path, target, commit, BRANCH)
        assert branches(bare) == before | {BRANCH: commit}
    assert [*ours.scratch.iterdir(), *ours.git.scratch.iterdir()] == []


@pytest.mark.parametrize("other", ["HEAD~1", "HEAD"], ids=["behind", "elsewhere"])
async def test_a_branch_that_is_at_another_commit_is_left_alone(
    ours: GitHub, checkout: Checkout, bare: Path, other: str
) -> None:
    checkout.commit("one")
    checkout.git("push", "--quiet", "origin", f"{other}:refs/heads/{BRANCH}")
    there = branches(bare)
    checkout.git("reset", "--quiet", "--hard", "HEAD~1")
    commit = checkout.commit("two")
    with pytest.raises(CompoundReviewFailed, match="already, at another commit") as caught:
        await ours.push(checkout.path, await ours.target(checkout.path, "origin", None), commit, BRANCH)
    assert (caught.value.outcome, bool(caught.value.remedy)) == ("push_failed", True)
    assert branches(bare) == there


async def test_nothing_of_either_repository_s_configuration_has_an_effect(
    ours: GitHub, checkout: Checkout, bare: Path, trap: Callable[[], Path], tmp_path: Path
) -> None:
    """At the end it is seen that the traps would have been sprung."""
    program = str(tmp_path / "trap")
    elsewhere = tmp_path / "elsewhere.git"
    checkout.git("clone", "--quiet", "--bare", ".", str(elsewhere))
    target = await ours.target(checkout.path, "origin", None)
    commit = checkout.commit("better")
    for key in ("insteadOf", "pushInsteadOf"):
        checkout.git("config", f"url.{elsewhere}.{key}", str(bare))
    for key in ("core.sshCommand", "credential.helper", "core.gitProxy", "remote.origin.receivepack", "core.pager"):
        checkout.git("config", key, program)
    for place, names in ((checkout.path / ".git", ("pre-push",)), (bare, HOOKS)):
        for name in names:
            (place / "hooks").mkdir(exist_ok=True)
            shutil.copy(program, place / "hooks" / name)
    for key in ("core.fsmonitor", "core.alternateRefsCommand"):
        checkout.git(f"--git-dir={bare}", "config", key, program)
    await ours.push(checkout.path, target, commit, BRANCH)
    assert not trap().exists()
    assert (branches(bare)[BRANCH], BRANCH in branches(elsewhere)) == (commit, False)
    checkout.git("push", "--quiet", "--receive-pack=git-receive-pack", str(bare), f"{commit}:refs/heads/other")
    assert trap().exists()
    assert "other" in branches(elsewhere)


HOOKS = ("pre-receive", "update", "post-receive", "post-update", "reference-transaction", "push-to-checkout")


async def test_a_checkout_s_own_branch_is_not_changed_from_outside(
    ours: GitHub, checkout: Checkout, bare: Path
) -> None:
    """It would have files written, by filters that it names."""
    other = Checkout(bare.parent / "other")
    checkout.git("init", "--quiet", f"--initial-branch={BRANCH}", str(other.path))
    other.git("config", "receive.denyCurrentBranch", "updateInstead")
    commit = checkout.commit("better")
    with pytest.raises(CompoundReviewFailed, match="could not be pushed"):
        await ours.push(checkout.path, Target(str(other.path), None), commit, BRANCH)
    assert (other.branches(), [each.name for each in other.path.iterdir()]) == ({}, [".git"])
    other.git("config", "core.hooksPath", os.devnull)
    checkout.git("push", "--quiet", str(other.path), f"{commit}:refs/heads/{BRANCH}")
    assert (other.path / "README").exists()  # to whoever does not refuse it


async def test_a_shallow_clone_can_push(ours: GitHub, checkout: Checkout, bare: Path, tmp_path: Path) -> None:
    checkout.commit("more")
    checkout.git("push", "--quiet", "origin", "main")
    shallow = Checkout(tmp_path / "shallow")
    checkout.git("clone", "--quiet", "--depth=1", f"file://{bare}", str(shallow.path))
    checkout.commit("more elsewhere")
    checkout.git("push", "--quiet", "origin", "main")
    commit = shallow.commit("better")
    await ours.push(shallow.path, await ours.target(shallow.path, "origin", None), commit, BRANCH)
    assert Checkout(bare).subjects(BRANCH) == ["better", "more", "the beginning"]


async def test_a_repository_with_long_names_can_push_and_so_can_a_worktree_and_a_bare_one(
    ours: GitHub, tmp_path: Path
) -> None:
    """Its objects' names are of 64 digits, and its own has a quote, a colon and a line's end."""
    place = tmp_path / 'odd": \\\nname'
    bare = tmp_path / "bare.git"
    place.mkdir()
    checkout = Checkout(place)
    checkout.git("init", "--quiet", "--object-format=sha256", "--initial-branch=main")
    checkout.write("README", "read me\n")
    commit = checkout.commit("the beginning")
    checkout.git("init", "--quiet", "--bare", "--object-format=sha256", str(bare))
    checkout.git("worktree", "add", "--quiet", "-b", "work", str(tmp_path / "tree"))
    checkout.git("clone", "--quiet", "--bare", ".", str(tmp_path / "copy.git"))
    for number, repo in enumerate((place, tmp_path / "tree", tmp_path / "copy.git")):
        await ours.push(repo, Target(str(bare), None), commit, f"{BRANCH}-{number}")
    assert set(branches(bare).values()) == {commit}
    assert len(branches(bare)) == 3


async def test_a_clone_without_all_objects_can_push(
    ours: GitHub, checkout: Checkout, bare: Path, tmp_path: Path
) -> None:
    checkout.git(f"--git-dir={bare}", "config", "uploadpack.allowFilter", "true")
    partial = Checkout(tmp_path / "partial")
    checkout.git("clone", "--quiet", "--filter=blob:none", "--no-checkout", f"file://{bare}", str(partial.path))
    partial.git("sparse-checkout", "set", "--no-cone", "/new")
    partial.git("checkout", "--quiet", "main")
    partial.write("new", "new\n")
    commit = partial.commit("better")
    await ours.push(partial.path, await ours.target(partial.path, "origin", None), commit, BRANCH)
    assert Checkout(bare).subjects(BRANCH) == ["better", "the beginning"]


# --- by https


async def test_the_token_is_sent_and_is_in_no_argument(
    ours: GitHub, checkout: Checkout, server: FakeGitHub, environ: dict[str, str]
) -> None:
    server.answers["/owner/repo.git/info/refs"] = HANG
    basic = HEADER.removeprefix("Basic ").encode()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.push, checkout.path, of_server(server), checkout.git("rev-parse", "HEAD"), BRANCH)
        await server.held.wait()
        told = {part: list(of_processes(part)) for part in ("cmdline", "environ")}
        nursery.cancel_scope.cancel()
    assert server.asked[0].authorization == HEADER
    assert any(basic in environment for environment in told["environ"])
    assert any(b"remote-https" in line for line in told["cmdline"])
    assert not any(secret in line for line in told["cmdline"] for secret in (basic, TOKEN.encode()))
    assert [*ours.scratch.iterdir(), *ours.git.scratch.iterdir()] == []
    del server.answers["/owner/repo.git/info/refs"]
    commit = checkout.commit("better")
    await ours.push(checkout.path, of_server(server), commit, BRANCH)
    assert branches(server.root / "owner/repo.git") == {BRANCH: commit}


def of_processes(part: str) -> Iterator[bytes]:
    """That part of what the system knows of each process of this test, ourselves left out."""
    mark = os.environ["DARKFACTORY_RUN"].encode()
    for directory in Path("/proc").iterdir():
        if directory.name.isdecimal() and int(directory.name) != os.getpid():
            with suppress(OSError):
                if mark in (directory / "environ").read_bytes():
                    yield (directory / part).read_bytes()


async def test_another_host_than_that_of_the_pull_requests_gets_no_token(
    ours: GitHub, checkout: Checkout, server: FakeGitHub, tmp_path: Path
) -> None:
    target = Target(of_server(server).url, "github.com/owner/repo", trusted=True)
    with pytest.raises(CompoundReviewFailed, match="could not be pushed") as caught:
        await ours.push(checkout.path, target, checkout.git("rev-parse", "HEAD"), BRANCH)
    assert caught.value.outcome == "push_failed"
    assert {each.authorization for each in server.asked} == {None}


async def test_a_redirection_is_not_followed(
    ours: GitHub, checkout: Checkout, server: FakeGitHub, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    async with fake_github(elsewhere) as other:
        server.authority.write_bytes(server.authority.read_bytes() + other.authority.read_bytes())
        where = f"https://{other.host}/owner/repo.git/info/refs?service=git-receive-pack"
        server.answers["/owner/repo.git/info/refs"] = Answer(where.encode(), 301)
        with pytest.raises(CompoundReviewFailed):
            await ours.push(checkout.path, of_server(server), checkout.git("rev-parse", "HEAD"), BRANCH)
        assert (len(server.asked), other.asked) == (1, [])


async def test_what_is_for_any_enterprise_does_not_go_where_only_the_repository_says(
    ours: GitHub, checkout: Checkout, server: FakeGitHub, environ: dict[str, str], tmp_path: Path
) -> None:
    script(tmp_path / "programs" / "gh", "echo $GH_ENTERPRISE_TOKEN\n")
    environ["GH_ENTERPRISE_TOKEN"] = TOKEN
    checkout.git("remote", "add", "origin", of_server(server).url)
    commit = checkout.git("rev-parse", "HEAD")
    with pytest.raises(CompoundReviewFailed, match=f"GH_HOST={server.host}") as caught:
        await ours.push(checkout.path, await ours.target(checkout.path, "origin", None), commit, BRANCH)
    assert (caught.value.outcome, server.asked) == ("gh_logged_out", [])
    environ["GH_HOST"] = server.host
    await ours.push(checkout.path, await ours.target(checkout.path, "origin", None), commit, BRANCH)
    assert branches(server.root / "owner/repo.git") == {BRANCH: commit}


async def test_a_server_with_a_certificate_of_its_own_making_gets_nothing(
    ours: GitHub, checkout: Checkout, server: FakeGitHub, environ: dict[str, str]
) -> None:
    del environ["SSL_CERT_FILE"]
    checkout.git("config", "http.sslVerify", "false")
    with pytest.raises(CompoundReviewFailed, match="certificate") as caught:
        await ours.push(checkout.path, of_server(server), checkout.git("rev-parse", "HEAD"), BRANCH)
    assert (caught.value.outcome, server.asked) == ("push_failed", [])


# --- by ssh


async def test_ssh_is_asked_to_ask_nothing_and_gets_home_and_agent(
    ours: GitHub, checkout: Checkout, bare: Path, environ: dict[str, str], tmp_path: Path
) -> None:
    """By an `ssh` that runs on this machine what it was to run over there."""
    told = tmp_path / "told"
    says = f'printf "%s\\n" "$@" "$HOME" "$SSH_AUTH_SOCK" > {told}'
    script(tmp_path / "programs" / "ssh", f"{says}\nexec git-receive-pack {bare}\n")
    environ |= {"SSH_AUTH_SOCK": "/tmp/agent", "GIT_SSH_COMMAND": "false"}
    commit = checkout.commit("better")
    await ours.push(checkout.path, Target("git@ghe.corp:o/r.git", None), commit, BRANCH)
    assert branches(bare)[BRANCH] == commit
    *options, host, command, home, agent = told.read_text().splitlines()
    assert (host, command) == ("git@ghe.corp", "git-receive-pack 'o/r.git'")
    assert (home, agent) == (environ["HOME"], "/tmp/agent")
    assert "-oBatchMode=yes" in options
