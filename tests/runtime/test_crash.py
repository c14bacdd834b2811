"""The factory is killed at every write of its journal, and starts again: nothing fires twice, nothing is forgotten.

The factory is the real one and so is its journal, on disk, in small segments; the agents are scripted and the clock is
a mock. To be killed means that from this write on nothing more is written: it raises what nobody catches.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import attrs
import pytest
import trio
from attrs import define
from trio.testing import MockClock

from darkfactory import (
    Admit,
    AgentDefinition,
    AgentLayer,
    AgentOrchestrator,
    CompoundReviewConfig,
    LayerConfig,
    OrchestratorConfig,
    OrchestratorError,
    Overlap,
    ProviderConfig,
    Refuse,
    open_factory,
)
from darkfactory.devices import segments
from darkfactory.devices.journal import FileJournal, Offload
from darkfactory.devices.machine import Machine
from darkfactory.devices.process import LaunchSpec
from darkfactory.model.ends import Reason
from darkfactory.model.events import Moment
from darkfactory.model.review import Commit, FileChange, Scan
from darkfactory.model.state import Durable
from darkfactory.policy.history import durable_of, fold, instant
from darkfactory.policy.restart import AFTER
from darkfactory.policy.schedule import Schedule
from darkfactory.testing import FAILS, HANGS, STARTED, Script, SimulatedMachine, says

from .fleets import fleet

T = TypeVar("T")
GMT = ZoneInfo("UTC")
PERIOD, MOST = 150.0, 3
CALLS = 3
FLEET = fleet(
    AgentDefinition("steady", AgentLayer.SAFETY, "demo", "lives on"),
    AgentDefinition("looping", AgentLayer.SAFETY, "demo", "fails, until it is held"),
    AgentDefinition("minutely", AgentLayer.CORE, "demo", "fails now and then", schedule="* * * * *", retries=1),
    AgentDefinition(
        "slow", AgentLayer.CORE, "demo", "is overtaken", schedule="*/2 * * * *", overlap=Overlap.QUEUE, catchup_secs=90
    ),
    AgentDefinition("helper", AgentLayer.GROWTH, "demo", "on demand", max_runs_per_day=2),
    AgentDefinition("mailed", AgentLayer.GROWTH, "demo", "does what it is told"),
    AgentDefinition("paid", AgentLayer.CORE, "demo", "is turned away", schedule="* * * * *", provider="p"),
    AgentDefinition("too", AgentLayer.CORE, "demo", "waits as well", schedule="*/2 * * * *", provider="p"),
    AgentDefinition("frugal", AgentLayer.CORE, "demo", "may call thrice", schedule="* * * * *", provider="q"),
    layer=LayerConfig(backoff_jitter=0.0, max_restarts=MOST, period_secs=PERIOD),
    max_concurrent_runs=7,
    providers={"q": ProviderConfig(calls_per_hour=CALLS, tokens_per_day=10**6)},
)
ASKS_AT, END = (30.0, 100.0, 200.0), 300.0
DOWN = (1.0, 70.0, 125.0)
"""How long it is down, in turns: short enough that bad ends still count, long enough that occurrences are missed."""


HOW = ("before", "torn", "between", "after")
"""The write; or within it: anywhere, or after its first line; or after it."""


class Killed(BaseException):
    """Nothing more happens in this life."""


@define
class Fate:
    """When and how the factory is killed."""

    at: int
    """Which of its writes; 0 for never."""
    how: str = "before"
    """One of HOW."""
    writes: int = 0
    dead: bool = False

    def write(self, data: bytes, true_write: Callable[[bytes], None]) -> None:
        self.live()
        self.writes += 1
        if self.writes == self.at:
            self.dead = True
            size = {
                "before": 0,
                "torn": 1 + self.at * 7919 % (len(data) - 1),  # each time at another byte, all over the lines
                "between": data.index(b"\n") + 1,
                "after": len(data),
            }[self.how]
            true_write(data[:size])
            raise Killed
        true_write(data)

    def live(self) -> None:
        if self.dead:
            raise Killed


class MortalJournal(FileJournal):
    """A journal of a factory that may be killed."""

    fate: Fate

    def _write(self, data: bytes) -> None:
        self.fate.write(data, super()._write)


async def in_place(work: Callable[[], T]) -> T:
    await trio.lowlevel.checkpoint()
    return work()


def opener(
    machine: SimulatedMachine, directory: Path, fate: Fate, disk: Offload = in_place
) -> Callable[[OrchestratorConfig], Any]:
    """The simulated machine, with a journal on disk."""

    async def offload(work: Callable[[], T]) -> T:
        fate.live()
        return await disk(work)

    @contextmanager
    def opened(config: OrchestratorConfig) -> Iterator[Machine]:
        with machine.open(config) as simulated:
            journal = MortalJournal(directory, machine.clock.utc(), segment_bytes=3000, offload=offload)
            journal.fate = fate
            try:
                yield attrs.evolve(simulated, journal=journal, history=journal.history())
            finally:
                journal.close()

    return opened


ANSWER = b'{"type":"api","input_tokens":7,"output_tokens":5}\n'


def script(spec: LaunchSpec) -> Script:
    agent, day, clock, _ = spec.run_id.rsplit("-", 3)
    if agent == "steady":
        return HANGS
    if agent in ("paid", "too") and clock < "000300":
        begun = datetime.strptime(day + clock, "%Y%m%d%H%M%S").replace(tzinfo=UTC)
        resets_at = (begun + timedelta(seconds=70)).timestamp()
        return Script(secs=5.0, exit_code=1, last_words=says(ok=False, text="wait", error="quota", resets_at=resets_at))
    if agent == "frugal":
        return Script(output=((0.0, STARTED), (1.0, ANSWER)), secs=10.0)
    if agent == "mailed":
        return Script(secs=5.0, last_words=says(text="@steady I have done it"))
    if agent == "looping" or (agent == "minutely" and int(clock[2:4]) % 3 == 1):
        return FAILS
    return Script(secs=200.0 if agent == "slow" else 10.0)


@define
class Story:
    """What happened, in all lives."""

    machine: SimulatedMachine
    directory: Path
    admitted: list[str]
    """What the operator was told."""
    accepted: list[str]
    """The orders that were acknowledged; the operator repeats the others."""
    last: Durable | None = None
    """What the last life knew at its end."""
    ended_at: datetime | None = None
    writes: int = 0


async def tell(directory: Path, fates: tuple[Fate, ...]) -> Story:
    """Live until the first fate, start again, live until the next, and at last to the end."""
    machine = SimulatedMachine(script)
    story = Story(machine, directory, [], [])

    async def operate(factory: AgentOrchestrator) -> None:
        for at in ASKS_AT:
            if trio.current_time() < at:
                await trio.sleep_until(at)
                answer = await factory.start("helper")
                if isinstance(answer, Admit):
                    story.admitted.append(answer.run_id)
            if (order := f"order-{at:g}") not in story.accepted:
                sent = await factory.send(order, "mailed", message_id=order)
                assert not isinstance(sent.outcome, Refuse) or sent.outcome.reason == "duplicate"
                story.accepted.append(order)
        await trio.sleep_until(END + 0.5)
        await trio.sleep(10)  # it may have been down until now

    for life in (*fates, Fate(0)):
        try:
            async with open_factory(FLEET, machine=opener(machine, directory, life), seed=life.at) as factory:
                await operate(factory)
                life.live()
                state = factory._alive().state.value
                story.ended_at = machine.clock.utc()
                story.last = durable_of(state, Moment(trio.current_time(), story.ended_at))
                at_the_end = fold(remembered(directory), GMT)
                assert comparable(story.last, story.ended_at) == comparable(at_the_end, story.ended_at)
        except* (Killed, OrchestratorError):
            assert life.dead
        story.writes += life.writes
        if not life.dead:
            break
        await trio.sleep(DOWN[life.at % len(DOWN)])
    return story


def comparable(durable: Durable, now: datetime) -> Durable:
    """Without the bad ends that no longer count, and those that do to the millisecond."""
    since = now - timedelta(seconds=PERIOD)
    counting = {
        name: tuple(round(end.timestamp(), 3) for end in ends if end > since) for name, ends in durable.bad_ends.items()
    }
    return attrs.evolve(durable, bad_ends={name: ends for name, ends in counting.items() if ends})


def remembered(directory: Path) -> list[dict[str, Any]]:
    """What a start would read, without changing anything."""
    return [dict(segments.decode(raw) or {}) for part in segments.newest(directory) for raw in part.records()]


def everything(directory: Path) -> list[dict[str, Any]]:
    """All records, each once, without the snapshots; each snapshot is checked against what was before it."""
    told: list[bytes] = []
    for index, path in enumerate(segments.paths(directory)):
        head, *rest = segments.read(path).records()
        if index:
            meanwhile = segments._repeated(told, rest)
            snapshot = segments.decode(head)
            assert snapshot is not None
            at = instant(snapshot["utc"])
            sum_up = [segments.decode(raw) for raw in (told[:-meanwhile] if meanwhile else told)]
            assert comparable(fold([snapshot], GMT), at) == comparable(fold(sum_up, GMT), at)  # type: ignore[arg-type]
            rest = rest[meanwhile:]
        told += rest
    return [dict(segments.decode(raw) or {}) for raw in told]


def check(story: Story) -> None:
    """The promises."""
    lines = everything(story.directory)
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        by_kind.setdefault(line["kind"], []).append(line)
    begun = {line["run"]: line for line in by_kind["run_begun"]}

    # what was started was on the record first, and once
    launched = [spec.run_id for spec in story.machine.launcher.started]
    assert len(set(launched)) == len(launched)
    assert {*launched, *story.admitted} <= begun.keys()
    assert len(begun) == len(by_kind["run_begun"])

    # exactly one terminal reason for each run
    assert Counter(line["run"] for line in by_kind["run_ended"]) == Counter(begun.keys())

    # no occurrence begins twice
    attempts = Counter(
        (line["agent"], line["occurrence"], line["attempt"]) for line in begun.values() if line["cause"] == "cron"
    )
    assert set(attempts.values()) == {1}
    occurrences = Counter((line["agent"], line["occurrence"]) for line in by_kind["occurrence"])
    assert set(occurrences.values()) == {1}

    # none is forgotten: each is told of, if not by itself then by a newer one that stands for it
    for agent in FLEET.agents:
        if agent.schedule is not None:
            armed = [line for line in by_kind["schedule_armed"] if line["agent"] == agent.name]
            assert len(armed) == 1, "a cursor that is known is not set anew"
            schedule = Schedule(agent.schedule, GMT)
            spans = [
                (instant(line.get("first_missed") or line["occurrence"]), instant(line["occurrence"]))
                for line in by_kind["occurrence"]
                if line["agent"] == agent.name
            ]
            at = schedule.after(instant(armed[0]["utc"]))
            while at is not None and at <= story.machine.start + timedelta(seconds=END):
                assert any(first <= at <= newest for first, newest in spans), (agent.name, at)
                at = schedule.after(at)
    # and what was told of has begun, was dropped with a reason, or still waits
    assert story.last is not None
    waiting = {(name, waits.occurrence) for (name, _), waits in story.last.pending.items()}
    answered = {(line["agent"], line.get("occurrence")) for line in [*begun.values(), *by_kind.get("dropped", ())]}
    for name, occurrence in occurrences:
        assert (name, occurrence) in answered or (name, instant(occurrence)) in waiting

    # restart windows survive: nobody begins who has failed too often; and so does the hold
    held = False
    for index, line in enumerate(lines):
        if line["kind"] == "run_begun" and line["agent"] == "looping":
            assert not held
            at = instant(line["utc"])
            recent = [
                earlier
                for earlier in lines[:index]
                if earlier["kind"] == "run_ended"
                and earlier["agent"] == "looping"
                and AFTER[Reason(earlier["reason"])].counts
                and at - instant(earlier["utc"]) < timedelta(seconds=PERIOD - 0.01)
            ]
            assert len(recent) <= MOST
        held = held or (line["kind"] == "held" and line["agent"] == "looping")
    assert held
    assert len([line for line in by_kind["run_begun"] if line["agent"] == "helper"]) <= 2, "the day's runs are counted"
    assert len([line for line in by_kind["run_begun"] if line["agent"] == "frugal"]) <= CALLS, "and the hour's calls"
    check_blocks(lines)
    check_messages(story, by_kind)


def check_messages(story: Story, by_kind: dict[str, list[dict[str, Any]]]) -> None:
    """Each order was accepted once and told at least once; what was done was reported, and the reports still wait."""
    assert story.last is not None
    launched = {spec.run_id for spec in story.machine.launcher.started}
    prompts = [text for run_id, text in story.machine.runs.prompts.items() if run_id in launched]
    accepted = Counter(line["id"] for line in by_kind["message"])
    assert set(accepted.values()) == {1}
    for at in ASKS_AT:
        order = f"order-{at:g}"
        assert accepted[order] == 1
        assert any(order in prompt for prompt in prompts)
    assert story.ended_at is not None
    ends = [line for line in by_kind["run_ended"] if instant(line["utc"]) < story.ended_at]
    succeeded = {line["run"] for line in ends if line["reason"] == "succeeded"}
    reports = {f"{run}-m1" for run in succeeded if run.startswith("mailed")}
    assert {message.id for message in story.last.mail.box("steady")} >= reports


def check_blocks(lines: list[dict[str, Any]]) -> None:
    """Nobody begins at a provider before the time that it named; then one does, and the others when it has served."""
    until: datetime | None = None
    tries: set[str] = set()
    for line in lines:
        if line["kind"] == "provider_blocked":
            until = instant(line["until"])
        elif line["kind"] == "provider_serves":
            until = None
            tries.clear()
        elif line["kind"] == "run_ended":
            tries.discard(line["run"])
        elif line["kind"] == "run_begun" and line.get("provider") == "p" and until is not None:
            assert instant(line["utc"]) >= until - timedelta(seconds=0.01)
            assert not tries
            tries.add(line["run"])


def live(directory: Path, *fates: Fate) -> Story:
    directory.mkdir()
    story = trio.run(tell, directory, fates, clock=MockClock(autojump_threshold=0))
    check(story)
    return story


@pytest.fixture(autouse=True)
def _no_syncs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process leaves what the kernel was given; power cuts are another test's."""
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, bool)


