"""What a review came to, for programs (JSON) and for the person who reads it in the morning (Markdown).

Much of it are other people's words: in Markdown they are escaped or fenced, so that they render as themselves.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from datetime import datetime
from enum import Enum
from typing import Any

import attrs

from darkfactory.model.review import CompoundReviewResult, Finding, Gate, Improvement
from darkfactory.policy import findings as ranking
from darkfactory.policy.history import timestamp
from darkfactory.policy.improvement import SUMMARY_CHARS, TAIL_CHARS, evidence
from darkfactory.policy.quoting import block, escaped, lines

TASK_CHARS = 20_000
DETAIL_CHARS = 2000
"""Of one sentence about the outcome, of a reason, or of a notice."""


def to_json(result: CompoundReviewResult) -> dict[str, Any]:
    """The result as a JSON object: the keys are its fields, in their order; times are ISO 8601 in UTC."""
    return attrs.asdict(result, value_serializer=_plain)


def _plain(_owner: object, _field: object, value: Any) -> Any:
    match value:
        case Enum():
            return value.value
        case datetime():
            return timestamp(value)
        case tuple():
            return [*value]
        case str():
            return value.encode("utf-8", "backslashreplace").decode("utf-8")
        case _:
            return value


def markdown(result: CompoundReviewResult) -> str:
    """The report."""
    return "\n\n".join(_parts(result)) + "\n"


def _parts(result: CompoundReviewResult) -> Iterator[str]:
    began = f", {result.began:%Y-%m-%d %H:%M} UTC" if result.began is not None else ""
    yield f"# Compound review{began}"
    dry = " It was a dry run: nothing was changed." if result.dry_run else ""
    detail = f": {_line(result.detail)}" if result.detail else ""
    yield f"**{escaped(result.outcome.value)}**{detail}{_stop(detail)}{dry}"
    if result.remedy:
        yield f"What to do: {_line(result.remedy)}"
    yield _looked_at(result)
    if result.top_improvement is not None:
        yield from _of_improvement(result, result.top_improvement)
    yield "## Findings"
    if result.findings:
        yield _table(result.findings)
        if len(result.findings) >= ranking.MOST:
            yield f"Only the {ranking.MOST} that matter most are told."
        for finding in result.findings:
            yield from _of_finding(finding)
    else:
        yield "There are none."
    if result.left_out:
        yield "## Left out"
        yield "\n".join(f"- {_line(each)}" for each in result.left_out)
    if result.notices:
        yield "## Notices"
        yield "\n".join(f"- {_line(each.name)}: {_line(each.detail)} ({_line(each.remedy)})" for each in result.notices)


def _looked_at(result: CompoundReviewResult) -> str:
    took = f"It took {result.duration:.1f} seconds."
    if result.commit is None:
        return f"{took} The repository was not looked at."
    since = f", since {_line(result.since[:12])}" if result.since is not None else ""
    count = "1 commit" if result.commits == 1 else f"{result.commits} commits"
    return f"{took} It looked at {count} up to {_line(result.commit[:12])}{since}."


def _of_improvement(result: CompoundReviewResult, improvement: Improvement) -> Iterator[str]:
    would = improvement.run is None
    yield "## The improvement"
    yield f"Of {_line(improvement.finding)}: {_line(improvement.title)}"
    rows = [("agent", "nobody" if improvement.agent is None else improvement.agent), ("branch", improvement.branch)]
    rows += [("run", improvement.run)] if improvement.run is not None else []
    rows += [("commit", improvement.commit)] if improvement.commit is not None else []
    rows += [("pull request", result.pr_url)] if result.pr_url is not None else []
    told = [f"- {name}: {_line(value)}" for name, value in rows]
    yield "\n".join([*told, *(f"- why: {_line(why)}" for why in improvement.why)])
    if improvement.summary is not None:
        yield "What the agent says of it:"
        yield _fenced(improvement.summary, SUMMARY_CHARS)
    if improvement.gate is not None:
        yield from _of_gate(improvement.gate)
    yield "What it would have been told:" if would else "What it was told:"
    yield _fenced(improvement.task, TASK_CHARS)


def _of_gate(gate: Gate) -> Iterator[str]:
    passed = "passed" if gate.passed else "did not pass"
    code = f" with exit code {gate.exit_code}" if gate.exit_code is not None else ""
    yield f"The gate {passed}{code}, after {gate.secs:.1f} seconds:"
    yield _fenced(f"$ {shlex.join(gate.argv)}\n{gate.tail[-TAIL_CHARS:]}", 2 * TAIL_CHARS)


def _table(findings: Iterable[Finding]) -> str:
    rows = [
        f"| {rank} | {escaped(each.id)} | {each.severity.value} | {each.score:g} | {escaped(each.title)} |"
        for rank, each in enumerate(findings, 1)
    ]
    return "\n".join(["| | finding | severity | score | what |", "|---|---|---|---|---|", *rows])


def _of_finding(finding: Finding) -> Iterator[str]:
    yield f"### {escaped(finding.id)}"
    yield f"{_line(finding.title)}: {_line(finding.why)}"
    if finding.handled is not None:
        yield f"Handled before: {_line(finding.handled)}"
    yield block(evidence(finding))


def _fenced(text: str, longest: int) -> str:
    return block(lines(text, longest))


def _line(text: str) -> str:
    return escaped(text, DETAIL_CHARS)


def _stop(detail: str) -> str:
    return "" if detail.endswith((".", "!", "?")) else "."
