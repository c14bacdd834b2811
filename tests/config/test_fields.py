"""Every field of the model can be set from a file, takes its own type only, and keeps its limits."""

from __future__ import annotations

from pathlib import Path
from zoneinfo import ZoneInfo

import attrs
import pytest

from darkfactory.config import check_config, parse_config
from darkfactory.errors import ConfigError
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

GROWTH = AgentDefinition("a", AgentLayer.GROWTH, "bash", "true")
OTHER = Fallback(cli_tool="claude", provider="q")

IMPROVER = '[[agents]]\nname = "improver"\nlayer = "Growth"\ncli_tool = "claude"\ntask = "improve"\n'

# What is written, and the value that must arrive. `{section: {field: (TOML, value)}}`
CASES = {
    OrchestratorConfig: {
        "working_dir": ('"work"', Path("/base/work")),
        "agents": ('[{name = "b", layer = "Growth", cli_tool = "bash", task = "x"}]', None),
        "nightwatch": ("{minor_threshold = 0.05}", NightwatchConfig(minor_threshold=0.05)),
        "compound_review": (
            '{schedule = "@weekly", repo_path = "r"}',
            CompoundReviewConfig("@weekly", Path("/base/r")),
        ),
        "name": ('"night"', "night"),
        "timezone": ('"Asia/Tokyo"', ZoneInfo("Asia/Tokyo")),
        "state_dir": ('"/state"', Path("/state")),
        "max_concurrent_runs": ("3", 3),
        "shutdown_grace_secs": ('"20s"', 20.0),
        "nice": ("3", 3),
        "min_free_bytes": ('"5GiB"', 5 * 1024**3),
        "keep_runs": ("7", 7),
        "keep_days": ("1.5", 1.5),
        "keep_bytes": ('"1GB"', 10**9),
        "max_worktrees": ("7", 7),
        "containment": ('"guard"', Containment.GUARD),
        "layers": (
            "{Core = {max_restarts = 1}}",
            dict.fromkeys(AgentLayer, LayerConfig()) | {AgentLayer.CORE: LayerConfig(1)},
        ),
        "tools": ('{t = {argv = ["p"]}}', {"t": ToolConfig(("p",))}),
        "providers": ("{p = {hard = true}}", {"p": ProviderConfig(hard=True)}),
        "agent_mail": ('{url = "http://h/mcp/"}', AgentMailConfig("http://h/mcp/")),
        "routing": ('{fallback = "a"}', RoutingConfig("a")),
    },
    NightwatchConfig: {
        "eval_interval_secs": ("60", 60.0),
        "minor_threshold": ("0.15", 0.15),
        "moderate_threshold": ("0.25", 0.25),
        "severe_threshold": ("0.5", 0.5),
        "critical_threshold": ("1", 1.0),
        "moderate_finish_secs": ('"1m"', 60.0),
        "window_secs": ('"1h"', 3600.0),
        "min_samples": ("{commands = 7}", MinSamples(commands=7)),
        "hysteresis": ("0.01", 0.01),
        "cooldown_secs": ("0", 0.0),
    },
    MinSamples: {"signals": ("5", 5), "commands": ("7", 7), "runs": ("1", 1)},
    LayerConfig: {
        "max_restarts": ("0", 0),
        "period_secs": ('"1h"', 3600.0),
        "backoff_secs": ("0.5", 0.5),
        "backoff_max_secs": ("50", 50.0),
        "backoff_jitter": ("0", 0.0),
        "success_cooldown_secs": ("7", 7.0),
        "strategy": ('"rest_for_one"', Strategy.REST_FOR_ONE),
    },
    CompoundReviewConfig: {
        "schedule": ('"@weekly"', "@weekly"),
        "repo_path": ('"other"', Path("/base/other")),
        "max_duration_secs": ('"1h"', 3600.0),
        "create_prs": ("true", True),
        "lookback_hours": ("1.5", 1.5),
        "base_branch": ('"release/1.x"', "release/1.x"),
        "gate": ('["pytest", "-q"]', ("pytest", "-q")),
        "gate_timeout_secs": ('"5m"', 300.0),
        "agent": (f'"improver"\n{IMPROVER}', "improver"),
        "remote": ('"https://example.org/o/r.git"', "https://example.org/o/r.git"),
        "github_repo": ('"git.example.org:8443/o/r"', "git.example.org:8443/o/r"),
        "max_open_prs": ("1", 1),
        "weights": ("{todo = 0, fix-of-fix = 9.5}", {"todo": 0.0, "fix-of-fix": 9.5}),
    },
    ToolConfig: {
        "argv": ('["other", "-x"]', ("other", "-x")),
        "prompt": ('"arg"', PromptVia.ARG),
        "success": ('"^done$"', "^done$"),
        "error": ('"^ERROR"', "^ERROR"),
        "throttle": ('"429"', "429"),
        "jsonl": ('{said = ["message"]}', JsonlMap(said=("message",))),
        "provider": ('"own-server"', "own-server"),
    },
    JsonlMap: {
        "type": ('["event", "role"]', ("event", "role")),
        "started": ('["init"]', ("init",)),
        "said": ('["message"]', ("message",)),
        "tool_call": ('["tool"]', ("tool",)),
        "api_call": ('["step"]', ("step",)),
        "finished": ('["result"]', ("result",)),
        "failed": ('["error"]', ("error",)),
        "said_pieces": ('["delta"]', ("delta",)),
        "text": ('["message.text", "error"]', ("message.text", "error")),
        "ok": ('"status"', "status"),
        "ok_values": ('["fine"]', ("fine",)),
        "tool_name": ('"tool"', "tool"),
        "tool_id": ('"tool_id"', "tool_id"),
        "session": ('"session"', "session"),
        "input_tokens": ('"usage.in"', "usage.in"),
        "output_tokens": ('"usage.out"', "usage.out"),
        "cost_usd": ('"usage.cost"', "usage.cost"),
    },
    ProviderConfig: {
        "calls_per_hour": ("60", 60),
        "tokens_per_day": ("1000000", 1_000_000),
        "usd_per_day": ("2.5", 2.5),
        "hard": ("true", True),
    },
    RoutingConfig: {
        "fallback": ('"a"', "a"),
        "keywords": ('{sync = ["gleichziehen", "C++"]}', {"sync": ("gleichziehen", "C++")}),
    },
    Fallback: {
        "cli_tool": ('"codex"', "codex"),
        "model": ('"small"', "small"),
        "provider": ('"openai"', "openai"),
        "args": ('["-v"]', ("-v",)),
    },
    AgentMailConfig: {
        "url": ('"https://example.org:8765/mcp/"', "https://example.org:8765/mcp/"),
        "project": ('"ours"', "ours"),
        "token": ('"s3cret"', Secret("s3cret")),
        "ttl_secs": ('"1h"', 3600.0),
        "timeout_secs": ("5", 5.0),
    },
    Reservation: {"glob": ('"src/**"', "src/**"), "shared": ("true", True)},
    AgentDefinition: {
        "name": ('"b"', "b"),
        "layer": ('"Core"\nschedule = "@daily"', AgentLayer.CORE),
        "cli_tool": ('"/opt/bin/claude"', "/opt/bin/claude"),
        "task": ('"another"', "another"),
        "schedule": ('"@hourly"\nlayer = "Core"', "@hourly"),
        "capabilities": ('["sync"]', ("sync",)),
        "accepts_from": ("[]", ()),
        "max_memory_bytes": ('"2GiB"', 2 * 1024**3),
        "enabled": ("false", False),
        "model": ('"large"\ncli_tool = "claude"', "large"),
        "permissions": ('"read-only"\ncli_tool = "codex"', Permissions.READ_ONLY),
        "max_turns": ('7\ncli_tool = "claude"', 7),
        "max_cost_usd": ('1\ncli_tool = "claude"', 1.0),
        "resume": ('"0f014aff"\ncli_tool = "codex"', "0f014aff"),
        "args": ('["-v"]', ("-v",)),
        "provider": ('"openai"', "openai"),
        "fallback": ('{cli_tool = "codex"}\ncli_tool = "claude"', Fallback("codex")),
        "env": ('{A = "b"}', {"A": Secret("b")}),
        "env_pass": ('["MY_*"]', ("MY_*",)),
        "timeout_secs": ('"1h"', 3600.0),
        "start_timeout_secs": ("30", 30.0),
        "stall_timeout_secs": ('"PT5M"', 300.0),
        "linger_secs": ("0", 0.0),
        "grace_secs": ("2", 2.0),
        "retries": ("2", 2),
        "overlap": ('"restart"', Overlap.RESTART),
        "catchup_secs": ('"1d"', 86400.0),
        "jitter_secs": ("9", 9.0),
        "max_runs_per_day": ("4", 4),
        "max_output_bytes": ('"1MB"', 1_000_000),
        "reserve": (
            '["src/**", {glob = "docs", shared = true}]',
            (Reservation("src/**"), Reservation("docs", shared=True)),
        ),
        "warm": ('2\ncli_tool = "demo"', 2),
        "warm_idle_secs": ('"10m"', 600.0),
        "isolation": ('"worktree"', Isolation.WORKTREE),
    },
}

