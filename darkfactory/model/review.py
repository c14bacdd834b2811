"""The compound review: what is read of a repository, what is found in it, and what a review came to.

The repository's last commits and the fleet's last days are read, findings are made of them and ranked, and the first
one is improved: by an agent, on a branch of its own, as far as our gate and a person let it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Final

from attrs import evolve, field, frozen

BRANCH_PREFIX: Final = "darkfactory/review/"
"""Of the branches that reviews make: `darkfactory/review/<date>-<finding>`."""


# What is read.


@frozen
class FileChange:
    """What a commit did to one file."""

    path: str
    """In the repository, with slashes; bytes that are no UTF-8 as surrogates (`os.fsdecode`)."""
    status: str
    """One letter of git's: A, M, D, R, C or T."""
    added: int | None = 0
    """Lines; None of a binary file."""
    deleted: int | None = 0
    old_path: str | None = None
    """Where it was, of a file that was renamed or copied."""


@frozen
class Commit:
    """One commit of the base branch. Of a merge, what it changed against its first parent."""

    sha: str
    parents: tuple[str, ...]
    author: str
    at: datetime
    """Of the committer, UTC."""
    subject: str
    body: str
    """Without the subject; cut where it is long."""
    changes: tuple[FileChange, ...] = ()
    left_out: int = 0
    """Changed files beyond those that are told."""


@frozen
class AddedLine:
    """A line of a file as it is now, that was not there at the beginning of the range."""

    path: str
    line: int
    """1-based."""
    text: str


@frozen
class FileSize:
    """A changed text file, at both ends of the range."""

    path: str
    lines_before: int
    """0 where it was not there."""
    lines: int


@frozen
class FunctionGrowth:
    """A function, or what looks like one, in which lines were added, or which was."""

    path: str
    name: str
    """Its first line."""
    line: int
    """1-based: the first of the added lines."""
    added: int


@frozen
class Branch:
    """A branch of an agent that the base branch does not contain."""

    name: str
    """Without `refs/heads/`."""
    sha: str
    commits: int
    """Not counted, and 0, of a review's own branch; so is the next."""
    at: datetime
    """Of its newest commit, UTC."""


@frozen
class Notice:
    """Something about the repository that the review can live with."""

    name: str
    """A stable word, such as "dirty_tree"."""
    detail: str
    remedy: str


@frozen
class Scan:
    """What happened on the base branch since the last review."""

    commit: str
    """Where the base branch is."""
    since: str | None
    """The commit up to which everything was reviewed before; None where a time was gone by."""
    since_at: datetime | None = None
    """UTC: the time that was gone by instead."""
    commits: tuple[Commit, ...] = ()
    """The newest first."""
    marked: tuple[AddedLine, ...] = ()
    """Lines with TODO, FIXME or XXX that were added."""
    sizes: tuple[FileSize, ...] = ()
    functions: tuple[FunctionGrowth, ...] = ()
    branches: tuple[Branch, ...] = ()
    tests: frozenset[str] = frozenset()
    """The files of the base branch that look like tests (`looks_like_test`)."""
    notices: tuple[Notice, ...] = ()
    left_out: tuple[str, ...] = ()
    """Sentences: what was not looked at because there was too much of it."""


@frozen
class AgentStory:
    """What the journal tells of an agent since the last review. Counts are of all of it, what is told is capped."""

    agent: str
    runs: int = 0
    """That ended, however they did."""
    bad_ends: Mapping[str, int] = field(factory=dict)
    """By reason, those that count against the agent (`policy.restart.AFTER`)."""
    drift: Mapping[str, int] = field(factory=dict)
    """Alerts by level, as "severe"."""
    holds: int = 0
    """Those that nobody asked for."""
    turned_away: int = 0
    """Runs that a limit at the provider, theirs or ours, kept from going on."""
    refusals: Mapping[str, int] = field(factory=dict)
    """By reason: runs that did not start, and messages that were not accepted for it."""
    told_runs: tuple[str, ...] = ()
    """`RUN reason: detail`, the newest last."""
    told: tuple[str, ...] = ()
    """`KIND reason: detail` of what else happened to it, the newest last."""


def looks_like_test(path: str) -> bool:
    """Whether a file is a test, by the names that people give to those."""
    *directories, name = path.casefold().split("/")
    stem = name.partition(".")[0]
    return (
        any(directory in {"test", "tests", "spec", "specs", "__tests__", "testing"} for directory in directories)
        or stem.startswith(("test_", "test-"))
        or stem.endswith(("_test", "-test", "_tests", "_spec", "-spec"))
        or ".test." in name
        or ".spec." in name
    )


# What is found.


class FindingKind(Enum):
    """What a finding is about; the word in `[compound_review.weights]`, in reports and in findings' ids."""

    CHURN = "churn"
    """A file that many commits changed."""
    REVERT = "revert"
    """A commit that was taken back."""
    FIX_OF_FIX = "fix-of-fix"
    """A fix that needed another one."""
    TODO = "todo"
    """Work that was put off in the code: TODO, FIXME, XXX."""
    UNTESTED = "untested"
    """Code that changed, and no test with it."""
    GREW = "grew"
    """A file or function that has become large."""
    DEPENDENCIES = "dependencies"
    """What the project depends on has changed."""
    AGENT = "agent"
    """An agent of the fleet that failed, drifted or was held."""
    BRANCH = "branch"
    """Work of an agent that nobody has merged."""


