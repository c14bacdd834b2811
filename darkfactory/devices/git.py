"""Git, run so that it does what we ask and nothing that a repository asks.

A repository can name programs in many places: hooks, filters, a file system monitor, external diffs, credential
helpers, editors, pagers, signatures, transports. Whoever may write to it, and agents may, has them run by the next
who calls git there, with that one's rights: out of a sandbox, for example, into ours. So here

- the environment is our own: no configuration of the system or the user, no prompt, no editor, no pager, no transport;
- what the repository's configuration could run is overridden: what has a fixed name always, what is named by it
  (`filter.X.clean`) after a look at the names that are there;
- the repository and the directory of files are named outright, so that a `.git` that was put somewhere leads nowhere;
- ancestry is what the objects say: no grafts, no replacements, no graph file.

What is left: a filter that is written into the configuration between our look and the command that follows it runs.
Commands that make patches must be given `--no-ext-diff --no-textconv`.

Each command is a process as a run's are (`devices.launcher`): in a session of its own, marked as ours, ended with all
that it started when it is cancelled or takes too long, and by the guard if we are killed. Git that was killed may leave
a lock file behind, which makes later commands fail; it never leaves half a commit.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Final

from attrs import define, evolve, field, frozen

from darkfactory.devices.command import absolute_path, last_words, run_command
from darkfactory.devices.process import Launcher, LaunchSpec
from darkfactory.errors import OrchestratorError, SpawnFailed

COMMAND_SECS: Final = 120.0
"""The longest that one command may take; callers have shorter bounds of their own around several."""
GRACE_SECS: Final = 0.3
"""What one is given to take its lock files away; it takes a millisecond. A factory that stops waits for it."""
MAX_OUTPUT_BYTES: Final = 32 * 1024**2
"""A command that prints more is ended, and has failed."""
NOBODY: Final = "0"
"""As an old value, times the length of an object's name: the ref does not exist."""
OBJECT: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
"""An object's whole name."""

_ENVIRONMENT: Final = {
    "LANG": "C",
    "LC_ALL": "C",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "false",
    "SSH_ASKPASS": "false",
    "GIT_EDITOR": "false",
    "GIT_SEQUENCE_EDITOR": "false",
    "GIT_PAGER": "cat",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_LITERAL_PATHSPECS": "1",
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_GRAFT_FILE": os.devnull,
    "GIT_AUTHOR_NAME": "darkfactory",
    "GIT_AUTHOR_EMAIL": "darkfactory@localhost",
    "GIT_COMMITTER_NAME": "darkfactory",
    "GIT_COMMITTER_EMAIL": "darkfactory@localhost",
}
_OVERRIDES: Final = {
    # what would run a program
    "core.hooksPath": os.devnull,
    "core.fsmonitor": "false",
    "core.sshCommand": "false",
    "core.gitProxy": "",
    "core.alternateRefsCommand": "false",
    "credential.helper": "",  # an empty one clears the list
    "diff.external": "",
    "gpg.program": "false",
    "gpg.ssh.program": "false",
    "gpg.x509.program": "false",
    "commit.gpgSign": "false",
    "tag.gpgSign": "false",
    "log.showSignature": "false",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "submodule.recurse": "false",
    "protocol.allow": "never",
    # what would hide something, or make a command fail that need not
    "core.attributesFile": os.devnull,
    "core.excludesFile": os.devnull,
    "core.checkStat": "default",
    "core.trustctime": "true",
    "core.untrackedCache": "false",
    "core.splitIndex": "false",
    "core.sparseCheckout": "false",
    "core.safecrlf": "false",
    "core.commitGraph": "false",
    "advice.graftFileDeprecated": "false",  # a word about GIT_GRAFT_FILE, which would be taken for a complaint
    # what a repository that comes from another system says of its files: here a new `readme` is not the README
    "core.ignoreCase": "false",
    "core.precomposeUnicode": "false",
    "core.fileMode": "true",
    "core.symlinks": "true",
}
_NAMED: Final = {
    ("filter", "clean"): "",
    ("filter", "smudge"): "",
    ("filter", "process"): "",
    ("filter", "required"): "false",
    ("diff", "command"): "",
    ("diff", "textconv"): "",
    ("merge", "driver"): "false",
    ("hook", "command"): ":",
}
"""What a configuration can give names of its own, as SECTION.NAME.KEY, and what we put in its place."""
_OPENED: Final = ("HEAD", "config", "packed-refs", "shallow", "objects/info/alternates")
"""What git opens of a repository for nearly every command: at a pipe that is in the place of one it would wait."""
_SHALLOW_BYTES: Final = 1024**2
"""Of the list of a shallow clone's ends, no more is read."""


