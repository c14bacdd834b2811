"""What could be better: findings, made of what was scanned and of what the fleet lived through, and ranked.

Each kind of finding has a strength of 0 to 10 by a formula of its own (the table is in docs/review.md) and a weight of
the operator's; the score is their product. What a finding is about makes its id, and nothing else does, so that the
finding is known again on the next night, however it has grown.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from attrs import frozen

from darkfactory.model.review import (
    BRANCH_PREFIX,
    DEFAULT_WEIGHTS,
    AgentStory,
    Commit,
    Evidence,
    Finding,
    FindingKind,
    FindingSeverity,
    Scan,
    looks_like_test,
)
from darkfactory.policy import changes, files
from darkfactory.policy.quoting import plain, visible

MOST: Final = 50
"""Findings of one night."""
MOST_OF_A_KIND: Final = 10
"""Of one kind: a change of a thousand files shall not hide everything else."""
HANDLED_DIVISOR: Final = 4.0
"""What the score of a finding is divided by that was handled on an earlier night."""
TOLD: Final = 10
"""Pieces of evidence of one sort."""

CHURN_COMMITS: Final = 3
"""Of a file; below it there is no finding, and so with the next ones."""
UNTESTED_LINES: Final = 10
"""Added to code without a test."""
LARGE_LINES: Final = 400
"""Of a file."""
GREW_LINES: Final = 40
"""Added to a large file, or to a function."""
MEDIUM: Final = 4.0
HIGH: Final = 7.0
"""The strengths from which on a finding matters so much."""

_PATH_CHARS: Final = 400
_DRIFT: Final = {"minor": 0.25, "moderate": 1.0, "severe": 2.0, "critical": 3.0}


@frozen
class _Found:
    """A finding before it is weighed."""

    kind: FindingKind
    about: str
    """What makes its id."""
    title: str
    strength: float
    why: str
    evidence: Evidence


_Weighed = tuple[Finding, float]
"""A finding, and the strength that it has without a limit."""


def findings(
    scan: Scan | None,
    stories: Iterable[AgentStory],
    *,
    weights: Mapping[str, float],
    handled: Mapping[str, str],
) -> tuple[Finding, ...]:
    """All that could be better, what matters most first; the strongest `MOST_OF_A_KIND` of each kind, `MOST` in all.

    `weights` is by the kind's word, the others have their default; a kind of weight 0 is left out. `handled` is finding
    id -> what was done about it on an earlier night. `scan` is None where the repository could not be read.
    """
    by_kind: dict[FindingKind, list[_Found]] = defaultdict(list)
    for found in (*(_of_scan(scan) if scan is not None else ()), *_of_agents(stories)):
        by_kind[found.kind].append(found)
    weighed: list[_Weighed] = []
    for kind, of_a_kind in by_kind.items():
        weight = weights.get(kind.value, DEFAULT_WEIGHTS[kind])
        if weight > 0:
            ranked = sorted(((_weigh(found, weight, handled), found.strength) for found in of_a_kind), key=_rank)
            weighed += ranked[:MOST_OF_A_KIND]
    return tuple(finding for finding, _ in sorted(weighed, key=_rank)[:MOST])


def finding_id(kind: FindingKind, about: str) -> str:
    """The id of a finding about this: a path, an agent, a branch."""
    import hashlib  # which brings OpenSSL, and a factory may never review

    return f"{kind.value}-{hashlib.sha256(about.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def _rank(weighed: _Weighed) -> tuple[float, float, str, str]:
    """Of those with the same score, as the strongest have, first the one that would have more but for the limit."""
    finding, strength = weighed
    return -finding.score, -strength, finding.id, finding.why


def _weigh(found: _Found, weight: float, handled: Mapping[str, str]) -> Finding:
    strength = round(min(max(found.strength, 0.0), 10.0), 2)
    severity = FindingSeverity.LOW
    if strength >= MEDIUM:
        severity = FindingSeverity.HIGH if strength >= HIGH else FindingSeverity.MEDIUM
    its_id = finding_id(found.kind, found.about)
    score, why = weight * strength, f"{found.why}: strength {strength:g} of 10, weight {weight:g}"
    before = handled.get(its_id)
    if before is not None:
        score, why = score / HANDLED_DIVISOR, f"{why}, divided by {HANDLED_DIVISOR:g} as it was handled before"
    return Finding(
        its_id, found.kind, found.title, severity, round(score, 3), f"{why}.", found.evidence, before and plain(before)
    )


def _of_scan(scan: Scan) -> Iterator[_Found]:
    commits = changes.own(scan.commits)
    histories = changes.histories(commits)
    yield from _churn(histories)
    yield from _reverts(commits)
    yield from _fixes_of_fixes(histories)
    yield from _put_off(scan)
    yield from _untested(scan, histories)
    yield from _grown_files(scan)
    yield from _grown_functions(scan)
    yield from _dependencies(commits, histories)
    yield from _branches(scan)


def _churn(histories: Mapping[str, changes.History]) -> Iterator[_Found]:
    """1 for each commit."""
    for path, history in histories.items():
        count = len(history.commits)
        if count >= CHURN_COMMITS and not (files.is_made(path) or files.is_prose(path) or looks_like_test(path)):
            why = (
                f"{count} commits changed it, with {_count(history.added, 'line')} added and {history.deleted} deleted"
            )
            evidence = Evidence(commits=_commits(history.commits), files=(_path(path),))
            yield _Found(FindingKind.CHURN, path, f"{_name(path)} changes again and again", count, why, evidence)


def _reverts(commits: Iterable[Commit]) -> Iterator[_Found]:
    """6, and 2 for each further time that the same was taken back or brought back."""
    by_subject: dict[str, list[Commit]] = defaultdict(list)
    for commit in commits:
        if (subject := changes.taken_back(commit)) is not None:
            by_subject[subject].append(commit)
    for subject, reverts in by_subject.items():
        count = len(reverts)
        touched = sorted({_path(change.path) for commit in reverts for change in commit.changes})
        why = "it was taken back" if count == 1 else f"it was taken back, or brought back again, {count} times"
        evidence = Evidence(commits=_commits(reverts), files=tuple(touched[:TOLD]))
        title = f"Taken back: {plain(subject, 100)}"
        yield _Found(FindingKind.REVERT, subject, title, 4 + 2 * count, why, evidence)


def _fixes_of_fixes(histories: Mapping[str, changes.History]) -> Iterator[_Found]:
    """2 for each fix of the same file, from the second on."""
    for path, history in histories.items():
        fixes = [commit for commit in history.commits if changes.is_fix(commit)]
        if len(fixes) > 1 and _is_own_code(path):
            evidence = Evidence(commits=_commits(fixes), files=(_path(path),))
            why, title = f"{len(fixes)} fixes went into it", f"{_name(path)} was fixed, and fixed again"
            yield _Found(FindingKind.FIX_OF_FIX, path, title, 2 * len(fixes), why, evidence)


def _put_off(scan: Scan) -> Iterator[_Found]:
    """1 for each TODO, 2 for each other mark."""
    by_path: dict[str, list[tuple[int, str, str]]] = defaultdict(list)
    for line in scan.marked:
        mark = files.put_off(line.text)
        if mark is not None and not files.is_made(line.path):
            by_path[line.path].append((line.line, line.text.strip(), mark))
    for path, lines in by_path.items():
        count, worse = len(lines), sum(mark != "TODO" for _, _, mark in lines)
        told = tuple(f"{_path(path)}:{number}: {visible(text)}" for number, text, _ in sorted(lines)[:TOLD])
        why = f"{_count(count, 'line')} put off work, {worse} of them with FIXME or XXX"
        title = f"{_name(path)} has new work that was put off"
        yield _Found(FindingKind.TODO, path, title, count + worse, why, Evidence(files=(_path(path),), lines=told))


def _untested(scan: Scan, histories: Mapping[str, changes.History]) -> Iterator[_Found]:
    """1, and 1 for each 50 lines that came without a test; half of that where there is a test of the file's name."""
    changed = {stem for path in histories if looks_like_test(path) for stem in files.stems_of_test(path)}
    untested = {
        path: history
        for path, history in histories.items()
        if history.untested_added >= UNTESTED_LINES
        and _is_own_code(path)
        and not files.is_aside(path)
        and files.stem(path) not in changed
    }
    # a repository may have very many
    named = {stem for test in scan.tests for stem in files.stems_of_test(test)} if untested else set[str]()
    for path, history in untested.items():
        strength, has = 1 + history.untested_added / 50, "and no test has its name"
        if files.stem(path) in named:
            strength, has = strength / 2, "though there is one of its name"
        why = f"{_count(history.untested_added, 'line')} came in commits that change no test, {has}"
        evidence = Evidence(commits=_commits(history.untested), files=(_path(path),))
        yield _Found(FindingKind.UNTESTED, path, f"{_name(path)} changed without a test", strength, why, evidence)


