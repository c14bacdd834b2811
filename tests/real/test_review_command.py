"""`darkfactory review` as a process: what it touches, beside whom it runs, and how it is stopped."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from attrs import frozen

from .repositories import Checkout

pytestmark = pytest.mark.real

FLEET = """
working_dir = "work"
state_dir = "state"
min_free_bytes = 0
[compound_review]
schedule = "0 0 1 1 *"
repo_path = "work"
agent = "improver"
github_repo = "localhost:1/o/r"
remote = "{remote}"
{review}
[tools.mine]
argv = ["{python}", "{script}"]
[tools.mine.jsonl]
finished = ["result"]
[[agents]]
name = "improver"
layer = "Growth"
cli_tool = "mine"
task = "Do what you are asked to."
[[agents]]
name = "guard"
layer = "Safety"
cli_tool = "bash"
task = "touch {place}/guarded; sleep 1000"
"""
SCRIPT = """
import json, pathlib, re, sys
finding = re.search(r'"finding": "([a-z0-9-]+)"', sys.stdin.read())[1]
pathlib.Path("improved").write_text("better")
report = json.dumps({"finding": finding, "outcome": "improved", "summary": "it is better"})
print(json.dumps({"type": "result", "text": f"Done.\\n```json\\n{report}\\n```"}))
"""


@frozen
class Fleet:
    """A fleet file beside its checkout, and commands about it."""

    file: Path
    checkout: Checkout

    @property
    def place(self) -> Path:
        return self.file.parent

    def command(self, *args: str) -> Sequence[str]:
        return [sys.executable, "-m", "darkfactory", *args]

    def env(self) -> dict[str, str]:
        """An environment in which there is git, and no gh."""
        return os.environ | {"PATH": str(self.place / "bin"), "HOME": str(self.place)}

    def review(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command("review", str(self.file), *args),
            env=self.env(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    @contextmanager
    def started(self, *args: str) -> Iterator[subprocess.Popen[bytes]]:
        """The command; killed in the end if it has not ended."""
        with (self.place / "log").open("ab") as log:
            process = subprocess.Popen(
                self.command(*args), env=self.env(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
            try:
                yield process
            finally:
                process.kill()
                process.wait()


Fleets = Callable[..., Fleet]


@pytest.fixture
def fleet(tmp_path: Path) -> Fleets:
    """A checkout with something to say of it, and the fleet that reviews it."""
    checkout = Checkout.begun(tmp_path / "work")
    for number in range(5):
        checkout.write("sub/app.py", f"def run():\n    return {number}\n" * 20)
        checkout.commit(f"fix the app, the {number}. time")
    (tmp_path / "bin").mkdir()
    for program in ("git", "sh", "bash", "sleep", "touch"):
        found = shutil.which(program)
        assert found is not None
        (tmp_path / "bin" / program).symlink_to(found)
    (tmp_path / "script.py").write_text(SCRIPT)
    file = tmp_path / "fleet.toml"

    def write(review: str = "") -> Fleet:
        text = FLEET.format(
            review=review,
            python=sys.executable,
            script=tmp_path / "script.py",
            remote=tmp_path / "remote.git",
            place=tmp_path,
        )
        file.write_text(text)
        return Fleet(file, checkout)

    return write


def hashed(path: Path) -> dict[str, str]:
    """Every file below, with what would change if it were touched."""
    found = {}
    for each in sorted(path.rglob("*")):
        seen = each.lstat()
        content = hashlib.sha256(each.read_bytes()).hexdigest() if each.is_file() else ""
        found[str(each)] = f"{seen.st_mode} {seen.st_mtime_ns} {seen.st_ino} {content}"
    return found


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)  # noqa: TID251 - polls another process


def test_a_look_says_what_a_review_would_do_and_touches_nothing(fleet: Fleets) -> None:
    fleet_ = fleet("create_prs = true\ngate = ['true']")
    before = hashed(fleet_.place)
    done = fleet_.review("--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["outcome"], told["top_improvement"]["agent"], told["commits"]) == ("dry_run", "improver", 6)
    assert told["findings"]
    for_people = fleet_.review("--dry-run")
    assert for_people.stdout.startswith(f"dry_run: it would have improver improve {told['findings'][0]['id']}\n")
    assert hashed(fleet_.place) == before


def test_a_look_at_what_is_no_repository_fails_with_a_remedy(fleet: Fleets, tmp_path: Path) -> None:
    fleet_ = fleet()
    shutil.rmtree(tmp_path / "work" / ".git")
    done = fleet_.review("--dry-run", "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["outcome"], told["findings"]) == (1, "no_repository", [])
    assert told["detail"]
    assert told["remedy"]


def test_beside_a_factory_one_may_look_and_not_review(fleet: Fleets, tmp_path: Path) -> None:
    fleet_ = fleet()
    with fleet_.started(str(fleet_.file)) as factory:
        until((tmp_path / "guarded").exists)
        look, whole = fleet_.review("--dry-run"), fleet_.review()
        assert (look.returncode, whole.returncode) == (0, 3)
        assert f"a factory is running on this state directory (pid {factory.pid})" in whole.stderr
        assert "--dry-run" in whole.stderr
        factory.send_signal(signal.SIGTERM)
        assert factory.wait(30) == 0
    assert not (tmp_path / "state" / "reviews").exists()


def test_the_whole_review_improves_checks_and_keeps_what_it_cannot_hand_in(fleet: Fleets, tmp_path: Path) -> None:
    gate = f"[{json.dumps(sys.executable)}, '-c', 'assert open(\"improved\").read() == \"better\"']"
    fleet_ = fleet(f"create_prs = true\ngate = {gate}")
    before = hashed(tmp_path / "work" / "sub")
    done = fleet_.review("--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["outcome"], told["pr_created"]) == (1, "gh_missing", False), done.stderr
    improvement = told["top_improvement"]
    assert improvement["summary"] == "it is better"
    assert (improvement["gate"]["passed"], improvement["gate"]["exit_code"]) == (True, 0)
    assert fleet_.checkout.files(improvement["branch"])["improved"] == "better"
    assert fleet_.checkout.branches()[improvement["branch"]] == improvement["commit"]
    assert hashed(tmp_path / "work" / "sub") == before
    assert fleet_.checkout.git("status", "--porcelain") == ""
    assert fleet_.checkout.git("worktree", "list").count("\n") == 0
    assert not (tmp_path / "guarded").exists()  # nobody else ran
    last = fleet_.review("--last", "--json")
    assert json.loads(last.stdout) == told
    assert fleet_.review("--last").stdout.startswith("# Compound review")


def ends(tmp_path: Path) -> list[str]:
    """How reviews ended, by the journal."""
    lines = [
        line for path in (tmp_path / "state" / "journal").glob("*.jsonl") for line in path.read_text().splitlines()
    ]
    return [record["outcome"] for record in map(json.loads, lines) if record["kind"] == "review_ended"]


def test_a_signal_stops_a_review_in_order_and_what_was_done_stays(fleet: Fleets, tmp_path: Path) -> None:
    waits = f"import pathlib, signal; pathlib.Path('{tmp_path}/gated').touch(); signal.pause()"
    fleet_ = fleet(f"create_prs = true\ngate = [{json.dumps(sys.executable)}, '-c', {json.dumps(waits)}]")
    with fleet_.started("review", str(fleet_.file)) as process:
        until((tmp_path / "gated").exists)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert b"stopped: the factory stopped" in (tmp_path / "log").read_bytes()
    assert ends(tmp_path) == ["stopped"]
    (branch,) = (name for name in fleet_.checkout.branches() if name != "main")
    assert fleet_.checkout.files(branch)["improved"] == "better"


def test_a_second_signal_has_no_patience_with_a_stubborn_agent(fleet: Fleets, tmp_path: Path) -> None:
    stubborn = f"""
import pathlib, signal
signal.signal(signal.SIGTERM, lambda *_: pathlib.Path("{tmp_path}/asked").touch())
pathlib.Path("{tmp_path}/begun").touch()
while True:
    signal.pause()
"""
    fleet_ = fleet("create_prs = true")
    (tmp_path / "script.py").write_text(stubborn)
    with fleet_.started("review", str(fleet_.file)) as process:
        until((tmp_path / "begun").exists)
        process.send_signal(signal.SIGTERM)
        until((tmp_path / "asked").exists)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 128 + signal.SIGINT


def test_a_look_that_hangs_is_ended_by_a_signal_with_all_that_it_started(fleet: Fleets, tmp_path: Path) -> None:
    fleet_ = fleet()
    git = tmp_path / "bin" / "git"
    git.unlink()
    git.write_text(f"#!/bin/sh\ntouch {tmp_path}/hangs\nsleep 1000\n")
    git.chmod(0o755)
    with fleet_.started("review", str(fleet_.file), "--dry-run") as process:
        until((tmp_path / "hangs").exists)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
