"""What has happened on a repository's base branch, read for the compound review.

The repository may be any: huge, broken, in the middle of a rebase, or written to by agents that are up to something. So

- commits and trees are all that is looked at: no checkout's HEAD, index or files have a part in what is found, and
  nothing of the repository is changed (an uncommitted change is noticed, and by a command that takes no lock);
- git is run as in `devices.git`, and told outright whatever a configuration could have it print otherwise;
- everything has a bound, and what lies beyond it is told in a sentence (`Scan.left_out`). First come commands that read
  no file's content; then content, of so many files and lines at a time, and never of a file above `BIG_BYTES`.

The cost is that of the commits since the last review, and of one listing of the tree.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final, Protocol, TypeVar

import trio
from attrs import define, evolve, field

from darkfactory.devices import git_output, notices, place, threads
from darkfactory.devices.command import printable
from darkfactory.devices.git import OBJECT, Git, GitError, Repository
from darkfactory.devices.git_output import Hunk, Named, Names
from darkfactory.errors import CompoundReviewFailed
from darkfactory.model.review import (
    BRANCH_PREFIX,
    AddedLine,
    Branch,
    Commit,
    FileChange,
    FileSize,
    FunctionGrowth,
    Notice,
    ReviewOutcome,
    Scan,
    looks_like_test,
)

MAX_COMMITS: Final = 1000
MAX_FILES_OF_COMMIT: Final = 300
MAX_CHANGES: Final = 20_000
"""Changed files that are told, of all commits together."""
MAX_FILES: Final = 2000
"""Files that are looked into, of those that differ between the beginning and the end."""
BIG_BYTES: Final = 8 * 1024**2
"""A file above it is not looked into."""
MAX_LINES_OF_FILE: Final = 20_000
"""Of a file with more changed lines than these, the lines are not looked at."""
MAX_LINES: Final = 200_000
"""Changed lines that are looked at, of all files together."""
MAX_MARKED: Final = 500
MAX_FUNCTIONS: Final = 2000
MAX_BRANCHES: Final = 50
MAX_TESTS: Final = 100_000
LINE_CHARACTERS: Final = 300
"""Of a line with a mark, around the mark."""
_COMMITS_AT_ONCE: Final = 200
_FILES_AT_ONCE: Final = 1000
_PATHS_AT_ONCE: Final = 200
_PATH_BYTES_AT_ONCE: Final = 100_000
"""A command may be given so many bytes of words, and no more (ARG_MAX)."""
_LINES_AT_ONCE: Final = 20_000
_RENAMES: Final = ("-M", "-l200")
_SAME: Final = "-M100%"
"""Renames of files that are the same: they are found without a look into any."""
_SHOWN: Final = 3
"""Names that a sentence has."""
_MARK: Final = re.compile(r"\b(?:TODO|FIXME|XXX)\b", re.ASCII)
_MARK_BYTES: Final = re.compile(rb"TODO|FIXME|XXX")
_FUNCTION_BYTES: Final = 80
"""Git tells no more of a function's first line."""
_DEFINES: Final = re.compile(
    rb"(?:(?:abstract|async|const|default|export|extern|final|inline|internal|open|override|private|protected"
    rb"|pub(?:\([^)]{0,40}\))?|public|sealed|static|suspend|unsafe|virtual)\s+){0,6}"
    rb"(?:class|def|enum|fn|func|fun|function|impl|interface|module|namespace|proc|struct|sub|trait)\b[^=]"
)
"""The first line of a function, or of what holds some. Git tells in which one lines begin, and not where that ends:
whatever is written behind a function would have made that grow.
"""
_NO_END: Final = (b"#", b")", b"]", b"}", b"{")
"""What ends no function by standing further out: comments, what the preprocessor reads, and what closes something."""
_BRANCH: Final = re.compile(r"(?!-)[^\x00-\x20~^:?*\[\\\x7f]+")

