"""Events of a program that has no adapter, read by the map that the fleet file gives (`[tools.NAME.jsonl]`)."""

from __future__ import annotations

import json
from collections.abc import Mapping

from darkfactory.model.fleet import JsonlMap
from darkfactory.model.signals import ApiCall, Finished, Said, Signal, Started, ToolCall, Unknown, Usage
from darkfactory.tools.errors import class_of
from darkfactory.tools.text import count, in_full, json_object, number, one_line, string

_PARTIAL_CHARS = 64 * 1024
"""Of what comes in pieces, this much is kept."""
_MEANINGS = ("started", "said", "said_pieces", "tool_call", "api_call", "finished", "failed")


class EventMap:
    """A map, made ready for one run: what each kind of event says, and what was said of which more may come."""

    def __init__(self, names: JsonlMap) -> None:
        self._names = names
        self._partial = ""
        self._kinds = {kind: meaning for meaning in _MEANINGS for kind in getattr(names, meaning)}

    def signals(self, line: bytes) -> tuple[Signal, ...]:
        """What one line says. Never raises."""
        event, names = json_object(line), self._names
        meaning = self._kinds.get("/".join(filter(None, (_word(at(event, path)) for path in names.type))))
        usage = Usage(
            count(at(event, names.input_tokens)),
            count(at(event, names.output_tokens)),
            number(at(event, names.cost_usd)),
        )
        used: tuple[Signal, ...] = () if usage == _NOTHING else (usage,)
        ok = at(event, names.ok)
        well = None if ok is None else _word(ok) in names.ok_values
        text = next(filter(None, (string(at(event, path)) for path in names.text)), "")
        if meaning == "said_pieces":
            self._partial += text[: _PARTIAL_CHARS - len(self._partial)]
            return used
        if meaning is not None and self._partial.strip():
            used = (Said(self._partial), *used)
            self._partial = ""
        match meaning:
            case "started":
                return (*used, Started(one_line(at(event, names.session)) or None))
            case "said":
                return (*used, Said(text)) if text.strip() else used
            case "tool_call":
                return (*used, ToolCall(one_line(at(event, names.tool_name)), well, _word(at(event, names.tool_id))))
            case "api_call":
                return (*used, ApiCall())
            case "finished" if well is not False:
                return (*used, Finished(True, one_line(text), answer=text))
            case "finished" | "failed":
                return (*used, Finished(False, in_full(text), class_of(text)))
        return used or (Unknown(),)


_NOTHING = Usage()


def at(event: object, path: str) -> object:
    """What is at a path of names with dots; None when nothing is."""
    for name in path.split("."):
        event = event.get(name) if isinstance(event, Mapping) else None
    return event


def _word(value: object) -> str:
    """A value as JSON writes it, a string without its quotes; empty for what is no single value."""
    if isinstance(value, str):
        return value
    return "" if value is None or isinstance(value, dict | list) else json.dumps(value)