SECTIONS = {
    OrchestratorConfig: OrchestratorConfig(Path("/base"), (GROWTH,)),
    NightwatchConfig: NightwatchConfig(),
    MinSamples: MinSamples(),
    LayerConfig: LayerConfig(),
    CompoundReviewConfig: CompoundReviewConfig("@daily", Path("/base/repo")),
    ToolConfig: ToolConfig(("prog",)),
    JsonlMap: JsonlMap(),
    ProviderConfig: ProviderConfig(),
    RoutingConfig: RoutingConfig(),
    Fallback: OTHER,
    AgentMailConfig: AgentMailConfig("http://127.0.0.1/"),
    Reservation: Reservation("docs"),
    AgentDefinition: GROWTH,
}

FIELDS = [
    pytest.param(section, attribute.name, id=f"{section.__name__}.{attribute.name}")
    for section in SECTIONS
    for attribute in attrs.fields(section)
    if attribute.name != "source"
]

NUMBERS = [
    pytest.param(section, attribute.name, id=f"{section.__name__}.{attribute.name}")
    for section in SECTIONS
    for attribute in attrs.fields(attrs.resolve_types(section))
    if attribute.type in (int, float, int | None, float | None)
]

HEADERS = {
    NightwatchConfig: "[nightwatch]",
    MinSamples: "[nightwatch.min_samples]",
    LayerConfig: "[layers.Safety]",
    CompoundReviewConfig: "[compound_review]",
    ToolConfig: "[tools.mine]",
    JsonlMap: '[tools.mine]\nargv = ["prog"]\n[tools.mine.jsonl]',
    ProviderConfig: "[providers.mine]",
    RoutingConfig: "[routing]",
    Fallback: "[agents.fallback]",
    AgentMailConfig: "[agent_mail]",
    Reservation: "[[agents.reserve]]",
    AgentDefinition: "[[agents]]",
}

