"""What each number of a fleet may be."""

from __future__ import annotations

import math
from collections.abc import Iterator

import attrs
from attrs import frozen

from darkfactory.config import words
from darkfactory.config.finding import Finding
from darkfactory.config.lines import Keys


@frozen
class Limit:
    """What a number may be; never nan."""

    low: float
    high: float = math.inf
    above: bool = False
    """The low end itself is refused."""

    def problem(self, value: float) -> str | None:
        """What is wrong with the value; None when nothing is."""
        if not (value > self.low if self.above else value >= self.low):
            return f"must be {'more than' if self.above else 'at least'} {self.low}, found {words.number(value)}"
        if value > self.high or value == math.inf:
            return f"must be at most {self.high}, found {words.number(value)}"
        return None


_CENTURY = 100 * 365 * 86400
"""Longer delays overflow the arithmetic of dates."""
_TIME = Limit(0, _CENTURY)
_SOME_TIME = Limit(0, _CENTURY, above=True)
_FRACTION = Limit(0, 1)
_SIZE = Limit(1, 2**63 - 1)
"""What the kernel's limits can hold."""
WEIGHT = Limit(0, 1000)
"""Of a kind of finding: what they are called is no matter of ours."""

_LIMITS = {
    "backoff_jitter": _FRACTION,
    "backoff_max_secs": _TIME,
    "backoff_secs": _TIME,
    "calls_per_hour": Limit(1),
    "catchup_secs": _TIME,
    "commands": Limit(1),
    "cooldown_secs": _TIME,
    "critical_threshold": _FRACTION,
    "eval_interval_secs": _SOME_TIME,
    "gate_timeout_secs": _SOME_TIME,
    "grace_secs": _TIME,
    "hysteresis": _FRACTION,
    "jitter_secs": _TIME,
    "keep_bytes": Limit(0, 2**63 - 1),
    "keep_days": Limit(0, 36500),
    "keep_runs": Limit(0),
    "linger_secs": _TIME,
    "lookback_hours": Limit(0, 366 * 24, above=True),
    "max_concurrent_runs": Limit(1),
    "max_cost_usd": Limit(0, above=True),
    "max_duration_secs": _SOME_TIME,
    "max_memory_bytes": _SIZE,
    "max_open_prs": Limit(1),
    "max_output_bytes": _SIZE,
    "max_restarts": Limit(0),
    "max_runs_per_day": Limit(1),
    "max_turns": Limit(1),
    "max_worktrees": Limit(1),
    "min_free_bytes": Limit(0, 2**63 - 1),
    "minor_threshold": _FRACTION,
    "moderate_finish_secs": _TIME,
    "moderate_threshold": _FRACTION,
    "nice": Limit(0, 19),
    "period_secs": _SOME_TIME,
    "retries": Limit(0),
    "runs": Limit(1),
    "severe_threshold": _FRACTION,
    "shutdown_grace_secs": _TIME,
    "signals": Limit(1),
    "stall_timeout_secs": _SOME_TIME,
    "start_timeout_secs": _SOME_TIME,
    "success_cooldown_secs": _TIME,
    "timeout_secs": _SOME_TIME,
    "tokens_per_day": Limit(1),
    "ttl_secs": Limit(120, _CENTURY),
    "usd_per_day": Limit(0, above=True),
    "warm": Limit(0, 20),
    "warm_idle_secs": _SOME_TIME,
    "window_secs": _SOME_TIME,
}
"""Every number of the model, by its name, which means the same in all sections."""


def check(here: Keys, section: attrs.AttrsInstance) -> Iterator[Finding]:
    """The numbers of one section that are out of their limits."""
    for attribute in attrs.fields(type(section)):
        limit, value = _LIMITS.get(attribute.name), getattr(section, attribute.name)
        if limit is not None and value is not None and (problem := limit.problem(value)):
            yield Finding((*here, attribute.name), problem)
