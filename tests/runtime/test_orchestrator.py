"""The factory on a mock clock: the real runtime, scripted agents, exact times."""

from __future__ import annotations

import math

import attrs
import pytest
import trio
from trio.testing import MockClock

from darkfactory import (
    ACTION_FOR,
    Admit,
    AgentDefinition,
    AgentLayer,
    AgentNotFound,
    AgentOrchestrator,
    ConfigError,
    CorrectionLevel,
    DriftAlert,
    DriftMetrics,
    DriftScore,
    LayerConfig,
    OrchestratorError,
    Queue,
    Refuse,
    Secret,
    open_factory,
)
from darkfactory.testing import (
    FAILS,
    HANGS,
    STARTED,
    STUBBORN,
    SUCCEEDS,
    MemoryJournal,
    Script,
    ScriptedProcess,
    SimulatedMachine,
    says,
)

from .fleets import EXAMPLE, STEADY, by_agent, fleet, secs

SAFETY, CORE, GROWTH = AgentLayer.SAFETY, AgentLayer.CORE, AgentLayer.GROWTH


def alert(name: str, level: CorrectionLevel) -> DriftAlert:
    score = DriftScore(name, 0.5, DriftMetrics(0.5, 0.5, 0.5, 40), level)
    return DriftAlert(name, score, ACTION_FOR[level])


async def test_orchestrator_spawns_safety_agents(autojump_clock: MockClock) -> None:
    machine = SimulatedMachine(lambda _: HANGS)
    async with open_factory(fleet(*EXAMPLE), machine=machine.open) as factory:
        conditions = {status.name: status.condition for status in factory.agent_statuses()}
        assert conditions == {"sentinel": "starting", "synchronizer": "idle", "reviewer": "idle"}
        statuses = await factory.wait_statuses(lambda all_of_them: all_of_them[0].condition == "running")
        assert statuses[0].pid == 1001
        assert [spec.run_id.split("-")[0] for spec in machine.launcher.living.values()] == ["sentinel"]


async def test_orchestrator_shutdown_cleans_up(autojump_clock: MockClock) -> None:
    machine = SimulatedMachine(lambda _: STUBBORN)
    async with open_factory(fleet(*EXAMPLE), machine=machine.open) as factory:
        await factory.start("reviewer")
        await trio.sleep(1)
        assert len(machine.launcher.living) == 2
    assert not machine.launcher.living
    assert [line["reason"] for line in machine.records("run_ended")] == ["shutdown", "shutdown"]
    assert machine.records("factory_stopped")[0]["exit_code"] == 0


@pytest.mark.parametrize(
    ("level", "reason", "again_after"),
    [
        (CorrectionLevel.MINOR, None, None),
        (CorrectionLevel.MODERATE, "corrected_moderate", 600.0),
        (CorrectionLevel.SEVERE, "corrected_severe", 1.0),
        (CorrectionLevel.CRITICAL, "cancelled", None),
    ],
)
async def test_orchestrator_handles_drift_alert(
    autojump_clock: MockClock, level: CorrectionLevel, reason: str | None, again_after: float | None
) -> None:
    machine = SimulatedMachine(lambda _: HANGS)
    watch = AgentDefinition("watch", SAFETY, "demo", "watch", stall_timeout_secs=1e6)
    async with open_factory(fleet(watch), machine=machine.open) as factory:
        await factory.post(alert("watch", level))
        await trio.sleep(1000)
        ended = machine.records("run_ended")
        assert [line["reason"] for line in ended] == ([reason] if reason else [])
        begun = secs(machine, "run_begun")
        assert begun == ([0.0] if again_after is None else [0.0, again_after])
        assert machine.records("drift")[0]["level"] == level.name.lower()
        condition = factory.agent_statuses()[0].condition
        assert condition == ("held" if level is CorrectionLevel.CRITICAL else "running")


async def test_a_critical_hold_ends_only_by_resume(autojump_clock: MockClock) -> None:
    machine = SimulatedMachine(lambda _: HANGS)
    hourly = AgentDefinition("hourly", CORE, "demo", "x", schedule="@hourly")
    async with open_factory(fleet(hourly), machine=machine.open) as factory:
        await factory.post(alert("hourly", CorrectionLevel.CRITICAL))
        await trio.sleep(3 * 3600 + 60)
        assert isinstance(await factory.start("hourly"), Refuse)
    async with open_factory(fleet(hourly), machine=machine.open) as factory:  # another life, the same journal
        await trio.sleep(3 * 3600)
        assert not machine.records("run_begun")
        assert [line["reason"] for line in machine.records("dropped", cause="cron")] == ["held"] * 6
        assert await factory.resume("hourly")
        assert not await factory.resume("hourly")
        await trio.sleep(3600)
        assert len(machine.records("run_begun")) == 1


