"""What has happened on a repository's base branch, read for the compound review.

The repository may be any: huge, broken, in the middle of a rebase, or written to by agents that are up to something. So

- commits and trees are all that is looked at: no checkout's HEAD, index or files have a part in what is found, and
  nothing of the repository is changed (an uncommitted change is noticed, and by a command that takes no lock);
- git is run as in `devices.git`, and told outright whatever a configuration could have it print otherwise;
- everything has a bound, and what lies beyond it is told in a sentence (`Scan.left_out`). First come commands that read
  no file's content; then content, of so many files and lines at a time, and never of a very large file.

The cost is that of the commits since the last review, and of one listing of the tree.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final, Protocol

import trio
from attrs import define, evolve, field

from darkfactory.devices import git_output, notices, place, scan_commits, scan_difference, scan_reader
from darkfactory.devices.command import printable
from darkfactory.devices.git import OBJECT, Git, GitError, Repository, shallow
from darkfactory.devices.scan_reader import Reader
from darkfactory.errors import CompoundReviewFailed
from darkfactory.model.review import (
    BRANCH_PREFIX,
    Branch,
    Notice,
    ReviewOutcome,
    Scan,
    looks_like_test,
)

MAX_BRANCHES: Final = 50
MAX_TESTS: Final = 100_000
_BRANCH: Final = re.compile(r"(?!-)[^\x00-\x20~^:?*\[\\\x7f]+")

_PLAIN: Final = {
    "color.ui": "false",
    "color.diff": "false",
    "core.bigFileThreshold": str(scan_difference.BIG_BYTES),
    "diff.algorithm": "default",
    "diff.context": "3",
    "diff.ignoreSubmodules": "none",
    "diff.indentHeuristic": "true",
    "diff.interHunkContext": "0",
    "diff.mnemonicPrefix": "false",
    "diff.noprefix": "false",
    "diff.orderFile": os.devnull,
    "diff.relative": "false",
    "diff.submodule": "short",
    "diff.suppressBlankEmpty": "false",
    "grep.fallbackToNoIndex": "false",
    "i18n.logOutputEncoding": "UTF-8",
    "log.follow": "false",
    "log.mailmap": "false",
    "log.showRoot": "true",
}
"""What a configuration could have git print otherwise."""
_LANGUAGES: Final = {
    "ada": "adb ads",
    "bash": "sh bash",
    "cpp": "c h cc hh cpp hpp cxx hxx",
    "csharp": "cs",
    "css": "css",
    "elixir": "ex exs",
    "fortran": "f90 f95",
    "golang": "go",
    "html": "html htm",
    "java": "java",
    "kotlin": "kt kts",
    "markdown": "md",
    "matlab": "m",
    "pascal": "pas",
    "perl": "pl pm",
    "php": "php",
    "python": "py pyi",
    "ruby": "rb",
    "rust": "rs",
    "scheme": "scm",
    "tex": "tex",
}
"""How git finds the functions of a language, by the endings of its files' names."""


class Scanner(Protocol):
    """Reads what has happened in a repository."""

    async def scan(
        self, repo: Path, base_branch: str, *, since: str | None, lookback: timedelta, now: datetime, remote: str
    ) -> Scan:
        """What happened on a branch since a commit; where there is none, or it is gone, in the last `lookback`.

        `repo` is a checkout, or a bare repository; `remote` the name or URL of what is pushed to. CompoundReviewFailed
        if the repository cannot be reviewed. Cancelled, it has changed nothing and leaves nothing.
        """
        ...