DEFAULT_WEIGHTS: Final[dict[FindingKind, float]] = {
    FindingKind.REVERT: 3.0,
    FindingKind.FIX_OF_FIX: 2.5,
    FindingKind.UNTESTED: 2.0,
    FindingKind.AGENT: 2.0,
    FindingKind.CHURN: 1.5,
    FindingKind.GREW: 1.5,
    FindingKind.TODO: 1.0,
    FindingKind.BRANCH: 1.0,
    FindingKind.DEPENDENCIES: 0.8,
}
"""What a finding's strength is multiplied by; 0 leaves the kind out."""


class FindingSeverity(Enum):
    """How much it matters."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


@frozen
class Evidence:
    """What a finding rests on, capped; other people's words."""

    commits: tuple[str, ...] = ()
    """`SHA subject`."""
    files: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    """`PATH:LINE: text`."""
    runs: tuple[str, ...] = ()
    """`RUN reason: detail`."""
    records: tuple[str, ...] = ()
    """`KIND reason: detail`, of the fleet's journal."""
    branches: tuple[str, ...] = ()


@frozen
class Finding:
    """Something that could be better."""

    id: str
    """The same every night, for as long as it is about the same; fit for a branch's name."""
    kind: FindingKind
    title: str
    """One line."""
    severity: FindingSeverity
    score: float
    """Findings are ranked by it."""
    why: str
    """How the score came about."""
    evidence: Evidence = field(factory=Evidence)
    handled: str | None = None
    """What was done about it on an earlier night; None: nothing."""


# What comes of it.


class ReviewOutcome(Enum):
    """How a review ended. See `FAILED_NIGHTS` for which of them are failures."""

    NOTHING_FOUND = "nothing_found"
    DRY_RUN = "dry_run"
    """There are findings, and nothing was to be done about them."""
    IMPROVED = "improved"
    """The improvement is on its branch, and no pull request was wanted."""
    PR_CREATED = "pr_created"
    PR_EXISTS = "pr_exists"
    """A pull request for the finding was there already."""
    MAX_OPEN_PRS = "max_open_prs"
    """As many wait for a person as may."""
    DECLINED = "declined"
    """The agent found that there is nothing to be done."""
    NO_BUDGET = "no_budget"
    NO_AGENT = "no_agent"
    REFUSED = "refused"
    """The gate did not let the agent's run start."""
    BRANCH_TAKEN = "branch_taken"
    """For each finding there is a branch already, which nobody has merged."""
    AGENT_FAILED = "agent_failed"
    REPORT_UNREADABLE = "report_unreadable"
    NO_CHANGE = "no_change"
    """The agent said that it improved something, and no commit shows it."""
    GATE_FAILED = "gate_failed"
    NO_REMOTE = "no_remote"
    GH_MISSING = "gh_missing"
    GH_LOGGED_OUT = "gh_logged_out"
    PUSH_FAILED = "push_failed"
    PR_FAILED = "pr_failed"
    NO_REPOSITORY = "no_repository"
    NO_COMMITS = "no_commits"
    NO_BASE_BRANCH = "no_base_branch"
    GIT_FAILED = "git_failed"
    TIMED_OUT = "timed_out"
    STOPPED = "stopped"
    """The factory stopped."""
    LOST = "lost"
    """The factory was killed."""
    ERROR = "error"
    """A bug of ours."""


FAILED_NIGHTS: Final = frozenset(
    {
        ReviewOutcome.NO_AGENT,
        ReviewOutcome.REFUSED,
        ReviewOutcome.AGENT_FAILED,
        ReviewOutcome.REPORT_UNREADABLE,
        ReviewOutcome.NO_CHANGE,
        ReviewOutcome.GATE_FAILED,
        ReviewOutcome.NO_REMOTE,
        ReviewOutcome.GH_MISSING,
        ReviewOutcome.GH_LOGGED_OUT,
        ReviewOutcome.PUSH_FAILED,
        ReviewOutcome.PR_FAILED,
        ReviewOutcome.NO_REPOSITORY,
        ReviewOutcome.NO_COMMITS,
        ReviewOutcome.NO_BASE_BRANCH,
        ReviewOutcome.GIT_FAILED,
        ReviewOutcome.TIMED_OUT,
        ReviewOutcome.LOST,
        ReviewOutcome.ERROR,
    }
)
"""Three nights in a row that end so are escalated."""


@frozen
class ReviewVerdict:
    """What the agent says that it did about its finding."""

    improved: bool
    """False: it found that there is nothing to be done."""
    summary: str
    """Its own words; capped."""


@frozen
class Gate:
    """What our own check of an improvement said."""

    argv: tuple[str, ...]
    passed: bool
    exit_code: int | None
    """None where it did not end by itself, or could not be started."""
    secs: float
    tail: str
    """The end of what it printed, and why it was ended if it did not do so by itself; cut."""