async def test_a_hold_can_be_ended_at_the_start(autojump_clock: MockClock) -> None:
    machine = SimulatedMachine(lambda _: HANGS)
    watch = AgentDefinition("watch", SAFETY, "demo", "watch")
    async with open_factory(fleet(watch), machine=machine.open) as factory:
        await factory.post(alert("watch", CorrectionLevel.CRITICAL))
        await factory.wait_statuses(lambda statuses: not statuses[0].running)
    async with open_factory(fleet(watch), machine=machine.open, resume=["watch"]) as factory:
        assert factory.agent_statuses()[0].running
    with pytest.raises(AgentNotFound):
        AgentOrchestrator(fleet(watch), resume=["wotch"])


async def test_back_off_doubles_and_the_sixth_bad_end_holds(autojump_clock: MockClock) -> None:
    machine = SimulatedMachine(lambda _: FAILS)
    watch = AgentDefinition("watch", SAFETY, "demo", "watch")
    async with open_factory(fleet(watch), machine=machine.open) as factory:
        await trio.sleep(3600)
        # each run lives a second; between an end and the next start: 1, 2, 4, 8, 16 s
        assert secs(machine, "run_begun") == [0.0, 2.0, 5.0, 10.0, 19.0, 36.0]
        assert secs(machine, "held") == [37.0]
        status = factory.agent_statuses()[0]
        assert (status.condition, status.restart_count) == ("held", 5)
        assert status.reason is not None
        assert "crash_loop" in status.reason


async def test_an_agent_that_succeeds_at_once_rests_before_it_runs_again(autojump_clock: MockClock) -> None:
    machine = SimulatedMachine(lambda _: SUCCEEDS)
    watch = AgentDefinition("watch", SAFETY, "demo", "watch")
    async with open_factory(fleet(watch), machine=machine.open):
        await trio.sleep(200)
        assert secs(machine, "run_begun") == [0.0, 61.0, 122.0, 183.0]


async def test_layers_stop_in_order_however_slow_their_agents_are(autojump_clock: MockClock) -> None:
    machine = SimulatedMachine(
        by_agent(
            safety=Script(secs=math.inf, dies_after=0.5),
            core=STUBBORN,
            growth=Script(secs=math.inf, dies_after=2.0),
            quick=HANGS,
        )
    )
    agents = (
        AgentDefinition("safety", SAFETY, "demo", "x"),
        AgentDefinition("core", CORE, "demo", "x", schedule="0 0 1 1 *"),
        AgentDefinition("growth", GROWTH, "demo", "x"),
        AgentDefinition("quick", GROWTH, "demo", "x"),
    )
    async with open_factory(fleet(*agents, shutdown_grace_secs=9.0), machine=machine.open) as factory:
        for name in ("core", "growth", "quick"):
            assert isinstance(await factory.start(name), Admit)
        await trio.sleep(10)
    ended = {line["agent"]: secs(machine, "run_ended", agent=line["agent"])[0] for line in machine.records("run_ended")}
    # three layers share 9 s: Growth has 3 and takes 2; Core then has (9-2)/2 = 3.5, all of it; Safety takes 0.5
    assert ended == {"quick": 10.0, "growth": 12.0, "core": 15.5, "safety": 16.0}
    assert secs(machine, "factory_stopped") == [16.0]


async def test_shutdown_is_bounded_even_by_what_cannot_be_killed(autojump_clock: MockClock) -> None:
    machine = SimulatedMachine(lambda _: Script(secs=math.inf, dies_after=None, immortal=True))
    watch = AgentDefinition("watch", SAFETY, "demo", "watch")
    orchestrator = AgentOrchestrator(fleet(watch), machine=machine.open)
    outcomes = []

    async def live(task_status: trio.TaskStatus[AgentOrchestrator]) -> None:
        outcomes.append(await orchestrator.run(task_status=task_status))

    async with trio.open_nursery() as nursery:
        await nursery.start(live)
        await trio.sleep(5)
        orchestrator.shutdown()
        began = trio.current_time()
    assert trio.current_time() - began <= 11.0 + 0.01
    assert outcomes[0].exit_code == 1
    assert "1001" in outcomes[0].unreaped[0]


