"""What the fleet itself lived through since the last review, as the journal tells it.

A review improves a repository, and the agents that work on it are a part of what can be better: one that fails night
after night says something about its task or about the code. The lines may have been written by an older or a newer
release, so nothing of them is taken for granted.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from attrs import define, field

from darkfactory.model.ends import Reason
from darkfactory.model.review import AgentStory
from darkfactory.policy.quoting import visible
from darkfactory.policy.restart import AFTER

TOLD: Final = 10
"""Runs that are told of one agent, and as many other records; the newest."""

_BAD: Final = frozenset(reason.value for reason, after in AFTER.items() if after.counts)
_TURNED_AWAY: Final = frozenset({Reason.THROTTLED.value, Reason.BUDGET.value})


@define(eq=False)
class _Told:
    """What was read of one agent so far."""

    runs: int = 0
    bad_ends: Counter[str] = field(factory=Counter)
    drift: Counter[str] = field(factory=Counter)
    holds: int = 0
    turned_away: set[str] = field(factory=set)
    """Run ids."""
    refusals: Counter[str] = field(factory=Counter)
    told_runs: deque[tuple[str, str, str]] = field(factory=lambda: deque(maxlen=TOLD))
    told: deque[tuple[str, str, str]] = field(factory=lambda: deque(maxlen=TOLD))

    def ended(self, line: Mapping[str, Any]) -> None:
        """A run of it has its verdict."""
        self.runs += 1
        reason = _text(line, "reason")
        if reason in _BAD:
            self.bad_ends[reason] += 1
            self.told_runs.append((_text(line, "run"), reason, _text(line, "detail")))
        elif reason in _TURNED_AWAY:
            self.turned_away.add(_text(line, "run"))

    def drifted(self, line: Mapping[str, Any]) -> None:
        """Nightwatch raised an alert."""
        level, score = _text(line, "level"), line.get("score")
        self.drift[level] += 1
        told = f"score {score}" if isinstance(score, int | float) else ""
        self.told.append(("drift", level, told))

    def held(self, line: Mapping[str, Any]) -> None:
        """It was held; whom a person holds did nothing wrong."""
        reason = _text(line, "reason")
        if reason != "operator":
            self.holds += 1
            self.told.append(("held", reason, _text(line, "detail")))

    def blocked(self, line: Mapping[str, Any]) -> None:
        """Its provider turned a run away, and everybody else with it."""
        self.turned_away.add(_text(line, "run"))
        self.told.append(("provider_blocked", _text(line, "error_class"), _text(line, "detail")))

    def refused(self, line: Mapping[str, Any]) -> None:
        """It did not run, or was not told something."""
        kind = _text(line, "kind")
        reason = _text(line, "reason") or kind
        self.refusals[reason] += 1
        self.told.append((kind, _text(line, "reason"), _text(line, "detail")))

    def done(self, agent: str) -> AgentStory:
        """All that was read."""
        return AgentStory(
            agent,
            self.runs,
            dict(sorted(self.bad_ends.items())),
            dict(sorted(self.drift.items())),
            self.holds,
            len(self.turned_away),
            dict(sorted(self.refusals.items())),
            tuple(map(_in_words, self.told_runs)),
            tuple(map(_in_words, self.told)),
        )


_READ: Final[Mapping[str, Callable[[_Told, Mapping[str, Any]], None]]] = {
    "run_ended": _Told.ended,
    "drift": _Told.drifted,
    "held": _Told.held,
    "provider_blocked": _Told.blocked,
    "refused": _Told.refused,
    "dropped": _Told.refused,
    "message_refused": _Told.refused,
    "tool_missing": _Told.refused,
}

KINDS: Final = frozenset(_READ)
"""The kinds of records that tell of it; lines of other kinds need not be parsed."""


def story(lines: Iterable[Mapping[str, Any]]) -> tuple[AgentStory, ...]:
    """What these journal lines, oldest first, tell of each agent; by name. Lines that tell nothing are passed over."""
    agents: dict[str, _Told] = {}
    for line in lines:
        kind, agent = _text(line, "kind"), _text(line, "agent")
        if agent and kind in _READ:
            _READ[kind](agents.setdefault(agent, _Told()), line)
    return tuple(agents[name].done(name) for name in sorted(agents))


def _text(line: Mapping[str, Any], key: str) -> str:
    value = line.get(key)
    return value if isinstance(value, str) else ""


def _in_words(one: tuple[str, str, str]) -> str:
    what, reason, detail = one
    told = f"{what} {reason}".strip()
    return visible(f"{told}: {detail}" if detail else told)
