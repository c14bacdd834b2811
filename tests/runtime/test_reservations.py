"""Leases in a whole factory: who waits for whom, until when, and what its status says meanwhile."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from darkfactory import Admit, AgentDefinition, AgentLayer, Queue, Reservation, open_factory
from darkfactory.testing import FAILS, HANGS, Script, SimulatedMachine

from .fleets import by_agent, fleet, secs

SRC, DOCS = Reservation("src/**"), Reservation("docs/*.md", shared=True)


def worker(name: str, *reserve: Reservation, **fields: object) -> AgentDefinition:
    return AgentDefinition(name, AgentLayer.GROWTH, "demo", "x", reserve=reserve, **fields)  # type: ignore[arg-type]


async def test_the_next_one_starts_at_the_moment_in_which_the_lease_is_free(autojump_clock: MockClock) -> None:
    machine = SimulatedMachine(by_agent(one=Script(secs=100.0), two=Script(secs=30.0), three=Script(secs=5.0)))
    config = fleet(worker("one", SRC, DOCS), worker("two", Reservation("src/a.py")), worker("three", DOCS))
    async with open_factory(config, machine=machine.open) as factory:
        first = await factory.start("one")
        assert isinstance(first, Admit)
        detail = f"src/a.py: run {first.run_id} of one has src/**"
        assert await factory.start("two") == Queue("reserved", detail)
        assert isinstance(await factory.start("three"), Admit)  # they share what they both want
        one, two, three = factory.agent_statuses()
        assert (one.leases, three.leases) == ((SRC, DOCS), (DOCS,))
        assert (two.condition, two.reason, two.leases) == ("queued", f"reserved: {detail}", ())
        await trio.sleep(200)
        assert not any(status.leases for status in factory.agent_statuses())
    assert secs(machine, "run_begun", agent="two") == [100.0]
    (queued,) = machine.records("queued")
    assert (queued["reason"], queued["detail"]) == ("reserved", detail)
    assert [line.get("leases") for line in machine.records("run_begun")] == [
        ["src/**", {"glob": "docs/*.md", "shared": True}],
        [{"glob": "docs/*.md", "shared": True}],
        ["src/a.py"],
    ]


async def test_a_writer_among_readers_that_never_rest_gets_its_turn(autojump_clock: MockClock) -> None:
    """Every ten seconds a reader starts and reads for a quarter of a minute: some reader always has a lease."""
    readers = [worker(f"reader-{number}", DOCS) for number in range(4)]
    machine = SimulatedMachine(lambda spec: Script(secs=15.0 if spec.run_id.startswith("reader") else 7.0))
    config = fleet(*readers, worker("writer", Reservation("docs")))
    async with open_factory(config, machine=machine.open) as factory:
        for turn in range(12):
            await factory.start(f"reader-{turn % 4}")
            if turn == 4:
                assert isinstance(await factory.start("writer"), Queue)
            await trio.sleep(10)
        await trio.sleep(100)
    # the reader that began with the writer's asking is the last one before it
    assert secs(machine, "run_begun", agent="writer") == [55.0]
    assert secs(machine, "run_begun", agent="reader-1") == [10.0, 62.0, 90.0]


@pytest.mark.parametrize("end", ["failed", "held", "refused to start", "stalled"])
async def test_however_a_run_ends_its_lease_is_free_then(autojump_clock: MockClock, end: str) -> None:
    stubborn = Script(output=HANGS.output, secs=1e9, dies_after=2.0)
    script = {
        "failed": Script(secs=50.0, exit_code=1, last_words=FAILS.last_words),
        "refused to start": Script(refuses="eacces"),
    }.get(end, stubborn)
    machine = SimulatedMachine(by_agent(one=script, two=Script(secs=1.0)))
    config = fleet(worker("one", SRC, stall_timeout_secs=50.0), worker("two", SRC))
    async with open_factory(config, machine=machine.open) as factory:
        await factory.start("one")
        await factory.start("two")
        await trio.sleep(48)
        if end == "held":
            await factory.hold("one")
        await trio.sleep(50)
    ended = secs(machine, "run_ended", agent="one")
    assert ended == {"failed": [50.0], "held": [50.0], "refused to start": [0.0], "stalled": [52.0]}[end]
    assert secs(machine, "run_begun", agent="two") == ended


async def test_a_shutdown_waits_for_no_lease_and_the_next_life_has_them_all_free(autojump_clock: MockClock) -> None:
    machine = SimulatedMachine(lambda _: Script(secs=100.0))
    config = fleet(worker("one", SRC), worker("two", SRC))
    async with open_factory(config, machine=machine.open) as factory:
        await factory.start("one")
        await factory.start("two")
        await trio.sleep(10)
    assert secs(machine, "factory_stopped") == [10.0]
    async with open_factory(config, machine=machine.open) as factory:
        # what waited is remembered, and comes before what is asked for now
        assert [status.running for status in factory.agent_statuses()] == [False, True]
        assert isinstance(await factory.start("one"), Queue)
        await trio.sleep(150)
    assert secs(machine, "run_begun", agent="two") == [10.0]
    assert secs(machine, "run_begun", agent="one") == [0.0, 110.0]


async def test_a_factory_that_was_killed_leaves_no_lease(autojump_clock: MockClock) -> None:
    machine = SimulatedMachine(lambda _: Script(secs=100.0))
    config = fleet(worker("one", SRC), worker("two", SRC))
    async with open_factory(config, machine=machine.open) as factory:
        await factory.start("one")
        await factory.start("two")
        await trio.sleep(10)
        journal = bytes(machine.journal.data)
    machine.journal.data[:] = journal  # it never stopped in order
    async with open_factory(config, machine=machine.open):
        await trio.sleep(150)
    assert [line["reason"] for line in machine.records("run_ended", agent="one")] == ["lost"]
    assert secs(machine, "run_begun", agent="two") == [10.0]
