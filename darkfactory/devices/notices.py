"""What about a repository a review can live with, but a person may want to know.

No filter runs, no other URL is taken, and what is not committed is not looked at. Whoever relies on one of these would
wonder at what comes of it; so it is said.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import trio

from darkfactory.devices import git_output
from darkfactory.devices.command import printable
from darkfactory.devices.git import GitError, Repository
from darkfactory.devices.place import Place
from darkfactory.model.review import Notice

ATTRIBUTES_BYTES: Final = 1024**2
"""A larger file of attributes is not looked into."""
MAX_ATTRIBUTES: Final = 100
_SHOWN: Final = 3
_FILTER: Final = re.compile(r"filter\.(.+)\.(?:clean|smudge|process)", re.DOTALL)
_INSTEAD: Final = re.compile(r"url\.(.+)\.(?:insteadof|pushinsteadof)", re.DOTALL)
_USER: Final = re.compile(r"//[^/]*@")
_IN_PROGRESS: Final = {
    "rebase-merge": ("a rebase", "git rebase --continue, or --abort"),
    "rebase-apply": ("a rebase or git am", "git rebase --continue, or --abort; after git am the same of that"),
    "MERGE_HEAD": ("a merge", "git merge --continue, or --abort"),
    "CHERRY_PICK_HEAD": ("a cherry-pick", "git cherry-pick --continue, or --abort"),
    "REVERT_HEAD": ("a revert", "git revert --continue, or --abort"),
    "BISECT_LOG": ("a bisect", "git bisect reset"),
}
"""By the file that is there meanwhile: what it is, and how it ends."""


async def notices(
    repository: Repository, place: Place, branch: str, remote: str, attributes: Sequence[str]
) -> tuple[Notice, ...]:
    """What there is to say. `attributes` are paths of files of attributes in the branch's tree."""
    keys = os.fsdecode(await repository.run("config", "--list", "--includes", "--name-only", "-z")).split("\0")
    found = [*_of_configuration(keys, remote)]
    files = await _with_filters(repository, branch, attributes)
    filters = sorted({of[1] for key in keys if (of := _FILTER.fullmatch(key))})
    if filters or files:
        said = [f"the configuration names {_some(filters)}"] if filters else []
        said += [f"{_some(files)} ask{'s' if len(files) == 1 else ''} for some"] if files else []
        found.append(
            Notice(
                "filters",
                f"files go through filters (Git LFS, for example): {'; '.join(said)}. Filters are programs, and none "
                "is run: what was looked at, and what an agent's worktree holds, is what git has stored",
                "have no filters on what agents are to improve; otherwise nothing",
            )
        )
    if (place.common / "shallow").exists():
        found.append(
            Notice(
                "shallow_clone",
                "the repository is a shallow clone: what lies behind its end cannot be looked at",
                "git fetch --unshallow",
            )
        )
    if place.top is not None:
        found += await _of_checkout(repository, place, branch)
    return tuple(found)


def _of_configuration(keys: Sequence[str], remote: str) -> Iterator[Notice]:
    urls = sorted({_USER.sub("//***@", of[1]) for key in keys if (of := _INSTEAD.fullmatch(key))})
    if urls:
        yield Notice(
            "instead_of",
            f"the configuration puts {_some(urls)} in the place of other URLs (insteadOf); nothing of that is heeded: "
            "branches are pushed to the URL as it is written",
            "write the URL that is meant into the remote, or into remote =",
        )
    named = {f"remote.{remote}.url", f"remote.{remote}.pushurl"}
    if not named & set(keys) and not any(sign in remote for sign in "/:"):
        yield Notice(
            "no_remote",
            f"there is no remote {printable(remote)}: an improvement could be pushed nowhere",
            f"git remote add {printable(remote)} URL, or set remote = to another one or to a URL",
        )


async def _with_filters(repository: Repository, branch: str, attributes: Sequence[str]) -> list[str]:
    """Those of the files of attributes that ask for a filter."""
    if not attributes:
        await trio.lowlevel.checkpoint()
        return []
    tree = f"refs/heads/{branch}"
    some = attributes[:MAX_ATTRIBUTES]
    told = await repository.run("ls-tree", "-r", "-l", "-z", "--full-tree", tree, "--", *some)
    small = [path for path, size in git_output.sizes(told).items() if size <= ATTRIBUTES_BYTES]
    if not small:
        return []
    ask = ("grep", "-z", "--name-only", "--no-textconv", "-E", "-e", "[[:space:]]filter=")
    try:
        found = await repository.run(*ask, tree, "--", *small)
    except GitError as error:
        if error.exit_code != 1:
            raise
        return []  # noqa: ASYNC910 - git is one
    return [os.fsdecode(name).removeprefix(f"{tree}:") for name in git_output.parts(found, b"\0")]


async def _of_checkout(repository: Repository, place: Place, branch: str) -> list[Notice]:
    """What a person has left lying about; the review looks at none of it."""
    found = []
    if (doing := _doing(place.git_dir)) is not None:
        what, remedy = doing
        detail = f"{what} is in progress in {place.top}; the review takes {branch} as it is without it"
        found.append(Notice("rebase_in_progress", detail, remedy))
    else:
        try:
            await repository.run("symbolic-ref", "--quiet", "HEAD")
        except GitError as error:
            if error.exit_code != 1:
                raise
            detail = f"{place.top} is at a commit, and on no branch; the review looks at {branch}"
            found.append(Notice("detached_head", detail, f"nothing; or git switch {branch}"))
    dirty = await _dirty(repository, place)
    if dirty is not None:
        found.append(Notice("dirty_tree", f"{dirty}; the review looks at commits only", "commit them, or nothing"))
    return found


async def _dirty(repository: Repository, place: Place) -> str | None:
    """What to say of changes that nobody has committed; files that git does not know are none.

    A submodule is not looked into: git would run another git in it, with the submodule's own configuration.
    """
    ask = ("status", "--porcelain", "-z", "--untracked-files=no", "--ignore-submodules=all", "--no-renames")
    try:
        told = await repository.run(*ask, work_tree=place.top)
    except GitError as error:
        if error.too_much:
            return f"very many files in {place.top} have changes that are not committed"  # noqa: ASYNC910 - git is one
        return f"git cannot tell whether files in {place.top} have changes that are not committed ({error.tail})"  # noqa: ASYNC910 - git is one
    names = [os.fsdecode(line[3:]) for line in git_output.parts(told, b"\0")]
    return f"changes in {place.top} are not committed: {_some(names)}" if names else None


def _doing(git_dir: Path) -> tuple[str, str] | None:
    """What is in progress, and how it ends."""
    return next((told for name, told in _IN_PROGRESS.items() if os.path.lexists(git_dir / name)), None)


def _some(names: Sequence[str]) -> str:
    told = ", ".join(map(printable, names[:_SHOWN]))
    return told if len(names) <= _SHOWN else f"{told} and {len(names) - _SHOWN} more"
