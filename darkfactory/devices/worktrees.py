"""A worktree for a run: a directory and a branch of its own, and what becomes of both when the run is over.

Agents that share a checkout undo each other's work. Supervisors that isolate them have lost work when they took a
worktree away, have spoilt refs by running git in parallel, and have fallen back on the shared checkout when isolation
failed. So: a branch with a name for each run; whatever was left uncommitted is committed to it; nothing is deleted
that another branch does not contain; one at a time changes a repository's refs; and what cannot be made is refused.

The agent is not to be trusted with any of it. It may rewrite the `.git` file in its worktree, its HEAD, its index and
its branch, leave locks and half a rebase, or put links where directories were. So its own git state is read, as text,
for one thing only: which commits its work is on. What its files amount to is found with an index of ours. Where
anything is not as it should be, the worktree is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Protocol

from attrs import frozen


@frozen
class Worktree:
    """Where a run works."""

    path: Path
    """Its top."""
    cwd: Path
    """The directory in it that `working_dir` is in the shared checkout."""
    branch: str
    commit: str
    """Where it began."""


@frozen
class Start:
    """Where a worktree begins, if not at HEAD on a branch that is named after its run."""

    commit: str
    base: str
    """The branch that its work is measured against; without `refs/heads/`."""
    branch: str
    """A new one, below `model.review.BRANCH_PREFIX`."""


@frozen
class Settled:
    """What became of a worktree when its run was over."""

    run_id: str
    agent: str
    path: Path
    branches: tuple[str, ...]
    """Where its work is now; empty when there is none."""
    kept: str | None
    """Why it was kept; None: it was removed, and nothing was lost by that."""
    commits: int = 0
    """Those on its branches that the branch that it began on does not contain."""
    rescued: int = 0
    """Files that had been changed and not committed; that was done for it."""
    commit: str | None = None
    """Where these commits end; None where there are none."""


@frozen
class Loss:
    """What a worktree and its branches hold that the branch that it began on does not."""

    branches: Mapping[str, str]
    """Its branches, whole names, and where they are."""
    commits: tuple[tuple[str, str], ...]
    """Each with its subject, the newest first."""
    files: tuple[str, ...]
    """Changed by these commits: `M path`."""
    dirty: tuple[str, ...]
    """Changed and not committed: `M path`, or `? path` for what git does not know."""
    oddity: str | None = None
    """What else is not as we left it."""

    def __bool__(self) -> bool:
        return bool(self.commits or self.dirty or self.oddity)


def counted(commits: int) -> str:
    """So many commits, in words."""
    return "1 commit" if commits == 1 else f"{commits} commits"


class Worktrees(Protocol):
    """Makes worktrees, and settles them."""

    async def make(
        self, run_id: str, agent: str, working_dir: Path, created: datetime, start: Start | None = None
    ) -> Worktree:
        """A worktree on a new branch, from the commit that HEAD is at in the repository of `working_dir`.

        SpawnFailed("worktree") if there is none to be had, SpawnFailed("branch_taken") if `start` names a branch that
        is there. Whether it was made or not, `settle` or `leave` follows.
        """
        ...

    async def settle(self, run_id: str, why: str) -> Settled | None:
        """Commit what was left uncommitted; remove the worktree if nothing is lost by that. `why` is how the run ended.

        None if there is none of that run, or somebody else is at it. Cancelled, it can be repeated, and will be by the
        next who asks for `leftovers`. Raises nothing: what goes wrong is why it was kept.
        """
        ...

    def leave(self, run_id: str, *, alone: bool) -> None:
        """The run is over. If its worktree was not settled, it becomes one of the `leftovers`.

        `alone`: not in this life, since something of the run may live. After `settle` it does nothing.
        """
        ...

    def leftovers(self) -> tuple[str, ...]:
        """Runs that are over, and whose worktrees were not settled yet; each is named once in a life."""
        ...

    def kept(self) -> int:
        """How many there are besides those of the runs that live. A glance at a directory."""
        ...

    async def retire(self) -> None:
        """Remove the worktrees that reviews have left and whose work is on its branch; the branches stay.

        Whatever was made there since they were settled, by a gate, goes with them.
        """
        ...

    async def check_out(self, run_id: str, commit: str) -> None:
        """Have the worktree of a review's run that is settled hold the files of that commit, and nothing else.

        What is checked there is what is handed in then: what git ignores is gone. CompoundReviewFailed if the commit is
        not what its branch is at, does not go on from where that began, or the worktree is not as it was made.
        """
        ...

    async def bury(self) -> str | None:
        """Delete what was removed; what would not be deleted, if anything."""
        ...
