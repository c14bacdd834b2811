"""The context of a handoff as JSON, and in words.

A file that this factory wrote can be torn by a failing disk, changed by an agent, or come from a newer release. What is
missing or of the wrong kind is refused; fields that are not known here are passed over.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final

from attrs import evolve
from cattrs import BaseValidationError, Converter, transform_error

from darkfactory.errors import HandoffFailed
from darkfactory.model.messages import MESSAGE_TTL_MAX_SECS, SCHEMA_VERSION, HandoffContext

HANDOFF_BYTES: Final = 256 * 1024
"""The longest file."""
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def to_json(context: HandoffContext) -> str:
    """The context as a JSON object, one field a line. HandoffFailed when it is longer than `HANDOFF_BYTES`."""
    text = json.dumps(_converter().unstructure(context), indent=1) + "\n"
    if len(text) > HANDOFF_BYTES:  # JSON is ASCII here
        raise HandoffFailed(f"the context has {len(text)} bytes as JSON, at most {HANDOFF_BYTES} can be handed over")
    return text


def from_json(text: str, name: str) -> HandoffContext:
    """The inverse of `to_json`; `name` is what errors call the text. HandoffFailed when it is no handoff, or torn."""
    return _structured(_object(text, name), name)


def from_block(text: str, name: str) -> HandoffContext:
    """What an agent wrote to hand over: `to` (or `to_agent`), `task` and whatever else the context has.

    Who it is from, and under which id, is not the agent's to say. HandoffFailed as `from_json`.
    """
    tree = _object(text, name)
    known = {key: value for key, value in tree.items() if key not in {"id", "from_agent", "schema_version", "to"}}
    if "to" in tree:
        known["to_agent"] = tree["to"]
    context = _structured({"schema_version": SCHEMA_VERSION, **known}, name)
    if not context.to_agent:
        raise HandoffFailed(f"{name}: does not say to whom: `to` is missing")
    return context


def stamped(context: HandoffContext, *, new_id: str, from_agent: str, to_agent: str, now: datetime) -> HandoffContext:
    """The context as it is handed over. HandoffFailed if its id is no name for a file, or its time to live none."""
    context = evolve(
        context,
        id=context.id or new_id,
        from_agent=from_agent,
        to_agent=to_agent,
        timestamp=context.timestamp or now,
        schema_version=SCHEMA_VERSION,
    )
    if not _ID.fullmatch(context.id):
        raise HandoffFailed(f"the id {context.id[:50]!r} cannot name a file: use letters, digits, '.', '_' and '-'")
    if not context.task.strip():
        raise HandoffFailed("the context has no task: say what is left to do")
    if not 0.0 < context.ttl_secs <= MESSAGE_TTL_MAX_SECS:
        raise HandoffFailed(f"ttl_secs must be more than 0, and at most {MESSAGE_TTL_MAX_SECS:g}")
    return context


def same(one: str, other: str) -> bool:
    """Whether two of them, as JSON, are the same handoff: the time may differ, which is that of handing over."""
    try:
        first, second = from_json(one, "the one"), from_json(other, "the other")
    except HandoffFailed:
        return False
    return evolve(first, timestamp=None) == evolve(second, timestamp=None)


def in_words(context: HandoffContext) -> str:
    """The context as the next agent is told it."""
    parts = [f"Task: {context.task}"]
    if context.progress_summary:
        parts.append(f"Progress so far: {context.progress_summary}")
    if context.decisions:
        parts.append("\n".join(["Decisions:", *(f"- {each}" for each in context.decisions)]))
    if context.files_touched:
        parts.append("\n".join(["Files touched:", *(f"- {each}" for each in context.files_touched)]))
    return "\n\n".join(parts)


def _object(text: str, name: str) -> dict[str, Any]:
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError):
        raise HandoffFailed(f"{name}: is torn, or no JSON") from None
    if not isinstance(tree, dict):
        raise HandoffFailed(f"{name}: is no handoff: a JSON object was expected")
    return tree


def _structured(tree: dict[str, Any], name: str) -> HandoffContext:
    version = tree.get("schema_version")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise HandoffFailed(f"{name}: is no handoff: it has no schema_version")
    try:
        return _converter().structure(tree, HandoffContext)
    except BaseValidationError as error:
        told = "; ".join(transform_error(error, name, format_exception=_told))
        raise HandoffFailed(f"{name}: is no handoff: {told}") from None


def _told(error: BaseException, _type: object) -> str:
    return "is missing" if isinstance(error, KeyError) else str(error)


def _only(kind: type | tuple[type, ...], told: str) -> Callable[[Any, Any], Any]:
    def hook(value: Any, _: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, kind):
            raise TypeError(f"{told} was expected")
        return value

    return hook


def _time(value: Any, _: Any) -> datetime:
    if not isinstance(value, str):
        raise TypeError("a time in ISO 8601 was expected")
    found = datetime.fromisoformat(value)
    if found.tzinfo is None:
        raise ValueError("a time with its zone was expected")
    return found.astimezone(UTC)


def _texts(value: Any, _: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise TypeError("an array of strings was expected")
    return tuple(value)


@cache
def _converter() -> Converter:
    """Made when it is needed: most fleets hand nothing over."""
    converter = Converter()
    converter.register_structure_hook(str, _only(str, "a string"))
    converter.register_structure_hook(int, _only(int, "a whole number"))
    converter.register_structure_hook(float, _only((int, float), "a number"))
    converter.register_structure_hook(datetime, _time)
    converter.register_structure_hook_func(lambda kind: kind == tuple[str, ...], _texts)
    converter.register_unstructure_hook(datetime, lambda value: value.astimezone(UTC).isoformat())
    return converter
