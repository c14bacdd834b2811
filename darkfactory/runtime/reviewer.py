"""The reviewer: scans, ranks, has one thing improved, checks that, and opens a pull request.

A side room: whatever goes wrong in it is an outcome of the review, and stops nobody. It decides nothing about runs;
what it wants done it asks of the supervisor, and sees in the state what became of that. Each step can be cancelled, by
the review's own time or by a factory that stops. What is left of it then is taken away by the next review: a worktree,
by `Worktrees.retire`; a branch, because it is found and passed over; a pull request that is missing, because it is
opened then.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final

import structlog
import trio
from attrs import define, evolve, field
from trio_util import AsyncValue

from darkfactory.devices.command import run_command
from darkfactory.devices.machine import Machine
from darkfactory.devices.process import LaunchSpec
from darkfactory.devices.reviews import ReviewDevices
from darkfactory.devices.threads import InThread
from darkfactory.errors import CompoundReviewFailed, SpawnFailed
from darkfactory.model.actions import BeginReview, Cause, Refuse, Reviewing
from darkfactory.model.ends import Reason
from darkfactory.model.events import ErrandAsked, ErrandWithdrawn, Moment, ReviewEnded, WorktreesCounted
from darkfactory.model.fleet import DEFAULT_ENV_PASS, CompoundReviewConfig, OrchestratorConfig
from darkfactory.model.review import (
    CompoundReviewResult,
    Errand,
    Finding,
    Gate,
    Improvement,
    ReviewMemory,
    ReviewOutcome,
    Scan,
)
from darkfactory.model.state import Review, State
from darkfactory.policy.admission import PROVIDER_WAITS
from darkfactory.policy.choice import Choice, Waiting, choose, unfit
from darkfactory.policy.draft import Draft
from darkfactory.policy.findings import findings
from darkfactory.policy.improvement import pull_request
from darkfactory.policy.quoting import plain
from darkfactory.policy.review_report import markdown, to_json
from darkfactory.policy.routing import standing_of
from darkfactory.policy.story import KINDS, story
from darkfactory.runtime.inbox import Sender
from darkfactory.tools import tool_for
from darkfactory.tools.review_verdict import review_verdict

WIND_UP_SECS: Final = 60.0
"""How long a review that is out of time waits for its run to end, beyond the run's grace."""
REPORT_SECS: Final = 10.0
"""How long its reports, and a place in the inbox, may keep the end of a review waiting."""
GATE_OUTPUT_BYTES: Final = 256 * 1024**2
GATE_GRACE_SECS: Final = 5.0
LAST_RESULTS: Final = 8
"""Kept for those who wait for one."""
TAIL_CHARS: Final = 2000
"""Of what the gate printed."""

_log = structlog.get_logger("darkfactory")


class _Over(Exception):
    """The review has its outcome."""

    def __init__(self, outcome: ReviewOutcome, detail: str = "", remedy: str = "") -> None:
        super().__init__(outcome.value)
        self.outcome, self.detail, self.remedy = outcome, detail, remedy


