"""The steps of one review that acts: whom it has improve something, how that is checked, and where it is handed in.

It decides nothing about runs; what it wants done it asks of the supervisor, and sees in the state what became of that.
"""

from __future__ import annotations

from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final

import trio
from attrs import define, evolve, field
from trio_util import AsyncValue

from darkfactory.devices.command import run_command
from darkfactory.devices.machine import Machine
from darkfactory.devices.process import LaunchSpec
from darkfactory.devices.reviews import ReviewDevices
from darkfactory.errors import CompoundReviewFailed, SpawnFailed
from darkfactory.model.actions import BeginReview, Cause, Refuse
from darkfactory.model.ends import Reason
from darkfactory.model.events import ErrandAsked, ErrandWithdrawn, ImprovementFinished, WorktreesCounted
from darkfactory.model.fleet import DEFAULT_ENV_PASS, CompoundReviewConfig, OrchestratorConfig
from darkfactory.model.review import (
    CompoundReviewResult,
    Errand,
    Finding,
    Gate,
    Improvement,
    ReviewOutcome,
    Scan,
)
from darkfactory.model.state import Review, State
from darkfactory.policy.admission import PROVIDER_WAITS
from darkfactory.policy.choice import Waiting
from darkfactory.policy.improvement import pull_request
from darkfactory.policy.quoting import plain
from darkfactory.runtime.inbox import Sender
from darkfactory.runtime.review_look import Over, choose_now, examine, nothing, result_of, would
from darkfactory.tools.environment import inherited
from darkfactory.tools.review_verdict import review_verdict

WIND_UP_SECS: Final = 60.0
"""How long a review that is out of time waits for its run to end, beyond the run's grace."""
GATE_OUTPUT_BYTES: Final = 256 * 1024**2
GATE_GRACE_SECS: Final = 5.0
TAIL_CHARS: Final = 2000
"""Of what the gate printed."""


