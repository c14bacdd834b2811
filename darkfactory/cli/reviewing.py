"""`darkfactory review`: one compound review now, what one would do, or what the last one came to.

The review itself takes a factory, which does nothing else meanwhile. What one would do is found out without: there is
no lock then, nothing is recorded, and all files stay as they are.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
import uuid
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

import attrs
import click
import trio
from attrs import define, field
from rich.console import Console
from rich.table import Table

from darkfactory.cli import command, logs
from darkfactory.cli.routing import doubt, remembered
from darkfactory.devices import segments, threads
from darkfactory.devices.clock import SystemClock
from darkfactory.devices.git import Git
from darkfactory.devices.github import GitHub
from darkfactory.devices.launcher import RealLauncher
from darkfactory.devices.reviews import ReportFiles, ReviewDevices
from darkfactory.devices.scan import GitScanner
from darkfactory.devices.statedir import journal_to_read
from darkfactory.errors import AlreadyRunning, OrchestratorError, StateDirError
from darkfactory.model.events import Moment
from darkfactory.model.fleet import OrchestratorConfig
from darkfactory.model.review import FAILED_NIGHTS, CompoundReviewResult, Gate, Improvement
from darkfactory.policy.decide import initial
from darkfactory.policy.quoting import plain
from darkfactory.policy.review_report import to_json
from darkfactory.runtime.factory import AgentOrchestrator, state_dir_of
from darkfactory.runtime.life import Outcome
from darkfactory.runtime.review_look import preview

FAILED: Final = 1
SHOWN: Final = 10
"""Findings told to people."""
_WIDE: Final = 180
"""Columns where there is no terminal to ask."""
_LONGEST: Final = 1000
"""Characters of a sentence."""


def last(config: OrchestratorConfig, *, as_json: bool) -> int:
    """Print the newest report; the exit code."""
    try:
        state_dir = state_dir_of(config)
        known = journal_to_read(state_dir, config.source)
        report = ReportFiles(state_dir / "reviews").newest() if known is not None else None
        if report is None:
            click.echo("there was no review yet", err=True)
            return FAILED
        page, result = report
        click.echo(_object(result) if as_json else _harmless(page), nl=as_json)
    except (StateDirError, OSError, ValueError, RecursionError) as error:
        click.echo(f"the last report cannot be read: {error}", err=True)
        return FAILED
    return 0


def _object(text: str) -> str:
    """The same JSON object, written anew. ValueError or RecursionError if it is none."""
    tree = json.loads(text)
    if not isinstance(tree, dict):
        raise ValueError("it holds no JSON object")  # noqa: TRY004 - of what it read
    return json.dumps(tree, indent=1)


def look(config: OrchestratorConfig, *, as_json: bool) -> int:
    """Print what a review would do now; the exit code."""
    now = Moment(0.0, SystemClock().utc())
    durable = remembered(config)
    state, _ = initial(config, durable, now)
    with tempfile.TemporaryDirectory(prefix="darkfactory-review-") as scratch:
        launcher = RealLauncher(f"review-{uuid.uuid4().hex}", os.environ.get("DARKFACTORY_RUN"))
        devices = _devices(config, launcher, Path(scratch))
        state = attrs.evolve(state, runs=durable.alive)
        work = partial(preview, config, devices, threads.in_thread, state, now)
        result = trio.run(_unless_signalled, work, launcher)
    if isinstance(result, signal.Signals):
        return 128 + result
    _tell(config, result, as_json=as_json)
    if result.top_improvement is not None and result.top_improvement.agent is not None:
        doubt(config, result.top_improvement.agent)
    return FAILED if result.outcome in FAILED_NIGHTS else 0


def review(config: OrchestratorConfig, *, as_json: bool) -> int:
    """Review in a factory that does nothing else, and print what that came to; the exit code."""
    work = _Review()
    exit_code = command.live(config, work.live, only_review=True)
    if work.result is not None:
        _tell(config, work.result, as_json=as_json)
        failed = work.result.outcome in FAILED_NIGHTS
    else:
        if work.why_not:
            logs.tell(work.why_not)
        failed = True
    return exit_code or (FAILED if failed else 0)


@define(eq=False)
class _Review:
    """The life of a factory that reviews once."""

    result: CompoundReviewResult | None = None
    why_not: str = ""
    """Why there is no result."""
    _outcome: Outcome | None = None
    _refusal: OrchestratorError | None = None
    _began: trio.Event = field(factory=trio.Event)
    """Or is over already."""

    async def live(self, factory: AgentOrchestrator) -> Outcome:
        """Run the factory, review, and stop it."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run, factory)
            await self._began.wait()
            try:
                if self._outcome is None and self._refusal is None:
                    self.result = await factory.trigger_compound_review()
            except OrchestratorError as error:
                self.why_not = str(error)
            finally:
                factory.shutdown("the review is over")
        if self._refusal is not None:
            raise self._refusal
        assert self._outcome is not None
        return self._outcome

    def started(self, _: object = None) -> None:
        """See `trio.TaskStatus`."""
        self._began.set()

    async def _run(self, factory: AgentOrchestrator) -> None:
        await trio.lowlevel.checkpoint()
        try:
            self._outcome = await factory.run(task_status=self)
            self.why_not = self.why_not or "the factory stopped before the review had begun"
        except AlreadyRunning as error:
            self._refusal = error
            self.why_not = "that one reviews by its schedule; --dry-run only looks, and may do so beside it"
        except OrchestratorError as error:
            self._refusal = error
        finally:
            self._began.set()


