"""Leases from a server: no run without them, none kept longer than its run, and a server that does nobody any harm."""

from __future__ import annotations

import itertools

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from darkfactory import (
    Admit,
    AgentDefinition,
    AgentLayer,
    AgentMailConfig,
    OrchestratorConfig,
    ProviderConfig,
    Reservation,
    open_factory,
)
from darkfactory.runtime import body
from darkfactory.testing import HANGS, STUBBORN, CancelAtStep, Script, SimulatedAgentMail, SimulatedMachine

from .fleets import fleet, secs

SRC = Reservation("src/**")
TTL = 600.0


def worker(name: str = "one", layer: AgentLayer = AgentLayer.GROWTH, **fields: object) -> AgentDefinition:
    return AgentDefinition(name, layer, "demo", "x", **{"reserve": (SRC,), "stall_timeout_secs": 7000.0, **fields})  # type: ignore[arg-type]


def mailed(*agents: AgentDefinition, **fields: object) -> OrchestratorConfig:
    return fleet(*agents, agent_mail=AgentMailConfig("http://127.0.0.1:1/", ttl_secs=TTL), **fields)


def world(script: Script | None = None, **vices: object) -> tuple[SimulatedMachine, SimulatedAgentMail]:
    server = SimulatedAgentMail(**vices)  # type: ignore[arg-type]
    return SimulatedMachine(lambda _: script or Script(secs=100.0), leases=server), server


async def test_a_run_has_its_leases_before_its_process_and_gives_them_back_before_its_verdict(
    autojump_clock: MockClock,
) -> None:
    machine, server = world(secs=0.25)
    async with open_factory(mailed(worker()), machine=machine.open) as factory:
        assert isinstance(await factory.start("one"), Admit)
        await trio.sleep(0.2)
        assert machine.launcher.started == []
        await trio.sleep(50)
        assert server.held == {"one": (SRC,)}
        await trio.sleep(100)
        assert server.held == {}
    assert server.asked == [("grant", "one"), ("release", "one")]
    assert secs(machine, "run_started") == [0.25]
    assert secs(machine, "run_ended") == [100.5]


async def test_who_reserves_nothing_asks_nobody(autojump_clock: MockClock) -> None:
    machine, server = world(away=True)
    async with open_factory(mailed(worker(reserve=())), machine=machine.open) as factory:
        await factory.start("one")
        await trio.sleep(200)
    assert server.asked == []
    assert [line["reason"] for line in machine.records("run_ended")] == ["succeeded"]


@pytest.mark.parametrize("vice", ["away", "conflict"])
async def test_without_its_leases_a_run_does_not_start_and_asks_again_later_and_later(
    autojump_clock: MockClock, vice: str
) -> None:
    vices = {"away": True} if vice == "away" else {"taken": {"src/**": "GreenCastle"}}
    machine, server = world(**vices)
    config = mailed(worker(max_runs_per_day=1, provider="p"), providers={"p": ProviderConfig()})
    async with open_factory(config, machine=machine.open) as factory:
        await factory.start("one")
        await trio.sleep(2000)
        assert machine.launcher.started == []
        assert machine.runs.prompts == {}
        assert server.held == {}
        (status,) = factory.agent_statuses()
        assert (status.condition, status.reason) == ("queued", "agent_mail")
        server.away, server.taken = False, {}
        await trio.sleep(400)
        assert len(machine.launcher.started) == 1
    # 5 s, doubled to five minutes
    assert secs(machine, "run_begun") == [0, 5, 15, 35, 75, 155, 315, 615, 915, 1215, 1515, 1815, 2115]
    ends = machine.records("run_ended")
    assert [line["reason"] for line in ends] == ["reserved"] * 12 + ["succeeded"]
    detail = {"away": "the simulated server is away", "conflict": "src/**: GreenCastle has it"}[vice]
    assert ends[0]["detail"] == f"agent mail: {detail}"
    assert machine.records("queued")[0]["detail"] == f"agent mail: {detail}; asked again in 5 s"
    assert not machine.records("held")
    grants, releases = server.asked.count(("grant", "one")), server.asked.count(("release", "one"))
    assert grants == releases == 13