class GitError(OrchestratorError):
    """A git command has failed, could not be started, or did not end in time."""

    def __init__(
        self, argv: tuple[str, ...], exit_code: int | None, tail: str, output: bytes = b"", *, too_much: bool = False
    ) -> None:
        what = "failed" if exit_code is None else f"ended with {exit_code}"
        super().__init__(f"git {argv[0]} {what}: {tail or 'it said nothing'}")
        self.argv = argv
        """Without the program and our own options."""
        self.exit_code = exit_code
        """None when it could not be started, or was ended by us."""
        self.tail = tail
        """The end of what it said on stderr, or why we ended it; cut, and safe to print."""
        self.output = output
        """What it had printed."""
        self.too_much = too_much
        """It printed more than we take; of a part of the question it might print less."""


@define(eq=False)
class Git:
    """Starts git commands."""

    launcher: Launcher
    scratch: Path
    """A directory that is ours alone; made when it is needed. Output goes here while a command runs."""
    environ: Mapping[str, str] = field(repr=False)
    """Where its PATH is taken from, and nothing else."""
    _names: Iterator[str] = field(factory=lambda: map(f"git-{os.urandom(4).hex()}-{{}}".format, count(1)))
    """Of its commands: no other instance has the same, for what a command starts is found and ended by its name."""

    async def run(
        self,
        *argv: str,
        cwd: Path | None = None,
        variables: Mapping[str, str] | None = None,
        overrides: Mapping[str, str] | None = None,
        silent: bool = False,
    ) -> bytes:
        """Run `git ARGV` and return what it printed. Without `cwd` it is in a directory without a repository.

        GitError unless it exits with 0; where it is to be `silent`, also if it says anything on stderr: that it could
        not read something is to git no more than a warning. Cancelled, it is ended first, with all that it started.
        """
        name = next(self._names)
        try:
            self.scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise GitError(argv, None, str(error)) from error
        spec = LaunchSpec(
            run_id=name,
            argv=("git", *argv),
            env=self._environment(variables or {}, {**_OVERRIDES, **(overrides or {})}),
            cwd=cwd or self.scratch,
            stdin=None,
            stdout=self.scratch / f"{name}.out",
            stderr=self.scratch / f"{name}.err",
            max_output_bytes=MAX_OUTPUT_BYTES,
        )
        try:
            done = await run_command(self.launcher, spec, secs=COMMAND_SECS, grace_secs=GRACE_SECS)
        except SpawnFailed as failure:
            newer = " (2.31 or newer)" if failure.reason == "tool_missing" else ""
            raise GitError(argv, None, f"{failure.reason}: {failure.detail}{newer}") from failure
        if done.ended is not None:
            raise GitError(argv, None, f"it {done.ended}, and was ended", too_much=done.too_much)
        if done.exit_code != 0 or done.too_much or (silent and done.stderr):
            tail = last_words(done.stderr)
            raise GitError(argv, done.exit_code, tail, done.stdout, too_much=done.too_much)
        return done.stdout

    def _environment(self, variables: Mapping[str, str], overrides: Mapping[str, str]) -> dict[str, str]:
        env = {**_ENVIRONMENT, "PATH": absolute_path(self.environ), "HOME": str(self.scratch), **variables}
        env["GIT_CONFIG_COUNT"] = str(len(overrides))
        for number, (key, value) in enumerate(overrides.items()):
            env[f"GIT_CONFIG_KEY_{number}"] = key
            env[f"GIT_CONFIG_VALUE_{number}"] = value
        return env

    async def open(self, common: Path, git_dir: Path | None = None) -> Repository:
        """The repository with this common directory (its `.git`), after a look at what it would run.

        `git_dir`: that of a worktree of its own making, whose HEAD and index are used instead. The look is from there:
        a configuration can include another one for some worktrees, or some branches, alone.

        GitError if it is not there, is a link, or belongs to another user: then its configuration is not ours to obey.
        """
        if (why := unfit(common)) is not None:
            raise GitError(("open",), None, f"{common} {why}")
        repository = Repository(self, common, {}, git_dir or common)
        names = await repository.run("config", "--list", "--includes", "--name-only", "-z")
        return evolve(repository, overrides=dict(_switched_off(os.fsdecode(names).split("\0"))))


