"""Warm processes in a simulated factory: a run takes one over, whatever happens in between; nothing is left of them."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from darkfactory import (
    Admit,
    AgentDefinition,
    AgentLayer,
    AgentOrchestrator,
    ConfigError,
    OrchestratorConfig,
    OrchestratorError,
    ToolConfig,
    open_factory,
)
from darkfactory.devices.process import LaunchSpec
from darkfactory.devices.runstore import Keep, Pruned
from darkfactory.model.fleet import Isolation, PromptVia
from darkfactory.testing import (
    HANGS,
    STARTED,
    STUBBORN,
    SUCCEEDS,
    CancelAtStep,
    Script,
    ScriptedProcess,
    SimulatedMachine,
)

from .fleets import fleet, secs
from .fuses import Bug, Fuse, blown_in_turn, with_fuse


def helper(warm: int = 1, **fields: Any) -> AgentDefinition:
    return AgentDefinition("helper", AgentLayer.GROWTH, "demo", "do it", warm=warm, **fields)


async def warmed_up(factory: AgentOrchestrator, warm: int = 1) -> None:
    await factory.wait_statuses(lambda agents: agents[0].warm == warm)


async def start(factory: AgentOrchestrator) -> str:
    admission = await factory.start("helper")
    assert isinstance(admission, Admit)
    return admission.run_id


def by_warmth(waiting: Script, cold: Script = SUCCEEDS) -> Callable[[LaunchSpec], Script]:
    return lambda spec: waiting if spec.prompt_later else cold


async def test_a_run_takes_over_the_process_that_waits_and_gives_it_the_prompt(autojump_clock: MockClock):
    machine = SimulatedMachine(lambda _: Script(output=((0.5, STARTED),), secs=3.0))
    processes = with_processes(machine)
    async with open_factory(fleet(helper()), machine=machine.open) as factory:
        await trio.sleep(100)
        run_id = await start(factory)
        await factory.wait_statuses(lambda agents: not agents[0].running)
    (started, _replaced) = machine.launcher.started
    assert started.run_id == run_id
    assert started.prompt_later
    assert started.stdin is None
    assert processes[0].prompt == b"do it"
    assert machine.runs.prompts == {run_id: "do it"}
    assert secs(machine, "run_begun") == [100.0]
    assert secs(machine, "run_started", pid=processes[0].pid) == [100.0]
    assert secs(machine, "run_ended", reason="succeeded", run=run_id) == [103.0]


async def test_what_it_used_before_its_prompt_is_no_part_of_the_limits_on_its_run(autojump_clock: MockClock):
    limits = {"start_timeout_secs": 30.0, "stall_timeout_secs": 40.0, "timeout_secs": 50.0}
    machine = SimulatedMachine(lambda _: Script(output=((29.0, STARTED), (49.0, b"{}\n")), secs=math.inf))
    async with open_factory(fleet(helper(warm_idle_secs=1e6, **limits)), machine=machine.open) as factory:
        await trio.sleep(5000)
        await start(factory)
        await factory.wait_statuses(lambda agents: not agents[0].running)
    assert secs(machine, "run_ended", reason="timed_out") == [5050.0]


async def test_a_process_that_never_reacts_to_its_prompt_is_stopped_at_the_start_limit(autojump_clock: MockClock):
    machine = SimulatedMachine(lambda _: Script(output=(), secs=math.inf))
    async with open_factory(fleet(helper()), machine=machine.open) as factory:
        await trio.sleep(1000)
        await start(factory)
        await factory.wait_statuses(lambda agents: not agents[0].running)
    assert secs(machine, "run_ended", reason="stalled") == [1120.0]


async def test_the_banner_of_a_process_is_no_news_of_its_agent(autojump_clock: MockClock):
    failing = b'{"type": "tool", "name": "shell", "exit_code": 1}\n' * 50
    machine = SimulatedMachine(lambda _: Script(banner=STARTED + failing))
    async with open_factory(fleet(helper()), machine=machine.open) as factory:
        await trio.sleep(600)
        (status,) = factory.agent_statuses()
        assert status.warm == 1
        assert status.drift_score is None
        run_id = await start(factory)
        await factory.wait_statuses(lambda agents: not agents[0].running)
    (ended,) = machine.records("run_ended", run=run_id)
    assert ended["reason"] == "succeeded"
    assert ended["session"] == "simulated", "it is part of what the run said all the same"


async def test_a_process_that_takes_too_much_memory_while_it_waits_is_replaced_after_a_back_off(
    autojump_clock: MockClock,
):
    machine = SimulatedMachine(by_warmth(Script(memory=((3.5, 1001),))))
    async with open_factory(fleet(helper(max_memory_bytes=1000)), machine=machine.open):
        await trio.sleep(10)
    assert secs(machine, "warm_ended", reason="memory")[0] == 4.0
    assert secs(machine, "warm_started")[:2] == [0.0, 5.0]
    assert machine.records("run_begun") == []


async def test_the_memory_of_a_run_is_still_watched_when_its_process_has_waited_for_it(autojump_clock: MockClock):
    machine = SimulatedMachine(lambda _: Script(memory=((50.5, 1001),), secs=math.inf))
    async with open_factory(fleet(helper(max_memory_bytes=1000)), machine=machine.open) as factory:
        await trio.sleep(20)
        await start(factory)
        await factory.wait_statuses(lambda agents: not agents[0].running)
    assert secs(machine, "run_ended", reason="memory") == [71.0]


async def test_a_process_that_dies_while_it_waits_is_replaced_after_a_back_off(autojump_clock: MockClock):
    machine = SimulatedMachine(by_warmth(Script(warm_secs=3.0, exit_code=1)))
    async with open_factory(fleet(helper()), machine=machine.open):
        await trio.sleep(100)
    assert secs(machine, "warm_started") == [0.0, 4.0, 9.0, 16.0, 27.0, 46.0, 81.0]
    assert secs(machine, "warm_ended", reason="died") == [3.0, 7.0, 12.0, 19.0, 30.0, 49.0, 84.0]
    assert all(record["exit_code"] == 1 for record in machine.records("warm_ended"))
    assert machine.records("run_begun") == []


async def test_a_process_that_cannot_be_started_is_tried_again_after_a_back_off(autojump_clock: MockClock):
    machine = SimulatedMachine(by_warmth(Script(refuses="eagain")))
    async with open_factory(fleet(helper()), machine=machine.open) as factory:
        await trio.sleep(10)
        await start(factory)
        await trio.sleep(1.5)
    assert secs(machine, "warm_ended", reason="died") == [0.0, 1.0, 3.0, 7.0]
    assert "eagain" in machine.records("warm_ended")[0]["detail"]
    assert secs(machine, "run_ended", reason="succeeded") == [11.0]


async def test_a_process_that_waits_for_too_long_is_ended_and_replaced(autojump_clock: MockClock):
    machine = SimulatedMachine(lambda _: STUBBORN)
    agent = helper(warm_idle_secs=600.0, grace_secs=5.0)
    async with open_factory(fleet(agent), machine=machine.open) as factory:
        await trio.sleep(1300)
        assert factory.agent_statuses()[0].warm == 1
        assert len(machine.launcher.living) == 1
    assert secs(machine, "warm_started") == [0.0, 605.0, 1210.0]
    assert secs(machine, "warm_ended", reason="idle") == [605.0, 1210.0]


async def test_a_process_that_does_not_take_its_prompt_is_ended_and_the_same_run_begins_anew(
    autojump_clock: MockClock,
):
    machine = SimulatedMachine(by_warmth(attrs.evolve(STUBBORN, deaf=True), Script(secs=7.0)))
    async with open_factory(fleet(helper()), machine=machine.open) as factory:
        await trio.sleep(50)
        run_id = await start(factory)
        await factory.wait_statuses(lambda agents: not agents[0].running)
    mine = [spec for spec in machine.launcher.started if spec.run_id == run_id]
    assert [spec.prompt_later for spec in mine] == [True, False]
    assert secs(machine, "warm_ended", reason="lost", run=run_id) == [50.0]
    assert secs(machine, "run_started", run=run_id) == [50.0]
    assert secs(machine, "run_ended", run=run_id, reason="succeeded") == [57.0]
    assert machine.runs.prompts[run_id] == "do it"


@pytest.mark.parametrize("deaf", [False, True])
async def test_a_message_reaches_the_process_that_waits_or_the_one_that_is_started_for_it(
    autojump_clock: MockClock, deaf: bool
):
    machine = SimulatedMachine(by_warmth(Script(deaf=deaf)))
    processes = with_processes(machine)
    async with open_factory(fleet(helper()), machine=machine.open) as factory:
        await trio.sleep(50)
        sent = await factory.send("look at main.py", to="helper")
        assert isinstance(sent.outcome, Admit)
        await factory.wait_statuses(lambda agents: not agents[0].running)
    prompt = machine.runs.prompts[sent.outcome.run_id]
    assert "look at main.py" in prompt
    assert machine.runs.messages.keys() == {sent.outcome.run_id}
    assert processes[0].prompt == (None if deaf else prompt.encode())
    assert secs(machine, "run_started", run=sent.outcome.run_id) == [50.0]


async def test_a_process_that_dies_at_the_moment_it_is_wanted_costs_no_run(autojump_clock: MockClock):
    """Whichever is first: the same run has an end, and a good one."""
    for warm_secs in (9.999, 10.0, 10.0001, 10.001):
        machine = SimulatedMachine(by_warmth(Script(warm_secs=warm_secs)))
        began = trio.current_time()
        async with open_factory(fleet(helper()), machine=machine.open) as factory:
            await trio.sleep_until(began + 10.0)
            run_id = await start(factory)
            await factory.wait_statuses(lambda agents: not agents[0].running)
        (ended,) = machine.records("run_ended")
        assert (ended["run"], ended["reason"]) == (run_id, "succeeded"), warm_secs


async def test_a_run_that_may_not_begin_after_all_takes_its_process_with_it(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
):
    from darkfactory.model.actions import Queue
    from darkfactory.runtime import life as wiring

    machine = SimulatedMachine(lambda _: STUBBORN)
    monkeypatch.setattr(wiring, "obstacle_at_start", lambda *_: Queue("throttled", "too late"))
    async with open_factory(fleet(helper(grace_secs=4.0)), machine=machine.open) as factory:
        await trio.sleep(5)
        run_id = await start(factory)
        await factory.wait_statuses(lambda agents: not agents[0].running)
        assert run_id not in {spec.run_id for spec in machine.launcher.living.values()}, "it is gone before the verdict"
    (ended,) = machine.records("run_ended", run=run_id)
    assert (ended["reason"], ended["detail"]) == ("throttled", "too late")
    assert secs(machine, "run_ended") == [9.0]


async def test_a_hold_ends_the_processes_and_a_resume_brings_others(autojump_clock: MockClock):
    machine = SimulatedMachine(lambda _: HANGS)
    async with open_factory(fleet(helper(2)), machine=machine.open) as factory:
        await warmed_up(factory, 2)
        await factory.hold("helper")
        await factory.wait_statuses(lambda agents: agents[0].warm == 0)
        await trio.sleep(100)
        assert not machine.launcher.living
        await factory.resume("helper")
        await warmed_up(factory, 2)
    assert len(machine.launcher.started) == 4


async def test_a_failing_factory_gives_them_their_grace_too(autojump_clock: MockClock):
    def script(spec: LaunchSpec) -> Script:
        if spec.prompt_later:
            return STUBBORN
        raise Bug

    machine = SimulatedMachine(script)
    other = AgentDefinition("other", AgentLayer.GROWTH, "demo", "x")
    with pytest.RaisesGroup(pytest.RaisesExc(Bug), flatten_subgroups=True):
        async with open_factory(fleet(helper(grace_secs=3.0), other), machine=machine.open) as factory:
            await warmed_up(factory)
            failed_at = trio.current_time()
            await factory.start("other")
            await trio.sleep_forever()
    assert trio.current_time() - failed_at == pytest.approx(10.0, abs=0.01), "all of the shutdown's: there is one layer"
    assert not machine.launcher.living


async def test_the_directory_of_one_that_waits_is_not_pruned(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
):
    machine = SimulatedMachine()
    spared: list[set[str]] = []

    async def prune(keep: Keep, *, living: Collection[str]) -> Pruned:
        await trio.lowlevel.checkpoint()
        spared.append(set(living))
        return Pruned()

    monkeypatch.setattr(machine.runs, "prune", prune)
    async with open_factory(fleet(helper(2)), machine=machine.open) as factory:
        await warmed_up(factory, 2)
        await start(factory)
        await trio.sleep(1000)
        waiting = {spec.run_id for spec in machine.launcher.living.values()}
    assert len(waiting) == 2
    assert spared[-1] == waiting


@pytest.mark.parametrize("kill", [False, True])
async def test_a_shutdown_ends_them_within_its_bound(autojump_clock: MockClock, kill: bool):
    machine = SimulatedMachine(lambda _: STUBBORN)
    watch = AgentDefinition("watch", AgentLayer.SAFETY, "demo", "x")
    config = fleet(helper(3), watch, shutdown_grace_secs=6.0)
    async with trio.open_nursery() as nursery:
        factory = await nursery.start(AgentOrchestrator(config, machine=machine.open).run)
        await warmed_up(factory, 3)
        await start(factory)
        await trio.sleep(10)
        assert len(machine.launcher.living) == 5
        began = trio.current_time()
        factory.shutdown(kill=kill)
    assert trio.current_time() - began == pytest.approx(0.0 if kill else 6.0, abs=0.01)
    assert not machine.launcher.living
    assert {record["reason"] for record in machine.records("warm_ended")} == {"shutdown"}
    (stopped,) = machine.records("factory_stopped")
    assert stopped["exit_code"] == 0


async def test_one_that_cannot_be_ended_is_named_at_the_bound(autojump_clock: MockClock):
    machine = SimulatedMachine(lambda _: attrs.evolve(STUBBORN, immortal=True))
    async with trio.open_nursery() as nursery:
        factory = await nursery.start(AgentOrchestrator(fleet(helper()), machine=machine.open).run)
        await warmed_up(factory)
        factory.shutdown()
    (stopped,) = machine.records("factory_stopped")
    assert stopped["exit_code"] == 1
    assert len(stopped["unreaped"]) == 1


async def test_they_are_no_runs_to_the_cap(autojump_clock: MockClock):
    machine = SimulatedMachine(lambda _: HANGS)
    other = AgentDefinition("other", AgentLayer.GROWTH, "demo", "x", stall_timeout_secs=1e6, timeout_secs=None)
    async with open_factory(fleet(helper(5), other, max_concurrent_runs=1), machine=machine.open) as factory:
        await warmed_up(factory, 5)
        assert isinstance(await factory.start("other"), Admit)
        assert not isinstance(await factory.start("helper"), Admit)
        assert factory.agent_statuses()[0].warm == 5


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"layer": AgentLayer.CORE, "schedule": "@daily"}, "started on demand"),
        ({"layer": AgentLayer.SAFETY}, "started on demand"),
        ({"cli_tool": "bash"}, "bash does not wait for its prompt"),
        ({"cli_tool": "opencode"}, "opencode does not wait for its prompt"),
        ({"cli_tool": "/opt/claude"}, "/opt/claude does not wait for its prompt"),
        ({"cli_tool": "codex", "resume": "0f01"}, "goes on with no conversation"),
        ({"isolation": Isolation.WORKTREE}, "worktree"),
        ({"cli_tool": "by-arg"}, "on its command line"),
        ({"cli_tool": "by-file"}, "on its command line"),
    ],
)
def test_where_it_cannot_be_it_is_refused(fields: dict[str, Any], words: str):
    tools = {f"by-{via.value}": ToolConfig(("x",), via) for via in PromptVia}
    agent = attrs.evolve(helper(), **fields)
    with pytest.raises(ConfigError, match=words) as caught:
        AgentOrchestrator(fleet(agent, tools=tools))
    assert "agents[0].warm" in str(caught.value)


def test_a_program_that_reads_stdin_can_be_warm_and_so_can_the_built_in_tools_that_wait():
    tools = {"by-stdin": ToolConfig(("x",))}
    for tool in ("by-stdin", "/opt/demo", "codex", "pi"):
        AgentOrchestrator(fleet(attrs.evolve(helper(), cli_tool=tool), tools=tools))


SCRIPTS = {
    "quick": Script(secs=2.0),
    "dying": Script(warm_secs=7.0, secs=2.0),
    "deaf": Script(deaf=True, secs=2.0, dies_after=None),
    "long": attrs.evolve(HANGS, dies_after=1.0),
}
FLEET = fleet(
    AgentDefinition("watch", AgentLayer.SAFETY, "demo", "x", stall_timeout_secs=1e6),
    *(
        AgentDefinition(
            name, AgentLayer.GROWTH, "demo", "x", warm=1 + (name == "quick"), warm_idle_secs=12.0, grace_secs=2.0
        )
        for name in SCRIPTS
    ),
    shutdown_grace_secs=6.0,
)
BOUND_SECS = 7.0


def simulated() -> SimulatedMachine:
    return SimulatedMachine(lambda spec: SCRIPTS.get(spec.run_id.split("-")[0], HANGS))


async def first_life(machine: SimulatedMachine, opener: Callable[[OrchestratorConfig], Any] | None = None) -> None:
    async with open_factory(FLEET, machine=opener or machine.open, seed=1) as factory:
        for name in SCRIPTS:
            await factory.start(name)
        await trio.sleep(7)
        for name in SCRIPTS:
            await factory.start(name)
        await factory.hold("long")
        await trio.sleep(7)  # some have waited for their idle time
        await factory.start("quick")


async def second_life(machine: SimulatedMachine) -> None:
    async with open_factory(FLEET, machine=machine.open, seed=2) as factory:
        await trio.sleep(1)
        if factory.agent_statuses()[1].warm:
            await factory.start("quick")
        await trio.sleep(5)


def check(machine: SimulatedMachine) -> None:
    assert not machine.launcher.living, "a process outlived its factory"
    begun = Counter(line["run"] for line in machine.records("run_begun"))
    ended = Counter(line["run"] for line in machine.records("run_ended"))
    assert max((*begun.values(), *ended.values(), 1)) == 1
    assert ended.keys() <= begun.keys()
    assert machine.runs.prompts.keys() <= begun.keys(), "a directory is left of one that was no run"
    cold = {spec.run_id for spec in machine.launcher.started if not spec.prompt_later}
    assert cold <= begun.keys(), "a process before its record"
    assert {line["run"] for line in machine.records("run_started")} <= begun.keys()


def test_cancelled_at_every_step_no_process_is_left_and_no_run_is_without_an_end():
    async def program(machine: SimulatedMachine, cancel: CancelAtStep) -> None:
        with cancel.scope:
            await first_life(machine)
        if cancel.at is not None:
            assert trio.current_time() - cancel.at <= BOUND_SECS + 0.001, "the bound on shutdown"
        check(machine)
        assert len(machine.records("run_begun")) == len(machine.records("run_ended"))
        await second_life(machine)
        check(machine)
        assert len(machine.records("run_begun")) == len(machine.records("run_ended"))

    reasons: set[str] = set()
    for step in itertools.count(1):
        machine, cancel = simulated(), CancelAtStep(step)
        try:
            trio.run(program, machine, cancel, clock=MockClock(autojump_threshold=0), instruments=[cancel])
        except BaseException as error:
            error.add_note(f"cancelled at step {step}, at second {cancel.at}")
            raise
        reasons |= {record["reason"] for record in machine.records("warm_ended")}
        if cancel.at is None or not cancel.scope.cancelled_caught:
            break
    assert step > 200
    assert reasons == {"shutdown", "held", "idle", "died", "lost"}


def test_a_bug_in_any_call_of_a_device_is_raised_and_leaves_no_process():
    async def program(machine: SimulatedMachine, fuse: Fuse) -> None:
        caught: BaseException | None = None
        try:
            opened = with_fuse(
                machine,
                fuse,
                process=("deliver", "wait", "terminate", "sweep", "drain"),
                runs=("begin", "prepare", "tell", "discard", "end"),
            )
            await first_life(machine, opened)
        except* Bug as bugs:
            caught = bugs
        except* OrchestratorError:  # whoever asks a failing factory is told so
            pass
        assert (caught is not None) == (fuse.blown_in is not None), "a bug was lost"
        assert not machine.launcher.living

    blown_in = blown_in_turn(simulated, program)
    assert blown_in == {
        *("begin", "prepare", "tell", "discard", "end"),
        *("launch", "deliver", "wait", "terminate", "sweep", "drain"),
    }


def with_processes(machine: SimulatedMachine) -> list[ScriptedProcess]:
    """What the machine will have started, in order."""
    processes: list[ScriptedProcess] = []

    class Remembered(ScriptedProcess):
        def __attrs_post_init__(self) -> None:
            processes.append(self)

    machine.launcher.process_type = attrs.define(eq=False)(Remembered)
    return processes
