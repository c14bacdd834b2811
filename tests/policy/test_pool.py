"""Processes that are started ahead: how many, which one a run takes, and what ends them."""

from __future__ import annotations

import pytest
from attrs import evolve
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from darkfactory.model.actions import Admit, Queue, Redefine, Refuse
from darkfactory.model.ends import ErrorClass, Reason, Verdict
from darkfactory.model.events import DefinitionRead, DiskChecked, OutputSeen, Tick, WarmEnded, WarmReady
from darkfactory.model.fleet import AgentDefinition, Fallback, LayerConfig
from darkfactory.policy.history import durable_of, fold
from darkfactory.runtime.status import statuses

from .world import EPOCH, GROWTH, SAFETY, World, agent, moment


def helper(warm: int = 2, **fields: object) -> AgentDefinition:
    return agent("helper", GROWTH, warm=warm, **fields)


def begun(warm: int = 2, **fields: object) -> World:
    """A world with one such agent, whose processes wait since time 0."""
    world = World.begun(helper(warm, **fields))
    world.warms_up()
    return world


def warm_of(world: World) -> int:
    """How many could be used now, by the status."""
    return statuses(world.state, world.now(), {})[0].warm


def ended(world: World) -> list[object]:
    return [record.data["reason"] for record in world.kinds("warm_ended")]


def test_as_many_as_are_wanted_are_started_when_the_programs_are_known_and_none_before() -> None:
    world = World(begun().config)
    assert not world.warm
    world.misses()
    assert len(world.warm) == 2
    assert warm_of(world) == 0, "they are being started"
    world.warms_up(0.5)
    assert warm_of(world) == 2
    assert [record.data["pid"] for record in world.kinds("warm_started")] == [4712, 4712]


def test_an_agent_without_the_key_has_none() -> None:
    world = World.begun(agent("helper", GROWTH))
    world.asks("helper", 1)
    assert not world.warm
    assert not world.orders[world.run_of("helper")].warm


def test_a_run_takes_the_newest_that_is_there_with_its_id_and_another_one_is_started_at_once() -> None:
    world = World.begun(helper(3))
    first, second, third = world.warm
    world.tell(WarmReady(moment(1), "helper", first, 1))
    world.tell(WarmReady(moment(2), "helper", second, 2))
    assert world.asks("helper", 3) == Admit(second)
    assert world.orders[second].warm
    assert world.kinds("run_begun")[-1].data["warm"] is True
    assert world.run_of("helper") == second
    fourth = list(world.warm)[-1]
    assert list(world.warm) == [first, third, fourth]
    assert world.warm[fourth].agent == "helper"


def test_a_run_begins_cold_while_none_is_there() -> None:
    world = World.begun(helper(1))
    (waiting,) = world.warm
    answer = world.asks("helper", 1)
    assert isinstance(answer, Admit)
    assert answer.run_id != waiting
    assert not world.orders[answer.run_id].warm
    assert "warm" not in world.kinds("run_begun")[-1].data


def test_a_run_with_the_fallback_begins_cold() -> None:
    world = begun(1, provider="p", fallback=Fallback(provider="q"), retries=1)
    world.asks("helper", 1)
    world.warms_up()
    world.turned_away("helper", 2, error=ErrorClass.QUOTA, resets=7200)
    world.passes(100)
    order = world.orders[world.run_of("helper")]
    assert order.fallback
    assert not order.warm
    assert len(world.warm) == 1


def test_they_take_no_place_among_the_runs_and_no_run_is_recorded() -> None:
    world = World.begun(helper(4, max_runs_per_day=1), agent("watch", SAFETY), max_concurrent_runs=2)
    world.warms_up()
    assert world.lives("watch")
    assert [record.data["agent"] for record in world.kinds("run_begun")] == ["watch"]
    assert world.state.begun == 1
    assert isinstance(world.asks("helper", 1), Admit)
    assert world.state.agents["helper"].runs_on == (EPOCH.date(), 1)


def test_one_that_has_waited_for_the_idle_time_is_ended_then_and_replaced_when_it_is_gone() -> None:
    world = begun(1, warm_idle_secs=600.0, grace_secs=3.0)
    (old,) = world.warm
    world.passes(599.9)
    assert not world.stops
    world.passes(600.1)
    assert world.stops[old].detail == "idle"
    assert world.stops[old].grace_secs == 3.0
    assert warm_of(world) == 0
    assert list(world.warm) == [old], "never more than one"
    world.cools(old, 601)
    assert ended(world) == ["idle"]
    (new,) = world.warms_up(601.5)
    assert new != old
    world.passes(1201.4)
    assert not world.stops
    world.passes(1201.6)
    assert new in world.stops


