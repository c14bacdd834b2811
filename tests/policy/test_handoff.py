"""The context of a handoff: to JSON and back, and what is none."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkfactory.errors import HandoffFailed
from darkfactory.model.messages import SCHEMA_VERSION, HandoffContext
from darkfactory.policy.handoff import HANDOFF_BYTES, from_block, from_json, in_words, stamped, to_json

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
CONTEXT = HandoffContext(task="go on", progress_summary="half", decisions=("a",), files_touched=("b.py",))
STAMPED = stamped(CONTEXT, new_id="h-1", from_agent="writer", to_agent="helper", now=NOW)

TEXT = st.text(max_size=100)
CONTEXTS = st.builds(
    HandoffContext,
    task=TEXT,
    progress_summary=TEXT,
    decisions=st.lists(TEXT, max_size=5).map(tuple),
    files_touched=st.lists(TEXT, max_size=5).map(tuple),
    timestamp=st.none() | st.datetimes(timezones=st.just(UTC)),
    id=TEXT,
    from_agent=TEXT,
    to_agent=TEXT,
    ttl_secs=st.floats(0.001, 1e6),
)


@given(CONTEXTS)
def test_handoff_roundtrip(context: HandoffContext) -> None:
    assert from_json(to_json(context), "it") == context


@given(CONTEXTS, st.dictionaries(TEXT, st.integers() | TEXT | st.lists(TEXT)))
def test_fields_of_a_newer_release_are_passed_over(context: HandoffContext, more: dict[str, object]) -> None:
    known = {field.name for field in attrs.fields(HandoffContext)}
    tree = {**{key: value for key, value in more.items() if key not in known}, **json.loads(to_json(context))}
    tree["schema_version"] = SCHEMA_VERSION + 1
    assert from_json(json.dumps(tree), "it") == attrs.evolve(context, schema_version=SCHEMA_VERSION + 1)


def test_a_file_that_is_torn_anywhere_is_refused_by_name() -> None:
    text = to_json(STAMPED).rstrip()
    for length in range(len(text)):
        with pytest.raises(HandoffFailed, match=r"^handoffs/h-1\.json: is torn"):
            from_json(text[:length], "handoffs/h-1.json")


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "null",
        '"text"',
        "{}",
        '{"schema_version": true, "task": "x"}',
        '{"schema_version": 0, "task": "x"}',
        '{"schema_version": 1}',
        '{"schema_version": 1, "task": 5}',
        '{"schema_version": 1, "task": "x", "decisions": "abc"}',
        '{"schema_version": 1, "task": "x", "files_touched": [1]}',
        '{"schema_version": 1, "task": "x", "timestamp": "yesterday"}',
        '{"schema_version": 1, "task": "x", "timestamp": "2026-01-05T12:00:00"}',
        '{"schema_version": 1, "task": "x", "timestamp": 5}',
        '{"schema_version": 1, "task": "x", "ttl_secs": "long"}',
        '{"version": 1, "kind": "snapshot"}',
    ],
)
def test_a_foreign_file_is_refused_by_name(text: str) -> None:
    with pytest.raises(HandoffFailed, match=r"^other\.json: is no handoff"):
        from_json(text, "other.json")


def test_json_too_deep_for_python_is_torn() -> None:
    with pytest.raises(HandoffFailed, match="is torn"):
        from_json("[" * 100_000, "it")


def test_a_context_that_is_too_long_is_not_handed_over() -> None:
    with pytest.raises(HandoffFailed, match=f"at most {HANDOFF_BYTES}"):
        to_json(attrs.evolve(STAMPED, progress_summary="x" * HANDOFF_BYTES))


def test_what_is_set_stays_and_the_rest_is_filled_in() -> None:
    assert attrs.evolve(CONTEXT, id="h-1", from_agent="writer", to_agent="helper", timestamp=NOW) == STAMPED
    earlier = NOW - timedelta(hours=1)
    mine = attrs.evolve(CONTEXT, id="mine", timestamp=earlier, from_agent="liar", schema_version=9)
    again = stamped(mine, new_id="h-1", from_agent="writer", to_agent="helper", now=NOW)
    assert (again.id, again.timestamp, again.from_agent) == ("mine", earlier, "writer")
    assert again.schema_version == SCHEMA_VERSION


def test_who_it_is_from_is_not_for_an_agent_to_say() -> None:
    block = '{"to": "helper", "task": "x", "from_agent": "boss", "id": "../../etc/passwd", "schema_version": 99}'
    context = from_block(block, "its block")
    assert (context.to_agent, context.from_agent, context.id) == ("helper", "", "")
    assert context.schema_version == SCHEMA_VERSION
    assert from_block('{"to_agent": "helper", "task": "x"}', "its block").to_agent == "helper"


def test_in_words_it_has_all_of_it_and_nothing_for_what_is_empty() -> None:
    words = in_words(CONTEXT)
    assert words == "Task: go on\n\nProgress so far: half\n\nDecisions:\n- a\n\nFiles touched:\n- b.py"
    assert in_words(HandoffContext(task="go on")) == "Task: go on"
