"""Providers: what is counted, what waits, who tries again, and who falls back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from attrs import evolve

from darkfactory.model.actions import Queue, Severity
from darkfactory.model.ends import ErrorClass, Reason, Verdict
from darkfactory.model.events import Moment, OutputSeen, Tick, ToolsChecked
from darkfactory.model.fleet import AgentDefinition, AgentLayer, Fallback, Overlap, ProviderConfig
from darkfactory.model.providers import Spending
from darkfactory.model.signals import Waiting
from darkfactory.policy.providers import PROBE_SECS, RESET_JITTER_SECS, obstacle_at_start, standing

from .world import CORE, EPOCH, GROWTH, SAFETY, World, agent, fleet

HOUR = 3600.0


def at_p(name: str, layer: AgentLayer = GROWTH, **fields: object) -> AgentDefinition:
    return agent(name, layer, provider="p", **fields)


def block_of(world: World, provider: str = "p") -> float:
    """Until when the provider is blocked, in seconds after the epoch."""
    block = world.state.providers[provider].block
    assert block is not None
    return (block.until - EPOCH).total_seconds()


def limited(*agents: AgentDefinition, **limits: object) -> World:
    return World.begun(*agents, providers={"p": ProviderConfig(**limits)})  # type: ignore[arg-type]


class TestOurLimits:
    @pytest.mark.parametrize(
        ("limits", "spent", "until"),
        [
            ({"calls_per_hour": 10}, {"calls": 10}, HOUR),
            ({"tokens_per_day": 1000}, {"tokens": 1000}, 24 * HOUR),
            ({"usd_per_day": 2.5}, {"usd": 2.5}, 24 * HOUR),
        ],
    )
    def test_each_stops_the_next_run_and_lets_it_go_when_there_is_room(
        self, limits: dict[str, float], spent: dict[str, float], until: float
    ) -> None:
        world = limited(at_p("first"), at_p("next"), **limits)
        world.asks("first", at=1.0)
        world.spends("first", 2.0, **spent)  # type: ignore[arg-type]
        answer = world.asks("next", at=3.0)
        assert isinstance(answer, Queue)
        assert (answer.reason, answer.detail.split()[0]) == ("budget", "p:")
        assert not world.lives("next")
        world.passes(until - 1.0)
        assert not world.lives("next")
        world.passes(until + 60.0)
        assert world.lives("next")
        assert world.lives("first"), "a run that lives is not stopped"

    def test_the_day_is_that_of_the_fleets_zone(self) -> None:
        world = World.begun(
            at_p("first"),
            at_p("next"),
            providers={"p": ProviderConfig(tokens_per_day=1)},
            timezone=ZoneInfo("Asia/Tokyo"),
        )
        world.asks("first", at=1.0)
        world.spends("first", 2.0, tokens=5)
        world.asks("next", at=3.0)
        world.passes(15 * HOUR - 1.0)
        assert not world.lives("next")
        world.passes(15 * HOUR)
        assert world.lives("next")

    def test_a_midnight_that_comes_twice_is_waited_for_and_not_looked_at_without_end(self) -> None:
        """There the clock was set back at one minute past midnight."""
        zone = ZoneInfo("America/St_Johns")
        at = (datetime(2006, 10, 28, 23, 30, tzinfo=zone, fold=1).astimezone(UTC) - EPOCH).total_seconds()
        config = fleet(at_p("first"), at_p("next"), timezone=zone, providers={"p": ProviderConfig(tokens_per_day=1)})
        world = World(config, at=at)
        world.misses()
        world.asks("first", at)
        world.spends("first", at, tokens=5)
        world.asks("next", at)
        assert world.state.next_deadline() > at
        world.passes(at + HOUR / 2 + 61)
        assert world.starts("next") == [pytest.approx(at + HOUR / 2, abs=61)]

    def test_each_is_told_of_once_near_and_once_reached(self) -> None:
        world = limited(at_p("it"), calls_per_hour=10)
        world.asks("it", at=1.0)
        for calls in range(2, 13):
            world.spends("it", float(calls), calls=calls)
        told = [(record.when.at, record.data["percent"], record.severity) for record in world.kinds("provider_limit")]
        assert told == [(8.0, 80, Severity.WARNING), (10.0, 100, Severity.ERROR)]

    def test_it_is_told_again_after_it_was_under_it(self) -> None:
        world = limited(at_p("it"), calls_per_hour=10)
        world.asks("it", at=1.0)
        world.spends("it", 2.0, calls=9)
        world.passes(2 * HOUR)
        world.spends("it", 2 * HOUR + 1, calls=18)
        assert [record.data["percent"] for record in world.kinds("provider_limit")] == [80, 80]

    def test_a_hard_one_stops_the_runs_that_live_and_they_go_on_when_there_is_room(self) -> None:
        world = limited(at_p("it", CORE), at_p("other"), agent("elsewhere", GROWTH), tokens_per_day=100, hard=True)
        world.due("it", at=1.0)
        world.asks("other", at=1.0)
        world.asks("elsewhere", at=1.0)
        world.spends("it", 2.0, tokens=100)
        assert world.stop_reason("it") is world.stop_reason("other") is Reason.BUDGET
        assert world.stop_reason("elsewhere") is None
        world.judged("it", Verdict(Reason.BUDGET, "stopped", ErrorClass.KILLED, True), 3.0)
        assert not world.lives("it")
        assert world.state.agents["it"].bad_ends == ()
        world.passes(24 * HOUR - 1)
        assert not world.lives("it")
        world.passes(24 * HOUR + 1)
        assert world.orders[world.run_of("it")].attempt == 2

    def test_a_hard_one_leaves_the_run_that_took_the_last_call_to_make_it(self) -> None:
        world = limited(at_p("it"), at_p("other"), calls_per_hour=2, hard=True)
        world.asks("it", at=1.0)
        world.asks("other", at=1.0)
        world.spends("it", 2.0, calls=1)
        world.passes(200.0)
        assert world.stop_reason("it") is world.stop_reason("other") is None
        world.spends("it", 201.0, calls=2)
        assert world.stop_reason("it") is world.stop_reason("other") is Reason.BUDGET

    def test_what_was_given_to_one_run_is_not_given_again_by_waiting(self) -> None:
        world = limited(at_p("it"), tokens_per_day=100)
        world.asks("it", at=1.0)
        world.judged("it", Verdict(Reason.BUDGET, "max_cost_usd", ErrorClass.BUDGET, False), 2.0)
        assert not world.state.queue

    def test_runs_that_begin_together_each_count_before_they_call(self) -> None:
        world = limited(*(at_p(f"a{index}") for index in range(5)), calls_per_hour=3)
        for index in range(5):
            world.asks(f"a{index}", at=1.0)
        assert [world.lives(f"a{index}") for index in range(5)] == [True, True, True, False, False]

    def test_a_run_counts_what_it_tells_once(self) -> None:
        world = limited(at_p("it"), calls_per_hour=100)
        world.asks("it", at=1.0)
        world.spends("it", 2.0, calls=0, tokens=10)
        world.spends("it", 3.0, calls=2, tokens=10)
        world.spends("it", 4.0, calls=2, tokens=25, usd=0.5)
        world.judged("it", Verdict(Reason.SUCCEEDED), 5.0, calls=4)
        found = standing(world.state, "p", world.now().utc)
        assert (found.calls_this_hour, found.api_calls_remaining) == (4, 96)
        assert found.today == Spending(4, 25, 0.5)

    def test_the_journal_is_told_at_the_end_of_a_run_what_that_one_used_up_and_each_minute_of_all(self) -> None:
        """Else every end and every begin of a run would make a record for each of the others."""
        world = limited(*(at_p(f"a{index}") for index in range(3)), tokens_per_day=1000)
        for index in range(3):
            world.asks(f"a{index}", at=1.0)
            world.spends(f"a{index}", 2.0, tokens=10 + index)
        assert world.kinds("spent") == []
        world.ends("a1", Reason.SUCCEEDED, 3.0)
        assert [(record.data["agent"], record.data["tokens"]) for record in world.kinds("spent")] == [("a1", 11)]
        assert standing(world.state, "p", world.now().utc).today == Spending(3, 33)
        world.passes(61.0)
        assert [record.data["agent"] for record in world.kinds("spent")] == ["a1", "a0", "a2"]
        assert standing(world.state, "p", world.now().utc).today == Spending(3, 33)

    @pytest.mark.parametrize("secs", [30.0, 90.0])
    def test_what_was_used_up_survives_a_restart(self, secs: float) -> None:
        """But for the last minute before a death: that is told to the journal when the minute is over."""
        world = limited(at_p("first"), at_p("next"), tokens_per_day=100, calls_per_hour=10)
        world.asks("first", at=1.0)
        world.spends("first", 2.0, calls=9, tokens=100, usd=1.5)
        world.passes(2.0 + secs)
        world = world.reborn()
        world.misses()
        found = standing(world.state, "p", world.now().utc)
        saved = secs > 60
        assert found.today == (Spending(9, 100, 1.5) if saved else Spending(1))
        assert isinstance(world.asks("next"), Queue) is saved

    def test_a_limit_that_was_reached_since_its_admission_stops_a_run_before_it_starts(self) -> None:
        world = limited(at_p("first"), at_p("next"), calls_per_hour=5)
        world.asks("first", at=1.0)
        world.asks("next", at=1.0)
        run_id = world.run_of("next")
        assert obstacle_at_start(world.state, run_id, world.now()) is None
        world.spends("first", 1.1, calls=5)
        waits = obstacle_at_start(world.state, run_id, world.now())
        assert waits is not None
        assert waits.reason == "budget"
        world.judged("next", Verdict(Reason.BUDGET, waits.detail), 1.2)
        assert world.state.queue
        world.passes(HOUR + 60)
        assert world.starts("next") == [1.0, pytest.approx(HOUR, abs=60)]

    def test_taking_the_last_call_is_no_reason_not_to_start(self) -> None:
        world = limited(at_p("it"), calls_per_hour=1)
        world.asks("it", at=1.0)
        assert obstacle_at_start(world.state, world.run_of("it"), world.now()) is None

    def test_an_agent_without_a_provider_has_no_limits(self) -> None:
        world = limited(agent("it", GROWTH), calls_per_hour=1)
        world.asks("it", at=1.0)
        world.spends("it", 2.0, calls=50)
        assert standing(world.state, "p", world.now().utc).calls_this_hour == 0


class TestTheirs:
    def test_who_is_turned_away_blocks_all_runs_of_its_provider_until_the_time_that_was_named(self) -> None:
        world = World.begun(at_p("first"), at_p("next"), agent("elsewhere", GROWTH, provider="q"))
        world.asks("first", at=1.0)
        world.turned_away("first", 2.0, resets=3 * HOUR)
        assert 3 * HOUR <= block_of(world) <= 3 * HOUR + RESET_JITTER_SECS
        answer = world.asks("next", at=3.0)
        assert isinstance(answer, Queue)
        assert answer.reason == "throttled"
        assert answer.until is not None
        world.asks("elsewhere", at=3.0)
        assert world.lives("elsewhere")
        world.passes(3 * HOUR - 1)
        assert not world.lives("first")
        assert not world.lives("next")

    @pytest.mark.parametrize("error", [ErrorClass.THROTTLED, ErrorClass.BILLING, ErrorClass.PROVIDER_DOWN])
    def test_where_no_time_is_named_it_is_a_quarter_of_an_hour_and_then_twice_as_long_to_six_hours(
        self, error: ErrorClass
    ) -> None:
        world = World.begun(at_p("it", SAFETY))
        waited = []
        for _ in range(7):
            before = world.at
            world.turned_away("it", error=error)
            waited.append(block_of(world) - before)
            world.passes(block_of(world) + 1)
        for secs, about in zip(waited, [900, 1800, 3600, 7200, 14400, 21600, 21600], strict=True):
            assert about <= secs <= about + RESET_JITTER_SECS

    def test_a_time_that_has_passed_is_none(self) -> None:
        world = World.begun(at_p("it"))
        world.asks("it", at=1.0)
        world.turned_away("it", 100.0, resets=50.0)
        assert 1000 <= block_of(world) <= 1000 + RESET_JITTER_SECS

    @pytest.mark.parametrize("error", [ErrorClass.NETWORK, ErrorClass.AUTH, ErrorClass.CONFIG, ErrorClass.TOOL_MISSING])
    def test_what_is_no_word_of_the_provider_blocks_nobody_else(self, error: ErrorClass) -> None:
        world = World.begun(at_p("first"), at_p("next"))
        world.asks("first", at=1.0)
        reason = Reason.THROTTLED if error is ErrorClass.NETWORK else Reason.FAILED
        world.judged("first", Verdict(reason, "because", error, False), 2.0)
        assert world.state.providers["p"].block is None
        world.asks("next", at=3.0)
        assert world.lives("next")

    def test_it_costs_no_restart_budget(self) -> None:
        world = World.begun(at_p("it", CORE))
        world.due("it", at=1.0)
        for _ in range(8):
            world.turned_away("it")
            world.passes(block_of(world) + 1)
        assert world.lives("it")
        assert world.state.agents["it"].bad_ends == ()
        assert world.state.agents["it"].hold is None
        assert world.orders[world.run_of("it")].attempt == 9

    def test_those_that_are_turned_away_together_count_once_and_the_latest_time_holds(self) -> None:
        world = World.begun(*(at_p(f"a{index}") for index in range(4)))
        for index in range(4):
            world.asks(f"a{index}", at=1.0)
        world.turned_away("a0", 2.0)
        first = block_of(world)
        world.turned_away("a1", 3.0)
        assert block_of(world) == first
        world.turned_away("a2", 4.0, resets=2 * HOUR)
        assert block_of(world) >= 2 * HOUR
        world.turned_away("a3", 5.0, resets=HOUR)
        assert block_of(world) >= 2 * HOUR
        block = world.state.providers["p"].block
        assert block is not None
        assert block.times == 1

    @pytest.mark.parametrize(("until", "blocks"), [(HOUR, True), (99.0, False)])
    def test_who_is_told_to_wait_blocks_it_at_once_unless_that_time_has_passed(
        self, until: float, *, blocks: bool
    ) -> None:
        world = World.begun(at_p("it"))
        world.asks("it", at=100.0)
        waiting = Waiting(ErrorClass.QUOTA, EPOCH + timedelta(seconds=until), None, "limit reached")
        world.tell(OutputSeen(world.now(100.5), world.run_of("it"), 1, False, Spending(), waiting))
        assert (world.state.providers["p"].block is not None) is blocks

    def test_a_clock_that_was_years_ahead_does_not_block_it_for_years(self) -> None:
        world = World.begun(at_p("first"), at_p("next"))
        world.asks("first", at=1.0)
        world.turned_away("first", 2.0, resets=8 * 86400.0)
        world.asks("next", at=3.0)

        def set_back(days: float) -> None:
            world.tell(Tick(Moment(world.at + 61, world.now().utc - timedelta(days=days))))

        set_back(0.0001)
        assert not world.orders
        set_back(700)
        assert [order.agent for order in world.orders.values()] == ["first"]

    def test_it_survives_a_restart(self) -> None:
        world = World.begun(at_p("first"), at_p("next"))
        world.asks("first", at=1.0)
        world.turned_away("first", 2.0, resets=3 * HOUR)
        until = block_of(world)
        world.asks("next", at=3.0)
        world = world.reborn(at=60.0)
        world.misses()
        assert block_of(world) == until
        world.passes(until - 1)
        assert not world.orders
        world.passes(until + 1)
        assert len(world.orders) == 1


class TestHalfOpen:
    def blocked(self) -> World:
        """Four agents wait; the time that was named has come."""
        world = World.begun(*(at_p(f"a{index}") for index in range(4)))
        world.asks("a0", at=1.0)
        world.turned_away("a0", 2.0, resets=HOUR)
        for index in (1, 2, 3):
            world.asks(f"a{index}", at=2.0 + index)
        world.passes(block_of(world) + 1)
        return world

    def test_one_run_tries_and_the_others_wait_for_how_that_goes(self) -> None:
        world = self.blocked()
        assert [order.agent for order in world.orders.values()] == ["a0"]
        assert [record.data["agent"] for record in world.kinds("provider_probed")] == ["a0"]
        world.passes(world.at + PROBE_SECS - 10)
        assert [order.agent for order in world.orders.values()] == ["a0"]

    def test_one_that_never_ends_and_tells_nothing_does_not_keep_the_others_for_ever(self) -> None:
        """An always-on program of one's own, say, which tells of no calls."""
        world = World.begun(at_p("watch", SAFETY), *(at_p(f"a{index}") for index in range(3)))
        world.turned_away("watch", 2.0, resets=HOUR)
        for index in range(3):
            world.asks(f"a{index}", at=3.0 + index)
        world.passes(block_of(world) + 1)
        began = world.at
        for minute in range(1, 32):
            world.says("watch", began + 60 * minute, minute)
        starts = [at for index in range(3) for at in world.starts(f"a{index}")]
        assert starts == [pytest.approx(began + PROBE_SECS * times, abs=61) for times in (1, 2)]
        world.ends("a1", Reason.SUCCEEDED, began + 1900)
        assert world.lives("a2"), "who tries last tells how it stands"

    @pytest.mark.parametrize("how", ["an answer", "success", "a failure of its own"])
    def test_when_it_is_served_the_queue_drains_in_order(self, how: str) -> None:
        world = self.blocked()
        if how == "an answer":
            world.answered("a0", world.at + 5)
        elif how == "success":
            world.ends("a0", Reason.SUCCEEDED, world.at + 5)
        else:
            world.judged("a0", Verdict(Reason.FAILED, "", ErrorClass.CONTEXT_OVERFLOW, False), world.at + 5)
        assert world.state.providers["p"].block is None
        begun = [record.data["agent"] for record in world.kinds("run_begun")]
        assert begun == ["a0", "a0", "a1", "a2", "a3"]

    def test_asking_is_no_answer(self) -> None:
        """Some tools count what they asked in vain."""
        world = self.blocked()
        world.spends("a0", world.at + 5, calls=3)
        assert [order.agent for order in world.orders.values()] == ["a0"]

    def test_when_it_is_turned_away_all_wait_longer(self) -> None:
        world = self.blocked()
        before = world.at
        world.turned_away("a0")
        assert not world.orders
        assert 1800 <= block_of(world) - before <= 1800 + RESET_JITTER_SECS

    @pytest.mark.parametrize("served", [True, False])
    def test_one_that_lived_on_and_is_turned_away_then_does_not_take_the_place_of_the_one_that_tries(
        self, *, served: bool
    ) -> None:
        world = World.begun(*(at_p(f"a{index}") for index in range(3)))
        world.asks("a0", at=1.0)
        world.asks("a1", at=1.0)
        world.turned_away("a0", 2.0, resets=HOUR)
        world.asks("a2", at=3.0)
        world.passes(block_of(world) + 1)
        world.turned_away("a1", world.at + 5, resets=HOUR + 200)
        world.passes(block_of(world) + 1)
        assert [order.agent for order in world.orders.values()] == ["a0"], "no second one tries meanwhile"
        if served:
            world.answered("a0", world.at + 5)
            assert len(world.orders) == 3
        else:
            world.turned_away("a0", world.at + 5)
            assert not world.orders

    def test_the_latest_time_holds_also_when_the_one_that_tries_is_told_an_earlier_one(self) -> None:
        world = World.begun(at_p("a0"), at_p("a1"))
        world.asks("a0", at=1.0)
        world.asks("a1", at=1.0)
        world.turned_away("a0", 2.0, resets=HOUR)
        world.passes(block_of(world) + 1)
        world.turned_away("a1", world.at + 5, resets=5 * HOUR)
        world.turned_away("a0", world.at + 5, resets=2 * HOUR)
        assert block_of(world) >= 5 * HOUR

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (ErrorClass.AUTH, Reason.FAILED),
            (ErrorClass.NETWORK, Reason.THROTTLED),
            (ErrorClass.KILLED, Reason.FAILED),
            (ErrorClass.STALLED, Reason.STALLED),
            (ErrorClass.TIMED_OUT, Reason.TIMED_OUT),
        ],
    )
    def test_when_it_tells_nothing_the_next_one_tries(self, error: ErrorClass, reason: Reason) -> None:
        world = self.blocked()
        world.judged("a0", Verdict(reason, "", error, True), world.at + 5)
        assert [order.agent for order in world.orders.values()] == ["a1"]

    def test_waiting_makes_nobody_too_old(self) -> None:
        world = self.blocked()
        world.passes(world.at + 5 * HOUR)
        world.ends("a0", Reason.SUCCEEDED)
        assert all(world.lives(f"a{index}") for index in (1, 2, 3))

    def test_an_occurrence_that_waits_for_its_provider_is_not_missed(self) -> None:
        world = World.begun(at_p("first"), at_p("it", CORE, catchup_secs=0.0))
        world.asks("first", at=1.0)
        world.turned_away("first", 2.0, resets=3 * HOUR)
        world.due("it", at=10.0)
        world.passes(block_of(world) + 1)
        world.ends("first", Reason.SUCCEEDED, world.at + 2 * HOUR)
        assert world.lives("it")
        assert world.dropped("it") == []

    def test_one_that_was_too_old_already_is(self) -> None:
        world = World.begun(at_p("first"), at_p("it", CORE))
        world.asks("first", at=1.0)
        world.turned_away("first", 2.0, resets=3 * HOUR)
        world.due("it", at=2.5 * HOUR, late=2 * HOUR)
        assert world.dropped("it") == ["missed"]

    @pytest.mark.parametrize("whose", ["theirs", "ours"])
    def test_no_run_is_stopped_for_a_newer_occurrence_that_would_only_wait(self, whose: str) -> None:
        job = at_p("job", CORE, overlap=Overlap.RESTART, timeout_secs=None)
        world = limited(job, at_p("other"), tokens_per_day=100)
        world.due("job", 1.0)
        world.asks("other", at=2.0)
        if whose == "theirs":
            world.turned_away("other", 3.0, resets=3 * HOUR)
        else:
            world.spends("other", 3.0, tokens=100)
        world.due("job", 10.0)
        assert world.stop_reason("job") is None
        world.ends("job", Reason.SUCCEEDED, 60.0)
        assert [record.data["reason"] for record in world.kinds("queued") if record.data["agent"] == "job"] == [
            "own_run",
            "throttled" if whose == "theirs" else "budget",
        ]
        world.passes(3 * HOUR + 60)
        world.ends("other", Reason.SUCCEEDED)
        world.passes(25 * HOUR)
        assert world.starts("job")[1:] == [pytest.approx(3 * HOUR + 60 if whose == "theirs" else 24 * HOUR)]

    def test_downtime_of_the_factory_behind_the_reset_counts(self) -> None:
        world = World.begun(at_p("first"), at_p("it", CORE))
        world.asks("first", at=1.0)
        world.turned_away("first", 2.0, resets=3 * HOUR)
        world.due("it", at=10.0)
        assert world.reborn(at=3 * HOUR + 1000).state.queue
        world = world.reborn(at=9 * HOUR)
        world.misses()
        assert world.dropped("it") == ["missed"]

    @pytest.mark.parametrize("died", [1.5, 7.0])
    def test_nor_does_a_restart_make_it_too_old_while_it_waits_longer_than_it_was_told_at_first(
        self, died: float
    ) -> None:
        world = World.begun(at_p("first"), at_p("it", CORE))
        world.asks("first", at=1.0)
        world.turned_away("first", 2.0, resets=HOUR)
        world.due("it", at=10.0)
        world.passes(block_of(world) + 1)
        world.turned_away("first", world.at + 5, resets=8 * HOUR)
        world.passes(died * HOUR)
        world = world.reborn(at=7.1 * HOUR)
        world.misses()
        world.passes(8 * HOUR + 60)
        assert world.lives("it")

    @pytest.mark.parametrize("how", ["in order", "killed"])
    def test_nor_while_it_waits_for_how_a_try_goes_or_for_its_turn(self, how: str) -> None:
        world = limited(*(at_p(f"a{index}") for index in range(6)), at_p("it", CORE), calls_per_hour=1)
        for index in range(6):
            world.asks(f"a{index}", at=1.0 + index)
        world.due("it", at=10.0)
        for hour in range(1, 6):
            world.passes(hour * (HOUR + 120))
            world.ends(f"a{hour - 1}", Reason.SUCCEEDED)
        if how == "in order":
            world.shuts_down(world.at + 1800)
        world = world.reborn(at=world.at + 3000)
        world.misses()
        world.passes(world.at + 2 * HOUR)
        assert world.lives("it")


