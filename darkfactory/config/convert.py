"""The tree that tomllib gives, made into an `OrchestratorConfig` by cattrs.

cattrs takes too much by itself (5 for a string, a string for an array of its letters), and its errors tell a Python
programmer what went wrong. So every type of the model has a strict hook here, and the tree of errors is walked for
places. One fault must not hide another: what does not fit is replaced by something that does, so that a whole value
comes out and `check` can find what is wrong with the rest.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin
from zoneinfo import ZoneInfo, available_timezones

import attrs
from cattrs import ClassValidationError, Converter, ForbiddenExtraKeysError, IterableValidationError
from cattrs.gen import make_dict_structure_fn, override

from darkfactory.config import expand, units, words
from darkfactory.config.finding import Finding, Misfit
from darkfactory.config.lines import Keys
from darkfactory.model.fleet import (
    AgentDefinition,
    AgentLayer,
    AgentMailConfig,
    CompoundReviewConfig,
    Containment,
    Fallback,
    Isolation,
    JsonlMap,
    LayerConfig,
    MinSamples,
    NightwatchConfig,
    OrchestratorConfig,
    Overlap,
    Permissions,
    PromptVia,
    ProviderConfig,
    Reservation,
    Secret,
    Strategy,
    ToolConfig,
)
from darkfactory.model.routing import RoutingConfig

Hook = Callable[[Any, Any], Any]

_SECTIONS: dict[type[attrs.AttrsInstance], str] = {
    OrchestratorConfig: "the top of the file, before the first [section]",
    NightwatchConfig: "[nightwatch]",
    MinSamples: "[nightwatch.min_samples]",
    LayerConfig: "[layers.X]",
    CompoundReviewConfig: "[compound_review]",
    ToolConfig: "[tools.X]",
    JsonlMap: "[tools.X.jsonl]",
    ProviderConfig: "[providers.X]",
    AgentMailConfig: "[agent_mail]",
    RoutingConfig: "[routing]",
    Fallback: "[agents.fallback]",
    Reservation: "a table in the agent's reserve",
    AgentDefinition: "[[agents]]",
}

_ARRAYS = {"gate": 'write each of its words by itself: ["pytest", "-q"]; a shell\'s line as ["sh", "-c", "LINE"]'}
"""What to do about arrays that are easily taken for something else."""

_NOT_KEYS = frozenset({"source"})
"""Fields that the loader sets."""

# Safety has no timeout by default, so no rule is broken by a limit that only stands in.
_AGENT = {"name": "my-agent", "layer": "Safety", "cli_tool": "codex", "task": "what it shall do"}
_REQUIRED: Mapping[str, object] = {
    **_AGENT,
    "schedule": "0 2 * * *",
    "repo_path": ".",
    "argv": ["my-program"],
    "glob": "docs/**",
    "url": "http://127.0.0.1:8765/mcp/",
    "working_dir": ".",
}
"""For keys that cannot be left out: the example that a fault shows, which also stands in for what does not fit."""


def build(
    tree: dict[str, Any], *, base: Path, environ: Mapping[str, str]
) -> tuple[OrchestratorConfig, tuple[Finding, ...]]:
    """A fleet, and where the tree did not fit it; what stands at those places in the fleet means nothing.

    The tree is ours to change.
    """
    tree.setdefault("working_dir", ".")
    converter = _converter(base, environ)
    found: list[Finding] = []
    while True:  # mostly once or twice; a key of a table is looked at only when its value fits
        try:
            config = converter.structure(tree, OrchestratorConfig)
        except ClassValidationError as error:
            for finding, stand_in in _walk(error, (), None):
                _repair(tree, finding.keys, stand_in)
                found.append(finding)
        else:
            break
    # A file names the layers that it changes.
    layers = {layer: LayerConfig() for layer in AgentLayer} | dict(config.layers)
    return attrs.evolve(config, layers=layers), tuple(found)


def _converter(base: Path, environ: Mapping[str, str]) -> Converter:
    converter = Converter(forbid_extra_keys=True, detailed_validation=True)
    converter.register_structure_hook(str, lambda value, _: _string(value))
    converter.register_structure_hook(int, lambda value, _: _integer(value))
    converter.register_structure_hook(float, lambda value, _: _number(value))
    converter.register_structure_hook(bool, lambda value, _: _boolean(value))
    converter.register_structure_hook(ZoneInfo, lambda value, _: _zone(value))
    converter.register_structure_hook(Secret, lambda value, _: _secret(value, environ))
    converter.register_structure_hook(Path, lambda value, _: expand.path(_string(value), base=base, environ=environ))
    converter.register_structure_hook_func(
        lambda target: target == tuple[str, ...],
        _only(list, "an array", lambda value, _: tuple(converter.structure(value, list[str]))),
    )
    for word in (AgentLayer, Containment, Isolation, Overlap, Permissions, PromptVia, Strategy):
        converter.register_structure_hook(word, _word)
    for section in reversed(_SECTIONS):  # the whole last: it is made of the others
        hook = _section_hook(section, converter)
        converter.register_structure_hook(section, _glob_or(hook) if section is Reservation else hook)
    return converter


def _section_hook(section: type[attrs.AttrsInstance], converter: Converter) -> Hook:
    attrs.resolve_types(section)
    hooks: dict[str, Any] = {
        attribute.name: override(omit=True)
        if attribute.name in _NOT_KEYS
        else override(struct_hook=_field_hook(attribute, converter))
        for attribute in attrs.fields(section)
    }
    structure: Hook = make_dict_structure_fn(section, converter, _cattrs_use_linecache=False, **hooks)
    return _only(dict, "a table", structure)


def _field_hook(attribute: attrs.Attribute[Any], converter: Converter) -> Hook:
    if attribute.name.endswith("_secs"):
        return lambda value, _: units.seconds(value)
    if attribute.name.endswith("_bytes"):
        return lambda value, _: units.size(value)
    hook = converter.get_structure_hook(attribute.type)
    if attribute.name == "agents":
        return _only(list, "an array of tables", hook, "write [[agents]] above each agent")
    kinds = get_args(attribute.type) if isinstance(attribute.type, UnionType) else (attribute.type,)
    if any(get_origin(kind) is tuple for kind in kinds):
        return _only(list, "an array", hook, _ARRAYS.get(attribute.name))
    if get_origin(attribute.type) is Mapping:
        return _only(dict, "a table", hook)
    return hook


def _only(wanted: type, what: str, hook: Hook, remedy: str | None = None) -> Hook:
    """The hook for values of one type; cattrs itself would take a string for an array of its letters."""

    def guarded(value: Any, target: Any) -> Any:
        if not isinstance(value, wanted):
            # The kind alone: where a table of secrets is wanted, a secret may stand.
            raise Misfit(f"expected {what}, found {words.kind(value)}", remedy)
        return hook(value, target)

    return guarded


def _glob_or(hook: Hook) -> Hook:
    """A reservation is mostly a glob and nothing else."""

    def either(value: Any, target: Any) -> Any:
        if isinstance(value, str):
            return Reservation(value)
        if not isinstance(value, dict):
            raise words.expected("a glob or a table", value)
        return hook(value, target)

    return either


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise words.expected("a string", value)
    return value


def _integer(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise words.expected("an integer", value)
    return value


def _number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not -1e300 < value < 1e300:
        raise words.expected("a finite number", value)
    return float(value)


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise words.expected("true or false", value)
    return value


def _word(value: object, kind: type[Enum]) -> Enum:
    known = [member.value for member in kind]
    choices = " or ".join(json.dumps(word) for word in known)
    if not isinstance(value, str):
        raise words.expected(choices, value)
    if value not in known:
        raise words.expected(choices, value, words.did_you_mean(value, known, "words"))
    return kind(value)


def _zone(value: object) -> ZoneInfo:
    key = _string(value)
    try:
        return ZoneInfo(key)
    # Not found is a KeyError; an odd key ("../x", "Europe") is a ValueError or whatever the file system says to it.
    except (KeyError, ValueError, OSError):
        match = words.near(key, available_timezones())
        remedy = f"did you mean {match!r}?" if match else 'a name such as "Europe/Berlin" or "UTC"'
    raise words.expected("a time zone", key, remedy)


def _secret(value: object, environ: Mapping[str, str]) -> Secret:
    if not isinstance(value, str):
        raise Misfit(f"expected a string, found {words.kind(value)}", "put it in quotes")
    return Secret(expand.variables(value, environ))


def _walk(error: BaseException, here: Keys, stand_in: object) -> Iterator[tuple[Finding, object]]:
    """What cattrs found at and below this place, each with what can stand in for it (None: it can be left out)."""
    match error:
        case ClassValidationError():
            inner, others = error.group_exceptions()
            required = {a.name for a in attrs.fields(error.cl) if a.default is attrs.NOTHING}
            for each, attribute in inner:
                name = attribute.name
                yield from _walk(each, (*here, name), _REQUIRED[name] if name in required else None)
            for each in others:
                yield from _walk(each, here, stand_in)
        case IterableValidationError():
            for each, element in error.group_exceptions()[0]:
                index = element.index
                in_place = None if isinstance(index, str) else dict(_AGENT) if here == ("agents",) else ""
                yield from _walk(each, (*here, index), in_place)
        case ForbiddenExtraKeysError():
            for key in sorted(error.extra_fields):
                yield Finding((*here, key), "is no key that is known here", _unknown(key, error.cl)), None
        case Misfit():
            yield Finding(here, error.problem, error.remedy), stand_in
        case KeyError():
            example = f"add {here[-1]} = {json.dumps(stand_in)}"
            yield Finding(here, "is missing", example), stand_in
        case _:
            raise error


def _unknown(key: str, section: type[attrs.AttrsInstance]) -> str:
    if f"{key}s" in _keys(section):
        return f"did you mean '{key}s'?"  # [[agent]], whose singular is a key elsewhere
    for other, where in _SECTIONS.items():
        if key in _keys(other):
            return f"it belongs to {where}"
    return words.did_you_mean(key, _keys(section), "keys")


def _keys(section: type[attrs.AttrsInstance]) -> list[str]:
    return [attribute.name for attribute in attrs.fields(section) if attribute.name not in _NOT_KEYS]


def _repair(tree: Any, keys: Keys, stand_in: object) -> None:
    *parents, last = keys
    for key in parents:
        tree = tree[key]
    if stand_in is None:
        tree.pop(last, None)
    else:
        tree[last] = stand_in
