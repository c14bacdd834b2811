"""Random histories of a Core agent: the real factory on a mock clock, and clocks, suspends and restarts that go wrong.

Nothing may be begun twice, and nothing may be missed in silence: whatever the oracle says was due is told in one
record, by itself or among the coalesced, and what is told is begun or dropped with a reason.
"""

from __future__ import annotations

import random
from collections import Counter
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from darkfactory import (
    AgentDefinition,
    AgentLayer,
    CompoundReviewConfig,
    OrchestratorConfig,
    Overlap,
    open_factory,
)
from darkfactory.policy.history import fold
from darkfactory.testing import FAILS, Script, SimulatedMachine
from tests.cron_oracle import CRONS, DAILY, MINUTE, ZONES, Cron, nights

from .fleets import fleet

HOURS = 3600.0
SLEEPS = st.tuples(st.just("sleep"), st.floats(0.0, 6 * HOURS))
STEPS = st.tuples(st.just("step"), st.floats(-3 * HOURS, 3 * HOURS))
SUSPENDS = st.tuples(st.just("step"), st.just(26 * HOURS))
"""To the program a suspend is nothing else: Trio's clock stands still, the clock on the wall goes on."""
RESTARTS = st.tuples(st.just("restart"), st.floats(0.0, 6 * HOURS))
"""The factory stops in order, and starts again after a while."""
HISTORIES = st.lists(st.one_of(SLEEPS, SLEEPS, STEPS, SUSPENDS, RESTARTS), min_size=1, max_size=8)


@given(
    zone=st.sampled_from(ZONES),
    cron=st.one_of(DAILY, CRONS),
    history=HISTORIES,
    overlap=st.sampled_from(Overlap),
    jitter=st.sampled_from([0.0, 0.0, 600.0]),
    run_secs=st.sampled_from([1.0, 40.0, 4000.0]),
    data=st.data(),
)
@settings(deadline=None, max_examples=40)
def test_nothing_is_begun_twice_and_nothing_is_missed_in_silence(
    zone: str,
    cron: Cron,
    history: list[tuple[str, float]],
    overlap: Overlap,
    jitter: float,
    run_secs: float,
    data: st.DataObject,
) -> None:
    night = data.draw(st.sampled_from(nights(zone)[data.draw(st.sampled_from(sorted(nights(zone))))]))
    start = night + data.draw(st.integers(-36 * 60, 60)) * MINUTE + timedelta(seconds=data.draw(st.integers(0, 59)))
    dice = random.Random(data.draw(st.integers(0, 99)))
    machine = SimulatedMachine(lambda _: dice.choice([FAILS, Script(secs=run_secs)]), start=start)
    agent = AgentDefinition(
        "it",
        AgentLayer.CORE,
        "demo",
        "x",
        schedule=cron.text,
        overlap=overlap,
        jitter_secs=jitter,
        retries=1,
        stall_timeout_secs=5000.0,
    )
    config = fleet(agent, timezone=ZoneInfo(zone))
    looked = trio.run(live, machine, config, history, clock=MockClock(autojump_threshold=0))
    check(machine, cron, ZoneInfo(zone), start, looked)


async def live(machine: SimulatedMachine, config: OrchestratorConfig, history: list[tuple[str, float]]) -> datetime:
    """Live through the history; until when the scheduler has certainly looked: it does at least once a minute."""
    machine.clock.utc()
    lives: list[list[tuple[str, float]]] = [[]]
    for event in history:
        lives[-1].append(event)
        if event[0] == "restart":
            lives.append([])
    for life in lives:
        async with open_factory(config, machine=machine.open, seed=1):
            for what, secs in life:
                if what == "sleep":
                    await trio.sleep(secs)
                elif what == "step":
                    machine.clock.step(secs)
            if life is lives[-1]:
                looked = machine.clock.utc()
                await trio.sleep(61.0)
        if life and life[-1][0] == "restart":
            await trio.sleep(life[-1][1])
    return looked


def check(machine: SimulatedMachine, cron: Cron, zone: ZoneInfo, start: datetime, looked: datetime) -> None:
    (armed,) = machine.records("schedule_armed")
    told = machine.records("occurrence")
    spans = [(_instant(line.get("first_missed", line["occurrence"])), _instant(line["occurrence"])) for line in told]
    assert all(before[1] < after[0] for before, after in pairwise(spans)), "each later than all before"

    newest = max([looked, *(last for _, last in spans)])
    due = cron.occurrences(zone, _instant(armed["utc"]), newest)
    for occurrence in due:
        assert sum(first <= occurrence <= last for first, last in spans) == 1, f"{occurrence} was missed in silence"
    assert {instant for span in spans for instant in span} <= set(due), "nothing is told that was not due"

    begun = Counter(_instant(line["occurrence"]) for line in machine.records("run_begun", attempt=1))
    assert all(count == 1 for count in begun.values()), "never begun twice"
    tried_again = Counter(_instant(line["occurrence"]) for line in machine.records("run_begun", attempt=2))
    assert all(count == 1 for count in tried_again.values())
    dropped = {_instant(line["occurrence"]) for line in machine.records("dropped")}
    waiting = {waits.occurrence for waits in fold(machine.journal.lines, zone).pending.values()}
    for _, occurrence in spans:
        assert occurrence in begun or occurrence in dropped or occurrence in waiting, f"{occurrence} was lost"
    assert begun.keys() <= {last for _, last in spans}


@given(zone=st.sampled_from(ZONES), cron=st.one_of(DAILY, CRONS), history=HISTORIES, data=st.data())
@settings(deadline=None, max_examples=40)
def test_no_review_is_begun_twice_and_none_is_missed_in_silence(
    zone: str, cron: Cron, history: list[tuple[str, float]], data: st.DataObject
) -> None:
    night = data.draw(st.sampled_from(nights(zone)[data.draw(st.sampled_from(sorted(nights(zone))))]))
    start = night + data.draw(st.integers(-36 * 60, 60)) * MINUTE + timedelta(seconds=data.draw(st.integers(0, 59)))
    machine = SimulatedMachine(start=start)
    machine.scanner.secs = data.draw(st.sampled_from([1.0, 40.0, 4000.0]))
    section = CompoundReviewConfig(cron.text, Path("/"), max_duration_secs=5000.0)
    agent = AgentDefinition("idle", AgentLayer.GROWTH, "demo", "x")
    config = fleet(agent, timezone=ZoneInfo(zone), compound_review=section)
    looked = trio.run(live, machine, config, history, clock=MockClock(autojump_threshold=0))

    (armed,) = machine.records("review_armed")
    begun = [line for line in machine.records("review_begun") if "occurrence" in line]
    told = sorted([*begun, *machine.records("review_skipped")], key=lambda line: _instant(line["occurrence"]))
    spans = [(_instant(line.get("first_missed") or line["occurrence"]), _instant(line["occurrence"])) for line in told]
    assert all(before[1] < after[0] for before, after in pairwise(spans)), "none is told twice"
    newest = max([looked, *(last for _, last in spans)])
    due = cron.occurrences(ZoneInfo(zone), _instant(armed["utc"]), newest)
    for occurrence in due:
        assert sum(first <= occurrence <= last for first, last in spans) == 1, f"{occurrence} was missed in silence"
    assert {instant for span in spans for instant in span} <= set(due), "nothing is told that was not due"
    ended = Counter(line["review"] for line in machine.records("review_ended"))
    assert ended == Counter(line["review"] for line in machine.records("review_begun"))


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)