@define(eq=False)
class Reviewer:
    """The room of the reviews of one factory's life; one at a time is in it."""

    config: OrchestratorConfig
    state: AsyncValue[State]
    machine: Machine
    sender: Sender
    _order: tuple[BeginReview, int] | None = None
    """What is to be begun, and the number of the journal's line that says so."""
    _ordered: trio.Event = field(factory=trio.Event)
    _scope: trio.CancelScope = field(factory=trio.CancelScope)
    """Around the one that is under way."""
    results: AsyncValue[Mapping[str, CompoundReviewResult]] = field(factory=lambda: AsyncValue({}))
    """By review: the last ones."""

    def hear(self, action: Reviewing, journalled: int) -> None:
        """Do what the supervisor orders. No checkpoint."""
        if isinstance(action, BeginReview):
            self._order = action, journalled
            self._scope = trio.CancelScope()
            self._ordered.set()
        else:
            self._scope.cancel(reason="the factory stops")

    async def run(self) -> None:
        """Review whenever it is ordered, until cancelled."""
        while True:
            await self._ordered.wait()
            self._ordered = trio.Event()
            assert self._order is not None
            await self._review(*self._order)

    async def _review(self, order: BeginReview, journalled: int) -> None:
        began = trio.current_time()
        work = _Work(self.config, self.state, self.machine, self.sender, order)
        over = _Over(ReviewOutcome.STOPPED, "the factory stopped", "the next review looks at the same commits")
        try:
            with self._scope:
                with trio.move_on_after(work.section.max_duration_secs) as patience:
                    over = await self._work(work, journalled)
                if patience.cancelled_caught:
                    over = _Over(ReviewOutcome.TIMED_OUT, work.at, "raise max_duration_secs, or see what took so long")
                await self._wind_up(work, f"the review ended: {over.outcome.value}")
        finally:
            result = work.result(over, trio.current_time() - began)
            # whatever became of it, the supervisor must hear of it: there would never be another review
            with trio.CancelScope(shield=True, deadline=trio.current_time() + REPORT_SECS):
                await self._report(work, result)
            with trio.CancelScope(shield=True, deadline=trio.current_time() + REPORT_SECS):
                await self.sender.send(ReviewEnded(self.sender.now(), result))
            kept = [*self.results.value.items()][-LAST_RESULTS:]
            self.results.value = {**dict(kept), order.review: result}

    async def _work(self, work: _Work, journalled: int) -> _Over:
        """All the steps; what they came to."""
        await trio.lowlevel.checkpoint()
        try:
            await self.machine.journal.wait_durable(journalled)
            await work.steps()
        except _Over as over:
            return over
        except CompoundReviewFailed as failure:
            return _Over(ReviewOutcome(failure.outcome), failure.detail, failure.remedy)
        except Exception as bug:
            _log.exception("review_failed", detail=str(bug))
            return _Over(ReviewOutcome.ERROR, f"{type(bug).__name__}: {plain(str(bug))}", "this is a bug: report it")
        raise AssertionError("a review ends with an outcome")

    async def _wind_up(self, work: _Work, why: str) -> None:
        await trio.lowlevel.checkpoint()
        try:
            await work.wind_up(why)
        except Exception as bug:
            _log.exception("review_failed", detail=str(bug))

    async def _report(self, work: _Work, result: CompoundReviewResult) -> None:
        await trio.lowlevel.checkpoint()
        since = work.began - timedelta(days=self.config.keep_days)
        try:
            page, told = markdown(result), json.dumps(to_json(result), indent=1) + "\n"
            await self.machine.in_thread(partial(work.devices.reports.write, result.id, page, told, since))
        except Exception as error:  # the disk's, as a rule; the outcome itself goes to the journal
            _log.warning("review_report_lost", review=result.id, detail=str(error))