async def test_an_always_on_agent_waits_for_the_server_without_a_bad_end(autojump_clock: MockClock) -> None:
    machine, server = world(away=True)
    async with open_factory(mailed(worker(layer=AgentLayer.SAFETY)), machine=machine.open) as factory:
        await trio.sleep(10000)
        (status,) = factory.agent_statuses()
        assert (status.condition, status.reason, status.drift_score) == ("queued", "agent_mail", None)
        server.away = False
        await trio.sleep(305)
        assert factory.agent_statuses()[0].running


@pytest.mark.parametrize("warm", [0, 1])
async def test_a_message_waits_until_its_agent_has_its_leases(autojump_clock: MockClock, warm: int) -> None:
    machine, server = world(away=True)
    async with open_factory(mailed(worker(warm=warm)), machine=machine.open) as factory:
        assert isinstance((await factory.send("mind the gap", to="one")).outcome, Admit)
        await trio.sleep(100)
        assert machine.records("run_started") == []
        assert machine.records("messages_delivered") == []
        server.away = False
        await trio.sleep(100)
        (started,) = machine.records("run_started")
        assert "mind the gap" in machine.runs.prompts[started["run"]]
        await trio.sleep(100)
        assert len(machine.records("messages_done")) == 1
        assert server.held == {}


async def test_leases_are_renewed_at_half_their_time_for_as_long_as_the_run_lives(autojump_clock: MockClock) -> None:
    machine, server = world(Script(secs=2000.0))
    async with open_factory(mailed(worker()), machine=machine.open) as factory:
        await factory.start("one")
        for _ in range(19):
            await trio.sleep(100)
            assert trio.current_time() + TTL / 2 - 1 <= server.until["one"] <= trio.current_time() + TTL + 1
        await trio.sleep(200)
        assert server.until == {}
    assert server.asked.count(("renew", "one")) == 6


async def test_a_run_whose_leases_cannot_be_renewed_goes_on_and_it_is_told_once_each(autojump_clock: MockClock) -> None:
    machine, server = world(Script(secs=3000.0))
    with capture_logs() as logs:
        async with open_factory(mailed(worker()), machine=machine.open) as factory:
            await factory.start("one")
            await trio.sleep(100)
            server.away = True
            await trio.sleep(1000)
            assert factory.agent_statuses()[0].running
            server.away = False
            await trio.sleep(400)
            del server.held["one"]  # somebody cleared it away there
            await trio.sleep(1000)
            server.away = True
            await trio.sleep(1000)
    told = [line["event"] for line in logs if line["event"].startswith("leases_")]
    assert told == [
        "leases_not_renewed",
        "leases_lapsed",
        "leases_renewed",
        "leases_lapsed",
        "leases_not_renewed",
        "leases_lapsed",
        "leases_not_released",
    ]
    assert [line["reason"] for line in machine.records("run_ended")] == ["succeeded"]


@pytest.mark.parametrize("hangs_in", ["grant", "release"])
async def test_a_server_that_hangs_keeps_no_shutdown_waiting_beyond_its_bound(
    autojump_clock: MockClock, hangs_in: str
) -> None:
    machine, server = world(Script(secs=1e9))
    if hangs_in == "grant":
        server.secs = 1e9
    agents = [
        worker(layer.value, layer, reserve=(Reservation(layer.value),))
        for layer in (AgentLayer.SAFETY, AgentLayer.GROWTH)
    ]
    async with open_factory(mailed(*agents), machine=machine.open) as factory:
        await factory.start("Growth")
        await trio.sleep(10)
        server.secs = 1e9
    (stopped,) = machine.records("factory_stopped")
    assert (stopped["exit_code"], stopped.get("unreaped")) == (0, None)
    assert secs(machine, "factory_stopped")[0] <= 15.0
    assert {line["reason"] for line in machine.records("run_ended")} == {"shutdown"}