def test_the_idle_time_is_kept_also_while_a_run_of_the_agent_talks_and_talks() -> None:
    world = begun(1, warm_idle_secs=600.0)
    world.asks("helper", 10)
    (new,) = world.warms_up(10)
    for at in range(20, 600, 10):
        world.passes(at)
        world.says("helper", at, at)
    world.passes(609.9)
    assert not world.stops
    world.passes(610.1)
    assert list(world.stops) == [new]


def test_one_that_is_being_ended_is_not_taken() -> None:
    world = begun(1, warm_idle_secs=600.0)
    (old,) = world.warm
    world.passes(600.1)
    answer = world.asks("helper", 600.2)
    assert isinstance(answer, Admit)
    assert answer.run_id != old


def test_one_that_dies_is_replaced_after_a_back_off_that_doubles_with_each_in_a_row() -> None:
    world = begun(1)
    died_at, delays = 100.0, []
    for _ in range(12):
        (warm,) = world.warm
        world.cools(warm, died_at)
        assert not world.warm, "not at once"
        while not world.warm:
            world.tell(Tick(moment(world.state.next_deadline())))
        delays.append(round(world.at - died_at, 3))
        died_at = world.at + 0.5
    assert delays == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]
    assert set(ended(world)) == {"died"}
    world.warms_up()
    world.asks("helper", died_at)
    world.warms_up()
    (warm,) = world.warm
    world.cools(warm, died_at + 10)
    world.passes(died_at + 10.9)
    assert not world.warm
    world.passes(died_at + 11.1)
    assert len(world.warm) == 1, "one that could be used ended the row"


def test_the_back_off_is_that_of_the_layer() -> None:
    world = World.begun(helper(1), layer=LayerConfig(backoff_secs=7.0, backoff_jitter=0.0))
    world.cools(*world.warm, at=10)
    world.passes(16.9)
    assert not world.warm
    world.passes(17.1)
    assert world.warm


def test_no_death_of_one_counts_against_the_agent() -> None:
    world = begun(1)
    for at in range(1, 100):
        if world.warm:
            world.cools(*world.warm, at=at * 300.0)
        world.passes(at * 300.0 + 299)
    assert world.state.agents["helper"].bad_ends == ()
    assert world.state.agents["helper"].hold is None
    assert isinstance(world.asks("helper"), Admit)


def test_a_hold_ends_them_and_its_end_starts_new_ones() -> None:
    world = begun(2)
    old = list(world.warm)
    world.holds("helper", 5)
    assert {stop.detail for stop in world.stops.values()} == {"held"}
    for warm in old:
        world.cools(warm, 6)
    assert not world.warm
    world.passes(1000)
    assert not world.warm
    world.resumes("helper", 1001)
    assert len(world.warm) == 2
    assert ended(world) == ["held", "held"]


def test_a_disabled_agent_has_none() -> None:
    assert not World.begun(helper(enabled=False)).warm


def test_a_program_that_is_missing_has_none_until_it_is_found() -> None:
    world = World(begun().config)
    world.misses(0, "helper")
    assert not world.warm
    world.misses(60)
    assert len(world.warm) == 2
    world.warms_up()
    world.misses(120, "helper")
    assert {stop.detail for stop in world.stops.values()} == {"tool_missing"}


def test_on_a_full_disk_none_is_started_and_those_that_wait_stay() -> None:
    world = begun(2)
    one, other = world.warm
    world.tell(DiskChecked(moment(10), 0, "/ is full"))
    world.cools(one, 11)
    world.passes(500)
    assert list(world.warm) == [other]
    assert not world.stops
    world.tell(DiskChecked(moment(501), 2**40, "/ has room"))
    assert len(world.warm) == 2, "at once"


def test_a_blocked_provider_does_not_end_them() -> None:
    world = begun(1, provider="p")
    world.asks("helper", 1)
    (waiting,) = world.warms_up()
    world.turned_away("helper", 2, resets=7200)
    assert isinstance(world.asks("helper", 3), Queue)
    assert not world.stops
    world.passes(3599)
    assert list(world.warm) == [waiting]


def test_a_new_definition_takes_new_processes() -> None:
    world = begun(1)
    (old,) = world.warm
    found = evolve(world.state.agents["helper"].definition, max_memory_bytes=10_000_000)
    world.tell(DefinitionRead(moment(5), "helper", found))
    assert any(isinstance(action, Redefine) for action in world.new)
    assert world.stops[old].detail == "redefined"
    world.tell(DefinitionRead(moment(6), "helper", found))
    world.cools(old, 7)
    (new,) = world.warms_up(8)
    world.tell(DefinitionRead(moment(9), "helper", found))
    assert new not in world.stops, "nothing has changed"


