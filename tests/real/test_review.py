"""The whole review on real repositories: real git, real processes, an agent that is a script, pushes to a path.

What GitHub itself has to say is in tests/real_cli.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import resource
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from darkfactory import AgentDefinition, AgentLayer, CompoundReviewConfig, OrchestratorConfig, open_factory
from darkfactory.devices.github import GitHub
from darkfactory.devices.machine import Machine
from darkfactory.model.fleet import Secret
from darkfactory.model.review import CompoundReviewResult, ReviewOutcome
from darkfactory.runtime.factory import this_machine
from darkfactory.testing import CancelAtStep, SimulatedForge

from .repositories import Checkout

pytestmark = pytest.mark.real

AGENT = f"""#!{sys.executable} -IS
import json, os, subprocess, sys, time
task = sys.stdin.read()
print(json.dumps({{"type": "started", "session": "s"}}), flush=True)
finding = task.partition('"finding": "')[2].partition('"')[0]
outcome = "improved"
def git(*argv):
    subprocess.run(["git", "-c", "user.name=agent", "-c", "user.email=agent@localhost", *argv], check=True)
DEED
report = json.dumps({{"finding": finding, "outcome": outcome, "summary": "did what was asked"}})
print(json.dumps({{"type": "result", "ok": True, "text": "Done.\\n\\n```json\\n" + report + "\\n```\\n"}}), flush=True)
"""
WRITES = 'open("src/engine_test.py", "w").write("assert True\\n")'
COMMITS = WRITES + '\ngit("add", "--all"); git("commit", "-q", "-m", "a test of the engine")'
GATE = (sys.executable, "-I", "-c", "import pathlib; assert pathlib.Path('src/engine_test.py').exists()")


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A repository whose last days left something to be found."""
    made = Checkout.begun(tmp_path / "repository")
    for number in range(5):
        made.write("src/engine.py", "".join(f"line_{line} = {number}\n" for line in range(60)) + "# TODO: the rest\n")
        made.commit(f"fix: the engine, once more ({number})")
    return made


def fleet(tmp_path: Path, deed: str = COMMITS, **keys: Any) -> OrchestratorConfig:
    program = tmp_path / "bin" / "demo"
    program.parent.mkdir(exist_ok=True)
    program.write_text(AGENT.replace("DEED", deed))
    program.chmod(0o755)
    agent = AgentDefinition(
        "improver", AgentLayer.GROWTH, str(program), "its own task", env={"AGENT_KEY": Secret("hush")}, grace_secs=0.5
    )
    section = {
        "schedule": "0 2 * * *",
        "repo_path": tmp_path / "repository",
        "create_prs": True,
        "gate": GATE,
        "remote": str(tmp_path / "remote.git"),
    } | keys
    return OrchestratorConfig(
        working_dir=tmp_path,
        agents=(agent,),
        compound_review=CompoundReviewConfig(**section),
        state_dir=tmp_path / "state",
        min_free_bytes=0,
        shutdown_grace_secs=3.0,
        routing=attrs.evolve(OrchestratorConfig(tmp_path).routing, fallback="improver"),
    )


@attrs.define(eq=False)
class PathForge(SimulatedForge):
    """Pushes are real, and go to a path; pull requests are imagined."""

    real: GitHub = attrs.field(kw_only=True)

    async def push(self, repo: Path, target: Any, commit: str, branch: str) -> None:
        await self._step("push")
        real = await self.real.target(repo, str(repo.parent / "remote.git"), None)
        await self.real.push(repo, real, commit, branch)
        self.pushed[branch] = commit


@attrs.define(eq=False)
class Place:
    """A machine whose pull requests are imagined, for any number of lives."""

    forge: PathForge | None = None

    @contextmanager
    def open(self, config: OrchestratorConfig) -> Iterator[Machine]:
        with this_machine(config) as machine:
            assert machine.review is not None
            real = machine.review.forge
            assert isinstance(real, GitHub)
            if self.forge is None:
                self.forge = PathForge(real=real)
            self.forge.real = real
            yield attrs.evolve(machine, review=attrs.evolve(machine.review, forge=self.forge))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    git("init", "-q", "--bare", str(tmp_path / "remote.git"))
    return Place()


async def review(config: OrchestratorConfig, place: Place, **how: Any) -> CompoundReviewResult:
    async with open_factory(config, machine=place.open) as factory:
        return await factory.trigger_compound_review(**how)