async def test_a_second_request_kills_at_once(autojump_clock: MockClock) -> None:
    machine = SimulatedMachine(lambda _: STUBBORN)
    watch = AgentDefinition("watch", SAFETY, "demo", "watch", grace_secs=8.0)
    async with open_factory(fleet(watch), machine=machine.open) as factory:
        await trio.sleep(10)
        factory.shutdown()
        await trio.sleep(1)
        assert machine.launcher.living
        factory.shutdown(kill=True)
        await trio.sleep(0.01)
        assert not machine.launcher.living
    assert secs(machine, "factory_stopped") == [11.0]


async def test_cancelling_the_factory_stops_it_in_order(autojump_clock: MockClock) -> None:
    machine = SimulatedMachine(lambda _: STUBBORN)
    with trio.CancelScope() as scope:
        async with open_factory(fleet(*EXAMPLE, shutdown_grace_secs=3.0), machine=machine.open) as factory:
            await factory.start("reviewer")
            await trio.sleep(1)
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert not machine.launcher.living
    # Growth's share is 1.5 s, Safety has the rest
    assert [(line["agent"], line["reason"]) for line in machine.records("run_ended")] == [
        ("reviewer", "shutdown"),
        ("sentinel", "shutdown"),
    ]
    assert secs(machine, "run_ended") == [2.5, 4.0]


async def test_an_error_in_the_block_stops_everything_before_it_is_raised(autojump_clock: MockClock) -> None:
    machine = SimulatedMachine(lambda _: STUBBORN)
    with pytest.RaisesGroup(ZeroDivisionError):
        async with open_factory(fleet(*EXAMPLE), machine=machine.open):
            await trio.sleep(1)
            _ = 1 / 0
    assert not machine.launcher.living
    assert machine.records("factory_stopped")


async def test_a_stalled_run_is_stopped_and_starts_again(autojump_clock: MockClock) -> None:
    script = Script(output=((0.0, STARTED), (100.0, b"{}\n")), secs=math.inf)
    machine = SimulatedMachine(lambda _: script)
    watch = AgentDefinition("watch", SAFETY, "demo", "watch", stall_timeout_secs=300.0)
    async with open_factory(fleet(watch), machine=machine.open):
        await trio.sleep(500)
        assert secs(machine, "run_ended", reason="stalled") == [400.0]
        assert secs(machine, "run_begun") == [0.0, 401.0]


async def test_a_tool_that_announces_itself_must_do_so_in_time(autojump_clock: MockClock) -> None:
    machine = SimulatedMachine(lambda _: Script(output=(), secs=math.inf))
    watch = AgentDefinition("watch", SAFETY, "demo", "watch")
    async with open_factory(fleet(watch), machine=machine.open):
        await trio.sleep(121)
        assert secs(machine, "run_ended", reason="stalled") == [120.0]


async def test_a_run_that_lives_on_after_its_result_counts_as_what_it_said(autojump_clock: MockClock) -> None:
    result = b'{"type":"result","ok":true,"text":"all is well"}\n'
    machine = SimulatedMachine(lambda _: Script(output=((0.0, STARTED), (5.0, result)), secs=math.inf))
    reviewer = AgentDefinition("reviewer", GROWTH, "demo", "x")
    async with open_factory(fleet(reviewer), machine=machine.open) as factory:
        await factory.start("reviewer")
        await trio.sleep(100)
        (ended,) = machine.records("run_ended")
        assert (ended["reason"], ended["hung_after_result"]) == ("succeeded", True)
        assert secs(machine, "run_ended") == [20.0]


async def test_runs_beyond_the_cap_wait_and_go_on_in_order(autojump_clock: MockClock) -> None:
    machine = SimulatedMachine(lambda _: Script(secs=10.0))
    agents = [AgentDefinition(f"g{number}", GROWTH, "demo", "x") for number in range(4)]
    async with open_factory(fleet(*agents, max_concurrent_runs=2), machine=machine.open) as factory:
        answers = [await factory.start(agent.name) for agent in agents]
        assert [type(answer) for answer in answers] == [Admit, Admit, Queue, Queue]
        assert factory.agent_statuses()[3].reason == "max_concurrent_runs"
        await trio.sleep(100)
        begun = {
            line["agent"]: at for line, at in zip(machine.records("run_begun"), secs(machine, "run_begun"), strict=True)
        }
        assert begun == {"g0": 0.0, "g1": 0.0, "g2": 10.0, "g3": 10.0}


