"""Where the repository of a directory is: of a checkout, a place in one, a worktree of a person's own, or a bare one.

Everybody who goes into a repository asks here, and is told in the same words where there is none to go into.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import trio
from attrs import frozen

from darkfactory.devices.git import Git, GitError, unfit
from darkfactory.errors import CompoundReviewFailed, OrchestratorError
from darkfactory.model.review import ReviewOutcome

_BETWEEN: Final = "--//"
"""An option that git does not know, and repeats: no line of a path that it tells has two slashes."""


class NoRepository(OrchestratorError):
    """A directory is in no git repository, or in none that is ours."""

    def __init__(self, directory: Path, why: str) -> None:
        super().__init__(f"{directory} is in no git repository of ours: {why}")


@frozen
class Place:
    """Where a repository is."""

    common: Path
    git_dir: Path
    """Of the checkout; the same as `common`, but for worktrees."""
    prefix: str
    """Where in the checkout the directory is; empty at its top, and where there is none."""
    top: Path | None
    """Of the checkout; None of a bare repository, and inside of a `.git`."""


async def find(git: Git, directory: Path) -> Place:
    """Where a directory's repository is. NoRepository; GitError if git could not be asked."""
    await trio.lowlevel.checkpoint()
    if not _is_there(directory):
        raise NoRepository(directory, "it is not there, cannot be reached, or is no directory")
    wanted = ("--git-common-dir", "--git-dir", "--is-inside-work-tree", "--show-prefix", "--show-cdup")
    asked = f" {_BETWEEN} ".join(wanted).split()
    try:
        told = await git.run("rev-parse", "--path-format=absolute", *asked, cwd=directory)
    except GitError as error:
        if error.exit_code is None:  # it could not be started, or did not end
            raise
        raise NoRepository(directory, error.tail) from error
    common, git_dir, inside, prefix, up = os.fsdecode(told).split(f"\n{_BETWEEN}\n")
    if (why := unfit(Path(common))) is not None:
        raise NoRepository(directory, f"{common} {why}")
    return Place(Path(common), Path(git_dir), prefix, directory / up.removesuffix("\n") if inside == "true" else None)


def _is_there(directory: Path) -> bool:
    return os.path.isdir(directory)  # noqa: PTH112 - pathlib's raises where this one cannot look


async def find_reviewed(git: Git, repo: Path) -> Place:
    """The same for a review: CompoundReviewFailed, with "no_repository" or "git_failed"."""
    try:
        return await find(git, repo)
    except NoRepository as error:
        remedy = "set repo_path to a checkout or a bare repository that belongs to the user the factory runs as"
        raise CompoundReviewFailed(ReviewOutcome.NO_REPOSITORY.value, str(error), remedy) from error
    except GitError as error:
        raise CompoundReviewFailed(ReviewOutcome.GIT_FAILED.value, str(error)) from error
