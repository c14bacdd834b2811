"""Claude Code and Codex from the npm registry, in a cache of their own, in the versions the adapters were made for."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

VERSIONS = {"@anthropic-ai/claude-code": "2.1.328", "@openai/codex": "0.169.0"}
INSTALL_SECS = 600


class NotToBeHad(Exception):
    """They are not here, and cannot be fetched: why."""


def installed() -> Path:
    """The directory of the two programs, `claude` and `codex`; installs them first if need be (about 760 MB).

    The cache is `$DARKFACTORY_CLI_CACHE`, or `darkfactory/cli` in the user's cache directory.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = Path(os.environ.get("DARKFACTORY_CLI_CACHE") or home / "darkfactory" / "cli")
    place = cache / "-".join(VERSIONS.values())
    programs = place / "node_modules" / ".bin"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            _install(place)
    return programs


def node_directory() -> Path:
    """Where `node` is, which `codex` is started by."""
    node = shutil.which("node")
    if node is None:
        raise NotToBeHad("there is no node on this machine")
    return Path(node).resolve().parent


def _install(place: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise NotToBeHad("there is no npm on this machine")
    with tempfile.TemporaryDirectory(dir=place.parent) as work:
        new = Path(work, "new")
        new.mkdir()
        packages = [f"{name}@{version}" for name, version in VERSIONS.items()]
        quiet = ["--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"]
        _run([npm, "install", "--ignore-scripts", *quiet, f"--cache={work}/npm", f"--prefix={new}", *packages])
        # The one script that is needed: it puts the program of this platform in the place of a stub.
        _run(["node", str(new / "node_modules" / "@anthropic-ai" / "claude-code" / "install.cjs")])
        new.rename(place)


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=INSTALL_SECS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NotToBeHad(f"{command[0]} took more than {INSTALL_SECS} s") from None
    if done.returncode != 0:
        raise NotToBeHad(f"{' '.join(command[:2])}: {' '.join(done.stdout.split())[:300]}")
