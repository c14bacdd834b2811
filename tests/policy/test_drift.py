"""Nightwatch's judgement: the score, its levels, what the window holds and forgets, and when an alert is raised."""

from __future__ import annotations

import math

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from darkfactory.model.drift import ACTION_FOR, CorrectionLevel, DriftMetrics
from darkfactory.model.fleet import MinSamples, NightwatchConfig
from darkfactory.model.signals import Counts
from darkfactory.policy.drift import BUCKETS, WEIGHTS, NightwatchMonitor, Window, level_of, score_of

NORMAL, MINOR, MODERATE, SEVERE, CRITICAL = CorrectionLevel
ALL = tuple(WEIGHTS)


def lines(errors: int, of: int) -> Counts:
    """What a plain program printed."""
    return Counts(lines=of, error_lines=errors)


def monitor(**fields: object) -> NightwatchMonitor:
    return NightwatchMonitor(NightwatchConfig(**fields))  # type: ignore[arg-type]


def judged(*counts: Counts, health: str = "", **fields: object) -> tuple[float, CorrectionLevel]:
    """Score and level after this; in `health` a + is a good look and a - a bad one."""
    nightwatch = monitor(**fields)
    for each in counts:
        nightwatch.observe("it", each, 0.0)
    for look in health:
        nightwatch.observe_health("it", look == "+", 0.0)
    found = nightwatch.drift_score("it", 0.0)
    return found.score, found.level


class TestSeed:
    """The rows of the plan's table of tests."""

    def test_drift_metrics_zero(self):
        found = NightwatchMonitor().drift_score("it", 0.0)
        assert (found.score, found.level) == (0.0, NORMAL)
        assert found.metrics == DriftMetrics(0.0, 1.0, 1.0, 0)

    @pytest.mark.parametrize("errors", [10, 15, 19])
    def test_drift_metrics_minor(self, errors):
        assert judged(lines(errors, 100)) == (errors / 100, MINOR)

    @pytest.mark.parametrize("errors", [20, 30, 39])
    def test_drift_metrics_moderate(self, errors):
        assert judged(lines(errors, 100)) == (errors / 100, MODERATE)

    @pytest.mark.parametrize("errors", [40, 55, 69])
    def test_drift_metrics_severe(self, errors):
        assert judged(lines(errors, 100)) == (errors / 100, SEVERE)

    @pytest.mark.parametrize("errors", [70, 71, 100])
    def test_drift_metrics_critical(self, errors):
        assert judged(lines(errors, 100)) == (errors / 100, CRITICAL)

    def test_drift_reset(self):
        nightwatch = NightwatchMonitor()
        nightwatch.observe("it", lines(90, 100), 0.0)
        nightwatch.observe("other", lines(90, 100), 0.0)
        nightwatch.reset("it")
        assert [score.agent_name for score in nightwatch.all_drift_scores(0.0)] == ["other"]
        assert nightwatch.drift_score("it", 0.0).metrics.sample_count == 0
        assert nightwatch.drift_score("other", 0.0).level is CRITICAL

    def test_correction_level_ordering(self):
        assert NORMAL < MINOR < MODERATE < SEVERE < CRITICAL


@pytest.mark.parametrize(
    ("counts", "health", "level"),
    [
        (Counts(tool_calls=20, tool_failures=3), "", MINOR),
        (Counts(tool_calls=40, api_calls=59, finishes=1, tool_failures=15), "+++", MINOR),
        (lines(30, 100), "", MODERATE),
        (Counts(tool_calls=30, api_calls=9, finishes=1, tool_failures=11, bad_finishes=1), "+++", MODERATE),
        (lines(60, 100), "++--", SEVERE),
        (Counts(tool_calls=40, finishes=10, tool_failures=20, bad_finishes=10), "+-+-", SEVERE),
        (lines(90, 100), "+----", CRITICAL),
        (Counts(tool_calls=90, finishes=10, tool_failures=82, bad_finishes=8), "+----", CRITICAL),
    ],
)
def test_four_points(counts, health, level):
    assert judged(counts, health=health)[1] is level


def test_a_warning_is_something_seen_and_no_error():
    assert judged(Counts(warnings=1000)) == (0.0, NORMAL)
    assert judged(Counts(tool_calls=4, tool_failures=2, warnings=16)) == (0.1, MINOR)


