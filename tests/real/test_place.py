"""Where a directory's repository is: of every kind of place that a person may name."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

import pytest

from darkfactory.devices import place
from darkfactory.devices.git import Git, GitError
from darkfactory.devices.launcher import RealLauncher
from darkfactory.devices.place import NoRepository, Place
from darkfactory.errors import CompoundReviewFailed

from .repositories import Checkout

pytestmark = pytest.mark.real


@pytest.fixture
def git(tmp_path: Path) -> Git:
    return Git(
        RealLauncher(f"test-{uuid.uuid4().hex}", os.environ["DARKFACTORY_RUN"]), tmp_path / "scratch", os.environ
    )


@pytest.mark.parametrize("name", ["plain", 'odd": \\\nname\ntrue'])
async def test_a_checkout_is_found_from_anywhere_in_it(git: Git, tmp_path: Path, name: str) -> None:
    checkout = Checkout.begun(tmp_path / name)
    common = checkout.path / ".git"
    assert await place.find(git, checkout.path) == Place(common, common, "", checkout.path)
    below = await place.find(git, checkout.path / "sub")
    assert (below.common, below.prefix) == (common, "sub/")
    assert below.top is not None
    assert below.top.resolve() == checkout.path
    assert await place.find(git, common) == Place(common, common, "", None)


async def test_a_worktree_has_its_own_head_and_a_bare_repository_no_top(git: Git, tmp_path: Path) -> None:
    checkout = Checkout.begun(tmp_path / "repository")
    checkout.git("worktree", "add", "--quiet", str(tmp_path / "tree"))
    common = checkout.path / ".git"
    found = await place.find(git, tmp_path / "tree")
    assert found == Place(common, common / "worktrees" / "tree", "", tmp_path / "tree")
    checkout.git("clone", "--quiet", "--bare", ".", str(tmp_path / "bare"))
    assert await place.find(git, tmp_path / "bare") == Place(tmp_path / "bare", tmp_path / "bare", "", None)


async def test_where_there_is_none_it_says_so_in_the_same_words_to_everybody(git: Git, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, why in {"": "not a git repository", "file": "is no directory", "gone": "is not there"}.items():
        with pytest.raises(NoRepository, match=f"is in no git repository of ours: .*{why}") as caught:
            await place.find(git, tmp_path / name)
        with pytest.raises(CompoundReviewFailed) as told:
            await place.find_reviewed(git, tmp_path / name)
        assert (told.value.outcome, told.value.detail) == ("no_repository", str(caught.value))


async def test_that_git_cannot_be_asked_says_nothing_of_the_repository(git: Git, tmp_path: Path) -> None:
    checkout = Checkout.begun(tmp_path / "repository")
    git.environ = {"PATH": str(tmp_path)}
    with pytest.raises(GitError, match="no git on the PATH of the factory: install git"):
        await place.find(git, checkout.path)
    with pytest.raises(CompoundReviewFailed) as told:
        await place.find_reviewed(git, checkout.path)
    assert told.value.outcome == "git_failed"
    shutil.rmtree(checkout.path)
    with pytest.raises(NoRepository):
        await place.find(git, checkout.path)