def _grown_files(scan: Scan) -> Iterator[_Found]:
    """1 for each 200 lines that it has, 5 at most, and 1 for each 50 that it grew by, if it was there, 5 at most."""
    for size in scan.sizes:
        grew, path = size.lines - size.lines_before, size.path
        if size.lines < LARGE_LINES or grew < GREW_LINES or not _is_own_code(path):
            continue
        strength = min(5.0, size.lines / 200) + (min(5.0, grew / 50) if size.lines_before else 0.0)
        why = f"it has {size.lines} lines and had {size.lines_before}"
        told = f"{_path(path)}:{size.lines}: {why}"
        evidence = Evidence(files=(_path(path),), lines=(told,))
        yield _Found(FindingKind.GREW, path, f"{_name(path)} has become large", strength, why, evidence)


def _grown_functions(scan: Scan) -> Iterator[_Found]:
    """1 for each 15 lines that were added to it."""
    grown: dict[tuple[str, str], tuple[int, int]] = {}
    for function in scan.functions:
        if function.name.strip() and _is_own_code(function.path):
            line, added = grown.get((function.path, function.name), (function.line, 0))
            grown[function.path, function.name] = min(line, function.line), added + function.added
    for (path, name), (line, added) in grown.items():
        if added >= GREW_LINES:
            evidence = Evidence(files=(_path(path),), lines=(f"{_path(path)}:{line}: {visible(name.strip())}",))
            title, why = f"{visible(name.strip(), 60)} in {_name(path)} has grown", f"{_count(added, 'line')} came"
            yield _Found(FindingKind.GREW, f"{path}\0{name}", title, added / 15, why, evidence)