def test_the_weights_of_parts_without_samples_go_to_the_others():
    metrics = DriftMetrics(0.2, 0.5, 0.0, 100, ALL)
    assert score_of(metrics) == pytest.approx(0.4 * 0.2 + 0.3 * 0.5 + 0.3 * 1.0)
    assert score_of(evolve(metrics, weighed=ALL[:2])) == pytest.approx((0.4 * 0.2 + 0.3 * 0.5) / 0.7)
    assert score_of(evolve(metrics, weighed=ALL[1:])) == pytest.approx((0.3 * 0.5 + 0.3 * 1.0) / 0.6)
    assert score_of(evolve(metrics, weighed=ALL[1:2])) == 0.5
    assert score_of(evolve(metrics, weighed=())) == 0.0


def test_ill_health_alone_is_no_drift():
    # else three crashes would hold an agent, whatever max_restarts says
    assert judged(health="-" * 50) == (0.0, NORMAL)
    assert judged(lines(0, 20), health="---") == (pytest.approx(0.3 / 0.7), SEVERE)


def test_critical_takes_the_error_rate_or_all_three_parts():
    few = Counts(tool_calls=6, tool_failures=6, api_calls=7, finishes=1, bad_finishes=1)
    assert judged(few, health="-") == (1.0, SEVERE)
    many = Counts(tool_calls=12, tool_failures=12, api_calls=12, finishes=1, bad_finishes=1)
    assert judged(many, health="-") == (pytest.approx(0.7257, abs=1e-3), SEVERE)
    assert judged(many, health="---")[1] is CRITICAL


@given(
    st.builds(
        lambda calls, failures, others, bad: Counts(
            tool_calls=calls, tool_failures=min(failures, calls), api_calls=others, finishes=1, bad_finishes=bad
        ),
        calls=st.integers(0, 1000),
        failures=st.integers(0, 1000),
        others=st.integers(0, 1000),
        bad=st.integers(0, 1),
    )
)
def test_one_failed_nightly_run_alone_is_not_critical(counts):
    # unless nearly all that it did went wrong, and it did a lot
    score, level = judged(counts, health="-")
    errors = counts.tool_failures + counts.bad_finishes
    seen = counts.tool_calls + counts.api_calls + counts.finishes
    assert (level is CRITICAL) == (seen >= 20 and errors / seen >= 0.7)
    if counts.tool_failures == 0:
        assert score < 0.1


RATES = st.floats(0.0, 1.0)
METRICS = st.builds(
    DriftMetrics, RATES, RATES, RATES, st.just(100), st.sets(st.sampled_from(ALL)).map(lambda s: tuple(sorted(s)))
)
WORSE = {"error_rate": 1, "command_success_rate": -1, "health_score": -1}


@given(METRICS, st.sampled_from(ALL), RATES)
def test_a_score_lies_between_0_and_1_and_grows_with_each_part(metrics, part, other):
    score = score_of(metrics)
    assert 0.0 <= score <= 1.0
    assert not math.isnan(score)
    changed = evolve(metrics, **{part: other})
    if (other - getattr(metrics, part)) * WORSE[part] >= 0:
        assert score_of(changed) >= score - 1e-12


@given(METRICS)
def test_the_error_rate_is_the_least_that_a_score_can_be(metrics):
    if "error_rate" in metrics.weighed:
        assert score_of(metrics) >= metrics.error_rate


COUNTS = st.builds(Counts, *([st.integers(0, 50)] * 8))


@given(st.lists(st.tuples(COUNTS, st.booleans(), st.floats(0.0, 5000.0)), max_size=30), st.floats(0.0, 2000.0))
def test_whatever_is_counted_gives_a_score_with_its_parts(seen, later):
    nightwatch, at = NightwatchMonitor(), 0.0
    for counts, good, passed in seen:
        at += passed
        nightwatch.observe("it", counts, at)
        nightwatch.observe_health("it", good, at)
        nightwatch.evaluate("it", at)
    found = nightwatch.drift_score("it", at + later)
    parts = (found.score, found.metrics.error_rate, found.metrics.command_success_rate, found.metrics.health_score)
    assert all(0.0 <= part <= 1.0 for part in parts)
    assert found.metrics.sample_count >= 0


