"""Cron on the runtime: fired on time, once, whatever the clock on the wall does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import trio
from trio.testing import MockClock

from darkfactory import AgentDefinition, AgentLayer, Event, Overlap, Spawn, TimeScheduler, open_factory
from darkfactory.policy.schedule import Schedule, ScheduledAgent
from darkfactory.runtime.beat import Beat
from darkfactory.runtime.inbox import Sender
from darkfactory.testing import SUCCEEDS, Script, SimulatedClock, SimulatedMachine

from .fleets import beating, fleet, secs

CORE = AgentLayer.CORE
START = datetime(2026, 1, 5, tzinfo=UTC)


def core(name: str = "nightly", schedule: str = "0 3 * * *", **fields: object) -> AgentDefinition:
    return AgentDefinition(name, CORE, "demo", "x", schedule=schedule, **fields)  # type: ignore[arg-type]


def idle_beat(nursery: trio.Nursery) -> Beat:
    """One that beats as long as the nursery lives, and looks at nothing itself."""
    beat = Beat(lambda: None)
    nursery.start_soon(beating, beat)
    return beat


async def test_scheduler_fires_at_cron_time(autojump_clock: MockClock) -> None:
    clock = SimulatedClock(START)
    clock.utc()
    send, receive = trio.open_memory_channel[Event](10)
    zone = fleet(core()).timezone
    agents = [
        ScheduledAgent(name, Schedule(expression, zone), START)
        for name, expression in [("quarterly", "*/15 * * * *"), ("nightly", "0 3 * * *"), ("never", "0 0 30 2 *")]
    ]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(TimeScheduler(agents, Sender(send, clock), idle_beat(nursery)).run)
        fired = []
        while len(fired) < 13:
            event = await receive.receive()
            assert isinstance(event, Spawn)
            assert event.when.utc - event.occurrence < timedelta(milliseconds=2)
            fired.append((event.agent, (event.occurrence - START).total_seconds() / 60))
        nursery.cancel_scope.cancel()
    assert sorted(fired) == [("nightly", 180.0), *[("quarterly", 15.0 * n) for n in range(1, 13)]]


async def test_an_occurrence_starts_a_run_and_is_journalled_before_it(autojump_clock: MockClock) -> None:
    machine = SimulatedMachine()
    async with open_factory(fleet(core()), machine=machine.open):
        await trio.sleep(2 * 86400)
    assert secs(machine, "run_begun") == [3 * 3600.0, 27 * 3600.0]
    kinds = [line["kind"] for line in machine.journal.lines]
    assert kinds[2:6] == ["occurrence", "run_begun", "run_started", "run_ended"]


async def test_a_clock_set_back_fires_nothing_twice(autojump_clock: MockClock) -> None:
    machine = SimulatedMachine()
    async with open_factory(fleet(core(schedule="0 * * * *")), machine=machine.open):
        await trio.sleep(5.5 * 3600)
        machine.clock.step(-3 * 3600)
        await trio.sleep(5 * 3600)
    occurrences = [line["occurrence"] for line in machine.records("occurrence")]
    assert len(occurrences) == len(set(occurrences)) == 7
    assert len(machine.records("run_begun")) == 7


async def test_a_clock_set_forward_coalesces_what_it_jumped_over(autojump_clock: MockClock) -> None:
    machine = SimulatedMachine()
    async with open_factory(fleet(core(schedule="0 * * * *")), machine=machine.open):
        await trio.sleep(1800)
        machine.clock.step(3 * 3600)
        await trio.sleep(120)
    (occurrence,) = machine.records("occurrence")
    assert occurrence["occurrence"].startswith("2026-01-05T03:00")
    assert occurrence["first_missed"].startswith("2026-01-05T01:00")
    assert len(machine.records("run_begun")) == 1


@pytest.mark.parametrize(("down_hours", "runs"), [(0.9, 1), (1.5, 0)])
async def test_what_came_while_the_factory_was_down_runs_if_it_is_young_enough(
    autojump_clock: MockClock, down_hours: float, runs: int
) -> None:
    machine = SimulatedMachine()
    async with open_factory(fleet(core()), machine=machine.open):
        await trio.sleep(3 * 3600 - 60)
    await trio.sleep(60 + down_hours * 3600)
    async with open_factory(fleet(core()), machine=machine.open):
        await trio.sleep(60)
    assert len(machine.records("occurrence")) == 1
    assert len(machine.records("run_begun")) == runs
    assert len(machine.records("dropped", reason="missed")) == 1 - runs


async def test_a_first_start_begins_now(autojump_clock: MockClock) -> None:
    machine = SimulatedMachine()
    machine.clock.step(3.5 * 3600)
    async with open_factory(fleet(core()), machine=machine.open):
        await trio.sleep(3600)
    assert not machine.records("occurrence")


@pytest.mark.parametrize(
    ("overlap", "begun", "ended"),
    [
        (Overlap.SKIP, [3600.0, 10800.0], ["succeeded"]),
        (Overlap.QUEUE, [3600.0, 9000.0], ["succeeded"]),
        (Overlap.RESTART, [3600.0, 7200.0, 10800.0], ["cancelled", "cancelled"]),
    ],
)
async def test_an_occurrence_that_finds_the_former_run_alive(
    autojump_clock: MockClock, overlap: Overlap, begun: list[float], ended: list[str]
) -> None:
    machine = SimulatedMachine(lambda _: Script(secs=5400.0))  # an hour and a half
    hourly = core(schedule="@hourly", overlap=overlap, stall_timeout_secs=6000.0)
    async with open_factory(fleet(hourly), machine=machine.open):
        await trio.sleep(3 * 3600 + 10)
        assert secs(machine, "run_begun") == begun
        assert [line["reason"] for line in machine.records("run_ended")] == ended


async def test_a_failed_occurrence_is_tried_again_while_retries_last(autojump_clock: MockClock) -> None:
    machine = SimulatedMachine(lambda _: Script(exit_code=1, last_words=b""))
    async with open_factory(fleet(core(retries=2)), machine=machine.open):
        await trio.sleep(4 * 3600)
    assert [line["attempt"] for line in machine.records("run_begun")] == [1, 2, 3]
    assert [at - 3 * 3600 for at in secs(machine, "run_begun")] == [0.0, 2.0, 5.0]


async def test_the_day_the_clock_is_set_forward_has_its_run(autojump_clock: MockClock) -> None:
    from zoneinfo import ZoneInfo

    machine = SimulatedMachine(lambda _: SUCCEEDS, start=datetime(2026, 3, 28, 12, tzinfo=UTC))
    berlin = fleet(core(schedule="30 2 * * *"), timezone=ZoneInfo("Europe/Berlin"))
    async with open_factory(berlin, machine=machine.open):
        await trio.sleep(2 * 86400)
    assert [line["occurrence"][:16] for line in machine.records("occurrence")] == [
        "2026-03-29T01:00",  # 02:30 is skipped; 03:00 is the first instant after the gap
        "2026-03-30T00:30",
    ]


async def test_an_agent_armed_anew_fires_by_its_new_schedule_alone(autojump_clock: MockClock) -> None:
    clock = SimulatedClock(START)
    clock.utc()
    send, receive = trio.open_memory_channel[Event](100)
    zone = fleet(core()).timezone
    agents = [ScheduledAgent(name, Schedule("0 * * * *", zone), START) for name in ("it", "other")]
    async with trio.open_nursery() as nursery:
        timetable = TimeScheduler(agents, Sender(send, clock), idle_beat(nursery))
        nursery.start_soon(timetable.run)
        await trio.sleep(90)  # it sleeps for a minute, and the new occurrence is nearer
        timetable.arm(ScheduledAgent("it", Schedule("2-4 0 * * *", zone), clock.utc()))
        await trio.sleep(2 * 3600)
        nursery.cancel_scope.cancel()
    send.close()
    fired = [event async for event in receive]
    assert [(event.agent, (event.when.utc - START).total_seconds()) for event in fired] == [  # type: ignore[attr-defined]
        ("it", 120.0), ("it", 180.0), ("it", 240.0), ("other", 3600.0), ("other", 7200.0),
    ]  # fmt: skip