async def _unless_signalled(
    work: Callable[[], Awaitable[CompoundReviewResult]], launcher: RealLauncher
) -> CompoundReviewResult | signal.Signals:
    """The result; or the signal by which it was ended, with all that it had started."""
    result: CompoundReviewResult | signal.Signals | None = None
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
        async with trio.open_nursery() as nursery:

            async def hear() -> None:
                nonlocal result
                result = signal.Signals(await anext(received))
                nursery.cancel_scope.cancel(reason="a signal")

            nursery.start_soon(launcher.serve)  # without it nobody would see how much a git prints
            nursery.start_soon(hear)
            result = await work()
            nursery.cancel_scope.cancel(reason="it is done")
    assert result is not None
    return result


def _devices(config: OrchestratorConfig, launcher: RealLauncher, scratch: Path) -> ReviewDevices:
    git = Git(launcher, scratch, os.environ)
    try:
        journal = journal_to_read(state_dir_of(config), config.source)
    except StateDirError:  # which `remembered` has told
        journal = None
    return ReviewDevices(
        scanner=GitScanner(git),
        forge=GitHub(launcher, git, scratch, os.environ),
        reports=ReportFiles(scratch),
        lines=partial(segments.since, journal) if journal is not None else lambda _since, _kinds: (),
    )


def _tell(config: OrchestratorConfig, result: CompoundReviewResult, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(to_json(result), indent=1))
        return
    detail = f": {plain(result.detail, _LONGEST)}" if result.detail else ""
    click.echo(f"{result.outcome.value}{detail}")
    before = ""
    for name, told in _rows(config, result):
        click.echo(f"  {'' if name == before else f'{name}:':<15}{plain(told, _LONGEST)}")
        before = name
    if not result.findings:
        return
    table = Table("finding", "severity", "score", "what", "handled before", box=None, pad_edge=False)
    for each in result.findings[:SHOWN]:
        table.add_row(each.id, each.severity.value, f"{each.score:g}", plain(each.title), plain(each.handled or ""))
    click.echo()
    Console(width=None if os.isatty(1) else _WIDE, highlight=False, markup=False).print(table)
    if len(result.findings) > SHOWN:
        click.echo(f"and {len(result.findings) - SHOWN} more")


def _rows(config: OrchestratorConfig, result: CompoundReviewResult) -> Iterator[tuple[str, str]]:
    """Names, each with what there is to say of it."""
    if result.remedy:
        yield "what to do", result.remedy
    if result.commit is not None:
        assert config.compound_review is not None
        since = f", since {result.since[:12]}" if result.since is not None else ""
        count = "1 commit" if result.commits == 1 else f"{result.commits} commits"
        yield "looked at", f"{count} of {config.compound_review.base_branch} up to {result.commit[:12]}{since}"
    if result.top_improvement is not None:
        yield from _of_improvement(result.top_improvement)
    if result.pr_url is not None:
        yield "pull request", result.pr_url + ("" if result.pr_created else " (it was there already)")
    for notice in result.notices:
        yield "notice", f"{notice.name}: {notice.detail} ({notice.remedy})"
    for sentence in result.left_out:
        yield "left out", sentence
    report = state_dir_of(config) / "reviews" / f"{result.id}.md"
    if result.id and report.exists():
        yield "report", str(report)


def _of_improvement(improvement: Improvement) -> Iterator[tuple[str, str]]:
    yield "improvement", f"{improvement.finding}: {improvement.title}"
    yield "agent", improvement.agent or "nobody"
    for why in improvement.why:
        yield "because", why
    yield "branch", improvement.branch
    if improvement.run is not None:
        yield "run", improvement.run
    if improvement.summary is not None:
        yield "it says", improvement.summary
    if improvement.gate is not None:
        yield "gate", _of_gate(improvement.gate)


def _of_gate(gate: Gate) -> str:
    passed = "passed" if gate.passed else "did not pass"
    code = f" with exit code {gate.exit_code}" if gate.exit_code is not None else ""
    return f"{passed}{code}, after {gate.secs:.0f} s"


def _harmless(page: str) -> str:
    """What a terminal would obey is left out; agents had a hand in it."""
    return "".join(character if character.isprintable() or character in "\n\t" else "?" for character in page)