class TestFallback:
    TWO = (
        agent("it", GROWTH, provider="p", fallback=Fallback(provider="q", model="small"), retries=1),
        agent("first", GROWTH, provider="p"),
        agent("other", GROWTH, provider="q"),
    )

    def blocked(self) -> World:
        world = World.begun(*self.TWO)
        world.asks("first", at=1.0)
        world.turned_away("first", 2.0, resets=3 * HOUR)
        return world

    def test_it_is_used_only_while_its_provider_is_blocked(self) -> None:
        world = World.begun(*self.TWO)
        world.asks("it", at=1.0)
        assert not world.orders[world.run_of("it")].fallback
        world = self.blocked()
        world.asks("it", at=3.0)
        assert world.orders[world.run_of("it")].fallback
        (begun,) = [record.data for record in world.kinds("run_begun") if record.data["agent"] == "it"]
        assert (begun["provider"], begun["fallback"]) == ("q", True)
        assert (world.state.providers["p"].fallbacks, world.state.providers["q"].runs) == (1, 1)

    def test_one_of_ours_is_no_block(self) -> None:
        world = World.begun(*self.TWO, providers={"p": ProviderConfig(calls_per_hour=1)})
        world.asks("first", at=1.0)
        assert isinstance(world.asks("it", at=2.0), Queue)

    def test_it_is_used_once_for_a_run(self) -> None:
        world = self.blocked()
        world.asks("it", at=3.0)
        world.turned_away("it", 4.0, resets=100.0)
        world.passes(2 * HOUR)
        assert not world.lives("it"), "q serves again, but it has been there"
        world.passes(block_of(world) + 1)
        world.ends("first", Reason.SUCCEEDED)
        assert not world.orders[world.run_of("it")].fallback

    def test_that_is_remembered_across_a_restart(self) -> None:
        world = self.blocked()
        world.asks("it", at=3.0)
        world.turned_away("it", 4.0, resets=100.0)
        world = world.reborn(at=300.0)
        world.misses()
        world.passes(2 * HOUR)
        assert not world.lives("it")

    def test_it_is_not_used_while_its_own_provider_has_no_room_or_its_program_is_missing(self) -> None:
        world = self.blocked()
        world.asks("other", at=3.0)
        world.turned_away("other", 4.0, resets=5 * HOUR)
        assert isinstance(world.asks("it", at=5.0), Queue)
        world = self.blocked()
        world.tell(ToolsChecked(world.now(), {}, without_fallback=frozenset({"it"})))
        assert isinstance(world.asks("it", at=5.0), Queue)
        world.tell(ToolsChecked(world.now(6.0), {}))
        assert world.orders[world.run_of("it")].fallback
        assert [len(world.kinds(kind)) for kind in ("fallback_missing", "fallback_found")] == [1, 1]

    @pytest.mark.parametrize("layer", [SAFETY, CORE, GROWTH])
    @pytest.mark.parametrize("error", [ErrorClass.AUTH, ErrorClass.TOOL_MISSING])
    def test_one_that_was_never_set_up_is_no_worse_than_none(self, layer: AgentLayer, error: ErrorClass) -> None:
        """An always-on agent would be held after its restarts, and the run of a job would be lost."""
        world = World.begun(agent("it", layer, provider="p", fallback=Fallback(provider="q")))
        if layer is CORE:
            world.due("it", 1.0)
        elif layer is GROWTH:
            world.asks("it", at=1.0)
        world.turned_away("it", 2.0, resets=3 * HOUR)
        assert world.orders[world.run_of("it")].fallback
        world.judged("it", Verdict(Reason.FAILED, "no key", error, False), 3.0)
        world.passes(3 * HOUR - 1)
        assert len(world.starts("it")) == 2
        world.passes(3 * HOUR + 60)
        assert not world.orders[world.run_of("it")].fallback
        assert world.state.agents["it"].hold is None

    def test_a_run_that_was_turned_away_falls_back_at_once(self) -> None:
        world = World.begun(*self.TWO)
        world.asks("it", at=1.0)
        world.turned_away("it", 2.0, resets=3 * HOUR)
        order = world.orders[world.run_of("it")]
        assert (order.fallback, order.attempt) == (True, 2)

    def test_what_fell_back_is_not_told_to_stop_for_a_late_start(self) -> None:
        """Of what it fell back on it is not known whether it announces itself."""
        world = World.begun(evolve(self.TWO[0], name="announcing"), self.TWO[1])
        world.asks("first", at=1.0)
        world.turned_away("first", 2.0, resets=3 * HOUR)
        world.asks("announcing", at=3.0)
        world.started("announcing", 3.0)
        world.passes(500.0)
        assert world.stop_reason("announcing") is None
