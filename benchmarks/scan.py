"""What reading a night's commits costs: does it grow with the night, or with the age of the repository?

Repositories of so many commits and files are made by `git fast-import`; the last commits are the night's, each with
three changed files. The time is that of a whole scan, processor time that of git and of us together.

    python benchmarks/scan.py [ROUNDS]
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

import trio
from common import print_table, silence

from darkfactory.devices.git import Git
from darkfactory.devices.launcher import RealLauncher
from darkfactory.devices.scan import GitScanner

FILES = 50_000
CASES = ((1_000, 50), (10_000, 1), (10_000, 50), (10_000, 500), (50_000, 50))
"""Commits in all, and of those, the night's."""
NOW = datetime(2026, 1, 5, 3, tzinfo=UTC)
ENV = {"PATH": os.environ["PATH"], "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}


def history(commits: int, night: int) -> Iterator[bytes]:
    """For `git fast-import`: all files at once, then three in each commit; before the night one an hour."""
    for number in range(commits):
        left = commits - number
        hours = 24 + left - night if left > night else 24 * left / (night + 1)
        at = int((NOW - timedelta(hours=hours)).timestamp())
        message = f"change {number}"
        yield b"commit refs/heads/main\nmark :%d\n" % (number + 1)
        yield f"committer Ann <ann@localhost> {at} +0000\ndata {len(message)}\n{message}\n".encode()
        if number:
            yield b"from :%d\n" % number
        changed = range(FILES) if number == 0 else [(number * step) % FILES for step in (7, 31, 101)]
        for file in changed:
            text = "".join(f"line {line} of {file}\n" for line in range(20)) + f"TODO {number}\n"
            yield f"M 100644 inline dir{file // 250}/sub{file % 5}/file{file}.py\n".encode()
            yield f"data {len(text)}\n{text}\n".encode()


def make(path: Path, commits: int, night: int) -> None:
    """Such a repository, with its files checked out."""
    subprocess.run(["git", "init", "-q", "-b", "main", str(path)], check=True, env=ENV)
    with subprocess.Popen(["git", "fast-import", "--quiet"], cwd=path, stdin=subprocess.PIPE, env=ENV) as process:
        assert process.stdin is not None
        for part in history(commits, night):
            process.stdin.write(part)
        process.stdin.close()
    assert process.returncode == 0
    subprocess.run(["git", "reset", "-q", "--hard"], cwd=path, check=True, env=ENV)


async def measure(path: Path, night: int, rounds: int, scratch: Path, since: str | None) -> list[tuple[float, float]]:
    """Seconds and seconds of processor time, of each round."""
    await trio.lowlevel.checkpoint()
    scanner = GitScanner(Git(RealLauncher(f"benchmark-{uuid.uuid4().hex}"), scratch, os.environ))
    found = []
    for _ in range(rounds):
        began, used = time.monotonic(), processor_secs()
        scan = await scanner.scan(path, "main", since=since, lookback=timedelta(hours=24), now=NOW, remote="origin")
        found.append((time.monotonic() - began, processor_secs() - used))
        assert len(scan.commits) == night, len(scan.commits)
        assert len(scan.marked) > 0
    return found


def processor_secs() -> float:
    """Ours, and that of the children that have ended."""
    times = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in times)


def main() -> None:
    """Make the repositories, one after the other, and measure."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    rows = []
    for commits, night in CASES:
        with tempfile.TemporaryDirectory(prefix="darkfactory-scan-") as name:
            path = Path(name) / "repository"
            make(path, commits, night)
            told = subprocess.run(
                ["git", "rev-parse", f"main~{night}"], cwd=path, check=True, env=ENV, capture_output=True, text=True
            )
            for since, word in ((None, "the last 24 hours"), (told.stdout.strip(), "since a commit")):
                found = trio.run(measure, path, night, rounds, Path(name) / "scratch", since)
                secs, used = zip(*found, strict=True)
                rows.append((commits, FILES, night, word, f"{median(secs):.2f}", f"{median(used):.2f}"))
    head = ("commits", "files", "night's commits", "range", "s", "processor s")
    print_table(f"A scan, median of {rounds}", head, rows)


if __name__ == "__main__":
    silence()
    main()