def test_undisturbed_the_scenario_has_what_it_is_to_show(tmp_path: Path) -> None:
    story = live(tmp_path / "x")
    kinds = Counter(line["kind"] for line in everything(story.directory))
    assert kinds["held"] == 1
    assert kinds["occurrence"] == 19
    assert kinds["provider_blocked"] == kinds["provider_probed"] == 2
    assert kinds["provider_serves"] == 1
    assert kinds["spent"] >= 1
    assert kinds["dropped"] >= 1
    assert len(segments.paths(story.directory)) >= 4
    assert story.writes >= 40


@pytest.mark.parametrize("how", HOW)
def test_killed_at_any_write_it_goes_on(tmp_path: Path, how: str) -> None:
    writes = live(tmp_path / "0").writes
    for at in range(1, writes + 1):
        fate = Fate(at, how)
        live(tmp_path / str(at), fate)
        assert fate.dead


def test_killed_again_while_it_recovers_it_goes_on(tmp_path: Path) -> None:
    writes = live(tmp_path / "0").writes
    for at in range(2, writes + 1, 3):
        for second in (1, 2, 3, 5):
            how, again = HOW[at % len(HOW)], HOW[(at + second) % len(HOW)]
            live(tmp_path / f"{at}-{second}", Fate(at, how), Fate(second, again))