@pytest.mark.parametrize(
    ("output_bytes", "finished", "why"), [(10, True, "finished"), (2000, False, "output_limit"), (10, False, None)]
)
def test_what_one_prints_before_its_prompt_may_disqualify_it(
    output_bytes: int, finished: bool, why: str | None
) -> None:
    world = begun(1, max_output_bytes=1000)
    (warm,) = world.warm
    world.tell(OutputSeen(moment(1), warm, output_bytes, finished))
    assert [stop.detail for stop in world.stops.values()] == ([why] if why else [])
    if why:
        world.cools(warm, 2)
        assert ended(world) == [why]
        assert not world.warm, "a death: there is a back-off"


def test_one_that_has_announced_itself_may_be_silent_for_the_stall_limit_after_its_prompt() -> None:
    definition = evolve(agent("announcing", GROWTH, warm=1), start_timeout_secs=30.0, stall_timeout_secs=500.0)
    silent, spoken = World.begun(definition), World.begun(definition)
    for world in (silent, spoken):
        world.warms_up(1)
    spoken.tell(OutputSeen(moment(2), *spoken.warm, 10, False))
    for world in (silent, spoken):
        world.asks("announcing", 100)
        world.passes(131)
    assert silent.stop_reason("announcing") is Reason.STALLED
    assert spoken.stop_reason("announcing") is None
    spoken.passes(599)
    assert spoken.stop_reason("announcing") is None
    spoken.passes(601)
    assert spoken.stop_reason("announcing") is Reason.STALLED


def test_a_run_whose_process_is_lost_before_the_prompt_goes_on_and_is_not_counted() -> None:
    world = begun(1)
    (warm,) = world.warm
    world.asks("helper", 10)
    (waiting,) = world.warm
    world.tell(WarmEnded(moment(10.1), "helper", warm, "exit code 1", 1))
    assert ended(world) == ["lost"]
    assert world.lives("helper")
    assert world.stop_reason("helper") is None
    world.ends("helper", Reason.SUCCEEDED, 20)
    assert [record.data["run"] for record in world.kinds("run_ended")] == [warm]
    assert list(world.warm) == [waiting]


def test_a_shutdown_ends_them_with_growths_share_and_waits_for_them() -> None:
    world = World.begun(helper(2, grace_secs=60.0), agent("watch", SAFETY), shutdown_grace_secs=10.0)
    world.warms_up()
    first, second = world.warm
    world.shuts_down(100)
    assert {run_id: stop.grace_secs for run_id, stop in world.stops.items()} == {first: 5.0, second: 5.0}
    assert {stop.reason for stop in world.stops.values()} == {Reason.SHUTDOWN}
    world.cools(first, 101)
    assert world.run_of("watch") not in world.stops, "one layer after the other"
    world.cools(second, 102)
    assert world.stops[world.run_of("watch")].grace_secs == 5.0  # the agent's own
    world.ends("watch", Reason.SHUTDOWN, 103)
    assert world.finish is not None
    assert world.finish.exit_code == 0
    assert not world.warm, "nothing is started any more"


def test_a_shutdown_waits_also_for_those_that_are_being_started() -> None:
    world = World.begun(helper(1))
    (warm,) = world.warm
    world.shuts_down(1)
    assert warm in world.stops
    assert world.finish is None
    world.tell(WarmReady(moment(1.1), "helper", warm, 4712))
    world.cools(warm, 1.2)
    assert world.finish is not None


def test_a_shutdown_names_those_that_could_not_be_ended() -> None:
    world = begun(2)
    first, second = world.warm
    world.shuts_down(100)
    world.cools(first, 101, unreaped=("17 stuck",))
    world.passes(111.1)
    assert world.finish is not None
    assert world.finish.exit_code == 1
    assert world.finish.unreaped == ("17 stuck", f"4712 {second}")


def test_a_second_signal_takes_away_their_grace() -> None:
    world = begun(1, grace_secs=60.0)
    (warm,) = world.warm
    world.shuts_down(100)
    assert world.stops[warm].grace_secs == 10.0
    world.shuts_down(101, kill=True)
    assert world.stops[warm].grace_secs == 0.0


def test_one_that_was_being_ended_is_hurried_by_a_shutdown() -> None:
    world = begun(1, grace_secs=60.0)
    (warm,) = world.warm
    world.holds("helper", 1)
    world.shuts_down(2)
    assert world.stops[warm].grace_secs == 10.0
    world.cools(warm, 3)
    assert ended(world) == ["held"]
    assert world.finish is not None


def test_after_a_crash_nothing_is_remembered_of_them() -> None:
    world = begun(2)
    assert fold(world.lines(), world.config.timezone) == durable_of(world.state, world.now())
    again = world.reborn()
    assert again.kinds("run_ended") == []
    again.misses()
    assert len(again.warm) == 2
    assert not again.warm.keys() & world.warm.keys() or again.at == world.at


