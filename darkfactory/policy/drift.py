"""Nightwatch: how far has an agent drifted, judged by what it was seen to do?

What an agent does is counted into a window of time, and the score is made of three rates of what the window holds:

    error rate                  failed tool calls and bad results, of all tool calls, API calls, warnings and results;
                                of a plain program error lines, of all lines
    command failure             failed tool calls, of all tool calls
    ill health                  bad ends of runs and silent moments of living ones, of all that were looked at

    score = max(error rate, weighted mean of those that have their minimum of samples)

A warning is something that the tool could do without: it is counted among what was seen and not among the errors.
Nothing here knows the time; it is passed in (Trio seconds).
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import Final

from attrs import define, field

from darkfactory.model.drift import ACTION_FOR, CorrectionLevel, DriftAlert, DriftMetrics, DriftScore
from darkfactory.model.fleet import MinSamples, NightwatchConfig
from darkfactory.model.signals import Counts

WEIGHTS: Final[Mapping[str, float]] = {"error_rate": 0.4, "command_success_rate": 0.3, "health_score": 0.3}
BUCKETS: Final = 60
"""The window moves on in steps of a sixtieth of itself, and forgets in the same steps."""
_SEEN, _ERRORS, _COMMANDS, _FAILURES, _LOOKS, _ILL = range(6)
_COLUMNS: Final = 6


@define(eq=False)
class Window:
    """A ring of buckets with six counters each, and their sums; 4 KB. A bucket's number is its time over its width."""

    width: float
    """Seconds; of one bucket."""
    newest: int = 0
    """The number of the bucket that time has come to."""
    sums: list[int] = field(factory=lambda: [0] * _COLUMNS)
    _ring: array[int] = field(factory=lambda: array("Q", bytes(8 * BUCKETS * _COLUMNS)))
    _used: array[int] = field(factory=lambda: array("Q"))
    """The numbers of the buckets that something was counted into, oldest first: the others need no emptying."""

    @property
    def is_good(self) -> bool:
        """Nothing bad was counted that it has not forgotten."""
        return not (self.sums[_ERRORS] or self.sums[_FAILURES] or self.sums[_ILL])

    def add(self, at: float, column: int, count: int) -> None:
        """Count so many more in a column, seen at `at`."""
        self.move(at)
        if not self._used or self._used[-1] != self.newest:
            self._used.append(self.newest)
        self._ring[self.newest % BUCKETS * _COLUMNS + column] += count
        self.sums[column] += count

    def move(self, at: float) -> None:
        """Forget what has fallen out of the window by `at`. Time does not go back."""
        number = int(at // self.width)
        if number <= self.newest:
            return
        self.newest = number
        while self._used and self._used[0] <= self.newest - BUCKETS:
            first = self._used.pop(0) % BUCKETS * _COLUMNS
            for column in range(_COLUMNS):
                self.sums[column] -= self._ring[first + column]
                self._ring[first + column] = 0


@define(eq=False)
class _Watched:
    """What is known of one agent."""

    window: Window
    level: CorrectionLevel = CorrectionLevel.NORMAL
    """As it was last evaluated: what the hysteresis is about."""
    erred: bool = False
    """Something went wrong since the last alert."""
    evaluated: list[int] | None = None
    """What the window held when it was evaluated last, nothing if it was all good: the score comes of that alone."""


@define(eq=False)
class NightwatchMonitor:
    """Counts what agents do, and says how far each has drifted. `at` is Trio's time, and never goes back."""

    config: NightwatchConfig = field(factory=NightwatchConfig)
    _agents: dict[str, _Watched] = field(factory=dict)
    """Those of which something was seen."""
    _told: dict[tuple[str, CorrectionLevel], float] = field(factory=dict)
    """When the last alert of this level, or of a worse one, was raised about the agent. A reset keeps it."""

    def observe(self, agent: str, counts: Counts, at: float) -> None:
        """Count what a stretch of the agent's output showed."""
        seen = counts.tool_calls + counts.api_calls + counts.warnings + counts.finishes + counts.lines
        errors = counts.tool_failures + counts.bad_finishes + counts.error_lines
        watched = self._watched(agent)
        for column, count in enumerate((seen, errors, counts.tool_calls, counts.tool_failures)):
            if count:
                watched.window.add(at, column, count)
        watched.erred = watched.erred or errors > 0

    def observe_health(self, agent: str, good: bool, at: float) -> None:
        """Count the end of a run, or a look at a living one."""
        watched = self._watched(agent)
        watched.window.add(at, _LOOKS, 1)
        if not good:
            watched.window.add(at, _ILL, 1)
        watched.erred = watched.erred or not good

    def drift_score(self, agent: str, at: float) -> DriftScore:
        """The agent's drift by now; Normal when nothing was seen of it. Changes nothing."""
        watched = self._agents.get(agent)
        if watched is None:
            return DriftScore(agent, 0.0, DriftMetrics(0.0, 1.0, 1.0, 0), CorrectionLevel.NORMAL)
        watched.window.move(at)
        metrics = metrics_of(watched.window.sums, self.config.min_samples)
        score = score_of(metrics)
        return DriftScore(agent, score, metrics, level_of(score, metrics, self.config, watched.level))

    @property
    def seen(self) -> list[str]:
        """The agents of which something was seen."""
        return list(self._agents)

    def all_drift_scores(self, at: float) -> list[DriftScore]:
        """The drift of every agent of which something was seen."""
        return [self.drift_score(agent, at) for agent in self._agents]

    def is_settled(self, agent: str) -> bool:
        """An evaluation would find nothing and change nothing: all was good at the last one, and is."""
        watched = self._agents.get(agent)
        return watched is None or (watched.evaluated == [] and watched.window.is_good)

    def evaluate(self, agent: str, at: float) -> DriftAlert | None:
        """Take note of the agent's level; an alert when something is to be said about it.

        A level that was told of is told of again after `cooldown_secs`, and only if more has gone wrong since; a
        better one is not told of by itself.
        """
        if self.is_settled(agent):
            return None
        watched = self._agents[agent]
        watched.window.move(at)
        held = [] if watched.window.is_good else [*watched.window.sums]
        if held == watched.evaluated and not (held and watched.erred):
            return None
        watched.evaluated = held
        found = self.drift_score(agent, at)
        news = watched.erred or found.level > watched.level
        watched.level = found.level
        if found.level is CorrectionLevel.NORMAL or not news:
            return None
        told = self._told.get((agent, found.level))
        if told is not None and at < told + self.config.cooldown_secs:
            return None
        self._told.update({(agent, level): at for level in CorrectionLevel if level <= found.level})
        watched.erred = False
        return DriftAlert(agent, found, ACTION_FOR[found.level])

    def reset(self, agent: str) -> None:
        """Forget what was seen of the agent: what it did before a correction is not held against it again."""
        self._agents.pop(agent, None)

    def _watched(self, agent: str) -> _Watched:
        watched = self._agents.get(agent)
        if watched is None:
            watched = self._agents[agent] = _Watched(Window(self.config.window_secs / BUCKETS))
        return watched


def metrics_of(sums: list[int], minimum: MinSamples) -> DriftMetrics:
    """The rates of what a window holds.

    A single failed command is no evidence of anything: a test fails, and the agent mends what it found.
    """
    seen, errors, commands, failures, looks, ill = sums
    enough = (seen >= minimum.signals, commands >= minimum.commands and failures != 1, looks >= minimum.runs)
    return DriftMetrics(
        error_rate=_share(errors, seen),
        command_success_rate=1.0 - _share(failures, commands),
        health_score=1.0 - _share(ill, looks),
        sample_count=seen,
        weighed=tuple(part for part, counts in zip(WEIGHTS, enough, strict=True) if counts),
    )


def _share(part: int, whole: int) -> float:
    """In 0..1, whatever an adapter counted."""
    return min(1.0, part / whole) if whole else 0.0


def score_of(metrics: DriftMetrics) -> float:
    """How far an agent has drifted, 0..1.

    Ill health alone makes no score: how runs end, and how long they may be silent, is judged by the restart intensity
    and the stall limit already, and would be judged twice.
    """
    badness = {
        "error_rate": metrics.error_rate,
        "command_success_rate": 1.0 - metrics.command_success_rate,
        "health_score": 1.0 - metrics.health_score,
    }
    parts = metrics.weighed
    if not parts or parts == ("health_score",):
        return 0.0
    mean = sum(WEIGHTS[part] * badness[part] for part in parts) / sum(WEIGHTS[part] for part in parts)
    # rounded, so that 4 of 10 are 0.4 and not a little less or more: the thresholds are inclusive
    return max(metrics.error_rate if "error_rate" in parts else 0.0, round(mean, 9))


def level_of(
    score: float, metrics: DriftMetrics, config: NightwatchConfig, before: CorrectionLevel = CorrectionLevel.NORMAL
) -> CorrectionLevel:
    """The level that the score has come to from the level `before`.

    A threshold belongs to the level above it. On the way down a level is left only when the score has fallen below its
    threshold by more than `hysteresis`, or by more than half the threshold if that is less.

    Critical stops an agent until a person comes, so one failed run must not be enough for it: it takes an error rate
    that is over the threshold by itself, or all three parts.
    """
    level = CorrectionLevel.NORMAL
    for candidate, edge in (
        (CorrectionLevel.MINOR, config.minor_threshold),
        (CorrectionLevel.MODERATE, config.moderate_threshold),
        (CorrectionLevel.SEVERE, config.severe_threshold),
        (CorrectionLevel.CRITICAL, config.critical_threshold),
    ):
        kept = candidate <= before and score > edge - min(config.hysteresis, edge / 2)
        if score >= edge or kept:
            level = candidate
    if level is CorrectionLevel.CRITICAL and before is not level and len(metrics.weighed) < len(WEIGHTS):
        by_errors = "error_rate" in metrics.weighed and metrics.error_rate >= config.critical_threshold
        return level if by_errors else CorrectionLevel.SEVERE
    return level
