"""A definition that is read anew: what of it is taken over, what is said about that, and what its schedule becomes."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from darkfactory.model import actions
from darkfactory.model.actions import Cause
from darkfactory.model.drift import CorrectionLevel
from darkfactory.model.ends import Reason
from darkfactory.model.events import DefinitionRead
from darkfactory.model.fleet import AgentDefinition, JsonlMap, PromptVia, Secret, ToolConfig
from darkfactory.policy.history import fold
from darkfactory.policy.redefinition import READ_ANEW

from .world import CORE, GROWTH, SAFETY, World, agent

MODERATE = CorrectionLevel.MODERATE


def read(world: World, found: AgentDefinition | None, at: float, problem: str = "") -> None:
    world.tell(DefinitionRead(world.now(at), "it", found, problem))


def redefined(world: World) -> list[actions.Redefine]:
    return [action for action in world.new if isinstance(action, actions.Redefine)]


@pytest.mark.parametrize("running", [True, False])
def test_moderate_drift_reads_the_definition_anew(running: bool) -> None:
    world = World.begun(agent("it", SAFETY, enabled=running), source=Path("/fleet.toml"))
    world.drifts("it", MODERATE, 20)
    assert actions.ReadDefinition("it") in world.new


def test_a_fleet_without_a_file_has_nothing_to_read_and_says_so() -> None:
    world = World.begun(agent("it", SAFETY))
    world.drifts("it", MODERATE, 20)
    assert not [action for action in world.new if isinstance(action, actions.ReadDefinition)]
    (kept,) = world.kinds("definition_kept")
    assert "no file" in str(kept.data["detail"])


def test_nothing_is_read_while_the_factory_stops() -> None:
    world = World.begun(agent("it", SAFETY), source=Path("/fleet.toml"))
    world.shuts_down(10)
    world.drifts("it", MODERATE, 11)
    assert not [action for action in world.new if isinstance(action, actions.ReadDefinition)]


def test_task_schedule_and_limits_are_taken_over_and_nothing_else() -> None:
    # whatever other fields there are or will be: a value that no field can have would be seen
    before = agent("it", GROWTH)
    strange = {field.name: object() for field in attrs.fields(AgentDefinition)} | {"layer": GROWTH, "env": {}}
    world = World.begun(before)
    read(world, attrs.evolve(before, **strange), 20)
    after = world.state.agents["it"].definition
    taken = {field.name for field in attrs.fields(AgentDefinition) if getattr(after, field.name) is strange[field.name]}
    assert taken - {"layer"} == set(READ_ANEW)
    (order,) = redefined(world)
    assert order.definition == after
    unsafe = {"cli_tool", "args", "env", "env_pass", "model", "layer", "name", "capabilities", "enabled"}
    assert not unsafe & set(READ_ANEW)


TOLD = "its task has changed, and may be a script: that takes a restart"


@pytest.mark.parametrize(
    ("cli_tool", "taken"),
    [
        ("bash", False),
        ("/bin/bash", False),
        ("plain", False),
        ("patterns", False),
        ("success", True),
        ("events", True),
        ("claude", True),
    ],
)
def test_the_task_of_a_plain_program_is_not_taken_over_since_it_may_be_the_program(cli_tool: str, taken: bool) -> None:
    tools = {
        "plain": ToolConfig(("sh",), PromptVia.FILE),
        "patterns": ToolConfig(("sh",), PromptVia.FILE, error="error"),
        "success": ToolConfig(("own",), success="done"),
        "events": ToolConfig(("own",), jsonl=JsonlMap()),
    }
    before = attrs.evolve(agent("it", GROWTH, retries=1), cli_tool=cli_tool)
    world = World.begun(before, tools=tools)
    read(world, attrs.evolve(before, task="rm -rf ~"), 20)
    after = world.state.agents["it"].definition
    assert (after.task == "rm -rf ~") is taken
    assert [record.data["detail"] for record in world.kinds("definition_kept")] == ([] if taken else [TOLD])
    # what else has changed is taken all the same
    read(world, attrs.evolve(before, task="rm -rf /", retries=3), 30)
    after = world.state.agents["it"].definition
    assert after.retries == 3
    assert (after.task == "rm -rf /") is taken
    assert redefined(world)[-1].definition == after


def test_safety_starts_again_with_the_new_definition_at_the_deadline() -> None:
    world = World.begun(agent("it", SAFETY), source=Path("/fleet.toml"))
    world.drifts("it", MODERATE, 20)
    read(world, agent("it", SAFETY, timeout_secs=3600.0, stall_timeout_secs=1000.0), 21)
    world.passes(620)
    assert world.stop_reason("it") is Reason.CORRECTED_MODERATE
    world.ends("it", Reason.CORRECTED_MODERATE, 621)
    assert world.starts("it") == [0, 621]
    world.passes(621 + 999)
    assert world.stop_reason("it") is None
    world.passes(621 + 1000)
    assert world.stop_reason("it") is Reason.STALLED


def test_the_difference_is_told_and_secrets_are_not() -> None:
    before = agent("it", GROWTH, env={"TOKEN": Secret("hunter2")}, retries=1)
    found = AgentDefinition(
        "it", GROWTH, "demo", "say hunter2 and\nhunter3 " + "x" * 500, env={"TOKEN": Secret("hunter3")}, retries=4
    )
    world = World.begun(before)
    read(world, found, 20)
    (told,) = world.kinds("redefined")
    changes = told.data["changes"]
    assert isinstance(changes, dict)
    assert changes["retries"] == [1, 4]
    assert changes["task"][0] == "task"
    assert changes["task"][1].startswith("say *** and *** xxx")
    assert len(changes["task"][1]) == 200
    assert "hunter" not in str(told)


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        (None, "fleet.toml:3: is not valid TOML"),
        (None, "it is no longer declared in the fleet file"),
        (agent("it", CORE), ""),
        (agent("it", GROWTH), ""),
    ],
)
def test_the_last_good_definition_stays(found: AgentDefinition | None, problem: str) -> None:
    world = World.begun(agent("it", GROWTH))
    before = world.state.agents["it"].definition
    read(world, found, 20, problem)
    assert world.state.agents["it"].definition == before
    assert not redefined(world)
    (kept,) = world.kinds("definition_kept")
    assert problem in str(kept.data["detail"])
    assert kept.data["detail"]


def test_a_new_schedule_begins_now_and_what_waits_of_the_old_one_is_dropped() -> None:
    world = World.begun(agent("it", CORE), agent("other", CORE), max_concurrent_runs=1)
    world.due("other", 10)
    world.due("it", 20)
    assert [request.agent for request in world.state.queue.values()] == ["it"]
    read(world, agent("it", CORE, schedule="30 4 * * *"), 30)
    assert world.dropped("it") == ["superseded"]
    assert world.state.agents["it"].cursor == world.now(30).utc
    (order,) = redefined(world)
    assert order.cursor == world.now(30).utc
    world.due("it", 40, late=15)  # of the old schedule, and on its way already
    world.ends("other", Reason.SUCCEEDED, 50)
    assert not world.orders
    durable = fold(world.lines(), world.config.timezone)
    assert durable.cursors["it"] == ("30 4 * * *", world.now(30).utc)
    assert ("it", Cause.CRON) not in durable.pending


def test_another_limit_leaves_the_schedule_alone() -> None:
    world = World.begun(agent("it", CORE))
    cursor = world.state.agents["it"].cursor
    read(world, agent("it", CORE, retries=2), 30)
    assert world.state.agents["it"].cursor == cursor
    (order,) = redefined(world)
    assert order.cursor is None
    assert len(world.kinds("schedule_armed")) == 1