@pytest.mark.parametrize("when", ["it_is_over", "it_is_held", "it_ignores_sigterm", "it_is_asking"])
async def test_a_server_that_hangs_makes_nobody_unreaped_whatever_the_run_is_at(
    autojump_clock: MockClock, when: str
) -> None:
    """The factory stops while a run gives back its leases, or has used up its grace, or still asks for them."""
    script = {"it_is_over": Script(secs=5.0), "it_is_held": HANGS}.get(when, STUBBORN)
    machine, server = world(script, secs=1e9 if when == "it_is_asking" else 0.0)
    async with open_factory(mailed(worker(), shutdown_grace_secs=2.0), machine=machine.open) as factory:
        await factory.start("one")
        await trio.sleep(4.5)
        server.secs = 1e9
        if when == "it_is_held":
            await factory.hold("one")
        await trio.sleep(1)
        factory.shutdown(kill=when == "it_is_asking")
    (stopped,) = machine.records("factory_stopped")
    assert (stopped["exit_code"], stopped.get("unreaped")) == (0, None)
    assert secs(machine, "factory_stopped")[0] <= 5.5 + 2.8


async def test_a_slow_server_has_its_time_to_take_back_what_a_run_could_not_use(autojump_clock: MockClock) -> None:
    machine, server = world(secs=3.0, taken={"src/**": "GreenCastle"})
    with capture_logs() as logs:
        async with open_factory(mailed(worker()), machine=machine.open) as factory:
            await factory.start("one")
            await trio.sleep(10)
            assert len(machine.records("run_ended")) == 1
            assert server.held == {}
    assert not [line for line in logs if line["event"] == "leases_not_released"]


async def test_leases_that_there_was_no_time_to_give_back_are_renewed_no_more(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body, "CLEANUP_SECS", 0.0)
    machine, server = world(STUBBORN)
    with capture_logs() as logs:
        async with open_factory(
            mailed(worker(timeout_secs=10.0, stall_timeout_secs=9.0)), machine=machine.open
        ) as factory:
            await factory.start("one")
            await trio.sleep(2000)
            assert len(machine.records("run_ended")) == 1
            assert ("renew", "one") not in server.asked
    assert [line["event"] for line in logs if line["event"].startswith("leases_")] == ["leases_not_released"]


async def test_a_hold_while_the_leases_are_asked_for_gives_back_what_comes(autojump_clock: MockClock) -> None:
    machine, server = world(secs=0.5)
    async with open_factory(mailed(worker()), machine=machine.open) as factory:
        await factory.start("one")
        await trio.sleep(0.2)
        await factory.hold("one")
        await trio.sleep(0.5)
        assert server.asked == [("grant", "one"), ("release", "one")]
        await trio.sleep(1)
        assert server.held == {}
    assert machine.launcher.started == []
    assert [line["reason"] for line in machine.records("run_ended")] == ["cancelled"]


def test_wherever_a_factory_is_cancelled_it_leaves_no_lease() -> None:
    """Step by step, wherever any of its tasks stands: in the middle of asking, of starting, of giving back."""
    steps = 0
    for step in itertools.count(1):
        machine, server = world(Script(secs=1.0), secs=0.1)
        cancel = CancelAtStep(step)

        async def live(machine: SimulatedMachine = machine, scope: trio.CancelScope = cancel.scope) -> None:
            with scope:
                async with open_factory(mailed(worker(), worker("two")), machine=machine.open, seed=1) as factory:
                    await factory.start("one")
                    await factory.start("two")
                    await trio.sleep(3)

        trio.run(live, clock=MockClock(autojump_threshold=0), instruments=[cancel])
        assert server.held == {}, f"cancelled at step {step}"
        begun, ended = machine.records("run_begun"), machine.records("run_ended")
        assert len(begun) == len(ended)
        if cancel.at is None:
            break
        steps += 1
    assert steps > 100