async def test_nothing_starts_before_its_admission_is_on_the_disk(tmp_path: Path, autojump_clock: MockClock) -> None:
    machine = SimulatedMachine(script)
    disk_is_quick = trio.Event()

    async def slow_disk(work: Callable[[], T]) -> T:
        await disk_is_quick.wait()
        return work()

    async with open_factory(FLEET, machine=opener(machine, tmp_path, Fate(0), slow_disk)) as factory:
        await trio.sleep(30)
        assert isinstance(await factory.start("helper"), Admit)
        await trio.sleep(5)
        assert [line["agent"] for line in remembered(tmp_path) if line["kind"] == "run_begun"] == [
            "steady",
            "looping",
            "helper",
        ]
        assert not machine.launcher.started
        disk_is_quick.set()
        await trio.sleep(0.1)
        assert len(machine.launcher.started) == 3


NIGHTLY = attrs.evolve(
    fleet(
        AgentDefinition("improver", AgentLayer.GROWTH, "demo", "its own task", grace_secs=2.0),
        AgentDefinition("minutely", AgentLayer.CORE, "demo", "is there as well", schedule="* * * * *"),
    ),
    compound_review=CompoundReviewConfig(
        "* * * * *", Path("/"), create_prs=True, gate=("gate",), agent="improver", max_open_prs=99
    ),
)
"""One whose nights are minutes."""