async def test_a_missing_tool_refuses_its_agent_and_no_other(autojump_clock: MockClock) -> None:
    machine = SimulatedMachine(lambda _: HANGS)
    agents = (AgentDefinition("a", SAFETY, "claude", "x"), AgentDefinition("b", SAFETY, "demo", "x"))
    machine.launcher.missing.add("claude")
    async with open_factory(fleet(*agents), machine=machine.open) as factory:
        await trio.sleep(600)
        first, second = factory.agent_statuses()
        assert first.condition == "refused"
        assert first.reason is not None
        assert "claude was not found on PATH" in first.reason
        assert second.condition == "running"
        assert isinstance(await factory.start("a"), Refuse)
        assert len(machine.records("tool_missing")) == 1
        assert not machine.records("refused")
        machine.launcher.missing.clear()
        await trio.sleep(61)
        assert factory.agent_statuses()[0].condition == "running"


async def test_a_program_that_cannot_be_started_is_backed_off_from(autojump_clock: MockClock) -> None:
    machine = SimulatedMachine(lambda _: Script(refuses="eagain"))
    watch = AgentDefinition("watch", SAFETY, "demo", "watch")
    async with open_factory(fleet(watch, layer=LayerConfig(backoff_jitter=0.0, max_restarts=2)), machine=machine.open):
        await trio.sleep(100)
        assert secs(machine, "run_begun") == [0.0, 1.0, 3.0]
        assert "eagain" in machine.records("run_ended")[0]["detail"]
        assert len(machine.records("held")) == 1


async def test_what_was_accepted_is_not_forgotten_by_a_restart(autojump_clock: MockClock) -> None:
    machine = SimulatedMachine(lambda _: Script(secs=1000.0))
    agents = [AgentDefinition(name, GROWTH, "demo", "x") for name in ("first", "second")]
    one_at_a_time = fleet(*agents, max_concurrent_runs=1)
    async with open_factory(one_at_a_time, machine=machine.open) as factory:
        await factory.start("first")
        assert isinstance(await factory.start("second"), Queue)
    async with open_factory(one_at_a_time, machine=machine.open):
        await trio.sleep(1)
        assert [line["agent"] for line in machine.records("run_begun")] == ["first", "second"]


async def test_questions_need_a_living_factory_and_a_known_agent(autojump_clock: MockClock) -> None:
    machine = SimulatedMachine(lambda _: HANGS)
    orchestrator = AgentOrchestrator(fleet(*EXAMPLE), machine=machine.open)
    with pytest.raises(OrchestratorError, match="not running"):
        orchestrator.agent_statuses()
    orchestrator.shutdown()  # nothing to stop, nothing remembered
    async with open_factory(fleet(*EXAMPLE), machine=machine.open) as factory:
        with pytest.raises(AgentNotFound, match="nobody"):
            await factory.start("nobody")
        refusal = await factory.start("sentinel")
        assert isinstance(refusal, Refuse)
        assert refusal.reason == "always_on"


async def test_a_fleet_made_by_hand_is_checked_like_a_file(autojump_clock: MockClock) -> None:
    twice = (AgentDefinition("same", GROWTH, "demo", "x"), AgentDefinition("same", GROWTH, "demo", "y"))
    with pytest.raises(ConfigError):
        AgentOrchestrator(fleet(*twice))


async def test_a_run_is_told_its_task_and_environment(autojump_clock: MockClock) -> None:
    machine = SimulatedMachine(lambda _: HANGS)
    tasked = AgentDefinition("tasked", GROWTH, "demo", "count the beans", args=("--steps", "1"))
    async with open_factory(fleet(tasked, layer=STEADY), machine=machine.open) as factory:
        admission = await factory.start("tasked")
        assert isinstance(admission, Admit)
        await factory.wait_statuses(lambda statuses: statuses[0].condition == "running")
        assert machine.runs.prompts == {admission.run_id: "count the beans"}
        (spec,) = machine.launcher.started
        assert spec.run_id == admission.run_id
        assert spec.argv[-2:] == ("--steps", "1")
        assert spec.stdin is not None


