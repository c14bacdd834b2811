"""What an agent left behind of a worktree: on which commits its work is, and whether all is as it was given to it.

What git keeps of a worktree (HEAD, its log) the agent may have rewritten, in place of a file there may be a pipe that
never ends or a link to somewhere else, and git would obey what stands there. So it is read here as text, by a reader
that never waits and follows no link, and what it says is believed only where the repository has such a branch or
commit. Where anything is odd, somebody may have meant it: then there is a sentence that says so.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import trio
from attrs import frozen

from darkfactory.devices.git import NOBODY, OBJECT, GitError, Repository
from darkfactory.devices.worktree_store import Record
from darkfactory.devices.worktrees import counted

BRANCH: Final = re.compile(r"refs/heads/[^\x00-\x20~^:?*\[\\\x7f]+")
"""A branch's whole name."""
_SMALL_BYTES: Final = 64 * 1024
"""Of a file that git writes and an agent may have rewritten, no more is read."""


@frozen
class Left:
    """What an agent left behind."""

    tip: str
    """The commit that its files are changes of."""
    ours: Mapping[str, str]
    """The branches of this run, by whole name."""
    links: frozenset[str]
    """Those that are no branches but links to others."""
    base: str
    """Where the branch that it began on is now; where it began, if that is gone."""
    files: bool
    """There is a directory of files in its place."""
    oddity: str | None
    """What keeps us from removing it, whatever its commits are."""


async def look(repository: Repository, record: Record, files: Path) -> Left:
    """What the agent left behind, as far as it can be told without trusting it."""
    head = _line(record.own / "HEAD") or ""
    branch = head.removeprefix("ref: ") if head.startswith("ref: ") else ""
    wanted = [record.ref, f"{record.ref}-[0-9]*", *filter(BRANCH.fullmatch, (branch, record.base or ""))]
    told = await repository.run("for-each-ref", "--format=%(refname) %(objectname) %(symref)", *wanted)
    refs, links = {}, set()
    for line in os.fsdecode(told).split("\n")[:-1]:
        name, at, link = line.split(" ", 2)
        refs[name] = at
        if link:
            links.add(name)
    extra = re.compile(re.escape(record.ref) + r"(-[0-9]+)?")
    ours = {name: at for name, at in refs.items() if extra.fullmatch(name) and name not in links}
    tip = refs.get(branch)
    for sha in (head, _last_of_log(record.own / "logs" / "HEAD")) if tip is None else ():
        if OBJECT.fullmatch(sha) and await _is_commit(repository, sha):
            tip = sha
            break
    return Left(
        tip=tip if tip is not None else ours.get(record.ref, record.commit),
        ours=ours,
        links=frozenset(name for name in links if extra.fullmatch(name)),
        base=refs.get(record.base or "", record.commit),
        files=_is_directory(files),
        oddity=_oddity(files, record.own),
    )


async def repository_inside(repository: Repository, files: Path, tip: str) -> str | None:
    """What to say if one of its commit's directories is a repository: that may have commits of its own.

    Git sees none in a directory whose files it has already. What is elsewhere is new to it, and no longer clean.
    """
    told = os.fsdecode(await repository.run("ls-tree", "-r", "-d", "--name-only", "-z", "--full-tree", tip))
    inside = next((each for each in told.split("\0") if each and _is_repository(files / each)), None)
    return None if inside is None else f"it has a repository inside: {inside}"


async def off_branches(repository: Repository, record: Record, tip: str) -> str | None:
    """What to say of commits that its HEAD was at once and no branch or tag has: they would go with its log."""
    await trio.lowlevel.checkpoint()
    log = _logged(record.own / "logs" / "HEAD")
    if not log:
        return None
    stay = ("--not", tip, record.commit, "--branches", "--tags", "--remotes")
    told = await repository.run("rev-list", "--ignore-missing", "--count", *log, *stay)
    return f"{counted(int(told))} that its HEAD was at and no branch has" if int(told) else None


def points_to(own: Path, files: Path) -> bool:
    """Whether git says that a worktree is where its files are."""
    return _line(own / "gitdir") == os.path.realpath(files / ".git")


def checked_out_elsewhere(record: Record) -> frozenset[str]:
    """The branches, by whole name, that HEAD is on in the repository's other checkouts. Blocks."""
    common = Path(record.common)
    heads = [common, *(each for each in (common / "worktrees").glob("*") if each != record.own)]
    return frozenset((_line(each / "HEAD") or "").removeprefix("ref: ") for each in heads)


def _oddity(files: Path, own: Path) -> str | None:
    """What is not as we left it, so that we do not know what would be lost with it."""
    if not os.path.lexists(files):
        gone = _line(own / "gitdir") is None or points_to(own, files)
        return None if gone else "git says that its directory was moved"
    if not _is_directory(files):
        return "something else is in the place of its directory"
    if _line(files / ".git") != f"gitdir: {own}":
        return "its .git is not the one that it was given"
    if os.path.lexists(own / "modules"):
        return "it has submodules with files"
    return None


def _is_repository(path: Path) -> bool:
    return os.path.lexists(path / ".git")


def _is_directory(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False


async def _is_commit(repository: Repository, sha: str) -> bool:
    try:
        await repository.run("rev-parse", "--verify", "--quiet", f"{sha}^{{commit}}")
    except GitError:
        return False  # noqa: ASYNC910 - git is one
    return True


def _line(path: Path) -> str | None:
    """A small file's text without the end of its line; None if it is none. Never waits, and follows no link."""
    data = _end_of(path)
    return None if data is None else os.fsdecode(data).removesuffix("\n")


def _last_of_log(path: Path) -> str:
    """The newest commit that a log of HEAD knows; empty where it knows none."""
    lines = (_end_of(path) or b"").splitlines()
    words = lines[-1].split(b" ", 2) if lines else []
    if len(words) < 2:
        return ""
    before, after = words[:2]
    return os.fsdecode(after if after.strip(NOBODY.encode()) else before)  # a branch that was deleted goes to nobody


def _logged(path: Path) -> tuple[str, ...]:
    """The commits that a log of HEAD knows, each once, of those that stand at its end."""
    words = (word for line in (_end_of(path) or b"").splitlines() for word in line.split(b" ", 2)[:2])
    found = dict.fromkeys(os.fsdecode(word) for word in words)
    return tuple(sha for sha in found if OBJECT.fullmatch(sha) and sha.strip(NOBODY))


def _end_of(path: Path) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            return None
        return os.pread(descriptor, _SMALL_BYTES, max(0, found.st_size - _SMALL_BYTES))
    finally:
        os.close(descriptor)