@frozen
class Improvement:
    """The first finding, and what was done about it, or would have been."""

    finding: str
    """Its id."""
    title: str
    task: str
    """What the agent was told, or would have been."""
    agent: str | None
    """None: nobody was found."""
    why: tuple[str, ...]
    """Why that one, or why nobody."""
    branch: str
    """The one that it has, or would have had."""
    run: str | None = None
    commit: str | None = None
    """Where the branch ends."""
    summary: str | None = None
    """The agent's own words; capped."""
    gate: Gate | None = None
    """None: there was none, or it was not come to."""
    finished: bool = False
    """It is done, and whatever checks it has passed it: nothing but its pull request is missing, if one is wanted."""


@frozen
class CompoundReviewResult:
    """What one review came to."""

    findings: tuple[Finding, ...]
    """The first one matters most."""
    top_improvement: Improvement | None
    pr_created: bool
    pr_url: str | None
    """Of the one that was created, or was there."""
    duration: float
    """Seconds."""
    outcome: ReviewOutcome
    detail: str = ""
    """What there is to say of the outcome."""
    remedy: str = ""
    """What a person can do about it."""
    notices: tuple[Notice, ...] = ()
    id: str = ""
    began: datetime | None = None
    """UTC."""
    dry_run: bool = True
    commit: str | None = None
    """Up to which commit of the base branch it looked; None where it did not come to that."""
    since: str | None = None
    """From which one on."""
    commits: int = 0
    """How many lay between the two."""
    left_out: tuple[str, ...] = ()
    """See `Scan.left_out`."""


REVIEWED: Final = frozenset(
    {
        ReviewOutcome.NOTHING_FOUND,
        ReviewOutcome.DRY_RUN,
        ReviewOutcome.IMPROVED,
        ReviewOutcome.PR_CREATED,
        ReviewOutcome.PR_EXISTS,
        ReviewOutcome.DECLINED,
    }
)
"""After these the next review goes on where this one ended; after any other it looks at the same commits once more."""

HANDED_IN: Final = frozenset({ReviewOutcome.IMPROVED, ReviewOutcome.PR_CREATED, ReviewOutcome.PR_EXISTS})
"""After any other an improvement that is finished lacks its pull request, which the next review opens."""


# What is remembered and ordered.


@frozen
class Errand:
    """What a review has an agent do, in a worktree on a branch of its own."""

    review: str
    agent: str
    task: str
    """What it is told instead of its own task."""
    repo: Path
    commit: str
    """Where the branch begins."""
    base: str
    """The base branch."""
    branch: str


@frozen
class Handled:
    """What an earlier review did about a finding."""

    on: datetime
    """UTC."""
    outcome: ReviewOutcome
    branch: str | None = None
    commit: str | None = None
    """Where the branch ended when the review left it."""
    pr_url: str | None = None
    owed: bool = False
    """Its pull request is missing, and nothing else."""

    def __str__(self) -> str:
        where = self.pr_url or self.branch
        return f"on {self.on:%Y-%m-%d}: {self.outcome.value}" + (f", {where}" if where else "")


HANDLED: Final = 200
"""Findings of which is remembered what was done about them, the newest."""


@frozen
class ReviewMemory:
    """What reviews leave to those after them. Times are UTC."""

    schedule: str | None = None
    """The text that the cursor belongs to; None while there is none."""
    cursor: datetime | None = None
    """The newest occurrence that was dealt with, or when the schedule was armed."""
    begun_so_far: int = 0
    alive: str | None = None
    """The review that has begun and not ended."""
    failures: int = 0
    """The reviews in a row that failed, up to the last one."""
    commit: str | None = None
    """Up to where the base branch was reviewed."""
    told_until: datetime | None = None
    """Up to when the fleet's own story was read."""
    handled: Mapping[str, Handled] = field(factory=dict)
    """By finding; the newest last."""

    def begun(self, review: str, occurrence: datetime | None) -> ReviewMemory:
        """A review has begun."""
        cursor = occurrence if occurrence is not None else self.cursor
        return evolve(self, alive=review, cursor=cursor, begun_so_far=self.begun_so_far + 1)

    def handling(self, finding: str, handled: Handled) -> ReviewMemory:
        """Something was done about a finding."""
        known = dict(self.handled)
        known.pop(finding, None)
        known[finding] = handled
        while len(known) > HANDLED:
            del known[next(iter(known))]
        return evolve(self, handled=known)

    def ended(
        self,
        outcome: ReviewOutcome,
        *,
        commit: str | None = None,
        told_until: datetime | None = None,
        finding: str | None = None,
        handled: Handled | None = None,
    ) -> ReviewMemory:
        """It has ended; `commit` and `told_until` are None where it did not come to that."""
        before = self.handling(finding, handled) if finding is not None and handled is not None else self
        return evolve(
            before,
            alive=None,
            failures=self.failures + 1 if outcome in FAILED_NIGHTS else 0,
            commit=commit or self.commit,
            told_until=told_until or self.told_until,
        )