async def test_a_run_that_is_stopped_before_its_first_step_has_its_verdict(autojump_clock: MockClock) -> None:
    # the order of tasks is Trio's dice: so many times
    for _ in range(40):
        machine = SimulatedMachine(lambda _: HANGS)
        reviewer = AgentDefinition("reviewer", GROWTH, "demo", "x")
        async with open_factory(fleet(reviewer), machine=machine.open) as factory:
            assert isinstance(await factory.start("reviewer"), Admit)
            began = trio.current_time()
        assert trio.current_time() - began < 0.01
        assert [line["reason"] for line in machine.records("run_ended")] == ["shutdown"]
        assert machine.records("factory_stopped")[0]["exit_code"] == 0


async def test_a_critical_alert_that_meets_a_start_leaves_nothing_half_dead(autojump_clock: MockClock) -> None:
    for _ in range(20):
        machine = SimulatedMachine(lambda _: HANGS)
        reviewer = AgentDefinition("reviewer", GROWTH, "demo", "x")
        async with open_factory(fleet(reviewer), machine=machine.open) as factory, trio.open_nursery() as nursery:
            nursery.start_soon(factory.start, "reviewer")
            nursery.start_soon(factory.post, alert("reviewer", CorrectionLevel.CRITICAL))
            await trio.sleep(60)
            assert factory.agent_statuses()[0].condition == "held"


async def test_shutdown_at_any_moment_of_the_start_is_in_order(autojump_clock: MockClock) -> None:
    for steps in range(40):
        machine = SimulatedMachine(lambda _: HANGS)
        orchestrator = AgentOrchestrator(fleet(*EXAMPLE), machine=machine.open)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(orchestrator.run)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            orchestrator.shutdown()
            began = trio.current_time()
        assert trio.current_time() - began < 0.01
        begun = machine.records("run_begun")
        assert [line["run"] for line in machine.records("run_ended")] == [line["run"] for line in begun]


async def test_a_predicate_that_fails_fails_where_it_was_asked(autojump_clock: MockClock) -> None:
    machine = SimulatedMachine(lambda _: Script(secs=10.0))
    async with open_factory(fleet(*EXAMPLE), machine=machine.open) as factory:
        with pytest.raises(ZeroDivisionError):
            await factory.wait_statuses(lambda statuses: 1 / 0 > 1 if not statuses[0].running else False)
        assert (await factory.wait_statuses(lambda statuses: statuses[0].running))[0].running


async def test_waiting_ends_with_the_factory(autojump_clock: MockClock) -> None:
    machine = SimulatedMachine(lambda _: HANGS)
    async with open_factory(fleet(*EXAMPLE), machine=machine.open) as factory:
        factory.shutdown()
        with pytest.raises(OrchestratorError, match="stopped"):
            await factory.wait_statuses(lambda _: False)


async def test_what_an_agent_says_of_its_end_when_it_is_stopped_is_no_failure_of_its_own(
    autojump_clock: MockClock,
) -> None:
    failed = says(ok=False, text="interrupted")
    machine = SimulatedMachine(lambda _: Script(secs=math.inf, dies_after=1.0, dying_words=failed))
    async with open_factory(fleet(*EXAMPLE), machine=machine.open) as factory:
        await factory.start("reviewer")
        await trio.sleep(5)
    assert {line["reason"] for line in machine.records("run_ended")} == {"shutdown"}


async def test_a_run_whose_clean_up_takes_too_long_has_its_verdict_all_the_same(autojump_clock: MockClock) -> None:
    class Slow(ScriptedProcess):
        async def drain(self) -> None:
            await trio.sleep(3600)

    machine = SimulatedMachine(lambda _: SUCCEEDS)
    machine.launcher.process_type = Slow
    reviewer = AgentDefinition("reviewer", GROWTH, "demo", "x")
    async with open_factory(fleet(reviewer), machine=machine.open) as factory:
        await factory.start("reviewer")
        await trio.sleep(60)
        (ended,) = machine.records("run_ended")
        assert "not read to the end" in ended["detail"]
        assert secs(machine, "run_ended") == [11.0]
        assert isinstance(await factory.start("reviewer"), Admit)