@define(eq=False)
class _Work:
    """One review, step by step."""

    config: OrchestratorConfig
    state: AsyncValue[State]
    machine: Machine
    sender: Sender
    order: BeginReview
    began: datetime = field(init=False)
    at: str = "before anything was looked at"
    """How far it has come."""
    scan: Scan | None = None
    found: tuple[Finding, ...] = ()
    improvement: Improvement | None = None
    pr_url: str | None = None
    pr_created: bool = False
    run: str | None = None

    def __attrs_post_init__(self) -> None:
        self.began = self.sender.now().utc

    @property
    def section(self) -> CompoundReviewConfig:
        """Its part of the configuration."""
        assert self.config.compound_review is not None
        return self.config.compound_review

    @property
    def devices(self) -> ReviewDevices:
        """What it reads and writes."""
        assert self.machine.review is not None
        return self.machine.review

    def result(self, over: _Over, secs: float) -> CompoundReviewResult:
        """What it came to."""
        result = _result(over, secs, self.began, self.scan, self.found, self.improvement)
        return evolve(
            result,
            id=self.order.review,
            dry_run=self.order.dry_run,
            pr_created=self.pr_created,
            pr_url=self.pr_url,
        )

    async def steps(self) -> None:
        """Look, choose, improve, check, ask for a merge. Raises `_Over` with the outcome, or CompoundReviewFailed."""
        if not self.order.dry_run:
            self.at = "while former worktrees were removed"
            await self._retire()
        self.at = "while it looked at the repository and the journal"
        memory = self.state.value.reviews
        self.scan, self.found = await examine(self.config, self.devices, self.machine.in_thread, memory, self.began)
        if not self.found:
            raise _nothing(self.scan)
        self.at = "while it asked for open pull requests"
        waiting = await self._open_pull_requests() if self.section.create_prs and not self.order.dry_run else ()
        choice = _choose(self.config, self.state.value, self.sender.now(), self.scan, self.found, waiting)
        self.improvement, self.pr_url = choice.improvement, choice.pr_url
        if self.order.dry_run:
            raise _Over(ReviewOutcome.DRY_RUN, *_would(choice))
        if choice.outcome is not None:
            raise _Over(choice.outcome, choice.detail, choice.remedy)
        if len(waiting) >= self.section.max_open_prs:
            detail = f"{len(waiting)} pull requests of reviews are open, max_open_prs is {self.section.max_open_prs}"
            raise _Over(ReviewOutcome.MAX_OPEN_PRS, detail, "merge or close some")
        assert choice.finding is not None
        assert choice.improvement is not None
        if not choice.owed:
            review = await self._improve(choice.finding, choice.improvement, self.scan)
            await self._gate(review)
        if not self.section.create_prs:
            raise _Over(ReviewOutcome.IMPROVED, f"it is on the branch {choice.improvement.branch}")
        self.at = "while it opened the pull request"
        await self._ask_for_merge(choice.finding)

    async def _retire(self) -> None:
        await self.machine.worktrees.retire()
        count = self.machine.worktrees.kept()
        if count != self.state.value.worktrees:
            await self.sender.send(WorktreesCounted(self.sender.now(), count))

    async def _open_pull_requests(self) -> tuple[Waiting, ...]:
        """Those of earlier reviews; none where they cannot be known: then nothing is doubled later on either."""
        await trio.lowlevel.checkpoint()
        forge = self.devices.forge
        try:
            target = await forge.target(self.section.repo_path, self.section.remote, self.section.github_repo)
            return tuple(Waiting(each.finding, each.url) for each in await forge.waiting(target))
        except CompoundReviewFailed:
            return ()  # it comes up again when there is something to be asked for

    async def _improve(self, finding: Finding, improvement: Improvement, scan: Scan) -> Review:
        """Have the agent do it; the review as it stands afterwards, with work on its branch."""
        self.at = f"while it waited for a run of {improvement.agent}"
        assert improvement.agent is not None
        base, repo = self.section.base_branch, self.section.repo_path
        errand = Errand(
            self.order.review, improvement.agent, improvement.task, repo, scan.commit, base, improvement.branch
        )
        await self.sender.send(ErrandAsked(self.sender.now(), errand))
        state = await self.state.wait_value(partial(_decided, self.order.review, improvement.agent))
        review: Review | None = state.review
        assert review is not None
        if review.run is None:
            raise _not_begun(review.refused, state, improvement.agent)
        self.run, self.at = review.run, f"while {review.run} was at work"
        self.improvement = improvement = evolve(improvement, run=review.run)
        state = await self.state.wait_value(partial(_done, self.order.review))
        review = state.review
        assert review is not None
        assert review.end is not None
        work, verdict = review.work, review.end.verdict
        commit = work.commit if work is not None else None
        self.improvement = improvement = evolve(improvement, commit=commit)
        kept = f"its work is on {improvement.branch}" if commit is not None else ""
        if verdict.reason is not Reason.SUCCEEDED:
            raise _run_failed(verdict.reason, verdict.detail, kept)
        report = review_verdict(review.end.answer, finding.id)
        if isinstance(report, str):
            raise _Over(ReviewOutcome.REPORT_UNREADABLE, report, kept)
        self.improvement = evolve(improvement, summary=report.summary)
        if not report.improved:
            raise _Over(ReviewOutcome.DECLINED, plain(report.summary), kept)
        if commit is None:
            why = work.kept if work is not None and work.kept is not None else "its branch was removed"
            raise _Over(ReviewOutcome.NO_CHANGE, f"the agent says that it improved it, and has changed nothing: {why}")
        return review

    async def _gate(self, review: Review) -> None:
        """Have our own check of it made, in its worktree."""
        await trio.lowlevel.checkpoint()
        argv, secs = self.section.gate, self.section.gate_timeout_secs
        if not argv:
            return
        self.at = "while its gate ran"
        assert review.cwd is not None
        assert self.improvement is not None
        assert self.improvement.agent is not None
        agent, name = self.config.agent(self.improvement.agent), f"{self.improvement.run}-gate"
        scratch = self.devices.reports.scratch
        spec = LaunchSpec(
            run_id=name,
            argv=argv,
            env=_environment(self.machine.environ),
            cwd=review.cwd,
            stdin=None,
            stdout=scratch / f"{name}.out",
            stderr=scratch / f"{name}.err",
            max_memory_bytes=agent.max_memory_bytes,
            max_output_bytes=GATE_OUTPUT_BYTES,
            nice=self.config.nice,
        )
        began = trio.current_time()
        code, tail = None, ""
        try:
            await self.machine.in_thread(partial(_make, scratch))
            done = await run_command(self.machine.launcher, spec, secs=secs, grace_secs=GATE_GRACE_SECS)
            code, tail = done.exit_code, done.ended or _tail(done.stdout, done.stderr)
        except (SpawnFailed, OSError) as failure:
            tail = f"it could not be started: {failure}"
        gate = Gate(argv, code == 0, code, round(trio.current_time() - began, 3), tail)
        self.improvement = evolve(self.improvement, gate=gate)
        if not gate.passed:
            how = f"exit code {code}" if code is not None else plain(tail)
            branch = self.improvement.branch
            raise _Over(
                ReviewOutcome.GATE_FAILED, f"{' '.join(argv)}: {how}", f"look at the branch {branch}, which stays"
            )

    async def _ask_for_merge(self, finding: Finding) -> None:
        improvement, section, forge = self.improvement, self.section, self.devices.forge
        assert improvement is not None
        assert improvement.commit is not None
        target = await forge.target(section.repo_path, section.remote, section.github_repo)
        there = await forge.find(target, improvement.branch, finding.id)
        if there is not None:
            self.pr_url = there.url
            raise _Over(ReviewOutcome.PR_EXISTS, f"{there.url} is {there.state}")
        await forge.push(section.repo_path, target, improvement.commit, improvement.branch)
        title, body = pull_request(finding, improvement)
        opened, created = await forge.open_draft(
            target,
            branch=improvement.branch,
            base=section.base_branch,
            title=title,
            body=body,
            finding=finding.id,
        )
        self.pr_url, self.pr_created = opened.url, created
        raise _Over(ReviewOutcome.PR_CREATED if created else ReviewOutcome.PR_EXISTS, opened.url)

    async def wind_up(self, why: str) -> None:
        """Leave nothing under way: have a run that lives stopped, and take the worktree away."""
        await trio.lowlevel.checkpoint()
        review = self.state.value.review
        if review is not None and not _nobody_at_work(review):
            await self.sender.send(ErrandWithdrawn(self.sender.now(), review.id, why))
            agent = self.improvement.agent if self.improvement is not None else None
            grace = self.config.agent(agent).grace_secs if agent is not None else 0.0
            with trio.move_on_after(grace + WIND_UP_SECS):
                await self.state.wait_value(lambda state: state.review is None or _nobody_at_work(state.review))
        if review is not None and review.run is not None:
            with trio.move_on_after(WIND_UP_SECS):
                await self._retire()