@define(eq=False)
class Work:
    """One review, step by step."""

    config: OrchestratorConfig
    state: AsyncValue[State]
    machine: Machine
    sender: Sender
    order: BeginReview
    patience: trio.CancelScope
    """With its gate, when it is cancelled."""
    began: datetime = field(init=False)
    at: str = "before anything was looked at"
    """How far it has come."""
    scan: Scan | None = None
    found: tuple[Finding, ...] = ()
    improvement: Improvement | None = None
    pr_url: str | None = None
    pr_created: bool = False

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

    @property
    def where(self) -> str:
        """How far it has come, and for what it waits at the gate if it does."""
        agent = self.improvement.agent if self.improvement is not None else None
        request = self.state.value.queue.get((agent, Cause.REVIEW)) if agent is not None else None
        waits = request.waits_for if request is not None else None
        return self.at if waits is None else f"{self.at}: {waits}"

    def result(self, over: Over, secs: float) -> CompoundReviewResult:
        """What it came to."""
        result = result_of(over, secs, self.began, self.scan, self.found, self.improvement)
        return evolve(
            result,
            id=self.order.review,
            dry_run=self.order.dry_run,
            pr_created=self.pr_created,
            pr_url=self.pr_url,
        )

    async def steps(self) -> None:
        """Look, choose, improve, check, ask for a merge. Raises `Over` with the outcome, or CompoundReviewFailed."""
        if not self.order.dry_run:
            self.at = "while former worktrees were removed"
            await self._retire()
        self.at = "while it looked at the repository and the journal"
        memory = self.state.value.reviews
        self.scan, self.found = await examine(self.config, self.devices, self.machine.in_thread, memory, self.began)
        if not self.found:
            raise nothing(self.scan)
        self.at = "while it asked for open pull requests"
        waiting = await self._open_pull_requests() if self.section.create_prs and not self.order.dry_run else ()
        choice = choose_now(self.config, self.state.value, self.sender.now(), self.scan, self.found, waiting)
        self.improvement, self.pr_url = choice.improvement, choice.pr_url
        if self.order.dry_run:
            raise Over(ReviewOutcome.DRY_RUN, *would(choice))
        if choice.outcome is not None:
            raise Over(choice.outcome, choice.detail, choice.remedy)
        if len(waiting) >= self.section.max_open_prs:
            detail = f"{len(waiting)} pull requests of reviews are open, max_open_prs is {self.section.max_open_prs}"
            raise Over(ReviewOutcome.MAX_OPEN_PRS, detail, "merge or close some")
        assert choice.finding is not None
        assert choice.improvement is not None
        if not choice.owed:
            review = await self._improve(choice.finding, choice.improvement, self.scan)
            await self._gate(review)
        self.improvement = evolve(self.improvement or choice.improvement, finished=True)
        if not self.section.create_prs:
            raise Over(ReviewOutcome.IMPROVED, f"it is on the branch {choice.improvement.branch}")
        self.at = "while it opened the pull request"
        if not choice.owed:
            await self.sender.send(ImprovementFinished(self.sender.now(), self.order.review, self.improvement))
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
        self.at = f"while {review.run} was at work"
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
            raise Over(ReviewOutcome.REPORT_UNREADABLE, report, kept)
        self.improvement = evolve(improvement, summary=report.summary)
        if not report.improved:
            raise Over(ReviewOutcome.DECLINED, plain(report.summary), kept)
        if commit is None:
            why = work.kept if work is not None and work.kept is not None else "its branch was removed"
            raise Over(ReviewOutcome.NO_CHANGE, f"the agent says that it improved it, and no commit shows that: {why}")
        return review

    async def _gate(self, review: Review) -> None:
        """Have our own check made of what would be handed in, in its worktree."""
        argv, secs = self.section.gate, self.section.gate_timeout_secs
        assert review.cwd is not None
        assert review.run is not None
        assert self.improvement is not None
        assert self.improvement.agent is not None
        assert self.improvement.commit is not None
        self.at = "while its work was checked out"
        await self.machine.worktrees.check_out(review.run, self.improvement.commit)
        if not argv:
            return
        self.at = "while its gate ran"
        agent, name = self.config.agent(self.improvement.agent), f"{self.improvement.run}-gate"
        scratch = self.devices.reports.scratch
        spec = LaunchSpec(
            run_id=name,
            argv=argv,
            # what every agent inherits; what a tool or an operator adds to it may be a secret
            env=inherited(DEFAULT_ENV_PASS, self.machine.environ),
            cwd=review.cwd,
            stdin=None,
            stdout=scratch / f"{name}.out",
            stderr=scratch / f"{name}.err",
            max_memory_bytes=agent.max_memory_bytes,
            max_output_bytes=GATE_OUTPUT_BYTES,
            nice=self.config.nice,
        )
        began = trio.current_time()
        code, tail, why = None, "", ""
        try:
            await self.machine.in_thread(partial(_make, scratch))
            done = await run_command(
                self.machine.launcher,
                spec,
                secs=secs,
                grace_secs=GATE_GRACE_SECS,
                patience=self.patience,
                last_bytes=4 * TAIL_CHARS,
            )
            code, why = done.exit_code, done.ended or ""
            tail = _tail(done.stdout, done.stderr, why)
        except (SpawnFailed, OSError) as failure:
            tail = why = f"it could not be started: {failure}"
        gate = Gate(argv, code == 0, code, round(trio.current_time() - began, 3), tail)
        self.improvement = evolve(self.improvement, gate=gate)
        if not gate.passed:
            how = f"exit code {code}" if code is not None else plain(why)
            branch = self.improvement.branch
            raise Over(
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
            raise Over(ReviewOutcome.PR_EXISTS, f"{there.url} is {there.state}")
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
        raise Over(ReviewOutcome.PR_CREATED if created else ReviewOutcome.PR_EXISTS, opened.url)

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


def _decided(review: str, agent: str, state: State) -> bool:
    """The gate has let a run begin, or has refused it, or keeps it waiting for its provider."""
    now, request = state.review, state.queue.get((agent, Cause.REVIEW))
    if now is None or now.id != review or now.run is not None or now.refused is not None:
        return True
    return request is not None and request.waits_for in PROVIDER_WAITS


def _not_begun(refused: Refuse | None, state: State, agent: str) -> Over:
    if refused is not None:
        spent = refused.reason == "max_runs_per_day"
        outcome = ReviewOutcome.NO_BUDGET if spent else ReviewOutcome.REFUSED
        return Over(outcome, f"{agent}: {refused.reason}: {refused.detail}", "see what the agent's status says")
    request = state.queue[agent, Cause.REVIEW]
    provider = state.config.provider_of(state.agents[agent].definition)
    detail = f"{agent} waits for its provider {provider}: {request.waits_for}"
    return Over(ReviewOutcome.NO_BUDGET, detail, "the next review tries again")


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


def _run_failed(reason: Reason, detail: str, kept: str) -> Over:
    words = f"{reason.value}: {detail}" if detail else reason.value
    if reason in (Reason.THROTTLED, Reason.BUDGET):
        return Over(ReviewOutcome.NO_BUDGET, words, kept or "the next review tries again")
    if detail.startswith("branch_taken: "):
        return Over(ReviewOutcome.BRANCH_TAKEN, detail.removeprefix("branch_taken: "), "merge it, or delete it")
    return Over(ReviewOutcome.AGENT_FAILED, words, kept)


def _make(directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)


def _tail(stdout: bytes, stderr: bytes, why: str) -> str:
    """The end of what a gate printed, and why it was ended, for a report."""
    said = b"\n".join(filter(None, (stdout.strip(), stderr.strip(), why.encode())))
    return said.decode(errors="replace")[-TAIL_CHARS:]