REQUIRED = {
    CompoundReviewConfig: {"schedule": '"@daily"', "repo_path": '"repo"'},
    ToolConfig: {"argv": '["prog"]'},
    Fallback: {"cli_tool": '"claude"', "provider": '"q"'},
    AgentMailConfig: {"url": '"http://127.0.0.1/"'},
    Reservation: {"glob": '"docs"'},
    AgentDefinition: {"name": '"a"', "layer": '"Growth"', "cli_tool": '"bash"', "task": '"true"'},
}


def written(section: type, field: str, value: str) -> str:
    """A fleet file in which that field is set to that text, and nothing else that is not needed."""
    written_too = value.partition("\n")[2].partition(" ")[0]
    keys = {key: text for key, text in REQUIRED.get(section, {}).items() if key not in (field, written_too)}
    body = "".join(f"{key} = {text}\n" for key, text in {**keys, field: value}.items())
    agent = "[[agents]]\n" + "".join(f"{key} = {text}\n" for key, text in REQUIRED[AgentDefinition].items())
    if section is Fallback:
        return f'{agent}provider = "p"\n{HEADERS[section]}\n{body}'
    if section is Reservation:
        return f"{agent}{HEADERS[section]}\n{body}"
    if section is OrchestratorConfig:
        return body + (agent if field != "agents" else "")
    return f"{HEADERS[section]}\n{body}" + (agent if section is not AgentDefinition else "")