def fingerprint(directory: Path) -> dict[str, str]:
    """Every file below, with its mode, its time and what is in it."""
    found = {}
    for path in sorted(directory.rglob("*")):
        status = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(status.st_mode) else ""
        found[str(path)] = f"{status.st_mode:o} {status.st_mtime_ns} {content}"
    return found


def named(directory: Path, pattern: str) -> set[str]:
    """The names of files below."""
    return {path.name for path in directory.rglob(pattern)}


def git(*argv: str, cwd: Path | None = None) -> None:
    subprocess.run(["git", *argv], cwd=cwd, check=True)


def shared(checkout: Checkout) -> tuple[object, ...]:
    """What of the shared checkout a review never touches."""
    git = checkout.path / ".git"
    head, index = (git / "HEAD").read_bytes(), (git / "index").read_bytes()
    files = {path: text for path, text in fingerprint(checkout.path).items() if "/.git" not in path}
    return head, index, files, checkout.branches()["main"]


async def test_a_dry_run_leaves_the_repository_as_it_was_to_the_byte(
    tmp_path: Path, checkout: Checkout, place: Place
) -> None:
    checkout.write("sub/file", "changed and not committed\n")
    before = fingerprint(checkout.path)
    result = await review(fleet(tmp_path, create_prs=False), place)
    assert (result.outcome, result.commits) == (ReviewOutcome.DRY_RUN, 6)
    assert {"todo", "churn"} <= {finding.kind.value for finding in result.findings}
    assert "dirty_tree" in {notice.name for notice in result.notices}
    assert fingerprint(checkout.path) == before
    (page,) = (tmp_path / "state" / "reviews").glob("review-*.md")
    told = json.loads(page.with_suffix(".json").read_text())
    assert told["outcome"] == "dry_run"
    assert result.findings[0].title in page.read_text()


@pytest.mark.parametrize("deed", [WRITES, COMMITS], ids=["leaves it to us", "commits"])
async def test_a_night_ends_with_a_branch_at_the_remote_and_a_draft(
    deed: str, tmp_path: Path, checkout: Checkout, place: Place
) -> None:
    before = shared(checkout)
    result = await review(fleet(tmp_path, deed), place)
    assert result.outcome is ReviewOutcome.PR_CREATED, result.detail
    improvement = result.top_improvement
    assert improvement is not None
    remote = Checkout(tmp_path / "remote.git")
    assert remote.branches() == {improvement.branch: improvement.commit}
    assert remote.files(improvement.branch)["src/engine_test.py"] == "assert True"
    assert shared(checkout) == before
    assert checkout.branches()[improvement.branch] == improvement.commit
    assert checkout.git("worktree", "list", "--porcelain").count("worktree ") == 1
    assert list((tmp_path / "state" / "worktrees" / ".records").iterdir()) == []
    assert improvement.gate is not None
    assert improvement.gate.passed
    assert place.forge is not None
    ((title, body),) = place.forge.texts
    assert improvement.finding in body
    assert title