def reviewing(machine: SimulatedMachine) -> Callable[[LaunchSpec], Script]:
    """What its agents do: the improver as it is told."""

    def script(spec: LaunchSpec) -> Script:
        if spec.argv == ("gate",):
            return Script(secs=5.0)
        asked = machine.runs.prompts[spec.run_id].partition('"finding": "')[2].partition('"')[0]
        report = json.dumps({"finding": asked, "outcome": "improved", "summary": "made it better"})
        return Script(secs=10.0, last_words=says(text=f"```json\n{report}\n```\n"))

    return script


async def nights(directory: Path, fates: tuple[Fate, ...]) -> tuple[SimulatedMachine, int]:
    """Nights, with what befalls them, and a last life in which nothing does."""
    machine, writes = SimulatedMachine(), 0
    machine.script = reviewing(machine)
    machine.worktrees.keeps = lambda _: "1 commit"
    day = machine.start
    machine.scanner.found = Scan(
        "c" * 40,
        None,
        commits=tuple(
            Commit(f"{number:040x}", (), "A", day, f"fix: {number}", "", (FileChange(f"src/{name}.py", "M", 60, 5),))
            for number in range(5)
            for name in ("engine", "pump")
        ),
    )
    for life in (*fates, Fate(0)):
        try:
            async with open_factory(NIGHTLY, machine=opener(machine, directory, life), seed=life.at) as factory:
                await trio.sleep_until(END + 0.5)
                await trio.sleep(120)
                await factory._alive().state.wait_value(lambda state: state.review is None)
                life.live()
                state = factory._alive().state.value
                now = Moment(trio.current_time(), machine.clock.utc())
                assert durable_of(state, now).reviews == fold(remembered(directory), GMT).reviews
        except* (Killed, OrchestratorError):
            assert life.dead
        writes += life.writes
        if not life.dead:
            break
        await trio.sleep(DOWN[life.at % len(DOWN)])
    return machine, writes