async def examine(
    config: OrchestratorConfig, devices: ReviewDevices, in_thread: InThread, memory: ReviewMemory, now: datetime
) -> tuple[Scan, tuple[Finding, ...]]:
    """Scan the repository and read the journal, and rank what is found. CompoundReviewFailed if that cannot be done."""
    section = config.compound_review
    assert section is not None
    lookback = timedelta(hours=section.lookback_hours)
    scan = await devices.scanner.scan(
        section.repo_path,
        section.base_branch,
        since=memory.commit,
        lookback=lookback,
        now=now,
        remote=section.remote,
    )
    lines = await in_thread(partial(devices.lines, memory.told_until or now - lookback, KINDS))
    handled = {finding: str(each) for finding, each in memory.handled.items()}
    return scan, findings(scan, story(lines), weights=section.weights, handled=handled)


async def preview(
    config: OrchestratorConfig, devices: ReviewDevices, in_thread: InThread, state: State, now: Moment
) -> CompoundReviewResult:
    """What a review would find now, and what it would have done, for whoever asks without a factory.

    `state` tells how it stands with the agents, and what reviews remember. Changes nothing, and asks no server.
    """
    await trio.lowlevel.checkpoint()
    began = trio.current_time()
    over, scan, found, choice = _Over(ReviewOutcome.DRY_RUN), None, tuple[Finding, ...](), Choice()
    try:
        scan, found = await examine(config, devices, in_thread, state.reviews, now.utc)
        if found:
            choice = _choose(config, state, now, scan, found, ())
            over = _Over(ReviewOutcome.DRY_RUN, *_would(choice))
        else:
            over = _nothing(scan)
    except CompoundReviewFailed as failure:
        over = _Over(ReviewOutcome(failure.outcome), failure.detail, failure.remedy)
    return _result(over, trio.current_time() - began, now.utc, scan, found, choice.improvement)