async def test_the_gate_runs_in_the_worktree_with_a_mark_and_without_secrets(
    tmp_path: Path, checkout: Checkout, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GH_TOKEN", "hush")
    told = tmp_path / "told"
    gate = ("sh", "-c", f"env > {told}; pwd >> {told}; git status --porcelain >> {told}")
    result = await review(fleet(tmp_path, gate=gate), place)
    assert result.outcome is ReviewOutcome.PR_CREATED, result.detail
    text = told.read_text()
    assert "hush" not in text
    assert f"{result.top_improvement.run}-gate" in text  # type: ignore[union-attr]
    assert str(tmp_path / "state" / "worktrees") in text.splitlines()[-1]


async def test_the_gate_sees_what_would_be_handed_in_and_nothing_else(
    tmp_path: Path, checkout: Checkout, place: Place
) -> None:
    """What git ignores would make it green, and would be on nobody's branch."""
    result = await review(fleet(tmp_path, 'open("src/.gitignore", "w").write("engine_test.py")\n' + WRITES), place)
    assert result.outcome is ReviewOutcome.GATE_FAILED, result.detail
    assert Checkout(tmp_path / "remote.git").branches() == {}


ELSEWHERE = """
here = os.getcwd()
os.chdir("/")
os.rename(here, here + ".moved")
os.makedirs(here + ".green/src")
open(here + ".green/src/engine_test.py", "w")
os.symlink(here + ".green", here)
"""
WORK = 'open("src/new.py", "w").write("new"); git("add", "--all"); git("commit", "-q", "-m", "work")\n'
INSIDE = 'git("init", "-q", "src/in"); git("-C", "src/in", "commit", "-q", "-m", "x", "--allow-empty")\n'


@pytest.mark.parametrize(
    ("deed", "why"),
    [
        (WORK + ELSEWHERE, "something else is in the place of its directory"),
        (WORK + 'git("checkout", "-q", "--detach", "HEAD~1")', "its branch is not at"),
        ('git("checkout", "-q", "--orphan", "its-own")\n' + COMMITS, "its branch is not at"),
        ('git("checkout", "-q", "others")\n' + WRITES, "its branch is not at"),
        ('git("reset", "-q", "--hard", "HEAD~2")\n' + COMMITS, "does not go on from"),
        (INSIDE + WRITES, "it has a repository inside: src/in"),
    ],
    ids=["a link", "a HEAD elsewhere", "an orphan", "another branch", "an older commit", "a repository inside"],
)
async def test_what_is_not_a_continuation_of_the_base_on_its_own_branch_is_not_handed_in(
    deed: str, why: str, tmp_path: Path, checkout: Checkout, place: Place
) -> None:
    checkout.git(
        "branch", "others", checkout.git("commit-tree", "HEAD^{tree}", "-p", "HEAD", "-m", "nobody's business")
    )
    result = await review(fleet(tmp_path, deed), place)
    assert result.outcome is ReviewOutcome.AGENT_FAILED, result.detail
    assert why in result.detail
    assert result.top_improvement is not None
    assert result.top_improvement.gate is None
    assert Checkout(tmp_path / "remote.git").branches() == {}
    inside = [*(tmp_path / "state" / "worktrees").glob("*/src/in/.git")]
    assert len(inside) == ("repository inside" in why)  # its commits are nowhere else


async def test_the_gate_of_a_subdirectory_is_led_out_of_its_worktree_by_no_link(
    tmp_path: Path, checkout: Checkout, place: Place
) -> None:
    deed = f"""
os.chdir("..")
os.unlink("sub/file")
os.rmdir("sub")
os.symlink("{checkout.path}/sub", "sub")
"""
    gate = (sys.executable, "-I", "-c", "import pathlib; assert pathlib.Path('file').exists()")
    result = await review(fleet(tmp_path, deed, repo_path=checkout.path / "sub", gate=gate), place)
    assert result.outcome is ReviewOutcome.AGENT_FAILED, result.detail
    assert "a link leads there" in result.detail


async def test_a_red_gate_and_what_it_has_started(tmp_path: Path, checkout: Checkout, place: Place) -> None:
    gate = ("sh", "-c", "setsid sleep 1000 & sleep 1000 & echo 3 failed; exit 3")
    result = await review(fleet(tmp_path, gate=gate), place)
    assert result.outcome is ReviewOutcome.GATE_FAILED
    assert result.top_improvement is not None
    assert result.top_improvement.gate is not None
    assert (result.top_improvement.gate.exit_code, result.top_improvement.gate.tail) == (3, "3 failed")
    assert result.top_improvement.branch in checkout.branches()
    assert place.forge is not None
    assert place.forge.pushed == {}


async def test_a_gate_that_floods_is_ended_and_costs_us_no_memory(
    tmp_path: Path, checkout: Checkout, place: Place
) -> None:
    flood = (sys.executable, "-I", "-c", "import os\nwhile True: os.write(1, b'flood' * 20000)")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = await review(fleet(tmp_path, gate=flood), place)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024, "KiB, of 256 MiB that it printed"
    assert result.outcome is ReviewOutcome.GATE_FAILED
    assert result.detail.endswith("printed more than we take")
    assert result.top_improvement is not None
    assert result.top_improvement.gate is not None
    printed, _, why = result.top_improvement.gate.tail.rpartition("\n")
    assert "flood" in printed
    assert why == "printed more than we take"


async def test_what_a_killed_gate_had_printed_is_taken_away_at_the_next_start(
    tmp_path: Path, checkout: Checkout, place: Place
) -> None:
    left = tmp_path / "state" / "reviews" / ".scratch" / "improver-x-gate.out"
    left.parent.mkdir(parents=True, mode=0o700)
    (tmp_path / "state").chmod(0o700)
    left.write_text("256 MiB, perhaps")
    await review(fleet(tmp_path), place, dry_run=True)
    assert not left.exists()


async def test_a_gate_that_cannot_be_started(tmp_path: Path, checkout: Checkout, place: Place) -> None:
    result = await review(fleet(tmp_path, gate=("no-such-gate",)), place)
    assert result.outcome is ReviewOutcome.GATE_FAILED
    assert "there is no no-such-gate on the PATH of the factory" in result.detail


async def test_an_agent_that_declines_leaves_no_branch(tmp_path: Path, checkout: Checkout, place: Place) -> None:
    result = await review(fleet(tmp_path, 'outcome = "declined"'), place)
    assert (result.outcome, result.detail) == (ReviewOutcome.DECLINED, "did what was asked")
    assert [*checkout.branches()] == ["main"]


async def test_an_agent_that_only_says_so_has_failed(tmp_path: Path, checkout: Checkout, place: Place) -> None:
    result = await review(fleet(tmp_path, "pass"), place)
    assert result.outcome is ReviewOutcome.NO_CHANGE
    assert [*checkout.branches()] == ["main"]


async def test_an_agent_that_leaves_half_a_rebase_loses_nothing(
    tmp_path: Path, checkout: Checkout, place: Place
) -> None:
    deed = COMMITS + '\nsubprocess.run(["git", "checkout", "-q", "--detach"]); open(".git", "w").write("gitdir: /x\\n")'
    result = await review(fleet(tmp_path, deed), place)
    assert result.top_improvement is not None
    assert result.outcome is ReviewOutcome.AGENT_FAILED
    assert "src/engine_test.py" in checkout.files(result.top_improvement.branch)


@contextmanager
def without(path: Path) -> Iterator[None]:
    aside = path.with_name(f"{path.name}.aside")
    path.rename(aside)
    yield
    aside.rename(path)


BAD: dict[str, tuple[Callable[[Checkout], object], ReviewOutcome, str]] = {
    "no repository": (lambda it: shutil.rmtree(it.path / ".git"), ReviewOutcome.NO_REPOSITORY, "git"),
    "damaged": (lambda it: (it.path / ".git" / "HEAD").unlink(), ReviewOutcome.NO_REPOSITORY, "git"),
    "no such branch": (lambda it: it.git("branch", "-m", "trunk"), ReviewOutcome.NO_BASE_BRANCH, "trunk"),
    "no commits": (
        lambda it: (shutil.rmtree(it.path / ".git"), it.git("init", "-q", "-b", "main")),
        ReviewOutcome.NO_COMMITS,
        "commit",
    ),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_repository_that_cannot_be_reviewed_is_an_outcome_with_a_remedy(
    name: str, tmp_path: Path, checkout: Checkout, place: Place
) -> None:
    spoil, outcome, word = BAD[name]
    spoil(checkout)
    result = await review(fleet(tmp_path), place)
    assert result.outcome is outcome, result.detail
    assert word in result.detail + result.remedy
    assert result.remedy
    assert named(tmp_path / "state" / "reviews", "review-*.md")


def _rebasing(it: Checkout) -> None:
    it.git("checkout", "-q", "-b", "other", "HEAD~2")
    it.write("src/engine.py", "conflict\n")
    it.commit("another way")
    subprocess.run(["git", "rebase", "-q", "main"], cwd=it.path, capture_output=True, check=False)


ODD: dict[str, tuple[Callable[[Checkout], object], str]] = {
    "detached HEAD": (lambda it: it.git("checkout", "-q", "--detach"), "detached_head"),
    "dirty tree": (lambda it: it.write("README", "changed\n"), "dirty_tree"),
    "rebase in progress": (_rebasing, "rebase_in_progress"),
    "insteadOf": (lambda it: it.git("config", "url./elsewhere/.insteadOf", str(it.path.parent)), "instead_of"),
    "filters": (lambda it: it.git("config", "filter.x.smudge", "touch sprung"), "filters"),
}


@pytest.mark.parametrize("name", ODD)
async def test_a_repository_in_an_odd_state_is_reviewed_and_that_is_told(
    name: str, tmp_path: Path, checkout: Checkout, place: Place
) -> None:
    spoil, notice = ODD[name]
    spoil(checkout)
    before = shared(checkout)
    result = await review(fleet(tmp_path), place)
    assert result.outcome is ReviewOutcome.PR_CREATED, result.detail
    (told,) = [each for each in result.notices if each.name == notice]
    assert told.remedy
    assert shared(checkout) == before
    assert Checkout(tmp_path / "remote.git").branches()
    assert not named(tmp_path, "sprung")


async def test_a_shallow_clone_is_reviewed_as_far_as_it_goes(tmp_path: Path, checkout: Checkout, place: Place) -> None:
    checkout.path.rename(tmp_path / "whole")
    whole = tmp_path / "whole"
    git("clone", "-q", "--depth=3", f"file://{whole}", str(checkout.path))
    git("push", "-q", str(tmp_path / "remote.git"), "main", cwd=whole)
    result = await review(fleet(tmp_path), place)
    assert result.outcome is ReviewOutcome.PR_CREATED, result.detail
    assert "shallow_clone" in {each.name for each in result.notices}


async def test_a_bare_repository_can_be_reviewed(tmp_path: Path, checkout: Checkout, place: Place) -> None:
    checkout.path.rename(tmp_path / "whole")
    git("clone", "-q", "--bare", str(tmp_path / "whole"), str(checkout.path))
    assert (await review(fleet(tmp_path), place)).outcome is ReviewOutcome.PR_CREATED


async def test_no_remote_is_an_outcome_and_the_branch_is_kept(tmp_path: Path, checkout: Checkout) -> None:
    async with open_factory(fleet(tmp_path, remote="origin")) as factory:
        result = await factory.trigger_compound_review()
    assert result.outcome is ReviewOutcome.NO_REMOTE
    assert result.top_improvement is not None
    assert result.top_improvement.branch in checkout.branches()
    assert "git remote add" in result.remedy


async def test_a_branch_of_that_name_is_in_nobodys_way_but_its_own(
    tmp_path: Path, checkout: Checkout, place: Place
) -> None:
    config = fleet(tmp_path)
    would = await review(config, place, dry_run=True)
    assert would.top_improvement is not None
    checkout.git("branch", would.top_improvement.branch)  # merged, as it has nothing of its own
    result = await review(config, place)
    assert result.outcome is ReviewOutcome.BRANCH_TAKEN
    assert would.top_improvement.branch in result.detail
    assert "git branch -D" in result.detail + result.remedy
    assert checkout.branches().keys() == {"main", would.top_improvement.branch}


async def test_cut_off_wherever_it_is_nothing_is_left_and_the_next_one_goes_on(
    tmp_path: Path, checkout: Checkout, place: Place
) -> None:
    """At some of the steps; at every one of them on a mock clock, in tests/runtime."""
    config = attrs.evolve(fleet(tmp_path), shutdown_grace_secs=1.0)
    before = shared(checkout)
    for step in itertools.count(20, 60):
        cancel = CancelAtStep(step)
        trio.lowlevel.add_instrument(cancel)
        try:
            with cancel.scope:
                await review(config, place)
        finally:
            trio.lowlevel.remove_instrument(cancel)
        assert shared(checkout) == before
        assert named(checkout.path / ".git", "*.lock") <= {"darkfactory.lock"}  # ours, which stays
        if cancel.at is None:
            break
    assert step > 300
    last = await review(config, place)
    assert last.outcome in {ReviewOutcome.PR_CREATED, ReviewOutcome.PR_EXISTS, ReviewOutcome.BRANCH_TAKEN}, last.detail
    assert checkout.git("worktree", "list", "--porcelain").count("worktree ") == 1
    assert list((tmp_path / "state" / "worktrees" / ".records").glob("*.json")) == []
    assert place.forge is not None
    findings = [each.finding for each in place.forge.opened]
    assert len(findings) == len({*findings})
    remote = Checkout(tmp_path / "remote.git").branches()
    assert {each.branch for each in place.forge.opened} <= remote.keys()
    assert all(name == "main" or name.startswith("darkfactory/review/") for name in checkout.branches())
    assert os.listdir(tmp_path / "state" / "reviews" / ".scratch") == []  # noqa: PTH208 - names alone