_PLAIN: Final = {
    "color.ui": "false",
    "color.diff": "false",
    "core.bigFileThreshold": str(BIG_BYTES),
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
_DIFF: Final = ("--no-ext-diff", "--no-textconv", "--ignore-submodules=none", "-z")
_OF_COMMITS: Final = ("log", "--no-walk=unsorted", "--diff-merges=first-parent", "--format=%H", *_DIFF)
_OF_TREES: Final = ("diff-tree", "-r", *_DIFF)

_T = TypeVar("_T")


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
                look = _Look(plain, index, base_branch, self._limiter)
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

    repository: Repository
    index: Path
    """A file that is not there: the checkout's index would have a say in what files are binary."""
    branch: str
    limiter: trio.CapacityLimiter
    base: str = ""
    """The commit at its end."""
    since: str | None = None
    epoch: int = 0
    """The second from which on commits are looked at, where `since` is None."""
    left_out: list[str] = field(factory=list)
    notices: list[Notice] = field(factory=list)
    attributes: tuple[str, ...] = ()
    """The paths of the files of attributes in the tree."""

    async def find_base(self) -> None:
        """Find the commit that the branch is at. CompoundReviewFailed if there is no such branch."""
        ref = f"refs/heads/{self.branch}"
        try:
            if not _BRANCH.fullmatch(self.branch):
                raise GitError(("show-ref",), 1, "that is no name of a branch")
            await self._run("show-ref", "--verify", "--quiet", ref)
        except GitError as error:
            if error.exit_code != 1:
                raise
            raise await self._no_base() from error
        self.base = _text(await self._run("rev-parse", "--verify", f"{ref}^{{commit}}"))

    async def _no_base(self) -> CompoundReviewFailed:
        told = await self._run("for-each-ref", "--count=1000", "--format=%(refname)", "refs/heads", silent=True)
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
            f"there is no branch {printable(self.branch)}; there are: {_some(there, 10)}",
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
                await self._run("merge-base", "--is-ancestor", since, self.base)
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
        shallow = await self._shallow()
        commits = await self._commits(shallow)
        scan = Scan(self.base, self.since, None if self.since else datetime.fromtimestamp(self.epoch, UTC), commits)
        if commits:
            scan = await self._net(scan, await self._beginning(shallow))
        branches = await self._branches()
        tests = await self._tests()
        return evolve(scan, branches=branches, tests=tests, left_out=tuple(self.left_out))

    async def _shallow(self) -> frozenset[str]:
        """The commits at which a shallow clone ends; git takes them for beginnings."""
        await trio.lowlevel.checkpoint()
        try:
            with (self.repository.common / "shallow").open("rb") as file:
                text = file.read(1024**2)
        except FileNotFoundError:
            return frozenset()
        return frozenset(text.decode(errors="replace").split())

    # The commits.

    async def _commits(self, shallow: frozenset[str]) -> tuple[Commit, ...]:
        shas = _lines(await self._run("rev-list", "--date-order", f"--max-count={MAX_COMMITS + 1}", *self._range()))
        if len(shas) > MAX_COMMITS:
            number = int(await self._run("rev-list", "--count", *self._range()))
            self.left_out.append(f"{number - MAX_COMMITS} of {number} commits: the newest {MAX_COMMITS} were looked at")
        shas = shas[:MAX_COMMITS]
        found: dict[str, Commit] = {}

        def take(output: bytes) -> None:
            found.update((commit.sha, commit) for commit in git_output.headers(output))

        ask = ("log", "--no-walk=unsorted", "-z", f"--format={git_output.HEADER}")
        refused = await self._in_pieces(ask, _pieces(shas, _COMMITS_AT_ONCE), take)
        if refused:
            self.left_out.append(f"{_some(refused)}: what they say of themselves is too long")
        ends = [sha for sha in shas if sha in shallow]
        if ends:
            self.left_out.append(f"what {_some(ends)} changed: the shallow clone ends there")
        changed = await self._changes([sha for sha in shas if sha in found and sha not in shallow])
        told = ((sha, *changed.get(sha, ((), 0))) for sha in shas if sha in found)
        return tuple(evolve(found[sha], changes=changes, left_out=left_out) for sha, changes, left_out in told)

    def _range(self) -> tuple[str, ...]:
        return (f"--max-age={self.epoch}", self.base) if self.since is None else (self.base, f"^{self.since}")

    async def _changes(self, shas: Sequence[str]) -> dict[str, tuple[tuple[FileChange, ...], int]]:
        """What each commit changed, and in how many files beyond those that are told."""
        named: dict[str, Names] = {}

        def take(output: bytes) -> None:
            named.update(git_output.names(output, MAX_FILES_OF_COMMIT))

        refused = await self._in_pieces((*_OF_COMMITS, "--name-status", _SAME), _pieces(shas, _COMMITS_AT_ONCE), take)
        if refused:
            self.left_out.append(f"what {_some(refused)} changed: more files than git can list for us")
        room, beyond = MAX_CHANGES, list[str]()
        for sha in (sha for sha in shas if sha in named):
            names = named[sha]
            names.told = names.told if len(names.told) <= room else []
            room -= len(names.told)
            if names.number > len(names.told):
                beyond.append(sha)
        if beyond:
            bounds = f"{MAX_FILES_OF_COMMIT} of a commit, {MAX_CHANGES} of all"
            self.left_out.append(f"some or all of the files that {_some(beyond)} changed: they are too many ({bounds})")
        told = await self._counted([sha for sha in shas if sha in named and sha not in beyond], named)
        for sha in beyond:
            told[sha] = await self._counted_alone(sha, named[sha].told)
        return {sha: (told.get(sha, ()), names.number - len(names.told)) for sha, names in named.items()}

    async def _counted(self, shas: Sequence[str], named: Mapping[str, Names]) -> dict[str, tuple[FileChange, ...]]:
        """What commits changed, with the numbers of lines, and with renames where a look into the files is cheap."""
        found: dict[str, tuple[FileChange, ...]] = {}

        def take(output: bytes) -> None:
            found.update(git_output.changes(output))

        def pieces(shas: Iterable[str]) -> Iterator[list[str]]:
            return _pieces(shas, _FILES_AT_ONCE, lambda sha: 1 + named[sha].number)

        ask = (*_OF_COMMITS, "--raw", "--numstat")
        await self._in_pieces((*ask, _SAME), pieces(shas), take)
        again = [sha for sha in shas if _may_be_renames(found.get(sha, ()))]
        await self._in_pieces((*ask, *_RENAMES), pieces(again), take)
        return found

    async def _counted_alone(self, sha: str, told: Sequence[Named]) -> tuple[FileChange, ...]:
        """What one commit with very many files did to some of them."""
        found: dict[str, FileChange] = {}

        def take(output: bytes) -> None:
            found.update((change.path, change) for of in git_output.changes(output).values() for change in of)

        ask = (*_OF_COMMITS, "--raw", "--numstat", "--no-renames", sha, "--")
        await self._in_pieces(ask, _paths([name.path for name in told if name.old_path is None]), take)
        return tuple(
            found.get(name.path) or FileChange(name.path, name.status[0], old_path=name.old_path) for name in told
        )

    # What is different between the beginning and the end.

    async def _beginning(self, shallow: frozenset[str]) -> str:
        """The tree that the base branch had before."""
        if self.since is not None:
            await trio.lowlevel.checkpoint()
            return self.since
        first = ("rev-list", "--first-parent", "--max-count=1")
        before = _text(await self._run(*first, f"--min-age={self.epoch - 1}", self.base))
        if not before:  # all of it is younger
            root = _text(await self._run(*first, "--max-parents=0", self.base))
            before = root if root in shallow else await self._nothing()
        return before

    async def _nothing(self) -> str:
        """The name of the empty tree, which depends on how the repository names things."""
        return _text(await self._run("hash-object", "-t", "tree", os.devnull))

    async def _net(self, scan: Scan, before: str) -> Scan:
        """The same with sizes, marks and functions."""
        ask = (*_OF_TREES, "--name-status", _SAME, before, self.base)
        try:
            names = git_output.names(await self._run(*ask), MAX_FILES).get("", Names())
        except GitError as error:
            if not error.too_much:
                raise
            self.left_out.append(f"the lines of {self.branch}: more files differ than git can list for us")
            return scan  # noqa: ASYNC910 - git is one
        changes = await self._differences(before, names)
        texts = [change for change in changes if change.added is not None and change.status != "D"]
        big = await self._big([change.path for change in changes if change.added is None and change.status != "D"])
        if big:
            self.left_out.append(f"the lines of {_some(big)}: above {BIG_BYTES // 1024**2} MiB")
        sizes = await self._sizes(texts)
        marked, functions = await self._lines_of(before, texts)
        return evolve(scan, sizes=sizes, marked=marked, functions=functions)

    async def _differences(self, before: str, names: Names) -> tuple[FileChange, ...]:
        """The files that differ, with the numbers of lines; without submodules, which have none."""
        found: dict[str, FileChange] = {}

        def take(output: bytes) -> None:
            found.update((change.path, change) for change in git_output.changes(output).get("", ()))

        ask = (*_OF_TREES, "--ignore-submodules=all", "--raw", "--numstat")
        if names.number > len(names.told):
            self.left_out.append(f"the lines of {names.number - MAX_FILES} of {names.number} files that differ")
            paths = _paths([name.path for name in names.told if name.old_path is None])
            await self._in_pieces((*ask, "--no-renames", before, self.base, "--"), paths, take)
            return tuple(found.values())
        take(await self._run(*ask, _SAME, before, self.base))
        if _may_be_renames(found.values()):
            found.clear()
            take(await self._run(*ask, *_RENAMES, before, self.base))
        return tuple(found.values())

    async def _big(self, paths: Sequence[str]) -> list[str]:
        """Those of the files, which git took for binary ones, that are so for their size alone."""
        sizes: dict[str, int] = {}

        def take(output: bytes) -> None:
            sizes.update(git_output.sizes(output))

        await self._in_pieces(("ls-tree", "-r", "-l", "-z", "--full-tree", self.base, "--"), _paths(paths), take)
        return [f"{path} ({size / 1e6:.0f} MB)" for path, size in sizes.items() if size > BIG_BYTES]

    async def _sizes(self, texts: Sequence[FileChange]) -> tuple[FileSize, ...]:
        """How many lines they have now: as many as differ from nothing."""
        lines: dict[str, int] = {}

        def take(output: bytes) -> None:
            found = git_output.changes(output).get("", ())
            lines.update((change.path, change.added) for change in found if change.added is not None)

        ask = (*_OF_TREES, "--numstat", "--raw", "--no-renames", await self._nothing(), self.base, "--")
        changed = [change for change in texts if change.added or change.deleted]
        await self._in_pieces(ask, _paths([change.path for change in changed]), take)
        return tuple(
            FileSize(change.path, max(0, lines[change.path] - (change.added or 0) + (change.deleted or 0)), now)
            for change in changed
            if (now := lines.get(change.path)) is not None
        )

    async def _lines_of(
        self, before: str, texts: Sequence[FileChange]
    ) -> tuple[tuple[AddedLine, ...], tuple[FunctionGrowth, ...]]:
        """The added lines with marks, and the functions that lines were added in."""
        wanted, long, room = list[FileChange](), list[str](), MAX_LINES
        for change in texts:
            if not change.added:
                continue
            number = _changed_lines(change)
            if number > min(room, MAX_LINES_OF_FILE):
                long.append(change.path)
            else:
                wanted.append(change)
                room -= number
        if long:
            bounds = f"{MAX_LINES_OF_FILE} of a file, {MAX_LINES} of all"
            self.left_out.append(f"the lines of {_some(long)}: too many are changed ({bounds})")
        lines = _Lines(frozenset(change.path for change in wanted))
        ask = (*_OF_TREES, "--ignore-submodules=all", "-p", "-U0", *_RENAMES, before, self.base, "--")
        pieces = (
            part for piece in _pieces(wanted, _LINES_AT_ONCE, _changed_lines) for part in _pieces(piece, _PATHS_AT_ONCE)
        )
        refused = await self._in_pieces(ask, pieces, lines.take, _both_paths)
        if refused:
            self.left_out.append(f"the lines of {_some([change.path for change in refused])}: they are too long")
        if lines.beyond:
            self.left_out.append(f"{lines.beyond} of the added lines with TODO, FIXME or XXX: {MAX_MARKED} are told")
        functions = sorted(lines.functions.values(), key=lambda function: -function.added)
        if len(functions) > MAX_FUNCTIONS:
            self.left_out.append(f"{len(functions) - MAX_FUNCTIONS} functions with fewer added lines than the others")
        return tuple(lines.marked), tuple(functions[:MAX_FUNCTIONS])

    # What there is besides.

    async def _branches(self) -> tuple[Branch, ...]:
        """The branches of agents that the base branch does not contain, the newest first; those of reviews before."""
        reviews = await self._reviews()
        form = "--format=%(objectname) %(committerdate:unix) %(refname) %(symref)"
        bounds = ("--sort=-committerdate", f"--count={MAX_BRANCHES + len(reviews) + 1}", f"--no-merged={self.base}")
        try:
            told = await self._run("for-each-ref", form, *bounds, "refs/heads/darkfactory/", silent=True)
        except GitError as error:  # of one that is broken git warns, or lists none at all
            self.left_out.append(f"branches of agents, which git could not read: {error.tail}")
            told = error.output if error.exit_code == 0 else b""
        found: list[Branch] = []
        for line in os.fsdecode(told).split("\n")[:-1]:
            sha, at, ref, link = line.split(" ", 3)
            name = ref.removeprefix("refs/heads/")
            if link or name.startswith(BRANCH_PREFIX):
                continue
            if len(found) == MAX_BRANCHES:
                self.left_out.append(
                    f"branches of agents: more than {MAX_BRANCHES}, of which the newest were looked at"
                )
                break
            number = int(await self._run("rev-list", "--count", sha, f"^{self.base}"))
            found.append(Branch(name, sha, number, git_output.instant(at.encode())))
        return (*reviews, *found)

    async def _reviews(self) -> tuple[Branch, ...]:
        """The branches of reviews. Without them a finding would be improved again and again, so other branches have no
        part in it: neither how many there are nor that one is broken; then those that are merged are told as well.
        """
        form, refs = "--format=%(objectname) %(refname)", f"refs/heads/{BRANCH_PREFIX}"
        try:
            told = await self._run("for-each-ref", form, f"--no-merged={self.base}", refs, silent=True)
        except GitError as error:
            if error.exit_code is None:
                raise
            told = await self._run("for-each-ref", form, refs)
        lines = (line.split(" ", 1) for line in _lines(told))
        none = datetime.fromtimestamp(0, UTC)
        return tuple(Branch(ref.removeprefix("refs/heads/"), sha, 0, none) for sha, ref in lines)

    async def _tests(self) -> frozenset[str]:
        try:
            told = await self._run("ls-tree", "-r", "-z", "--name-only", "--full-tree", self.base)
        except GitError as error:
            if not error.too_much:
                raise
            self.left_out.append("which files are tests: there are more files than git can list for us")
            return frozenset()  # noqa: ASYNC910 - git is one
        tests, attributes = await self._in_thread(partial(_tests_among, told))
        if len(tests) > MAX_TESTS:
            self.left_out.append(f"{len(tests) - MAX_TESTS} of {len(tests)} files that look like tests")
        self.attributes = tuple(attributes)
        return frozenset(tests[:MAX_TESTS])

    # How git is asked.

    async def _in_pieces(
        self,
        argv: Sequence[str],
        pieces: Iterable[Sequence[_T]],
        take: Callable[[bytes], None],
        words: Callable[[_T], Iterable[str]] = lambda item: (str(item),),
    ) -> list[_T]:
        """Ask about pieces, one after the other; where there is too much to say, about halves of them.

        What is too much alone is left out, and comes back. What git says is taken in a thread.
        """
        refused: list[_T] = []
        for whole in pieces:
            waiting = [whole]
            while waiting:
                piece = waiting.pop()
                try:
                    output = await self._run(*argv, *(word for item in piece for word in words(item)))
                except GitError as error:
                    if not error.too_much:
                        raise
                    half = len(piece) // 2
                    if half == 0:
                        refused += piece
                    else:
                        waiting += [piece[half:], piece[:half]]
                else:
                    await self._in_thread(partial(take, output))
        await trio.lowlevel.checkpoint()
        return refused

    async def _run(self, *argv: str, silent: bool = False) -> bytes:
        return await self.repository.run(*argv, index=self.index, silent=silent)

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        return await threads.run_sync(work, limiter=self.limiter)


@define(eq=False)
class _Lines:
    """What is to be known of added lines; the lines themselves go by."""

    wanted: frozenset[str]
    """Paths; git tells of more where a directory has the name that a file had."""
    marked: list[AddedLine] = field(factory=list)
    beyond: int = 0
    functions: dict[tuple[str, str], FunctionGrowth] = field(factory=dict)

    def take(self, output: bytes) -> None:
        """Take a patch."""
        for hunk in git_output.hunks(output):
            if hunk.path in self.wanted:
                self._take(hunk)

    def _take(self, hunk: Hunk) -> None:
        for number, line in enumerate(hunk.added, hunk.line):
            if _MARK_BYTES.search(line) and (mark := _MARK.search(text := line.decode(errors="replace"))):
                if len(self.marked) < MAX_MARKED:
                    begin = max(0, min(mark.start() - LINE_CHARACTERS // 3, len(text) - LINE_CHARACTERS))
                    self.marked.append(AddedLine(hunk.path, number, text[begin : begin + LINE_CHARACTERS].strip()))
                else:
                    self.beyond += 1
        inside = [(0, hunk.function)] if hunk.function else []
        for number, line in enumerate(hunk.added, hunk.line):
            bare = line.lstrip()
            indent = len(line) - len(bare)
            if bare and bare[:1] not in _NO_END:
                while inside and indent <= inside[-1][0]:
                    inside.pop()
            if _DEFINES.match(bare):
                inside.append((indent, bare[:_FUNCTION_BYTES].decode(errors="ignore").strip()))
            if inside:
                key = (hunk.path, inside[-1][1])
                known = self.functions.get(key)
                self.functions[key] = (
                    FunctionGrowth(*key, number, 1) if known is None else evolve(known, added=known.added + 1)
                )


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


def _may_be_renames(changes: Iterable[FileChange]) -> bool:
    """Whether files that came may be files that went; if there are binary ones, nobody compares them."""
    changes = tuple(changes)
    kinds = {change.status for change in changes}
    return {"A", "D"} <= kinds and all(change.added is not None for change in changes if change.status in "AD")


def _changed_lines(change: FileChange) -> int:
    return (change.added or 0) + (change.deleted or 0)


def _both_paths(change: FileChange) -> tuple[str, ...]:
    return (change.path,) if change.old_path is None else (change.old_path, change.path)


def _paths(paths: Iterable[str]) -> Iterator[list[str]]:
    """Paths in pieces that fit into a command's words."""
    for piece in _pieces(paths, _PATH_BYTES_AT_ONCE, lambda path: len(os.fsencode(path)) + 1):
        yield from _pieces(piece, _PATHS_AT_ONCE)


def _pieces(items: Iterable[_T], size: int, weight: Callable[[_T], int] = lambda _: 1) -> Iterator[list[_T]]:
    """Cut into pieces that weigh no more than `size`, but for single items that do."""
    piece: list[_T] = []
    weighs = 0
    for item in items:
        more = weight(item)
        if piece and weighs + more > size:
            yield piece
            piece, weighs = [], 0
        piece.append(item)
        weighs += more
    if piece:
        yield piece


def _some(names: Sequence[str], shown: int = _SHOWN) -> str:
    """A few of the names, and how many more there are; safe to print."""
    told = ", ".join(printable(name[:12] if OBJECT.fullmatch(name) else name) for name in names[:shown])
    return told if len(names) <= shown else f"{told} and {len(names) - shown} more"


def _text(output: bytes) -> str:
    return os.fsdecode(output).strip()


def _lines(output: bytes) -> list[str]:
    return os.fsdecode(output).split("\n")[:-1]