def _result(
    over: _Over,
    secs: float,
    began: datetime,
    scan: Scan | None,
    found: tuple[Finding, ...],
    improvement: Improvement | None,
) -> CompoundReviewResult:
    result = CompoundReviewResult(
        findings=found,
        top_improvement=improvement,
        pr_created=False,
        pr_url=None,
        duration=round(secs, 3),
        outcome=over.outcome,
        detail=over.detail,
        remedy=over.remedy,
        began=began,
    )
    if scan is None:
        return result
    return evolve(
        result,
        notices=scan.notices,
        commit=scan.commit,
        since=scan.since,
        commits=len(scan.commits),
        left_out=scan.left_out,
    )


def _nothing(scan: Scan) -> _Over:
    return _Over(ReviewOutcome.NOTHING_FOUND, f"{len(scan.commits)} commits, and nothing to say of them")


def _choose(
    config: OrchestratorConfig,
    state: State,
    now: Moment,
    scan: Scan,
    found: tuple[Finding, ...],
    waiting: tuple[Waiting, ...],
) -> Choice:
    mute = frozenset(agent.name for agent in config.agents if not tool_for(agent, config.tools).reports)
    return choose(
        config,
        scan,
        found,
        handled=state.reviews.handled,
        waiting=waiting,
        standing=standing_of(Draft.of(state, now)),
        unfit=unfit(config.agents, mute=mute),
        today=now.utc.astimezone(config.timezone).date(),
    )


def _would(choice: Choice) -> tuple[str, str]:
    """What a review would do that is no dry run, and what there is to do about that."""
    improvement = choice.improvement
    if choice.outcome is not None or improvement is None:
        word = choice.outcome.value if choice.outcome is not None else "nothing"
        return f"it would end as {word}: {choice.detail}", choice.remedy
    if choice.owed:
        return f"it would open the pull request for {improvement.branch}", ""
    return f"it would have {improvement.agent} improve {improvement.finding}", ""


def _decided(review: str, agent: str, state: State) -> bool:
    """The gate has let a run begin, or has refused it, or keeps it waiting for its provider."""
    now, request = state.review, state.queue.get((agent, Cause.REVIEW))
    if now is None or now.id != review or now.run is not None or now.refused is not None:
        return True
    return request is not None and request.waits_for in PROVIDER_WAITS


def _not_begun(refused: Refuse | None, state: State, agent: str) -> _Over:
    if refused is not None:
        spent = refused.reason == "max_runs_per_day"
        outcome = ReviewOutcome.NO_BUDGET if spent else ReviewOutcome.REFUSED
        return _Over(outcome, f"{agent}: {refused.reason}: {refused.detail}", "see what the agent's status says")
    request = state.queue[agent, Cause.REVIEW]
    provider = state.config.provider_of(state.agents[agent].definition)
    detail = f"{agent} waits for its provider {provider}: {request.waits_for}"
    return _Over(ReviewOutcome.NO_BUDGET, detail, "the next review tries again")


def _done(review: str, state: State) -> bool:
    """The run is over, and it is known what it has left."""
    now = state.review
    if now is None or now.id != review:
        return True
    if now.end is None:
        return False
    return now.work is not None or now.cwd is None or now.end.verdict.reason is not Reason.SUCCEEDED


def _nobody_at_work(review: Review) -> bool:
    return review.errand is None and (review.run is None or review.end is not None)


def _run_failed(reason: Reason, detail: str, kept: str) -> _Over:
    words = f"{reason.value}: {detail}" if detail else reason.value
    if reason in (Reason.THROTTLED, Reason.BUDGET):
        return _Over(ReviewOutcome.NO_BUDGET, words, kept or "the next review tries again")
    if detail.startswith("branch_taken: "):
        return _Over(ReviewOutcome.BRANCH_TAKEN, detail.removeprefix("branch_taken: "), "merge it, or delete it")
    return _Over(ReviewOutcome.AGENT_FAILED, words, kept)


def _environment(outer: Mapping[str, str]) -> dict[str, str]:
    """What every agent inherits, and nothing that a tool or an operator adds to it: those may be secrets."""
    beginnings = tuple(pattern[:-1] for pattern in DEFAULT_ENV_PASS if pattern.endswith("*"))
    return {name: value for name, value in outer.items() if name in DEFAULT_ENV_PASS or name.startswith(beginnings)}


def _make(directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)


def _tail(stdout: bytes, stderr: bytes) -> str:
    """The end of what a gate printed, for a report."""
    said = b"\n".join(filter(None, (stdout[-4 * TAIL_CHARS :].strip(), stderr.strip())))
    return said.decode(errors="replace")[-TAIL_CHARS:]