@frozen
class Repository:
    """A repository, named by its common directory; commands here know no worktree but the one that they are given."""

    git: Git
    common: Path
    """What `git rev-parse --git-common-dir` says."""
    overrides: Mapping[str, str]
    """What its configuration names, switched off."""
    git_dir: Path
    """Whose HEAD and index are used; the configuration was looked at from there."""

    async def run(
        self,
        *argv: str,
        work_tree: Path | None = None,
        index: Path | None = None,
        silent: bool = False,
    ) -> bytes:
        """Run `git ARGV` on it; see `Git.run`.

        Where files are meant, `work_tree` says which, and `index` has a file of our own used instead of the worktree's.
        """
        options = [f"--git-dir={self.git_dir}"]
        variables = {"GIT_COMMON_DIR": str(self.common)}
        if work_tree is not None:
            options.append(f"--work-tree={work_tree}")
        if index is not None:
            variables["GIT_INDEX_FILE"] = str(index)
        words = (*options, *argv)
        try:
            return await self.git.run(
                *words, cwd=work_tree, variables=variables, overrides=self.overrides, silent=silent
            )
        except GitError as error:
            raise GitError(argv, error.exit_code, error.tail, error.output, too_much=error.too_much) from error

    async def contains(self, commit: str, other: str) -> bool:
        """Whether the other commit is the same, or one of its ancestors."""
        try:
            await self.run("merge-base", "--is-ancestor", other, commit)
        except GitError as error:
            if error.exit_code != 1:
                raise
            return False  # noqa: ASYNC910 - git is one
        return True


def unfit(common: Path) -> str | None:
    """Why a directory cannot be taken for a repository of ours; None if it can."""
    try:
        found = common.lstat()
    except OSError as error:
        return f"cannot be reached: {error.strerror}"
    if not stat.S_ISDIR(found.st_mode):
        return "is no directory"
    if found.st_uid != os.geteuid():
        return "belongs to another user: run the factory as that one"
    for name in _OPENED:
        with suppress(OSError):  # most repositories lack some; where one is missed, git says so
            if not stat.S_ISREG((common / name).stat().st_mode):
                return f"has a {name} that is no file"
    return None


def shallow(common: Path) -> frozenset[str]:
    """The commits at which a shallow clone ends, and which git takes for beginnings; none of any other repository.

    OSError where that cannot be read.
    """
    try:
        descriptor = os.open(common / "shallow", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return frozenset()
    with open(descriptor, encoding="ascii", errors="replace") as file:  # noqa: PTH123 -- a descriptor
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return frozenset()
        return frozenset(line for line in file.read(_SHALLOW_BYTES).splitlines() if OBJECT.fullmatch(line))


def _switched_off(names: list[str]) -> Iterator[tuple[str, str]]:
    """For each key of a configuration that names a program: the key and what takes its place."""
    for name in names:
        section, _, rest = name.partition(".")
        subsection, _, key = rest.rpartition(".")
        value = _NAMED.get((section.casefold(), key.casefold()))
        if value is not None and subsection:
            yield name, value
            if section.casefold() == "filter":  # it might be required and only then be looked at
                yield f"{section}.{subsection}.required", "false"