def _dependencies(commits: Iterable[Commit], histories: Mapping[str, changes.History]) -> Iterator[_Found]:
    """3; 6 where a project of its kind keeps a lock file, and none changed with it."""
    changed = {change.path for commit in commits for change in commit.changes}
    for path, history in histories.items():
        if not files.is_manifest(path):
            continue
        locks = files.lock_files(path)
        strength, why = 3, "it says what the project depends on, and has changed"
        if locks and locks.isdisjoint(changed):
            strength, why = 6, f"{why}, but no lock file with it"
        evidence = Evidence(commits=_commits(history.commits), files=(_path(path),))
        yield _Found(FindingKind.DEPENDENCIES, path, f"{_name(path)} has changed", strength, why, evidence)


def _branches(scan: Scan) -> Iterator[_Found]:
    """2, and 1 for each commit. Branches of reviews wait for a person, and are none."""
    for branch in scan.branches:
        if branch.name.startswith(BRANCH_PREFIX):
            continue
        count = _count(branch.commits, "commit")
        why = f"{count} of it, the newest of {branch.at:%Y-%m-%d}, that the base branch does not contain"
        told = f"{_path(branch.name)} {branch.sha[:12]}: {count}"
        title = f"Branch {_name(branch.name)} is not merged"
        yield _Found(FindingKind.BRANCH, branch.name, title, 2 + branch.commits, why, Evidence(branches=(told,)))


def _of_agents(stories: Iterable[AgentStory]) -> Iterator[_Found]:
    """The sum of what went wrong: see the table in docs/review.md."""
    for told in stories:
        bad = sum(told.bad_ends.values())
        parts = (
            (1.5 * bad, _counted(told.bad_ends, f"{bad} of {_count(told.runs, 'run')} ended badly")),
            (sum(_DRIFT.get(level, 0) * count for level, count in told.drift.items()), _counted(told.drift, "drift")),
            (3.0 * told.holds, f"held {_count(told.holds, 'time')}"),
            (min(2.0, 0.25 * told.turned_away), f"{_count(told.turned_away, 'run')} turned away by a provider's limit"),
            (min(1.0, 0.1 * sum(told.refusals.values())), _counted(told.refusals, "refused")),
        )
        strength = sum(points for points, _ in parts)
        if strength >= 1 and (told.told_runs or told.told):
            why = "; ".join(words for points, words in parts if points)
            evidence = Evidence(runs=told.told_runs[-TOLD:], records=told.told[-TOLD:])
            yield _Found(
                FindingKind.AGENT, told.agent, f"Agent {_name(told.agent)} has trouble", strength, why, evidence
            )


def _is_own_code(path: str) -> bool:
    """Whether it is source code that somebody wrote, and no test."""
    return files.is_code(path) and not looks_like_test(path)


def _counted(counts: Mapping[str, int], words: str) -> str:
    return f"{words} ({', '.join(f'{count} {plain(word)}' for word, count in sorted(counts.items()))})"


def _commits(commits: Iterable[Commit]) -> tuple[str, ...]:
    told: dict[str, Commit] = {commit.sha: commit for commit in commits}
    return tuple(f"{commit.sha[:12]} {visible(commit.subject)}" for commit in [*told.values()][:TOLD])


def _path(path: str) -> str:
    return visible(path, _PATH_CHARS)


def _name(path: str) -> str:
    """For a title."""
    return visible(path, 100)


def _count(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
