"""What commits tell when they are looked at together: each file's history, what was taken back, and what is a fix.

Commits are read as git lists them, the newest first, so that a file that was renamed on the way keeps the history that
it had under its old name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from attrs import define, field

from darkfactory.model.review import Commit, looks_like_test

_LOOKED_AT: Final = 1000
"""Characters of a subject."""
_FIX: Final = re.compile(
    r"\b(fix(e[sd]|up|ing)?|(bug|hot)-?fix(e[sd])?|mend(s|ed)?|repair(s|ed)?|correct(s|ed)?|regression)\b",
    re.IGNORECASE,
)
_TAKEN_BACK: Final = (
    re.compile(r'(?:Revert|Reapply) "(.*)"'),
    re.compile(r"revert(?:\([^()]*\))?!?:\s*(.+)", re.IGNORECASE),
)
_NUMBER: Final = re.compile(r" \(#\d+\)$")
"""What GitHub puts behind the subject of a pull request."""
_SAYS_SO: Final = re.compile(r"^This reverts commit ([0-9a-f]{7,64})", re.MULTILINE)


@define(eq=False)
class History:
    """What happened to one file."""

    commits: list[Commit] = field(factory=list)
    """The newest first."""
    added: int = 0
    """Lines."""
    deleted: int = 0
    untested: list[Commit] = field(factory=list)
    """Those of the commits that change no test."""
    untested_added: int = 0


def own(commits: Iterable[Commit]) -> list[Commit]:
    """The commits without the merges of what is among them itself: those would tell everything twice."""
    commits = list(commits)
    shas = {commit.sha for commit in commits}
    return [commit for commit in commits if shas.isdisjoint(commit.parents[1:])]


def histories(commits: Sequence[Commit]) -> dict[str, History]:
    """Path -> history, by the names that the files have now. Files that are not there any more have none."""
    now: dict[str, str | None] = {}
    """What became of a path, as seen from older commits; None: it is gone."""
    found: dict[str, History] = {}
    for commit in commits:
        tested = any(looks_like_test(change.path) for change in commit.changes)
        before: dict[str, str | None] = {}
        for change in commit.changes:
            if change.status == "D":
                before[change.path] = None
                continue
            path = now.get(change.path, change.path)
            if change.status == "R" and change.old_path is not None:
                before[change.old_path] = path
            if path is None:
                continue
            history = found.setdefault(path, History())
            if commit not in history.commits[-1:]:  # it may be in it by two names
                history.commits.append(commit)
            history.added += change.added or 0
            history.deleted += change.deleted or 0
            if not tested:
                history.untested_added += change.added or 0
                if commit not in history.untested[-1:]:
                    history.untested.append(commit)
        now |= before
    return found


def is_fix(commit: Commit) -> bool:
    """Whether a commit says that it mends something."""
    return _FIX.search(commit.subject[:_LOOKED_AT]) is not None


def taken_back(commit: Commit) -> str | None:
    """What a commit takes back, or brings back again: the subject of what was first committed, or else its id.

    None for a commit that goes forward.
    """
    subject = commit.subject[:_LOOKED_AT].strip()
    found = None
    while (inner := _inner(subject)) is not None:
        found = subject = inner
    if found is not None:
        return found
    says_so = _SAYS_SO.search(commit.body)
    return None if says_so is None else says_so[1][:12]


def _inner(subject: str) -> str | None:
    bare = _NUMBER.sub("", subject)
    for pattern in _TAKEN_BACK:
        match = pattern.fullmatch(bare)
        if match is not None and match[1].strip():
            return match[1].strip()
    return None
