"""Compound reviews on a mock clock: when they begin, what they have done, how they end, and what the next one knows."""

from __future__ import annotations

import errno
import itertools
import json
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
import structlog
import trio
from trio.testing import MockClock

from darkfactory import (
    AgentDefinition,
    AgentLayer,
    AgentOrchestrator,
    CompoundReviewConfig,
    OrchestratorConfig,
    open_factory,
)
from darkfactory.devices.forge import PullRequest
from darkfactory.devices.process import LaunchSpec
from darkfactory.errors import CompoundReviewFailed
from darkfactory.model.ends import Reason
from darkfactory.model.fleet import Fallback, Permissions
from darkfactory.model.review import AddedLine, Commit, CompoundReviewResult, FileChange, ReviewOutcome, Scan
from darkfactory.testing import (
    FAILS,
    HANGS,
    STUBBORN,
    CancelAtStep,
    MemoryJournal,
    Script,
    SimulatedForge,
    SimulatedMachine,
    SimulatedScanner,
    says,
)

from .fleets import fleet, secs

START = datetime(2026, 1, 5, tzinfo=UTC)
IMPROVER = AgentDefinition("improver", AgentLayer.GROWTH, "demo", "its own task", grace_secs=2.0)
GATE = ("pytest", "-q")
COMMITS = tuple(
    Commit(f"{number:040x}", (), "A", START, f"change {number}", "", (FileChange("src/engine.py", "M", 30, 5),))
    for number in range(1, 7)
)
SCAN = Scan("c" * 40, None, commits=COMMITS, marked=(AddedLine("src/engine.py", 7, "# TODO: the rest"),))


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A directory that is there; the simulated machine asks no more of a repository."""
    return tmp_path


def reviewed(repo: Path, *agents: AgentDefinition, **keys: Any) -> OrchestratorConfig:
    section = {"schedule": "0 2 * * *", "repo_path": repo, "create_prs": True, "gate": GATE, "agent": "improver"} | keys
    top = {name: section.pop(name) for name in ("shutdown_grace_secs",) if name in section}
    return fleet(*(agents or (IMPROVER,)), compound_review=CompoundReviewConfig(**section), **top)


def improves(outcome: str = "improved", *, finding: str | None = None, secs: float = 60.0) -> Callable[..., Script]:
    """An agent that does as it is told, and reports that; of another finding, if that is named."""

    def script(machine: SimulatedMachine, spec: LaunchSpec) -> Script:
        if spec.argv == GATE:
            return Script(output=(), last_words=b"12 passed\n", secs=30.0)
        asked = finding or machine.runs.prompts[spec.run_id].partition('"finding": "')[2].partition('"')[0]
        report = json.dumps({"finding": asked, "outcome": outcome, "summary": "made it better"})
        return Script(secs=secs, last_words=says(text=f"Done.\n\n```json\n{report}\n```\n"))

    return script


def simulated(script: Callable[..., Script] | None = None, scan: Scan = SCAN) -> SimulatedMachine:
    machine = SimulatedMachine(start=START)
    chosen = script or improves()
    machine.script = lambda spec: chosen(machine, spec)
    machine.scanner.found = scan
    machine.worktrees.keeps = lambda _: "1 commit that main does not contain"
    return machine


async def review(machine: SimulatedMachine, config: OrchestratorConfig, **how: Any) -> CompoundReviewResult:
    async with open_factory(config, machine=machine.open, seed=1) as factory:
        return await factory.trigger_compound_review(**how)


async def test_compound_review_dry_run(repo: Path, autojump_clock: MockClock) -> None:
    machine = simulated()
    result = await review(machine, reviewed(repo, create_prs=False, agent=None, gate=()))
    assert result.outcome is ReviewOutcome.DRY_RUN
    assert result.findings
    assert result.top_improvement is not None
    assert result.top_improvement.finding == result.findings[0].id
    assert (result.top_improvement.agent, result.top_improvement.run) == (None, None)
    assert (result.pr_created, result.pr_url) == (False, None)
    assert machine.launcher.started == machine.worktrees.made == machine.forge.opened == []
    assert machine.worktrees.branches == set()
    (told,) = machine.reports.results.values()
    assert [*told][:6] == ["findings", "top_improvement", "pr_created", "pr_url", "duration", "outcome"]
    assert told["outcome"] == "dry_run"


async def test_a_dry_run_tells_the_task_and_to_whom_it_would_go_and_why(repo: Path, autojump_clock: MockClock) -> None:
    agents = (
        attrs.evolve(
            IMPROVER,
            name="looks",
            capabilities=("architecture", "testing"),
            cli_tool="codex",
            permissions=Permissions.READ_ONLY,
        ),
        attrs.evolve(IMPROVER, name="mute", capabilities=("architecture", "testing"), cli_tool="bash"),
        attrs.evolve(
            IMPROVER,
            name="falls",
            capabilities=("architecture", "testing"),
            cli_tool="claude",
            fallback=Fallback(provider="q", cli_tool="bash"),  # to which a task is a script
        ),
        attrs.evolve(IMPROVER, name="fits", capabilities=("architecture", "testing", "code-review")),
    )
    result = await review(simulated(), reviewed(repo, *agents, agent=None), dry_run=True)
    improvement = result.top_improvement
    assert improvement is not None
    assert improvement.agent == "fits"
    assert improvement.why
    nobody = await review(simulated(), reviewed(repo, *agents[:-1], agent=None), dry_run=True)
    assert nobody.top_improvement is not None
    assert nobody.top_improvement.agent is None
    assert result.findings[0].id in improvement.task
    assert improvement.branch == f"darkfactory/review/2026-01-05-{result.findings[0].id}"
    assert "fits" in result.detail


async def test_a_night_from_its_occurrence_to_the_pull_request(repo: Path, autojump_clock: MockClock) -> None:
    machine = simulated()
    machine.scanner.secs = 5.0
    async with open_factory(reviewed(repo), machine=machine.open, seed=1):
        await trio.sleep(3 * 3600)
    assert secs(machine, "review_begun") == [7200.0]
    assert secs(machine, "run_begun", cause="review") == [7205.0]
    assert secs(machine, "run_ended", reason="succeeded") == [7265.0]
    (ended,) = machine.records("review_ended")
    assert (secs(machine, "review_ended"), ended["outcome"]) == ([7295.0], "pr_created")
    (opened,) = machine.forge.opened
    assert opened.draft
    assert ended["pr_url"] == opened.url
    assert machine.forge.pushed == {opened.branch: "1" * 40}
    agent, gate = machine.launcher.started
    assert agent.cwd == gate.cwd == Path("/simulated/worktrees") / agent.run_id
    assert gate.argv == GATE
    assert "its own task" not in machine.runs.prompts[agent.run_id]
    assert machine.worktrees.kept() == 0  # the branch has the work
    assert machine.worktrees.branches == {opened.branch}
    (told,) = machine.reports.results.values()
    assert (told["pr_created"], told["pr_url"], told["duration"]) == (True, opened.url, 95.0)
    assert told["top_improvement"]["gate"]["passed"] is True


async def test_the_gate_has_an_agents_environment_and_no_secrets(repo: Path, autojump_clock: MockClock) -> None:
    machine = simulated()
    config = reviewed(repo, attrs.evolve(IMPROVER, max_memory_bytes=5_000_000))
    outer = {"PATH": "/bin", "LC_ALL": "C", "GH_TOKEN": "secret", "ANTHROPIC_API_KEY": "secret"}

    def opener(config: OrchestratorConfig) -> Any:
        opened = machine.open(config)
        inner = opened.__enter__()

        class Opened:
            def __enter__(self) -> Any:
                return attrs.evolve(inner, environ=outer)

            def __exit__(self, *error: object) -> None:
                opened.__exit__(None, None, None)

        return Opened()

    async with open_factory(config, machine=opener) as factory:
        await factory.trigger_compound_review()
    gate = machine.launcher.started[1]
    assert gate.env == {"PATH": "/bin", "LC_ALL": "C"}
    assert gate.max_memory_bytes == 5_000_000


@pytest.mark.parametrize(
    ("script", "keys", "outcome"),
    [
        (improves("declined"), {}, "declined"),
        (improves(finding="churn-00000000"), {}, "report_unreadable"),
        (lambda *_: Script(last_words=says(text="all done")), {}, "report_unreadable"),
        (lambda *_: FAILS, {}, "agent_failed"),
        (lambda *_: attrs.evolve(FAILS, last_words=says(ok=False, text="no more", error="quota")), {}, "no_budget"),
        (lambda *_: HANGS, {"max_duration_secs": 700.0}, "timed_out"),
        (lambda *_: STUBBORN, {"max_duration_secs": 700.0}, "timed_out"),
        (improves(secs=650.0), {"max_duration_secs": 660.0}, "timed_out"),
    ],
)
async def test_what_an_agent_makes_of_it(
    script: Callable[..., Script], keys: dict[str, Any], outcome: str, repo: Path, autojump_clock: MockClock
) -> None:
    machine = simulated(script)
    config = reviewed(repo, **keys)
    async with open_factory(config, machine=machine.open, seed=1) as factory:
        result = await factory.trigger_compound_review()
        assert result.outcome.value == outcome
        (status,) = factory.agent_statuses()
        assert not status.running
        assert status.reason is None
        assert machine.worktrees.kept() == 0
    assert machine.forge.opened == []
    assert machine.launcher.living == {}


async def test_who_says_that_it_improved_and_changed_nothing_has_failed(repo: Path, autojump_clock: MockClock) -> None:
    machine = simulated()
    machine.worktrees.keeps = lambda _: None
    assert (await review(machine, reviewed(repo))).outcome is ReviewOutcome.NO_CHANGE
    assert len(machine.launcher.started) == 1  # no gate


async def test_a_red_gate_keeps_the_branch_and_opens_nothing(repo: Path, autojump_clock: MockClock) -> None:
    good = improves()

    def script(machine: SimulatedMachine, spec: LaunchSpec) -> Script:
        if spec.argv == GATE:
            return Script(output=(), last_words=b"1 failed\n", exit_code=1)
        return good(machine, spec)

    machine = simulated(script)
    result = await review(machine, reviewed(repo))
    assert result.outcome is ReviewOutcome.GATE_FAILED
    assert result.top_improvement is not None
    assert result.top_improvement.gate is not None
    assert (result.top_improvement.gate.exit_code, result.top_improvement.gate.tail) == (1, "1 failed")
    assert machine.worktrees.branches == {result.top_improvement.branch}
    assert machine.forge.pushed == {}


@pytest.mark.parametrize("deaf", [False, True])
async def test_a_gate_that_does_not_end_is_ended(deaf: bool, repo: Path, autojump_clock: MockClock) -> None:
    good = improves()
    machine = simulated(
        lambda machine, spec: (STUBBORN if deaf else HANGS) if spec.argv == GATE else good(machine, spec)
    )
    result = await review(machine, reviewed(repo, gate_timeout_secs=100.0))
    assert result.outcome is ReviewOutcome.GATE_FAILED
    assert "did not end within 100 s" in result.detail
    assert machine.launcher.living == {}


async def test_a_program_may_have_an_improvement_without_a_pull_request(repo: Path, autojump_clock: MockClock) -> None:
    machine = simulated()
    result = await review(machine, reviewed(repo, create_prs=False), dry_run=False)
    assert result.outcome is ReviewOutcome.IMPROVED
    assert machine.worktrees.branches
    assert machine.forge.pushed == {}


async def test_nothing_new_is_a_result(repo: Path, autojump_clock: MockClock) -> None:
    machine = simulated(scan=Scan("c" * 40, None))
    result = await review(machine, reviewed(repo))
    assert (result.outcome, result.findings, result.top_improvement) == (ReviewOutcome.NOTHING_FOUND, (), None)
    assert machine.reports.pages


@pytest.mark.parametrize(
    ("agent", "outcome", "reason"),
    [
        (attrs.evolve(IMPROVER, max_runs_per_day=1), "no_budget", "max_runs_per_day"),
        (attrs.evolve(IMPROVER, provider="p"), "no_budget", "budget"),
    ],
)
async def test_without_budget_the_findings_are_written_all_the_same(
    agent: AgentDefinition, outcome: str, reason: str, repo: Path, autojump_clock: MockClock
) -> None:
    from darkfactory import ProviderConfig

    machine = simulated()
    config = attrs.evolve(reviewed(repo, agent), providers={"p": ProviderConfig(calls_per_hour=1)})
    async with open_factory(config, machine=machine.open) as factory:
        await factory.start("improver")
        await trio.sleep(100)
        result = await factory.trigger_compound_review()
    assert result.outcome.value == outcome
    assert reason in result.detail
    assert result.findings
    assert machine.reports.results[result.id]["findings"]
    assert machine.worktrees.made == []
    assert machine.records("review_ended")[0].get("finding") is None  # it is as good as ever the next night


async def test_a_held_agent_is_not_run(repo: Path, autojump_clock: MockClock) -> None:
    machine = simulated()
    async with open_factory(reviewed(repo), machine=machine.open) as factory:
        await factory.hold("improver")
        result = await factory.trigger_compound_review()
    assert result.outcome is ReviewOutcome.REFUSED
    assert "held" in result.detail


async def test_it_waits_for_the_agents_own_run(repo: Path, autojump_clock: MockClock) -> None:
    machine = simulated()
    async with open_factory(reviewed(repo), machine=machine.open) as factory:
        await factory.start("improver")
        await trio.sleep(1)
        result = await factory.trigger_compound_review()
    assert result.outcome is ReviewOutcome.PR_CREATED
    assert secs(machine, "run_begun") == [0.0, 60.0]


async def test_one_that_waited_in_vain_says_for_what(repo: Path, autojump_clock: MockClock) -> None:
    machine = simulated()
    machine.disk.free_bytes = 0
    result = await review(machine, reviewed(repo, max_duration_secs=700.0))
    assert result.outcome is ReviewOutcome.TIMED_OUT
    assert result.detail == "while it waited for a run of improver: disk"


async def test_one_at_a_time(repo: Path, autojump_clock: MockClock) -> None:
    machine = simulated(improves(secs=4 * 3600))
    patient = attrs.evolve(IMPROVER, stall_timeout_secs=5 * 3600.0, timeout_secs=6 * 3600.0)
    config = reviewed(repo, patient, schedule="0 * * * *", max_duration_secs=9 * 3600.0)
    async with open_factory(config, machine=machine.open) as factory:
        await trio.sleep(3600 + 10)
        with pytest.raises(CompoundReviewFailed, match="is under way") as caught:
            await factory.trigger_compound_review()
        assert caught.value.outcome == "overlap"
        await trio.sleep(2 * 3600)
    assert secs(machine, "review_begun") == [3600.0]
    skipped = machine.records("review_skipped")
    assert [line["reason"] for line in skipped] == ["overlap", "overlap"]


async def test_without_a_section_there_is_none(autojump_clock: MockClock) -> None:
    async with open_factory(fleet(IMPROVER), machine=SimulatedMachine().open) as factory:
        with pytest.raises(CompoundReviewFailed, match="compound_review"):
            await factory.trigger_compound_review()


async def test_an_occurrence_is_never_fired_twice_and_one_that_was_missed_is_told(
    repo: Path, autojump_clock: MockClock
) -> None:
    machine = simulated(scan=Scan("c" * 40, None))
    config = reviewed(repo)
    async with open_factory(config, machine=machine.open):
        await trio.sleep(2 * 3600 + 60)
    machine.clock.step(-600)
    async with open_factory(config, machine=machine.open):
        await trio.sleep(3600)
    assert len(machine.records("review_begun")) == 1
    await trio.sleep(26 * 3600)  # 05:00 of the day after
    async with open_factory(config, machine=machine.open):
        await trio.sleep(60)
    assert len(machine.records("review_begun")) == 1
    (skipped,) = machine.records("review_skipped")
    assert (skipped["reason"], skipped["occurrence"]) == ("missed", "2026-01-06T02:00:00.000000Z")


async def test_one_that_is_a_little_late_is_made_up_for(repo: Path, autojump_clock: MockClock) -> None:
    machine = simulated(scan=Scan("c" * 40, None))
    async with open_factory(reviewed(repo), machine=machine.open):
        await trio.sleep(60)
    await trio.sleep(2.5 * 3600)
    async with open_factory(reviewed(repo), machine=machine.open):
        await trio.sleep(60)
    (begun,) = machine.records("review_begun")
    assert begun["occurrence"] == "2026-01-05T02:00:00.000000Z"


async def test_the_next_review_goes_on_where_this_one_ended_unless_it_failed(
    repo: Path, autojump_clock: MockClock
) -> None:
    machine = simulated()
    machine.forge.fails["push"] = CompoundReviewFailed("push_failed", "no", "do")
    config = reviewed(repo)
    assert (await review(machine, config)).outcome is ReviewOutcome.PUSH_FAILED
    del machine.forge.fails["push"]
    assert (await review(machine, config)).outcome is ReviewOutcome.PR_CREATED
    machine.scanner.found = attrs.evolve(SCAN, commit="d" * 40)
    await review(machine, config)
    assert machine.scanner.asked == [None, None, "c" * 40]


@pytest.mark.parametrize("step", ["target", "find", "push", "open_draft"])
async def test_a_pull_request_that_is_owed_is_opened_the_next_night_without_an_agent(
    step: str, repo: Path, autojump_clock: MockClock
) -> None:
    machine = simulated()
    machine.forge.fails[step] = CompoundReviewFailed("gh_logged_out", "no login", "gh auth login")
    first = await review(machine, reviewed(repo))
    assert (first.outcome, first.remedy) == (ReviewOutcome.GH_LOGGED_OUT, "gh auth login")
    assert first.top_improvement is not None
    assert machine.worktrees.branches == {first.top_improvement.branch}
    machine.forge.fails.clear()
    second = await review(machine, reviewed(repo))
    assert second.outcome is ReviewOutcome.PR_CREATED
    assert [each.branch for each in machine.forge.opened] == [first.top_improvement.branch]
    assert len(machine.records("run_begun")) == 1


async def test_a_pull_request_is_still_owed_after_nights_without_room_for_it(
    repo: Path, autojump_clock: MockClock
) -> None:
    machine = simulated()
    machine.forge.fails["push"] = CompoundReviewFailed("push_failed", "no", "do")
    first = await review(machine, reviewed(repo))
    machine.forge.fails.clear()
    machine.forge.opened.append(PullRequest(1, "https://github.test/1", "open", True, "darkfactory/review/x", "x-1"))
    assert (await review(machine, reviewed(repo, max_open_prs=1))).outcome is ReviewOutcome.MAX_OPEN_PRS
    machine.forge.opened.clear()
    assert (await review(machine, reviewed(repo, create_prs=False), dry_run=True)).outcome is ReviewOutcome.DRY_RUN
    last = await review(machine, reviewed(repo, max_open_prs=1))
    assert last.outcome is ReviewOutcome.PR_CREATED
    assert first.top_improvement is not None
    assert [each.branch for each in machine.forge.opened] == [first.top_improvement.branch]
    assert len(machine.records("run_begun")) == 1


@pytest.mark.parametrize("killed", [False, True])
async def test_an_improvement_that_was_finished_when_the_factory_stopped_or_died_gets_its_pull_request(
    killed: bool, repo: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = simulated()

    async def slow(*_: object, **__: object) -> None:
        await trio.sleep(100)

    with monkeypatch.context() as patched:
        patched.setattr(SimulatedForge, "push", slow)
        async with open_factory(reviewed(repo), machine=machine.open) as factory:
            with trio.move_on_after(100):
                await factory.trigger_compound_review()
    if killed:
        lines = machine.journal.lines
        machine.journal = MemoryJournal(itertools.takewhile(lambda line: line["kind"] != "factory_stopping", lines))
    second = await review(machine, reviewed(repo))
    outcome = "lost" if killed else "stopped"
    assert [line["outcome"] for line in machine.records("review_ended")] == [outcome, "pr_created"]
    assert second.top_improvement is not None
    assert machine.forge.pushed == {second.top_improvement.branch: "1" * 40}
    assert len(machine.records("run_begun")) == 1


async def test_a_branch_that_somebody_has_changed_since_is_not_handed_in(repo: Path, autojump_clock: MockClock) -> None:
    machine = simulated()
    machine.forge.fails["push"] = CompoundReviewFailed("push_failed", "no", "do")
    first = await review(machine, reviewed(repo))
    machine.forge.fails.clear()
    assert first.top_improvement is not None
    branch = machine.worktrees.branches.pop()
    from darkfactory.model.review import Branch

    machine.scanner.found = attrs.evolve(SCAN, branches=(Branch(branch, "2" * 40, 2, START),))
    second = await review(machine, reviewed(repo))
    assert second.top_improvement is not None
    assert second.top_improvement.finding != first.top_improvement.finding


async def test_a_finding_for_which_something_waits_is_passed_over(repo: Path, autojump_clock: MockClock) -> None:
    machine = simulated()
    outcomes, improved = [], []
    for _ in range(6):
        result = await review(machine, reviewed(repo, max_open_prs=100))
        outcomes.append(result.outcome)
        if result.top_improvement is not None and result.pr_created:
            improved.append(result.top_improvement.finding)
            assert result.top_improvement.finding not in improved[:-1]
    assert outcomes[0] is ReviewOutcome.PR_CREATED
    assert outcomes[-1] is ReviewOutcome.PR_EXISTS
    assert len(improved) == len({each.id for each in result.findings})
    machine.forge.opened.clear()
    assert (await review(machine, reviewed(repo))).outcome is ReviewOutcome.BRANCH_TAKEN


async def test_a_finding_that_nobody_can_improve_is_in_no_others_way(repo: Path, autojump_clock: MockClock) -> None:
    """It would be the first one every night, and nothing would ever be done."""
    machine = simulated()
    builder = AgentDefinition("builder", AgentLayer.GROWTH, "demo", "x", capabilities=("architecture",))
    config = reviewed(repo, builder, agent=None)
    result = await review(machine, config)
    assert result.outcome is ReviewOutcome.PR_CREATED
    assert result.findings[0].kind.value == "untested"
    assert result.top_improvement is not None
    assert result.top_improvement.finding.startswith("churn-")
    assert result.top_improvement.why[0] == f"nobody was found for {result.findings[0].id}"
    machine.scanner.found = Scan("c" * 40, None, marked=SCAN.marked)
    result = await review(machine, config)
    assert result.outcome is ReviewOutcome.NO_AGENT
    assert result.top_improvement is not None
    assert result.top_improvement.finding == result.findings[0].id


async def test_a_branch_that_is_in_the_way_is_named(repo: Path, autojump_clock: MockClock) -> None:
    machine = simulated()
    first = await review(machine, reviewed(repo), dry_run=True)
    assert first.top_improvement is not None
    machine.worktrees.branches.add(first.top_improvement.branch)
    machine.scanner.branches = tuple  # it is merged, and still there
    result = await review(machine, reviewed(repo))
    assert result.outcome is ReviewOutcome.BRANCH_TAKEN
    assert first.top_improvement.branch in result.detail


async def test_at_most_so_many_wait_for_a_person(repo: Path, autojump_clock: MockClock) -> None:
    machine = simulated()
    assert (await review(machine, reviewed(repo, max_open_prs=1))).outcome is ReviewOutcome.PR_CREATED
    assert (await review(machine, reviewed(repo, max_open_prs=1))).outcome is ReviewOutcome.MAX_OPEN_PRS
    assert len(machine.launcher.started) == 2  # the first one's agent and gate
    machine.forge.opened[0] = attrs.evolve(machine.forge.opened[0], state="merged")
    assert (await review(machine, reviewed(repo, max_open_prs=1))).outcome is not ReviewOutcome.MAX_OPEN_PRS


async def test_findings_that_were_handled_rank_down_and_say_so(repo: Path, autojump_clock: MockClock) -> None:
    machine = simulated(improves("declined"))
    first = await review(machine, reviewed(repo))
    second = await review(machine, reviewed(repo), dry_run=True)
    assert first.findings[0].id != second.findings[0].id
    before = {finding.id: finding.handled for finding in second.findings}
    assert "declined" in (before[first.findings[0].id] or "")


async def test_three_failed_nights_in_a_row_are_escalated(repo: Path, autojump_clock: MockClock) -> None:
    machine = simulated()
    machine.scanner.fails = CompoundReviewFailed("no_commits", "the repository has no commit", "commit something")
    async with open_factory(reviewed(repo), machine=machine.open):
        await trio.sleep(3 * 86400)
    assert secs(machine, "review_escalated") == [2 * 86400 + 7200.0]
    machine.scanner.fails = None
    machine.scanner.found = Scan("c" * 40, None)
    async with open_factory(reviewed(repo), machine=machine.open):
        await trio.sleep(86400)
        machine.scanner.fails = CompoundReviewFailed("git_failed", "no", "")
        await trio.sleep(2 * 86400)
    assert len(machine.records("review_escalated")) == 1  # a good night began the count anew


async def test_what_went_wrong_in_the_fleet_is_a_finding(repo: Path, autojump_clock: MockClock) -> None:
    machine = simulated(lambda machine, spec: FAILS if "broken" in spec.run_id else improves()(machine, spec))
    machine.scanner.found = Scan("c" * 40, None)
    broken = AgentDefinition("broken", AgentLayer.CORE, "demo", "x", schedule="*/10 * * * *")
    async with open_factory(reviewed(repo, IMPROVER, broken), machine=machine.open):
        await trio.sleep(3 * 3600)
    (result,) = machine.reports.results.values()
    assert result["findings"][0]["kind"] == "agent"
    assert "broken" in result["findings"][0]["title"]


async def test_what_the_fleet_lives_through_is_seen_also_after_the_clock_was_years_ahead(
    repo: Path, autojump_clock: MockClock
) -> None:
    machine = simulated(lambda machine, spec: FAILS if "broken" in spec.run_id else improves()(machine, spec))
    machine.scanner.found = Scan("c" * 40, None)
    broken = AgentDefinition("broken", AgentLayer.CORE, "demo", "x", schedule="*/10 * * * *")
    machine.clock.step(10 * 365 * 86400.0)
    async with open_factory(reviewed(repo), machine=machine.open) as factory:
        assert (await factory.trigger_compound_review()).outcome is ReviewOutcome.NOTHING_FOUND
    machine.clock.step(-10 * 365 * 86400.0)
    async with open_factory(reviewed(repo, IMPROVER, broken), machine=machine.open) as factory:
        await trio.sleep(3 * 3600)
    assert [line["occurrence"] for line in machine.records("review_begun")[1:]] == ["2026-01-05T02:00:00.000000Z"]
    told = [result for result in machine.reports.results.values() if result["findings"]]
    assert [each["findings"][0]["kind"] for each in told] == ["agent"]


async def test_a_bug_in_a_review_stops_nobody_else(
    repo: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = simulated()

    async def broken(*_: object, **__: object) -> Scan:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(SimulatedScanner, "scan", broken)
    with structlog.testing.capture_logs() as logs:
        async with open_factory(reviewed(repo), machine=machine.open) as factory:
            result = await factory.trigger_compound_review()
            assert (result.outcome, result.detail) == (ReviewOutcome.ERROR, "ZeroDivisionError: a bug")
            assert (await factory.trigger_compound_review()).outcome is ReviewOutcome.ERROR
    (told, _) = [line for line in logs if line["event"] == "review_failed"]
    assert told["exception"].startswith("Traceback ")
    assert told["exception"].endswith("ZeroDivisionError: a bug\n")


@pytest.mark.parametrize(
    "refusal", [OSError(errno.EMFILE, "Too many open files"), RuntimeError("can't start new thread")]
)
async def test_what_the_machine_refuses_a_review_is_not_called_a_bug(
    repo: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, refusal: Exception
) -> None:
    machine = simulated()

    def refuse(*_: object) -> None:
        raise refusal

    monkeypatch.setattr(SimulatedMachine, "_lines", refuse)
    async with open_factory(reviewed(repo), machine=machine.open) as factory:
        result = await factory.trigger_compound_review()
        assert result.outcome is ReviewOutcome.ERROR
        assert str(refusal) in result.detail
        assert "bug" not in result.remedy
        monkeypatch.undo()
    assert (await review(machine, reviewed(repo))).outcome is ReviewOutcome.PR_CREATED


async def test_a_full_disk_costs_the_report_and_not_the_result(repo: Path, autojump_clock: MockClock) -> None:
    machine = simulated()
    machine.reports.full = True
    assert (await review(machine, reviewed(repo))).outcome is ReviewOutcome.PR_CREATED
    assert machine.records("review_ended")[0]["outcome"] == "pr_created"


async def test_a_factory_that_stops_ends_its_review_in_order(repo: Path, autojump_clock: MockClock) -> None:
    machine = simulated(lambda *_: HANGS)
    async with open_factory(reviewed(repo), machine=machine.open) as factory:
        with trio.move_on_after(20):
            await factory.trigger_compound_review()
    assert [line["outcome"] for line in machine.records("review_ended")] == ["stopped"]
    assert [line["reason"] for line in machine.records("run_ended")] == [Reason.SHUTDOWN.value]
    assert machine.launcher.living == {}


@pytest.mark.parametrize(("twice", "secs"), [(False, 3.0), (True, 1.0)])
async def test_a_gate_that_will_not_end_keeps_no_factory_from_its_bound(
    twice: bool, secs: float, repo: Path, autojump_clock: MockClock
) -> None:
    good = improves(secs=3.0)
    machine = simulated(lambda machine, spec: STUBBORN if spec.argv == GATE else good(machine, spec))
    config = reviewed(repo, shutdown_grace_secs=3.0)
    async with trio.open_nursery() as nursery:
        factory = AgentOrchestrator(config, machine=machine.open)
        await nursery.start(factory.run)
        nursery.start_soon(factory.trigger_compound_review)
        await trio.sleep(10)
        assert [spec.argv for spec in machine.launcher.living.values()] == [GATE]
        asked = trio.current_time()
        factory.shutdown()
        if twice:
            await trio.sleep(1)
            factory.shutdown(kill=True)
    assert trio.current_time() - asked == pytest.approx(secs, abs=0.01)
    assert machine.launcher.living == {}
    assert [line["outcome"] for line in machine.records("review_ended")] == ["stopped"]


async def test_a_review_that_was_killed_with_its_factory_is_lost_and_the_next_one_goes_on(
    repo: Path, autojump_clock: MockClock
) -> None:
    machine = simulated()
    lines = [{"utc": "2026-01-04T02:00:00Z", "kind": "review_begun", "review": "review-x", "dry_run": False}]
    machine.journal.append(lines, durable=True)
    assert (await review(machine, reviewed(repo))).outcome is ReviewOutcome.PR_CREATED
    assert [line["outcome"] for line in machine.records("review_ended")] == ["lost", "pr_created"]


async def test_a_factory_for_a_review_alone_runs_nothing_else(repo: Path, autojump_clock: MockClock) -> None:
    watch = AgentDefinition("watch", AgentLayer.SAFETY, "demo", "x")
    cron = AgentDefinition("cron", AgentLayer.CORE, "demo", "x", schedule="* * * * *")
    machine = simulated()
    config = reviewed(repo, IMPROVER, watch, cron)
    async with trio.open_nursery() as nursery:
        alone = AgentOrchestrator(config, machine=machine.open, only_review=True)
        await nursery.start(alone.run)
        await trio.sleep(200)
        assert (await alone.trigger_compound_review()).outcome is ReviewOutcome.PR_CREATED
        alone.shutdown()
    assert {line["agent"] for line in machine.records("run_begun")} == {"improver"}
    assert machine.records("review_armed") == []


async def test_the_schedule_is_forgotten_with_the_section(repo: Path, autojump_clock: MockClock) -> None:
    machine = simulated(scan=Scan("c" * 40, None))
    async with open_factory(reviewed(repo), machine=machine.open):
        await trio.sleep(60)
    async with open_factory(fleet(IMPROVER), machine=machine.open):
        await trio.sleep(60)
    assert machine.records("review_disarmed")
    await trio.sleep(5 * 3600)
    async with open_factory(reviewed(repo), machine=machine.open):
        await trio.sleep(60)
    assert machine.records("review_begun") == machine.records("review_skipped") == []


async def test_a_result_may_be_waited_for_across_other_reviews(repo: Path, autojump_clock: MockClock) -> None:
    machine = simulated(scan=Scan("c" * 40, None))
    async with open_factory(reviewed(repo), machine=machine.open) as factory:
        results = [await factory.trigger_compound_review() for _ in range(12)]
    assert len({result.id for result in results}) == 12
    assert timedelta(0) <= machine.clock.utc() - START < timedelta(hours=1)


def check(machine: SimulatedMachine) -> None:
    """What holds for a machine whose factory is over."""
    assert machine.launcher.living == {}, "a process outlived its factory"
    begun = [line["review"] for line in machine.records("review_begun")]
    ended = [line["review"] for line in machine.records("review_ended")]
    assert len({*begun}) == len(begun), "a review has two beginnings"
    assert len({*ended}) == len(ended), "a review has two ends"
    assert {*ended} <= {*begun}
    assert {spec.run_id.removesuffix("-gate") for spec in machine.launcher.started} <= {
        line["run"] for line in machine.records("run_begun")
    }, "a process before its record"
    branches = [each.branch for each in machine.forge.opened]
    findings = [each.finding for each in machine.forge.opened]
    assert len({*branches}) == len(branches), "a branch has two pull requests"
    assert len({*findings}) == len(findings), "a finding has two pull requests"
    assert {*branches} <= machine.forge.pushed.keys() <= machine.worktrees.branches


def test_cancelled_at_every_step_nothing_is_left_half_made_and_the_next_review_goes_on(repo: Path) -> None:
    config = reviewed(repo, shutdown_grace_secs=6.0)

    async def program(machine: SimulatedMachine, cancel: CancelAtStep) -> None:
        with cancel.scope:
            await review(machine, config)
        if cancel.at is not None:
            assert trio.current_time() - cancel.at <= 7.0 + 0.001, "the bound on shutdown"
        check(machine)
        with trio.CancelScope():
            result = await review(machine, config)
        assert result.outcome in {ReviewOutcome.PR_CREATED, ReviewOutcome.BRANCH_TAKEN, ReviewOutcome.PR_EXISTS}, result
        check(machine)
        assert machine.worktrees.kept() == 0
        assert len(machine.records("review_begun")) == len(machine.records("review_ended"))
        alive = {line["run"] for line in machine.records("run_begun")} - {
            line["run"] for line in machine.records("run_ended")
        }
        assert not alive

    ends: Counter[str] = Counter()
    for step in itertools.count(1):
        machine, cancel = simulated(improves(secs=3.0)), CancelAtStep(step)
        machine.scanner.secs = 1.0
        try:
            trio.run(program, machine, cancel, clock=MockClock(autojump_threshold=0), instruments=[cancel])
        except BaseException as error:
            error.add_note(f"cancelled at step {step}, at second {cancel.at}")
            raise
        if machine.records("review_ended"):
            ends[machine.records("review_ended")[0]["outcome"]] += 1
        if cancel.at is None or not cancel.scope.cancelled_caught:
            break
    assert step > 100
    assert ends["stopped"] > 50
    assert ends["pr_created"] > 5


async def test_one_that_runs_out_of_time_every_night_begins_once_a_night_and_piles_up_nothing(
    repo: Path, autojump_clock: MockClock
) -> None:
    machine = simulated(lambda *_: STUBBORN)
    machine.worktrees.keeps = lambda _: None  # its agent has done nothing
    async with open_factory(reviewed(repo, max_duration_secs=700.0), machine=machine.open):
        await trio.sleep(4 * 86400)
        assert machine.launcher.living == {}
    assert secs(machine, "review_begun") == [day * 86400 + 7200.0 for day in range(4)]
    assert [line["outcome"] for line in machine.records("review_ended")] == ["timed_out"] * 4
    assert len(machine.worktrees.made) == 4
    assert machine.worktrees.kept() == 0
    assert machine.worktrees.branches == set()
    assert len(machine.reports.pages) == 4
