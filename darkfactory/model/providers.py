"""What is used up at the providers, and what they said of it. A provider is known by one key, whoever calls it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta

from attrs import evolve, field, frozen

from darkfactory.model.ends import ErrorClass

WINDOW = timedelta(hours=1)
_MINUTE = 60
_WINDOW_MINUTES = 60


@frozen
class Spending:
    """What was used up: calls, tokens in and out together, US dollars."""

    calls: int = 0
    tokens: int = 0
    usd: float = 0.0

    def __add__(self, other: Spending) -> Spending:
        return Spending(self.calls + other.calls, self.tokens + other.tokens, self.usd + other.usd)

    def beyond(self, before: Spending) -> Spending:
        """What came since `before`, which is this one as it once was; never less than nothing."""
        return Spending(
            max(self.calls - before.calls, 0), max(self.tokens - before.tokens, 0), max(self.usd - before.usd, 0.0)
        )


@frozen
class DaySpending:
    """What was used up on one civil day of the fleet's zone: the last one on which anything was."""

    day: date = date.min
    spent: Spending = field(factory=Spending)

    def and_more(self, day: date, more: Spending) -> DaySpending:
        """After that much more on `day`."""
        return DaySpending(day, self.on(day) + more)

    def on(self, day: date) -> Spending:
        """What was used up on that day; nothing if it is another one."""
        return self.spent if day == self.day else Spending()


Minutes = tuple[tuple[int, int], ...]
"""(minute since the epoch, calls in it), ascending; none older than the window."""


@frozen
class RateLimitWindow:
    """The calls of one agent at one provider within the sliding hour."""

    calls_this_hour: int
    hourly_limit: int | None
    """The provider's, which all agents share; None where there is none."""
    window_start: datetime
    """UTC: what was called before it no longer counts."""


@frozen
class RateLimitTracker:
    """The calls of the last hour, by agent and provider, in buckets of a minute, against the providers' limits.

    A value: what records or changes something returns another one. All instants are aware. A call counts until the
    last of its minute is an hour ago; one that a clock which was set back puts into the future is forgotten.
    """

    limits: Mapping[str, int] = field(factory=dict)
    """Calls per hour, by provider; one without a limit is not in it."""
    calls: Mapping[tuple[str, str], Minutes] = field(factory=dict)
    """By agent and provider."""
    sums: Mapping[str, Minutes] = field(factory=dict)
    """By provider, of all agents."""

    @classmethod
    def of(cls, calls: Mapping[tuple[str, str], Minutes]) -> RateLimitTracker:
        """A tracker without limits that knows of these calls."""
        tracker = cls()
        for (agent, provider), minutes in calls.items():
            sums = dict(tracker.sums.get(provider, ()))
            for minute, count in minutes:
                sums[minute] = sums.get(minute, 0) + count
            tracker = cls(
                calls={**tracker.calls, (agent, provider): minutes},
                sums={**tracker.sums, provider: tuple(sorted(sums.items()))},
            )
        return tracker

    def record_call(self, agent: str, provider: str, at: datetime, calls: int = 1) -> RateLimitTracker:
        """The tracker after so many more calls."""
        minute = _minute(at)
        key = (agent, provider)
        return evolve(
            self,
            calls={**self.calls, key: _more(self.calls.get(key, ()), minute, calls)},
            sums={**self.sums, provider: _more(self.sums.get(provider, ()), minute, calls)},
        )

    def can_call(self, provider: str, at: datetime) -> bool:
        """Whether a call more stays within the provider's limit."""
        left = self.remaining(provider, at)
        return left is None or left > 0

    def update_limit(self, provider: str, limit: int | None) -> RateLimitTracker:
        """The tracker with another limit; None for none."""
        limits = {name: each for name, each in self.limits.items() if name != provider}
        return evolve(self, limits=limits if limit is None else {**limits, provider: limit})

    def remaining(self, provider: str, at: datetime) -> int | None:
        """Calls that are left of the hour, below 0 where it was overdrawn; None where there is no limit."""
        limit = self.limits.get(provider)
        return None if limit is None else limit - _sum(self.sums.get(provider, ()), _minute(at))

    def window(self, agent: str, provider: str, at: datetime) -> RateLimitWindow:
        """What one agent called there."""
        calls = _sum(self.calls.get((agent, provider), ()), _minute(at))
        return RateLimitWindow(calls, self.limits.get(provider), at - WINDOW)

    def calls_at(self, provider: str, at: datetime) -> int:
        """What all agents called there within the hour."""
        return _sum(self.sums.get(provider, ()), _minute(at))

    def free_at(self, provider: str, at: datetime) -> datetime:
        """When a call is possible again if there is none until then; `at` where it is already."""
        left = self.remaining(provider, at)
        if left is None or left > 0:
            return at
        for minute, calls in _within(self.sums.get(provider, ()), _minute(at)):
            left += calls
            if left > 0:
                return datetime.fromtimestamp((minute + _WINDOW_MINUTES) * _MINUTE, UTC)
        return at + WINDOW  # a limit of 0 is never free


def _minute(at: datetime) -> int:
    return int(at.timestamp()) // _MINUTE


def _within(minutes: Minutes, minute: int) -> Minutes:
    return tuple(each for each in minutes if minute - _WINDOW_MINUTES < each[0] <= minute)


def _more(minutes: Minutes, minute: int, calls: int) -> Minutes:
    kept = _within(minutes, minute)
    if kept and kept[-1][0] == minute:
        return (*kept[:-1], (minute, kept[-1][1] + calls))
    return (*kept, (minute, calls))


def _sum(minutes: Minutes, minute: int) -> int:
    return sum(calls for at, calls in minutes if minute - _WINDOW_MINUTES < at <= minute)


@frozen
class Block:
    """A provider said wait, or failed: nothing starts there until it serves again."""

    until: datetime
    """UTC. From then on one run tries, and the others wait for how that goes."""
    times: int
    """How often in a row it turned runs away; the time to wait grows with it where the provider names none."""
    error: ErrorClass
    detail: str = ""
    """What was said, in the words of the tool that heard it."""
    probe: str | None = None
    """The run that tries, while it does."""


@frozen
class Provider:
    """What is known of one provider."""

    spent_on: DaySpending = field(factory=lambda: DaySpending())
    unsaved: Mapping[str, Spending] = field(factory=dict)
    """By agent: what the journal has not been told yet, and no other sum holds."""
    unsaved_sum: Spending = field(factory=Spending)
    """Of all agents."""
    block: Block | None = None
    told: Mapping[str, int] = field(factory=dict)
    """By limit: the percentage of it, 80 or 100, that was told of."""
    runs: int = 0
    """Runs that began there since the factory started."""
    fallbacks: int = 0
    """Runs since then that would have begun there, and fell back on another."""