@define(eq=False)
class GitScanner:
    """Reads repositories with the real git."""

    git: Git
    _limiter: trio.CapacityLimiter = field(factory=lambda: trio.CapacityLimiter(1))
    _number: count[int] = field(factory=lambda: count(1))

    async def scan(
        self, repo: Path, base_branch: str, *, since: str | None, lookback: timedelta, now: datetime, remote: str
    ) -> Scan:
        """See `Scanner.scan`."""
        found = await place.find_reviewed(self.git, repo)
        try:
            repository = await self.git.open(found.common, found.git_dir)
            with self._plain(repository) as (plain, index):
                look = _Look(Reader(plain, index, self._limiter), base_branch)
                await look.find_base()
                await look.find_range(since, max(1, int(now.timestamp() - lookback.total_seconds())))
                scan = await look.all()
                told = await notices.notices(plain, found, base_branch, remote, look.attributes)
        except GitError as error:
            raise CompoundReviewFailed(
                ReviewOutcome.GIT_FAILED.value, str(error), f"git -C {repo} fsck tells whether something is broken"
            ) from error
        except OSError as error:
            raise CompoundReviewFailed(
                ReviewOutcome.GIT_FAILED.value, f"{repo} cannot be read: {error}", "let the factory's user read it"
            ) from error
        return evolve(scan, notices=(*look.notices, *told))

    @contextmanager
    def _plain(self, repository: Repository) -> Iterator[tuple[Repository, Path]]:
        """The repository with a configuration and attributes that are ours, and an index that is not there."""
        name = f"scan-{os.getpid()}-{next(self._number)}"
        attributes, index = self.git.scratch / f"{name}.attributes", self.git.scratch / f"{name}.index"
        lines = (f"*.{ending} diff={name}\n" for name, endings in _LANGUAGES.items() for ending in endings.split())
        attributes.write_text("".join(lines))
        try:
            overrides = {**repository.overrides, **_PLAIN, "core.attributesFile": str(attributes)}
            yield evolve(repository, overrides=overrides), index
        finally:
            attributes.unlink(missing_ok=True)


