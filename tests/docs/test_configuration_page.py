"""docs/configuration.md names every key, with its default and its limits, and no key that is not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from darkfactory.config import limits, parse_config
from darkfactory.model.fleet import (
    AgentDefinition,
    AgentLayer,
    AgentMailConfig,
    CompoundReviewConfig,
    Fallback,
    JsonlMap,
    LayerConfig,
    MinSamples,
    NightwatchConfig,
    OrchestratorConfig,
    ProviderConfig,
    Reservation,
    ToolConfig,
)
from darkfactory.model.review import DEFAULT_WEIGHTS
from darkfactory.model.routing import RoutingConfig

SECTIONS: dict[str, type[attrs.AttrsInstance]] = {
    "Top of the file": OrchestratorConfig,
    "`[layers.X]`": LayerConfig,
    "`[[agents]]`": AgentDefinition,
    "`[[agents.reserve]]`": Reservation,
    "`[agents.fallback]`": Fallback,
    "`[providers.X]`": ProviderConfig,
    "`[agent_mail]`": AgentMailConfig,
    "`[routing]`": RoutingConfig,
    "`[tools.X]`": ToolConfig,
    "`[tools.X.jsonl]`": JsonlMap,
    "`[nightwatch]`": NightwatchConfig,
    "`[nightwatch.min_samples]`": MinSamples,
    "`[compound_review]`": CompoundReviewConfig,
}
NO_KEYS = {"source", "layers", "agents", "tools", "jsonl", "nightwatch", "min_samples", "compound_review"} | {
    "providers",
    "agent_mail",
    "routing",
}
"""Fields that are sections, or set by the loader."""
SECTION_OF_AN_AGENT = (AgentDefinition, "fallback")
"""A section too; elsewhere that is the name of a key."""

FLEET = """
{top}
[layers.Core]
{layer}
[providers.mine]
{provider}
[agent_mail]
url = "http://127.0.0.1/"
{mail}
[routing]
{routing}
[tools.mine]
argv = ["mine"]
{tool}
[tools.mine.jsonl]
{jsonl}
[nightwatch]
{watch}
[nightwatch.min_samples]
{samples}
[compound_review]
schedule = "@daily"
repo_path = "."
{review}
[[agents]]
name = "b"
layer = "Growth"
cli_tool = "mine"
task = "t"
[[agents.reserve]]
glob = "docs/**"
{lease}
[[agents]]
name = "a"
layer = "Core"
cli_tool = "mine"
task = "t"
schedule = "@daily"
provider = "p"
{agent}
[agents.fallback]
cli_tool = "claude"
{fallback}
"""
PLACES = dict(
    zip(
        SECTIONS,
        (
            "top",
            "layer",
            "agent",
            "lease",
            "fallback",
            "provider",
            "mail",
            "routing",
            "tool",
            "jsonl",
            "watch",
            "samples",
            "review",
        ),
        strict=True,
    )
)

Tables = Callable[[str], dict[str, list[list[str]]]]


def fleet(**lines: str) -> OrchestratorConfig:
    text = FLEET.format_map(dict.fromkeys(PLACES.values(), "") | lines)
    return parse_config(text, file="fleet.toml", base=Path("/base"), environ={})


@pytest.mark.parametrize("heading", SECTIONS)
def test_every_key_has_its_row_and_every_row_its_key(heading: str, tables: Tables):
    section = SECTIONS[heading]
    names = [field.name for field in attrs.fields(section)]
    fields = [name for name in names if name not in NO_KEYS and (section, name) != SECTION_OF_AN_AGENT]
    rows = [row[0].strip("`") for row in tables("configuration")[heading]]
    assert sorted(rows) == sorted(fields)


@pytest.mark.parametrize("heading", SECTIONS)
def test_a_default_written_out_changes_nothing(heading: str, tables: Tables):
    fields = attrs.fields_dict(SECTIONS[heading])
    for key, default, *_ in tables("configuration")[heading]:
        name = key.strip("`")
        if default == "required":
            assert fields[name].default is attrs.NOTHING, name
        elif default == "none":
            assert fields[name].default is None, name
        elif name == "name":
            assert (default, fleet().name) == ("the file's stem", "fleet")
        else:
            written = default.split("`")[1]
            assert fleet(**{PLACES[heading]: f"{name} = {written}"}) == fleet(), name


def test_a_safety_agent_has_no_timeout():
    safety = AgentDefinition("a", AgentLayer.SAFETY, "demo", "t")
    assert safety.timeout_secs is None


@pytest.mark.parametrize("heading", SECTIONS)
def test_the_value_column_tells_unit_and_limits(heading: str, tables: Tables):
    for key, _, value, _ in tables("configuration")[heading]:
        name = key.strip("`")
        limit = limits._LIMITS.get(name)
        if limit is not None:
            unit = {"secs": "seconds, ", "bytes": "bytes, "}.get(name.rpartition("_")[2], "")
            assert value == unit + in_words(limit), name
        else:
            assert not name.endswith(("_secs", "_bytes")), name


def test_the_table_of_weights_is_the_one_that_is_ranked_by(tables: Tables):
    rows = tables("configuration")["`[compound_review.weights]`"]
    assert {row[0].strip("`"): float(row[1].strip("`")) for row in rows} == {
        kind.value: weight for kind, weight in DEFAULT_WEIGHTS.items()
    }
    assert {row[2] for row in rows} == {f"{limits.WEIGHT.low} to {limits.WEIGHT.high}"}


def in_words(limit: limits.Limit) -> str:
    if limit.above:
        return f"more than {limit.low:g}"
    small = limit.high < 100  # what is larger is there to catch slips
    return f"{limit.low:g} to {limit.high:g}" if small else f"{limit.low:g} or more"
