"""The sliding hour of calls."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from darkfactory.model.providers import DaySpending, RateLimitTracker, Spending

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


def at(secs: float) -> datetime:
    return NOON + timedelta(seconds=secs)


def test_without_a_limit_one_can_always_call() -> None:
    tracker = RateLimitTracker().record_call("a", "p", NOON, 10**6)
    assert tracker.can_call("p", NOON)
    assert tracker.remaining("p", NOON) is None
    assert tracker.free_at("p", NOON) == NOON


def test_the_calls_of_all_agents_count_against_the_limit_of_their_provider_alone() -> None:
    tracker = RateLimitTracker().update_limit("p", 3).update_limit("q", 1)
    tracker = tracker.record_call("a", "p", NOON).record_call("b", "p", NOON, 2)
    assert (tracker.remaining("p", NOON), tracker.can_call("p", NOON)) == (0, False)
    assert (tracker.remaining("q", NOON), tracker.can_call("q", NOON)) == (1, True)
    assert tracker.window("b", "p", NOON).calls_this_hour == 2
    assert tracker.window("b", "p", NOON).hourly_limit == 3
    assert tracker.window("b", "p", NOON).window_start == NOON - timedelta(hours=1)


def test_a_call_counts_for_an_hour_and_no_longer_than_its_minute_more() -> None:
    tracker = RateLimitTracker().update_limit("p", 1).record_call("a", "p", at(30))
    assert not tracker.can_call("p", at(3599))
    assert tracker.can_call("p", at(3600))
    assert tracker.free_at("p", at(60)) == at(3600)


def test_a_limit_can_be_changed_and_taken_away() -> None:
    tracker = RateLimitTracker().update_limit("p", 5).record_call("a", "p", NOON, 4)
    assert tracker.update_limit("p", 2).remaining("p", NOON) == -2
    assert tracker.update_limit("p", None).remaining("p", NOON) is None


def test_calls_that_a_clock_set_back_puts_into_the_future_are_forgotten() -> None:
    tracker = RateLimitTracker().update_limit("p", 1).record_call("a", "p", at(7200))
    assert tracker.can_call("p", NOON)
    assert tracker.record_call("a", "p", NOON).remaining("p", NOON) == 0


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("pq"), st.integers(0, 20_000), st.integers(1, 9))),
    st.integers(0, 20_000),
    st.integers(1, 40),
)
def test_it_is_what_counting_by_hand_gives(calls: list[tuple[str, str, int, int]], more: int, limit: int) -> None:
    """And it remembers an hour of minutes for each agent at each provider, no more."""
    tracker = RateLimitTracker().update_limit("p", limit)
    ordered = sorted(calls, key=lambda call: call[2])
    for agent, provider, secs, count in ordered:
        tracker = tracker.record_call(agent, provider, at(secs), count)
    now = (ordered[-1][2] if ordered else 0) + more
    first = now // 60 * 60 - 3540
    for agent in "ab":
        by_hand = sum(count for who, where, secs, count in calls if (who, where) == (agent, "p") and secs >= first)
        assert tracker.window(agent, "p", at(now)).calls_this_hour == by_hand
    by_hand = sum(count for _, where, secs, count in calls if where == "p" and secs >= first)
    assert tracker.calls_at("p", at(now)) == by_hand
    assert tracker.remaining("p", at(now)) == limit - by_hand
    assert all(len(minutes) <= 60 for minutes in tracker.calls.values())
    free = tracker.free_at("p", at(now))
    assert tracker.can_call("p", free)
    assert free == at(now) or not tracker.can_call("p", free - timedelta(seconds=1))
    again = RateLimitTracker.of(tracker.calls).update_limit("p", limit)
    assert again.calls_at("p", at(now)) == tracker.calls_at("p", at(now))


def test_a_day_forgets_the_day_before() -> None:
    monday, tuesday = datetime(2026, 1, 5, tzinfo=UTC).date(), datetime(2026, 1, 6, tzinfo=UTC).date()
    spent = DaySpending().and_more(monday, Spending(1, 10, 0.5)).and_more(monday, Spending(1, 5, 0.25))
    assert spent.on(monday) == Spending(2, 15, 0.75)
    assert spent.on(tuesday) == Spending()
    assert spent.and_more(tuesday, Spending(1)).on(tuesday) == Spending(1)