@given(st.lists(st.tuples(st.floats(0.0, 600.0), st.none() | st.booleans() | COUNTS), max_size=60))
def test_what_has_not_changed_since_is_evaluated_as_if_it_had(
    history: list[tuple[float, Counts | bool | None]],
) -> None:
    monitor, thorough = NightwatchMonitor(), NightwatchMonitor()
    at = 0.0
    for later, seen in history:
        at += later
        for each in (monitor, thorough):
            if isinstance(seen, Counts):
                each.observe("it", seen, at)
            elif seen is not None:
                each.observe_health("it", seen, at)
        for watched in thorough._agents.values():
            watched.evaluated = None
        assert monitor.evaluate("it", at) == thorough.evaluate("it", at)
        assert monitor.drift_score("it", at) == thorough.drift_score("it", at)


@given(st.lists(st.tuples(st.floats(0.0, 40.0), st.integers(0, 9)), max_size=200), st.floats(0.5, 100.0))
def test_a_window_holds_what_a_list_would(steps, width):
    window, past, at = Window(width), [], 1000.0
    for passed, count in steps:
        at += passed
        window.add(at, 0, count)
        past.append((at, count))
        newest = at // width
        assert window.sums[0] == sum(count for seen, count in past if seen // width > newest - BUCKETS)


@given(st.floats(0.0, 1e6), st.floats(1.0, 1e5))
def test_the_window_forgets(at, window_secs):
    nightwatch = monitor(window_secs=window_secs)
    nightwatch.observe("it", lines(90, 100), at)
    nightwatch.observe_health("it", False, at)
    kept = nightwatch.drift_score("it", at + 0.98 * window_secs)
    assert kept.metrics.sample_count == 100
    gone = nightwatch.drift_score("it", at + 1.001 * window_secs)
    assert (gone.level, gone.metrics) == (NORMAL, DriftMetrics(0.0, 1.0, 1.0, 0))


def test_what_is_counted_of_one_agent_says_nothing_about_another():
    nightwatch = NightwatchMonitor()
    nightwatch.observe("good", lines(0, 100), 0.0)
    nightwatch.observe("bad", lines(100, 100), 0.0)
    assert {score.agent_name: score.level for score in nightwatch.all_drift_scores(1.0)} == {
        "good": NORMAL,
        "bad": CRITICAL,
    }


class TestLevels:
    def level(self, score: float, before: CorrectionLevel = NORMAL, **fields: float) -> CorrectionLevel:
        metrics = DriftMetrics(score, 1.0, 1.0, 100, ALL)
        return level_of(score, metrics, NightwatchConfig(**fields), before)  # type: ignore[arg-type]

    def test_a_threshold_belongs_to_the_level_above_it(self):
        assert [self.level(score) for score in (0.0999, 0.1, 0.1999, 0.2, 0.3999, 0.4, 0.6999, 0.7, 1.0)] == [
            NORMAL, MINOR, MINOR, MODERATE, MODERATE, SEVERE, SEVERE, CRITICAL, CRITICAL,
        ]  # fmt: skip

    def test_on_the_way_down_a_level_is_left_late(self):
        assert self.level(0.16, MODERATE) is MODERATE
        assert self.level(0.14, MODERATE) is MINOR
        assert self.level(0.06, MINOR) is MINOR
        assert self.level(0.04, MINOR) is NORMAL
        assert self.level(0.38, MODERATE) is MODERATE  # the edge of a level above does not hold

    def test_from_severe_to_normal_in_one_step(self):
        assert self.level(0.0, SEVERE) is NORMAL

    def test_hysteresis_is_half_the_threshold_at_most(self):
        assert self.level(0.026, MINOR, minor_threshold=0.05, hysteresis=0.5) is MINOR
        assert self.level(0.025, MINOR, minor_threshold=0.05, hysteresis=0.5) is NORMAL

    @pytest.mark.parametrize(
        ("key", "value", "score", "expected"),
        [
            ("minor_threshold", 0.05, 0.06, MINOR),
            ("moderate_threshold", 0.15, 0.16, MODERATE),
            ("severe_threshold", 0.3, 0.31, SEVERE),
            ("critical_threshold", 0.5, 0.51, CRITICAL),
        ],
    )
    def test_each_threshold_is_the_configurations(self, key, value, score, expected):
        assert self.level(score, **{key: value}) is expected
        assert self.level(score) is not expected

    def test_the_hysteresis_is_the_configurations(self):
        assert self.level(0.16, MODERATE, hysteresis=0.01) is MINOR


class TestMinimumSamples:
    @pytest.mark.parametrize(
        ("counts", "health", "fewer"),
        [
            (lines(10, 19), "", MinSamples(signals=19)),
            (Counts(tool_calls=4, tool_failures=2), "", MinSamples(commands=4)),
            (lines(0, 20), "--", MinSamples(runs=2)),
        ],
    )
    def test_a_part_counts_when_it_has_enough_of_them(self, counts, health, fewer):
        assert judged(counts, health=health) == (0.0, NORMAL)
        assert judged(counts, health=health, min_samples=fewer)[1] is not NORMAL

    def test_a_score_says_which_parts_it_is_made_of(self):
        nightwatch = NightwatchMonitor()
        nightwatch.observe("it", Counts(tool_calls=5, tool_failures=2), 0.0)
        assert nightwatch.drift_score("it", 0.0).metrics == DriftMetrics(0.4, 0.6, 1.0, 5, ("command_success_rate",))

    def test_a_single_failed_command_is_no_evidence(self):
        assert judged(Counts(tool_calls=5, tool_failures=1, api_calls=6)) == (0.0, NORMAL)
        assert judged(Counts(tool_calls=10, tool_failures=2, api_calls=6)) == (0.2, MODERATE)


class TestAlerts:
    def test_an_alert_has_the_score_and_the_levels_action(self):
        nightwatch = NightwatchMonitor()
        nightwatch.observe("it", lines(30, 100), 0.0)
        alert = nightwatch.evaluate("it", 0.0)
        assert alert is not None
        assert (alert.agent_name, alert.recommended_action) == ("it", ACTION_FOR[MODERATE])
        assert alert.drift_score == nightwatch.drift_score("it", 0.0)

    def test_nothing_is_said_about_a_normal_agent_or_one_that_nobody_saw(self):
        nightwatch = NightwatchMonitor()
        nightwatch.observe("it", lines(0, 100), 0.0)
        assert nightwatch.evaluate("it", 0.0) is None
        assert nightwatch.evaluate("other", 0.0) is None

    def test_the_same_level_is_told_again_after_the_cooldown_if_more_went_wrong(self):
        nightwatch = monitor(cooldown_secs=200.0)
        nightwatch.observe("it", lines(15, 100), 0.0)
        assert nightwatch.evaluate("it", 0.0) is not None
        assert nightwatch.evaluate("it", 250.0) is None  # nothing new
        nightwatch.observe("it", lines(1, 1), 260.0)
        assert nightwatch.evaluate("it", 260.0) is not None
        nightwatch.observe("it", lines(1, 1), 261.0)
        assert nightwatch.evaluate("it", 261.0) is None  # too early
        assert nightwatch.evaluate("it", 460.0) is not None

    def test_a_worse_level_is_told_at_once_and_a_better_one_not(self):
        nightwatch = NightwatchMonitor()
        nightwatch.observe("it", lines(15, 100), 0.0)
        assert nightwatch.evaluate("it", 0.0) is not None
        nightwatch.observe("it", lines(85, 100), 1.0)
        alert = nightwatch.evaluate("it", 1.0)
        assert alert is not None
        assert alert.drift_score.level is SEVERE
        nightwatch.observe("it", lines(1, 200), 2.0)
        assert nightwatch.drift_score("it", 2.0).level is MODERATE
        assert nightwatch.evaluate("it", 2.0) is None

    def test_a_level_that_is_reached_because_the_good_was_forgotten_is_told_too(self):
        nightwatch = monitor(window_secs=600.0)
        nightwatch.observe("it", lines(0, 100), 0.0)
        nightwatch.observe("it", lines(12, 20), 300.0)
        assert nightwatch.evaluate("it", 300.0) is not None
        alert = nightwatch.evaluate("it", 700.0)
        assert alert is not None
        assert alert.drift_score.level is SEVERE

    def test_a_reset_begins_anew_and_keeps_the_cooldown(self):
        nightwatch = NightwatchMonitor()
        nightwatch.observe("it", lines(50, 100), 0.0)
        assert nightwatch.evaluate("it", 0.0) is not None
        nightwatch.reset("it")
        nightwatch.observe("it", lines(50, 100), 10.0)
        assert nightwatch.evaluate("it", 10.0) is None
        assert nightwatch.evaluate("it", 300.0) is not None