@define(eq=False)
class _Look:
    """One look at a repository."""

    reader: Reader
    branch: str
    base: str = ""
    """The commit at its end."""
    since: str | None = None
    epoch: int = 0
    """The second from which on commits are looked at, where `since` is None."""
    notices: list[Notice] = field(factory=list)
    attributes: tuple[str, ...] = ()
    """The paths of the files of attributes in the tree."""

    async def find_base(self) -> None:
        """Find the commit that the branch is at. CompoundReviewFailed if there is no such branch."""
        ref = f"refs/heads/{self.branch}"
        try:
            if not _BRANCH.fullmatch(self.branch):
                raise GitError(("show-ref",), 1, "that is no name of a branch")
            await self.reader.run("show-ref", "--verify", "--quiet", ref)
        except GitError as error:
            if error.exit_code != 1:
                raise
            raise await self._no_base() from error
        self.base = scan_reader.text(await self.reader.run("rev-parse", "--verify", f"{ref}^{{commit}}"))

    async def _no_base(self) -> CompoundReviewFailed:
        told = await self.reader.run("for-each-ref", "--count=1000", "--format=%(refname)", "refs/heads", silent=True)
        there = [name.removeprefix("refs/heads/") for name in os.fsdecode(told).split("\n")[:-1]]
        if not there:
            return CompoundReviewFailed(
                ReviewOutcome.NO_COMMITS.value, "the repository has no branch with a commit", "commit something to it"
            )
        near = [name for name in there if name.casefold() == self.branch.casefold()] or [
            name for name in ("main", "master", "trunk", "develop") if name in there
        ]
        meant = (near or there)[0]
        return CompoundReviewFailed(
            ReviewOutcome.NO_BASE_BRANCH.value,
            f"there is no branch {printable(self.branch)}; there are: {scan_reader.some(there, 10)}",
            f'set base_branch = "{printable(meant)}"' if near or len(there) == 1 else "set base_branch to one of them",
        )

    async def find_range(self, since: str | None, epoch: int) -> None:
        """Find out from where on to look."""
        await trio.lowlevel.checkpoint()
        self.epoch = epoch
        if since is None:
            return
        why = "is no name of a commit"
        if OBJECT.fullmatch(since):
            try:
                await self.reader.run("merge-base", "--is-ancestor", since, self.base)
            except GitError as error:
                if error.exit_code not in (1, 128):
                    raise
                why = "is not in its history" if error.exit_code == 1 else "is not in the repository"
            else:
                self.since = since
                return
        self.notices.append(
            Notice(
                "history_rewritten",
                f"the last review ended at {printable(since)[:12]} of {self.branch}, which {why}: "
                f"commits since {datetime.fromtimestamp(epoch, UTC):%Y-%m-%d %H:%M} UTC were looked at instead",
                "nothing, if the branch was rewritten or the repository was cloned anew",
            )
        )

    async def all(self) -> Scan:
        """Everything."""
        ends = shallow(self.reader.repository.common)
        commits = await scan_commits.commits(self.reader, self._range(), ends)
        scan = Scan(self.base, self.since, None if self.since else datetime.fromtimestamp(self.epoch, UTC), commits)
        if commits:
            scan = await scan_difference.difference(self.reader, scan, await self._beginning(ends), self.branch)
        branches = await self._branches()
        tests = await self._tests()
        return evolve(scan, branches=branches, tests=tests, left_out=tuple(self.reader.left_out))

    def _range(self) -> tuple[str, ...]:
        return (f"--max-age={self.epoch}", self.base) if self.since is None else (self.base, f"^{self.since}")

    async def _beginning(self, ends: frozenset[str]) -> str:
        """The tree that the base branch had before. `ends` are those of a shallow clone."""
        if self.since is not None:
            await trio.lowlevel.checkpoint()
            return self.since
        first = ("rev-list", "--first-parent", "--max-count=1")
        before = scan_reader.text(await self.reader.run(*first, f"--min-age={self.epoch - 1}", self.base))
        if not before:  # all of it is younger
            root = scan_reader.text(await self.reader.run(*first, "--max-parents=0", self.base))
            before = root if root in ends else await scan_difference.nothing(self.reader)
        return before

    async def _branches(self) -> tuple[Branch, ...]:
        """The branches of agents that the base branch does not contain, the newest first; those of reviews before."""
        reviews = await self._reviews()
        form = "--format=%(objectname) %(committerdate:unix) %(refname) %(symref)"
        bounds = ("--sort=-committerdate", f"--count={MAX_BRANCHES + len(reviews) + 1}", f"--no-merged={self.base}")
        try:
            told = await self.reader.run("for-each-ref", form, *bounds, "refs/heads/darkfactory/", silent=True)
        except GitError as error:  # of one that is broken git warns, or lists none at all
            self.reader.left_out.append(f"branches of agents, which git could not read: {error.tail}")
            told = error.output if error.exit_code == 0 else b""
        found: list[Branch] = []
        for line in os.fsdecode(told).split("\n")[:-1]:
            sha, at, ref, link = line.split(" ", 3)
            name = ref.removeprefix("refs/heads/")
            if link or name.startswith(BRANCH_PREFIX):
                continue
            if len(found) == MAX_BRANCHES:
                self.reader.left_out.append(
                    f"branches of agents: more than {MAX_BRANCHES}, of which the newest were looked at"
                )
                break
            number = int(await self.reader.run("rev-list", "--count", sha, f"^{self.base}"))
            found.append(Branch(name, sha, number, git_output.instant(at.encode())))
        return (*reviews, *found)

    async def _reviews(self) -> tuple[Branch, ...]:
        """The branches of reviews. Without them a finding would be improved again and again, so other branches have no
        part in it: neither how many there are nor that one is broken; then those that are merged are told as well.
        """
        form, refs = "--format=%(objectname) %(refname)", f"refs/heads/{BRANCH_PREFIX}"
        try:
            told = await self.reader.run("for-each-ref", form, f"--no-merged={self.base}", refs, silent=True)
        except GitError as error:
            if error.exit_code is None:
                raise
            told = await self.reader.run("for-each-ref", form, refs)
        lines = (line.split(" ", 1) for line in scan_reader.lines(told))
        none = datetime.fromtimestamp(0, UTC)
        return tuple(Branch(ref.removeprefix("refs/heads/"), sha, 0, none) for sha, ref in lines)

    async def _tests(self) -> frozenset[str]:
        try:
            told = await self.reader.run("ls-tree", "-r", "-z", "--name-only", "--full-tree", self.base)
        except GitError as error:
            if not error.too_much:
                raise
            self.reader.left_out.append("which files are tests: there are more files than git can list for us")
            return frozenset()  # noqa: ASYNC910 - git is one
        tests, attributes = await self.reader.in_thread(partial(_tests_among, told))
        if len(tests) > MAX_TESTS:
            self.reader.left_out.append(f"{len(tests) - MAX_TESTS} of {len(tests)} files that look like tests")
        self.attributes = tuple(attributes)
        return frozenset(tests[:MAX_TESTS])


def _tests_among(told: bytes) -> tuple[list[str], list[str]]:
    """Of the paths that are there, those of tests, and those of files of attributes."""
    tests, attributes = [], []
    for name in git_output.parts(told, b"\0"):
        folded = name.lower()
        if b"test" in folded or b"spec" in folded:  # as `looks_like_test` wants it; most are passed over at once
            path = os.fsdecode(name)
            if looks_like_test(path):
                tests.append(path)
        if name == b".gitattributes" or name.endswith(b"/.gitattributes"):
            attributes.append(os.fsdecode(name))
    return tests, attributes
