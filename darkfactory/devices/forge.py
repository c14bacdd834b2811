"""A forge: where reviews hand in what they have made, as branches and draft pull requests."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Protocol

from attrs import frozen

from darkfactory.devices.command import printable
from darkfactory.errors import CompoundReviewFailed

TOLD_LENGTH: Final = 400
"""Of what a forge's programs said of a failure."""
_SECRETS: Final = re.compile(r"\b(?:gh[a-z]_|github_pat_)\w{10,}|(?<=//)[^/\s@]+@|(?i:(?<=Authorization: ))\S+ \S+")


@frozen
class Target:
    """Where branches and pull requests go."""

    url: str
    """Where to push: as the configuration has it, without the name and password that an https URL may hold."""
    repo: str | None
    """`HOST/OWNER/REPO` of the pull requests; None where nobody said, and the URL does not."""
    trusted: bool = False
    """A person named the host, not the repository's configuration, which agents may write to."""

    @property
    def host(self) -> str | None:
        """Of the pull requests, in small letters."""
        return self.repo.partition("/")[0].casefold() if self.repo else None


@frozen
class PullRequest:
    """One pull request."""

    number: int
    url: str
    state: str
    """"open", "closed" or "merged"."""
    draft: bool
    branch: str
    finding: str | None
    """The id that its text ends with."""


class Forge(Protocol):
    """Where reviews hand in what they have made. Whatever fails is a CompoundReviewFailed."""

    async def target(self, repo: Path, remote: str, github_repo: str | None) -> Target:
        """Where the branches of a repository go: "no_remote"; "no_repository", "git_failed"."""
        ...

    async def waiting(self, target: Target) -> tuple[PullRequest, ...]:
        """The open pull requests of reviews, the newest first.

        "no_remote" where nothing says which repository's; "gh_missing", "gh_logged_out", "pr_failed".
        """
        ...

    async def find(self, target: Target, branch: str, finding: str) -> PullRequest | None:
        """The pull request of a branch, in any state, or else an open one about the finding: what comes back is new.

        Fails as `waiting` does.
        """
        ...

    async def push(self, repo: Path, target: Target, commit: str, branch: str) -> None:
        """Make a branch at that commit over there; nothing to be done if it is there: "push_failed".

        A branch that is at another commit is left alone, and is a failure. "no_repository", "git_failed"; "gh_missing"
        and "gh_logged_out" where a token is needed.
        """
        ...

    async def open_draft(
        self, target: Target, *, branch: str, base: str, title: str, body: str, finding: str
    ) -> tuple[PullRequest, bool]:
        """The draft pull request of a branch that was pushed, and whether it was made now; fails as `waiting` does.

        One that is there already (see `find`) is taken, whatever its state.
        """
        ...


def told(said: str, secrets: Iterable[str] = ()) -> str:
    """What somebody else said, fit for a report: no token, in one line, cut."""
    for secret in secrets:
        said = said.replace(secret, "***") if secret else said
    said = _SECRETS.sub("***", said)
    return printable(said)[:TOLD_LENGTH]


def no_remote(detail: str, remedy: str) -> CompoundReviewFailed:
    """That there is nowhere to go."""
    return CompoundReviewFailed("no_remote", detail, remedy)