async def test_a_journal_that_cannot_be_synced_does_not_break_the_bound(autojump_clock: MockClock) -> None:
    class Stuck(MemoryJournal):
        async def wait_durable(self, number: int) -> None:
            await trio.sleep_forever()

    machine = SimulatedMachine(lambda _: HANGS)
    machine.journal = Stuck()
    async with open_factory(fleet(*EXAMPLE), machine=machine.open):
        await trio.sleep(100)
        assert not machine.launcher.started  # nothing starts before its admission is durable
        began = trio.current_time()
    assert trio.current_time() - began <= 12.0


async def test_a_start_that_hangs_does_not_break_the_bound(autojump_clock: MockClock) -> None:
    machine = SimulatedMachine(lambda _: HANGS)

    async def launch(spec: object, sink: object) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(20)

    machine.launcher.launch = launch  # type: ignore[assignment]
    async with open_factory(fleet(EXAMPLE[0]), machine=machine.open):
        await trio.sleep(1)
        began = trio.current_time()
    assert trio.current_time() - began <= 19.0 + 1.0  # the start itself cannot be hurried; nothing is added to it
    assert machine.records("factory_stopped")[0]["exit_code"] == 1


async def test_a_backed_off_retry_goes_on_to_wait_after_a_restart(autojump_clock: MockClock) -> None:
    machine = SimulatedMachine(lambda _: FAILS)
    minute = LayerConfig(backoff_jitter=0.0, backoff_secs=60.0)
    reviewer = AgentDefinition("reviewer", GROWTH, "demo", "x", retries=1)
    async with open_factory(fleet(reviewer, layer=minute), machine=machine.open) as factory:
        await factory.start("reviewer")
        await trio.sleep(11)
    async with open_factory(fleet(reviewer, layer=minute), machine=machine.open):
        await trio.sleep(100)
    assert secs(machine, "run_begun") == [0.0, 61.0]


async def test_a_schedule_whose_cursor_lies_far_ahead_begins_now(autojump_clock: MockClock) -> None:
    machine = SimulatedMachine()
    hourly = AgentDefinition("hourly", CORE, "demo", "x", schedule="@hourly")
    machine.clock.step(30 * 86400)
    async with open_factory(fleet(hourly), machine=machine.open):
        await trio.sleep(3700)
    machine.clock.step(-30 * 86400)
    async with open_factory(fleet(hourly), machine=machine.open):
        await trio.sleep(3700)
    assert len(machine.records("run_begun")) == 2
    assert len(machine.records("schedule_ahead")) == 1


async def test_a_tool_that_was_found_is_no_longer_refused(autojump_clock: MockClock) -> None:
    machine = SimulatedMachine(lambda _: HANGS)
    machine.launcher.missing.add("claude")
    async with open_factory(fleet(AgentDefinition("a", GROWTH, "claude", "x")), machine=machine.open) as factory:
        await trio.sleep(1)
        assert factory.agent_statuses()[0].condition == "refused"
        machine.launcher.missing.clear()
        await trio.sleep(61)
        assert factory.agent_statuses()[0].condition == "idle"


async def test_a_path_that_the_agents_env_sets_is_not_told(autojump_clock: MockClock) -> None:
    machine = SimulatedMachine(lambda _: HANGS)
    machine.launcher.missing.add("claude")
    secretive = AgentDefinition("a", SAFETY, "claude", "x", env={"PATH": Secret("/opt/s3cret/bin")})
    async with open_factory(fleet(secretive), machine=machine.open):
        await trio.sleep(1)
    assert b"s3cret" not in bytes(machine.journal.data)


async def test_a_factory_that_cannot_start_says_so_plainly() -> None:
    absent = fleet(EXAMPLE[0])
    with pytest.raises(ConfigError, match="working_dir"):
        async with open_factory(attrs.evolve(absent, working_dir=absent.working_dir / "no" / "such")):
            raise AssertionError("unreachable")


async def test_lives_within_one_second_have_runs_of_different_names(autojump_clock: MockClock) -> None:
    machine = SimulatedMachine(lambda _: HANGS)
    for _ in range(2):
        async with open_factory(fleet(EXAMPLE[0]), machine=machine.open, seed=1):
            await trio.sleep(0.1)
    first, second = machine.records("run_begun")
    assert first["run"] != second["run"]