def read(config: OrchestratorConfig, section: type) -> object:
    """The one section of that type in a fleet that `written` wrote."""
    return {
        OrchestratorConfig: config,
        NightwatchConfig: config.nightwatch,
        MinSamples: config.nightwatch.min_samples,
        LayerConfig: config.layers[AgentLayer.SAFETY],
        CompoundReviewConfig: config.compound_review,
        ToolConfig: config.tools.get("mine"),
        JsonlMap: getattr(config.tools.get("mine"), "jsonl", None),
        ProviderConfig: config.providers.get("mine"),
        RoutingConfig: config.routing,
        Fallback: config.agents[0].fallback,
        AgentMailConfig: config.agent_mail,
        Reservation: config.agents[0].reserve[0] if config.agents[0].reserve else None,
        AgentDefinition: config.agents[0],
    }[section]


def with_value(section: type, field: str, value: object) -> OrchestratorConfig:
    """A fleet made by hand in which that field has that value."""
    fleet = SECTIONS[OrchestratorConfig]
    changed = attrs.evolve(SECTIONS[section], **{field: value})
    return {
        OrchestratorConfig: lambda: changed,
        NightwatchConfig: lambda: attrs.evolve(fleet, nightwatch=changed),
        MinSamples: lambda: attrs.evolve(fleet, nightwatch=NightwatchConfig(min_samples=changed)),
        LayerConfig: lambda: attrs.evolve(fleet, layers=dict.fromkeys(AgentLayer, changed)),
        CompoundReviewConfig: lambda: attrs.evolve(fleet, compound_review=changed),
        ToolConfig: lambda: attrs.evolve(fleet, tools={"mine": changed}),
        JsonlMap: lambda: attrs.evolve(fleet, tools={"mine": ToolConfig(("prog",), jsonl=changed)}),
        ProviderConfig: lambda: attrs.evolve(fleet, providers={"mine": changed}),
        RoutingConfig: lambda: attrs.evolve(fleet, routing=changed),
        Fallback: lambda: attrs.evolve(fleet, agents=(attrs.evolve(GROWTH, provider="p", fallback=changed),)),
        AgentMailConfig: lambda: attrs.evolve(fleet, agent_mail=changed),
        Reservation: lambda: attrs.evolve(fleet, agents=(attrs.evolve(GROWTH, reserve=(changed,)),)),
        AgentDefinition: lambda: attrs.evolve(fleet, agents=(changed,)),
    }[section]()


def parse(text: str) -> OrchestratorConfig:
    return parse_config(text, file="fleet.toml", base=Path("/base"), environ={})


@pytest.mark.parametrize(("section", "field"), FIELDS)
def test_a_value_that_is_written_arrives(section, field):
    text, value = CASES[section][field]
    arrived = getattr(read(parse(written(section, field, text)), section), field)
    if field == "agents":
        assert [agent.name for agent in arrived] == ["b"]
    else:
        assert (type(arrived), arrived) == (type(value), value)
        assert arrived != getattr(SECTIONS[section], field)


WRONG = ["5", "-5", "1.5", "nan", "-inf", "true", '"x"', '""', "[5]", "{x = 5}", "07:32:00"]


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize(("section", "field"), FIELDS)
def test_a_value_is_refused_at_its_line_or_arrives_as_the_fields_own_type(section, field, wrong):
    text = written(section, field, wrong)
    faults, arrived = (), None
    try:
        arrived = getattr(read(parse(text), section), field)
    except ConfigError as error:
        faults = error.faults
    if faults:
        assert text.splitlines().index(f"{field} = {wrong}") + 1 in {fault.line for fault in faults}
    else:
        assert type(arrived) is type(CASES[section][field][1])


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf")])
@pytest.mark.parametrize(("section", "field"), NUMBERS)
def test_a_number_out_of_its_limits_is_refused_in_fleets_made_by_hand_too(section, field, value):
    found = check_config(with_value(section, field, value))
    assert field in {fault.path.rpartition(".")[2] for fault in found}


@pytest.mark.parametrize("section", SECTIONS)
def test_the_fleets_of_these_tests_are_in_order_themselves(section):
    first = attrs.fields(section)[0].name
    assert check_config(with_value(section, first, getattr(SECTIONS[section], first))) == ()


def test_the_source_is_no_key():
    with pytest.raises(ConfigError) as caught:
        parse('source = "x"\n' + written(AgentDefinition, "retries", "0"))
    (fault,) = caught.value.faults
    assert (fault.path, fault.line) == ("source", 1)
    assert "source" not in (fault.remedy or "")