POOLED = (helper(3, warm_idle_secs=60.0, retries=1, grace_secs=2.0), agent("other", GROWTH, warm=1, provider="p"))


class Pool(RuleBasedStateMachine):
    """Whatever happens: never more than are wanted, none twice, none forgotten, and no run is lost for one."""

    @initialize(cap=st.integers(1, 3))
    def begin(self, cap: int) -> None:
        self.world = World.begun(*POOLED, max_concurrent_runs=cap, layer=LayerConfig(max_restarts=2))

    going = precondition(lambda self: self.world.finish is None)
    waiting = precondition(lambda self: bool(self.world.warm) and self.world.finish is None)
    alive = precondition(lambda self: bool(self.world.orders) and self.world.finish is None)

    def one(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.world.warm)))

    @rule(secs=st.floats(0.001, 100.0))
    def time_passes(self, secs: float) -> None:
        self.world.passes(self.world.at + secs)

    @waiting
    @rule(data=st.data())
    def is_ready(self, data: st.DataObject) -> None:
        run_id = self.one(data)
        if self.world.warm_state(run_id).ready_at is None:
            self.world.tell(WarmReady(self.world.now(), self.world.warm[run_id].agent, run_id, 4712))

    @waiting
    @rule(data=st.data())
    def ends(self, data: st.DataObject) -> None:
        self.world.cools(self.one(data))

    @waiting
    @rule(data=st.data(), finished=st.booleans())
    def speaks(self, data: st.DataObject, finished: bool) -> None:
        self.world.tell(OutputSeen(self.world.now(), self.one(data), 5, finished))

    @going
    @rule(name=st.sampled_from(["helper", "other"]), lost=st.booleans())
    def is_wanted(self, name: str, lost: bool) -> None:
        answer = self.world.asks(name)
        if isinstance(answer, Admit):
            order = self.world.orders[answer.run_id]
            assert order.agent == name
            if order.warm and lost:
                self.world.tell(WarmEnded(self.world.now(), name, answer.run_id, "died", 1))
                assert self.world.lives(name), "a run is not lost with its process"
        elif isinstance(answer, Refuse):
            assert answer.reason in {"held", "tool_missing", "stopping"}

    @alive
    @rule(data=st.data(), reason=st.sampled_from([Reason.SUCCEEDED, Reason.FAILED, Reason.THROTTLED]))
    def run_ends(self, data: st.DataObject, reason: Reason) -> None:
        order = data.draw(st.sampled_from(sorted(self.world.orders.values(), key=lambda order: order.run_id)))
        error = ErrorClass.QUOTA if reason is Reason.THROTTLED else None
        self.world.judged(order.agent, Verdict(reason, "because", error))

    @going
    @rule(name=st.sampled_from(["helper", "other"]), hold=st.booleans())
    def person_acts(self, name: str, hold: bool) -> None:
        (self.world.holds if hold else self.world.resumes)(name)

    @going
    @rule(missing=st.sets(st.sampled_from(["helper", "other"])), free_bytes=st.sampled_from([0, 2**50]))
    def machine_changes(self, missing: set[str], free_bytes: int) -> None:
        self.world.misses(None, *missing)
        self.world.tell(DiskChecked(self.world.now(), free_bytes, "/"))

    @going
    @rule(kill=st.booleans())
    def shuts_down(self, kill: bool) -> None:
        self.world.shuts_down(kill=kill)

    @invariant()
    def there_are_never_too_many_and_all_are_known(self) -> None:
        if not hasattr(self, "world"):
            return
        known = {each.id for state in self.world.state.agents.values() for each in state.warm}
        assert known == self.world.warm.keys()
        assert not known & self.world.orders.keys(), "it waits, or it is a run"
        for name, state in self.world.state.agents.items():
            assert len(state.warm) <= state.definition.warm
            assert sum(order.agent == name for order in self.world.orders.values()) <= 1
            stopped = {each.id for each in state.warm if each.ending is not None}
            assert stopped == {each.id for each in state.warm if each.id in self.world.stops}
            if state.hold is not None and self.world.state.stopping is None:
                assert all(each.ending is not None for each in state.warm)
        if self.world.finish is not None:
            assert (self.world.finish.exit_code == 1) == bool(known or self.world.orders)

    @invariant()
    def nobody_waits_longer_than_the_idle_time(self) -> None:
        if not hasattr(self, "world") or self.world.finish is not None:
            return
        for state in self.world.state.agents.values():
            for each in state.warm:
                if each.ready_at is not None and each.ending is None and self.world.state.stopping is None:
                    assert self.world.at <= each.ready_at + state.definition.warm_idle_secs + 0.01


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
