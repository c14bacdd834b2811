"""What the fleet lived through, from the journal's lines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkfactory.model.drift import CorrectionAction, CorrectionLevel, DriftAlert, DriftMetrics, DriftScore
from darkfactory.model.ends import Reason
from darkfactory.model.review import AgentStory
from darkfactory.policy import correction
from darkfactory.policy.draft import Draft
from darkfactory.policy.history import line_of
from darkfactory.policy.restart import AFTER
from darkfactory.policy.story import KINDS, TOLD, story

from .world import SAFETY, World, agent, fleet, moment


def ended(run: str, reason: str, **more: object) -> dict[str, object]:
    return {"kind": "run_ended", "agent": "a", "run": run, "reason": reason, **more}


def told(*lines: dict[str, object]) -> AgentStory:
    (only,) = story(lines)
    return only


def test_bad_ends_are_counted_by_reason_and_told_with_their_run():
    found = told(
        ended("a-1", "succeeded"),
        ended("a-2", "failed", detail="exit 1"),
        ended("a-3", "stalled"),
        ended("a-4", "failed", detail="exit 2"),
        ended("a-5", "shutdown"),
    )
    assert (found.runs, found.bad_ends) == (5, {"failed": 2, "stalled": 1})
    assert found.told_runs == ("a-2 failed: exit 1", "a-3 stalled", "a-4 failed: exit 2")


@pytest.mark.parametrize("reason", Reason)
def test_an_end_is_bad_where_it_counts_against_the_agent(reason: Reason):
    assert bool(told(ended("a-1", reason.value)).bad_ends) is AFTER[reason].counts


def test_a_run_that_was_turned_away_counts_once_however_it_is_told():
    blocked = {"kind": "provider_blocked", "agent": "a", "run": "a-1", "error_class": "quota", "detail": "wait"}
    found = told(blocked, ended("a-1", "throttled"), ended("a-2", "budget"))
    assert found.turned_away == 2
    assert found.told == ("provider_blocked quota: wait",)
    assert found.bad_ends == {}


def test_a_hold_that_a_person_asked_for_is_nobodys_fault():
    by_person = {"kind": "held", "agent": "a", "reason": "operator", "detail": "later"}
    assert told(by_person) == AgentStory("a")
    found = told(by_person, {**by_person, "reason": "crash_loop", "detail": "6 bad ends"})
    assert (found.holds, found.told) == (1, ("held crash_loop: 6 bad ends",))


def test_what_was_refused_is_counted_by_reason():
    found = told(
        {"kind": "refused", "agent": "a", "reason": "max_runs_per_day", "detail": "5 of 5"},
        {"kind": "dropped", "agent": "a", "reason": "overlap"},
        {"kind": "message_refused", "agent": "a", "reason": "overlap"},
        {"kind": "tool_missing", "agent": "a", "detail": "no codex"},
    )
    assert found.refusals == {"max_runs_per_day": 1, "overlap": 2, "tool_missing": 1}
    assert found.told[-1] == "tool_missing: no codex"


@pytest.mark.parametrize("level", [level for level in CorrectionLevel if level is not CorrectionLevel.NORMAL])
def test_a_drift_alert_as_the_supervisor_records_it_is_understood(level: CorrectionLevel):
    world = World(fleet(agent("a", SAFETY)))
    draft = Draft.of(world.state, moment(world.at))
    score = DriftScore("a", 0.5, DriftMetrics(0.5, 0.5, 1.0, 20), level)
    correction.correct(draft, DriftAlert("a", score, CorrectionAction.HOLD))
    _, done = draft.done()
    lines = [line_of(each) for each in done if hasattr(each, "kind")]
    found = told(*lines)
    assert found.drift == {level.name.lower(): 1}
    assert found.told == (f"drift {level.name.lower()}: score 0.5", "held drift: drift 0.50 was Critical")
    assert {line["kind"] for line in lines} - KINDS == {"escalated"}


def test_agents_come_by_name_and_only_those_of_which_something_is_told():
    lines = [{**ended("r", "failed"), "agent": name} for name in ("b", "a", "b")]
    other = {"kind": "run_started", "agent": "c", "run": "c-1"}
    assert [(each.agent, each.runs) for each in story([*lines, other])] == [("a", 1), ("b", 2)]


def test_the_newest_are_told_and_all_are_counted():
    found = told(*(ended(f"a-{number}", "failed") for number in range(100)))
    assert found.bad_ends == {"failed": 100}
    assert found.told_runs == tuple(f"a-{number} failed" for number in range(100 - TOLD, 100))


def test_what_an_agent_made_the_journal_say_is_one_line_without_steering_characters():
    found = told(ended("a-1", "failed", detail="x\n\x1b[2Jy\udcff" + "z" * 10_000))
    (line,) = found.told_runs
    assert line.startswith("a-1 failed: x\\n\\x1b[2Jy\\udcffz")
    assert len(line) <= 200
    assert line.isprintable()


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers())
KEYS = st.sampled_from(["kind", "agent", "run", "reason", "detail", "level", "score", "error_class", "utc"])
LINES = st.dictionaries(KEYS, VALUES) | st.builds(
    lambda kind, rest: {"kind": kind, "agent": "a", **rest},
    st.sampled_from(sorted(KINDS)),
    st.dictionaries(KEYS, VALUES),
)


@given(st.lists(LINES, max_size=20))
def test_lines_of_other_releases_are_passed_over_or_understood(lines: list[dict[str, object]]):
    assert all(isinstance(each, AgentStory) for each in story(lines))


@given(st.lists(LINES, max_size=20))
def test_kinds_that_are_not_read_change_nothing(lines: list[dict[str, object]]):
    assert story(line for line in lines if line.get("kind") in [*KINDS]) == story(lines)