def review_nights(directory: Path, *fates: Fate) -> int:
    """How many writes there were; what must hold, held."""
    directory.mkdir()
    machine, writes = trio.run(nights, directory, fates, clock=MockClock(autojump_threshold=0))
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for line in everything(directory):
        by_kind.setdefault(line["kind"], []).append(line)
    begun = Counter(line["review"] for line in by_kind["review_begun"])
    assert set(begun.values()) == {1}
    assert Counter(line["review"] for line in by_kind["review_ended"]) == begun
    told = [*by_kind["review_begun"], *by_kind.get("review_skipped", ())]
    occurrences = Counter(line["occurrence"] for line in told)
    assert set(occurrences.values()) == {1}, "none fires twice"
    assert len(by_kind["review_armed"]) == 1
    schedule, at = Schedule("* * * * *", GMT), instant(by_kind["review_armed"][0]["utc"])
    spans = [(instant(line.get("first_missed") or line["occurrence"]), instant(line["occurrence"])) for line in told]
    while (at := schedule.after(at) or at) <= machine.start + timedelta(seconds=END):
        assert any(first <= at <= newest for first, newest in spans), f"{at} was forgotten"
    assert len({each.branch for each in machine.forge.opened}) == len(machine.forge.opened), "none is opened twice"
    assert len({each.finding for each in machine.forge.opened}) == len(machine.forge.opened)
    finished = {line["branch"] for line in by_kind["review_improved"]}
    assert {each.branch for each in machine.forge.opened} == finished, "what is finished is handed in in the end"
    assert machine.launcher.living == {}
    assert machine.worktrees.kept() == 0
    return writes


def test_a_review_that_is_killed_at_any_write_ends_once_and_hands_in_once(tmp_path: Path) -> None:
    writes = review_nights(tmp_path / "0")
    assert writes > 40
    for at in range(1, writes + 1):
        how = HOW[at % len(HOW)]
        fate = Fate(at, how)
        try:
            review_nights(
                tmp_path / str(at), fate, Fate(1 + at % 5, HOW[at // 4 % len(HOW)]) if at % 3 == 0 else Fate(0)
            )
        except BaseException as error:
            error.add_note(f"killed at write {at}, {how}")
            raise
        assert fate.dead
