"""What the types of a fleet cannot say: limits, references, and fields that must agree.

The rules work on the finished value, so a fleet that a program made is held to the same ones as a fleet file. What a
single value may be is said in `config.values`. They do not look at the machine: what that lacks is found by
`config.machine`, when a command is about to use it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import PurePosixPath
from zoneinfo import ZoneInfo

import attrs

from darkfactory.config import cron, git, limits, values, words
from darkfactory.config.finding import Finding
from darkfactory.config.lines import Keys
from darkfactory.errors import Fault
from darkfactory.model.fleet import (
    BUILTIN_TOOLS,
    LACKING,
    SILENT,
    TOOL_OPTIONS,
    WAIT_FOR_PROMPT,
    AgentDefinition,
    AgentLayer,
    AgentMailConfig,
    CompoundReviewConfig,
    Isolation,
    NightwatchConfig,
    OrchestratorConfig,
    Permissions,
    PromptVia,
    Strategy,
    ToolConfig,
)
from darkfactory.model.review import FindingKind
from darkfactory.model.routing import folded

_URL = re.compile(r"https?://[^\s/?#@]+(/[^\s#]*)?")
_TOKEN = re.compile("[!-~]+")
_DEFAULT_GRACES = (
    attrs.fields(AgentDefinition).grace_secs.default,
    attrs.fields(OrchestratorConfig).shutdown_grace_secs.default,
)
_NO_SCHEDULE = {
    AgentLayer.SAFETY: "a Safety agent is always on",
    AgentLayer.GROWTH: "a Growth agent is started on demand",
}
_INSTEAD = {
    "max_cost_usd": "leave it out; timeout_secs bounds a run",
    "max_turns": "leave it out; timeout_secs bounds a run",
    "model": "leave it out; if the program has an option for it, put that into args",
    "permissions": "leave it out; it may do what your user may",
    "resume": "leave it out; if the program has an option for it, put that into args",
}
"""Options that not all tools have, each with what to do where one has it not."""
_NO_SANDBOX = "{} has no sandbox and no rules that would hold an agent to {!r}"
_NO_STRATEGY = {
    AgentLayer.CORE: "a Core agent is started by its schedule, not together with others",
    AgentLayer.GROWTH: "a Growth agent is started on demand, not together with others",
}


def check_config(config: OrchestratorConfig) -> tuple[Fault, ...]:
    """Every fault of a fleet that has the right types; empty when it can be run. No fault has a line."""
    return tuple(finding.fault() for finding in findings(config))


def warnings_of(config: OrchestratorConfig) -> tuple[Fault, ...]:
    """What is odd and does not keep the fleet from running. No fault has a line."""
    return tuple(finding.fault() for finding in _oddities(config))


def findings(config: OrchestratorConfig) -> Iterator[Finding]:
    """Every fault of a fleet, in the order of its sections."""
    yield from _top(config)
    yield from _nightwatch(config.nightwatch)
    yield from _layers(config)
    if config.compound_review is not None:
        yield from _review(config.compound_review, config)
    for name, tool in config.tools.items():
        yield from _tool(name, tool)
    for name, provider in config.providers.items():
        yield from values.provider(("providers", name), name)
        yield from limits.check(("providers", name), provider)
    if config.agent_mail is not None:
        yield from _agent_mail(config.agent_mail)
    yield from _routing(config)
    for index, agent in enumerate(config.agents):
        yield from _agent(("agents", index), agent, config)
    yield from _duplicates(config.agents)


def _oddities(config: OrchestratorConfig) -> Iterator[Finding]:
    for index, agent in enumerate(config.agents):
        chosen = (agent.grace_secs, config.shutdown_grace_secs) != _DEFAULT_GRACES  # no word against our own defaults
        if chosen and agent.grace_secs * 3 > config.shutdown_grace_secs:
            bound = words.number(config.shutdown_grace_secs)
            yield Finding(
                ("agents", index, "grace_secs"),
                f"{words.number(agent.grace_secs)} is over a third of shutdown_grace_secs ({bound}), which three "
                "layers share: at a shutdown it may be cut short",
            )
    always_on = sum(agent.layer is AgentLayer.SAFETY and agent.enabled for agent in config.agents)
    if always_on >= config.max_concurrent_runs and always_on < len(config.agents):
        yield Finding(
            ("max_concurrent_runs",),
            f"{config.max_concurrent_runs} is no more than the {always_on} Safety agents, which can take every place: "
            "the other layers may never run",
            f"set max_concurrent_runs to {always_on + 1} or more",
        )
    in_use = config.providers_in_use()
    for name in (name for name in config.providers if name not in in_use):
        called = f"they call {', '.join(sorted(in_use))}" if in_use else "set the agents' provider"
        yield Finding(("providers", name), "limits a provider that no agent calls", called)
    yield from _routing_oddities(config)
    review = config.compound_review
    if review is not None and review.create_prs and not review.gate:
        yield Finding(
            ("compound_review", "create_prs"),
            "opens pull requests for what no command of yours has checked",
            'set gate to your tests, such as gate = ["pytest", "-q"]',
        )


def _routing_oddities(config: OrchestratorConfig) -> Iterator[Finding]:
    here, routing = ("routing",), config.routing
    if any(agent.name == routing.fallback and not agent.enabled for agent in config.agents):
        yield Finding((*here, "fallback"), f"{routing.fallback} is disabled: what fits nobody is refused")
    declared = {folded(capability) for agent in config.agents for capability in agent.capabilities}
    for capability in routing.keywords:
        if folded(capability) not in declared:
            remedy = f"the agents declare {', '.join(sorted(declared))}" if declared else "no agent declares any"
            yield Finding((*here, "keywords", capability), "no agent declares this capability", remedy)


def _top(config: OrchestratorConfig) -> Iterator[Finding]:
    yield from limits.check((), config)
    yield from values.name(("name",), config.name)
    yield from values.path(("working_dir",), config.working_dir)
    if config.state_dir is not None:
        yield from values.path(("state_dir",), config.state_dir)
    if not config.agents:
        yield Finding(("agents",), "no agent is declared, so there is nothing to do", "add an [[agents]] table")


def _nightwatch(nightwatch: NightwatchConfig) -> Iterator[Finding]:
    here: Keys = ("nightwatch",)
    yield from limits.check(here, nightwatch)
    yield from limits.check((*here, "min_samples"), nightwatch.min_samples)
    levels = ("minor_threshold", "moderate_threshold", "severe_threshold", "critical_threshold")
    for lower, upper in pairwise(levels):
        low, high = getattr(nightwatch, lower), getattr(nightwatch, upper)
        if low >= high:
            yield Finding(
                (*here, upper),
                f"must be more than {lower} ({words.number(low)}), found {words.number(high)}",
                "minor < moderate < severe < critical",
                reads=((*here, lower),),
            )


def _layers(config: OrchestratorConfig) -> Iterator[Finding]:
    for layer in AgentLayer:
        here = ("layers", layer.value)
        if layer not in config.layers:
            yield Finding(here, "is missing", "give every layer its LayerConfig")
            continue
        bounds = config.layers[layer]
        yield from limits.check(here, bounds)
        if bounds.strategy is not Strategy.ONE_FOR_ONE and layer in _NO_STRATEGY:
            yield Finding((*here, "strategy"), _NO_STRATEGY[layer], "it means something in [layers.Safety] alone")
        if bounds.backoff_secs > bounds.backoff_max_secs:
            most = words.number(bounds.backoff_max_secs)
            yield Finding(
                (*here, "backoff_secs"),
                f"must be at most backoff_max_secs ({most}), found {words.number(bounds.backoff_secs)}",
                reads=((*here, "backoff_max_secs"),),
            )


def _review(review: CompoundReviewConfig, config: OrchestratorConfig) -> Iterator[Finding]:
    here = ("compound_review",)
    yield from limits.check(here, review)
    yield from values.valid((*here, "schedule"), cron.validate, review.schedule, config.timezone)
    yield from values.path((*here, "repo_path"), review.repo_path)
    yield from values.valid((*here, "base_branch"), git.branch, review.base_branch)
    yield from values.valid((*here, "remote"), git.remote, review.remote)
    if review.github_repo is not None:
        yield from values.valid((*here, "github_repo"), git.github_repo, review.github_repo)
    if review.gate:
        yield from _review_gate(here, review)
    if review.agent is not None:
        yield from _review_agent((*here, "agent"), review.agent, config)
    kinds = [kind.value for kind in FindingKind]
    for kind, weight in review.weights.items():
        keys = (*here, "weights", kind)
        if kind not in kinds:
            yield Finding(keys, "is no kind of finding", words.did_you_mean(kind, kinds, "kinds"))
        elif problem := limits.WEIGHT.problem(weight):
            yield Finding(keys, problem)


def _review_gate(here: Keys, review: CompoundReviewConfig) -> Iterator[Finding]:
    gate = (*here, "gate")
    yield from values.program((*gate, 0), review.gate[0])
    for index, word in enumerate(review.gate[1:], 1):
        if not word:
            yield Finding((*gate, index), "must not be empty", "leave it out")
    yield from values.arguments(gate, review.gate, "a shell's own variable is written without braces: $NAME")
    if review.max_duration_secs <= review.gate_timeout_secs:
        most = words.number(review.gate_timeout_secs)
        yield Finding(
            (*here, "max_duration_secs"),
            f"must be more than gate_timeout_secs ({most}), found {words.number(review.max_duration_secs)}",
            "the agent's own run must have room in it too",
            reads=((*here, "gate_timeout_secs"), gate),
        )


def _review_agent(keys: Keys, name: str, config: OrchestratorConfig) -> Iterator[Finding]:
    """Why that agent can improve nothing, or could not be heard to have done so."""
    names = [agent.name for agent in config.agents]
    if name not in names:
        remedy = words.did_you_mean(name, names, "agents")
        yield Finding(keys, f"{words.shown(name)} is no agent's name", remedy, reads=(("agents",),))
        return
    agent, here = config.agent(name), ("agents", names.index(name))
    if not agent.enabled:
        yield Finding(keys, f"{name} is disabled", "enable it, or name another one", reads=((*here, "enabled"),))
    if agent.layer is AgentLayer.SAFETY:
        problem = f"{name} is always on, and takes no tasks besides its own"
        yield Finding(keys, problem, "name an agent of Core or Growth", reads=((*here, "layer"),))
    if agent.permissions is Permissions.READ_ONLY:
        problem = f"{name} may change nothing"
        yield Finding(keys, problem, "name one that may write", reads=((*here, "permissions"),))
    fallen_back = (agent.fallen_back().cli_tool,) if agent.fallback is not None else ()
    for tool in dict.fromkeys((agent.cli_tool, *fallen_back)):
        if _is_silent(tool, config.tools):
            problem = f"{name} runs {tool}, which does not say how it ended"
            remedy = "name an agent whose tool does, or give the tool's section success, or jsonl with finished"
            yield Finding(keys, problem, remedy, reads=((*here, "cli_tool"), ("tools", tool)))


def _is_silent(tool: str, declared: Mapping[str, ToolConfig]) -> bool:
    return not declared[tool].reports if tool in declared else tool.rpartition("/")[2] in SILENT


def _agent_mail(server: AgentMailConfig) -> Iterator[Finding]:
    here = ("agent_mail",)
    yield from limits.check(here, server)
    if not _URL.fullmatch(server.url):  # not told: somebody may have put a password into it
        yield Finding((*here, "url"), "is no address of a server", 'such as "http://127.0.0.1:8765/mcp/"')
    if server.project is not None and not server.project.strip():
        yield Finding((*here, "project"), "must not be empty", "leave it out for the path of working_dir")
    yield from values.text((*here, "project"), server.project or "")
    if server.token is not None and not _TOKEN.fullmatch(server.token.value):
        yield Finding((*here, "token"), "must be printable ASCII without spaces, and not empty")
    if server.timeout_secs * 4 > server.ttl_secs:
        most = words.number(server.ttl_secs)
        yield Finding(
            (*here, "timeout_secs"),
            f"must be at most a quarter of ttl_secs ({most}), found {words.number(server.timeout_secs)}",
            reads=((*here, "ttl_secs"),),
        )


def _tool(name: str, tool: ToolConfig) -> Iterator[Finding]:
    here = ("tools", name)
    if PurePosixPath(name).name in BUILTIN_TOOLS:
        yield Finding(here, "is the name of a built-in tool", "give it another name")
    argv = (*here, "argv")
    if not tool.argv:
        yield Finding(argv, "must not be empty: its first word is the program")
    else:
        yield from values.program((*argv, 0), tool.argv[0])
    yield from values.arguments(argv, tool.argv)
    for key in ("success", "error", "throttle"):
        pattern = getattr(tool, key)
        if pattern is not None:
            yield from values.pattern((*here, key), pattern)
    if tool.provider is not None:
        yield from values.provider((*here, "provider"), tool.provider)
    if tool.jsonl is not None and not tool.jsonl.type:
        yield Finding((*here, "jsonl", "type"), "must not be empty", 'name the field of the kind: ["type"]')


def _routing(config: OrchestratorConfig) -> Iterator[Finding]:
    here, fallback = ("routing",), config.routing.fallback
    names = [agent.name for agent in config.agents]
    if fallback is not None and fallback not in names:
        remedy = words.did_you_mean(fallback, names, "agents")
        yield Finding((*here, "fallback"), f"{words.shown(fallback)} is no agent's name", remedy, reads=(("agents",),))
    for capability, keywords in config.routing.keywords.items():
        keys = (*here, "keywords", capability)
        yield from values.few_words(keys, capability, "capability")
        if not keywords:
            yield Finding(keys, "must not be empty", "name the words that ask for it, or leave it out")
        for index, keyword in enumerate(keywords):
            yield from values.few_words((*keys, index), keyword, "keyword")


def _agent(here: Keys, agent: AgentDefinition, config: OrchestratorConfig) -> Iterator[Finding]:
    yield from limits.check(here, agent)
    yield from values.name((*here, "name"), agent.name)
    yield from _cli_tool((*here, "cli_tool"), agent.cli_tool, config.tools)
    if not agent.task.strip():
        yield Finding((*here, "task"), "must not be empty: it is what the agent is told to do")
    yield from values.text((*here, "task"), agent.task)
    if agent.model is not None:
        yield from values.model((*here, "model"), agent.model)
    if agent.resume is not None:
        if not agent.resume or agent.resume.startswith("-"):
            problem = f"{words.shown(agent.resume)} is no session's id"
            yield Finding((*here, "resume"), problem, "write the id that the tool gave it, or leave it out")
        yield from values.text((*here, "resume"), agent.resume)
    yield from _options(here, agent, config.tools)
    yield from values.arguments((*here, "args"), agent.args)
    for place, capability in enumerate(agent.capabilities):
        yield from values.few_words((*here, "capabilities", place), capability, "capability")
    if agent.provider is not None:
        yield from values.provider((*here, "provider"), agent.provider)
    if agent.fallback is not None:
        yield from _fallback(here, agent, config)
    yield from _accepts_from(here, agent, config)
    for name, secret in agent.env.items():
        yield from values.variable((*here, "env"), name, secret.value)
    yield from _schedule(here, agent, config.timezone)
    for index, reservation in enumerate(agent.reserve):
        yield from values.glob((*here, "reserve", index, "glob"), reservation.glob)
    if agent.warm:
        yield from _warm((*here, "warm"), agent, config.tools)
    if agent.timeout_secs is not None and agent.stall_timeout_secs >= agent.timeout_secs:
        total, stall = words.number(agent.timeout_secs), words.number(agent.stall_timeout_secs)
        yield Finding(
            (*here, "stall_timeout_secs"),
            f"{stall} must be less than timeout_secs ({total}), or a silent run is never called stalled",
            f"set stall_timeout_secs below {total}",
            reads=((*here, "timeout_secs"),),
        )


def _fallback(here: Keys, agent: AgentDefinition, config: OrchestratorConfig) -> Iterator[Finding]:
    keys, other = (*here, "fallback"), agent.fallen_back()
    if other.cli_tool != agent.cli_tool:
        yield from _cli_tool((*keys, "cli_tool"), other.cli_tool, config.tools)
    if other.model is not None:
        yield from values.model((*keys, "model"), other.model)
    yield from values.arguments((*keys, "args"), other.args)
    if other.provider is not None:
        yield from values.provider((*keys, "provider"), other.provider)
    known = _options_of(other.cli_tool, config.tools)
    for option in _INSTEAD:
        if known is not None and option not in known and getattr(other, option) is not None:
            remedy = "leave it out, or fall back on another tool"
            yield Finding(keys, f"{other.cli_tool} has no option {option}", remedy, reads=((*here, option),))
    if other.permissions in _lacking(other.cli_tool, config.tools):
        problem = _NO_SANDBOX.format(other.cli_tool, other.permissions.value)
        yield Finding(keys, problem, "fall back on another tool", reads=((*here, "permissions"),))
    own, others = config.provider_of(agent), config.provider_of(other)
    if own is None:
        remedy = 'set the agent\'s provider, such as provider = "anthropic"'
        yield Finding(keys, "is never used: the agent calls no provider that is known", remedy)
    elif others is None or others == own:
        found = f"it calls {own} too" if others == own else "it calls no provider that is known"
        remedy = "set the fallback's provider to a key of its own, whose limits are not those of the agent's"
        yield Finding(keys, f"must call another provider than the agent ({own}), and {found}", remedy)


def _accepts_from(here: Keys, agent: AgentDefinition, config: OrchestratorConfig) -> Iterator[Finding]:
    names = [other.name for other in config.agents]
    for index, name in enumerate(agent.accepts_from or ()):
        if name not in names:
            remedy = words.did_you_mean(name, names, "agents")
            yield Finding((*here, "accepts_from", index), f"no agent is named {words.shown(name)}", remedy)


def _options_of(tool: str, declared: Mapping[str, ToolConfig]) -> frozenset[str] | None:
    """The options that a tool has; None when there is no such tool."""
    return frozenset() if tool in declared else TOOL_OPTIONS.get(tool.rpartition("/")[2])


def _options(here: Keys, agent: AgentDefinition, declared: Mapping[str, ToolConfig]) -> Iterator[Finding]:
    tool = agent.cli_tool
    known = _options_of(tool, declared)
    if known is None:
        return  # no tool at all, which is told already
    for option, instead in _INSTEAD.items():
        if option not in known and getattr(agent, option) is not None:
            yield Finding((*here, option), f"{tool} has no such option", instead, reads=((*here, "cli_tool"),))
    lacking = _lacking(tool, declared)
    if agent.permissions in lacking:
        yield Finding(
            (*here, "permissions"),
            _NO_SANDBOX.format(tool, agent.permissions.value),
            "write " + " or ".join(f'"{one.value}"' for one in Permissions if one not in lacking),
            reads=((*here, "cli_tool"),),
        )


def _lacking(tool: str, declared: Mapping[str, ToolConfig]) -> frozenset[Permissions]:
    return LACKING.get(tool.rpartition("/")[2], frozenset()) if _options_of(tool, declared) else frozenset()


def _schedule(here: Keys, agent: AgentDefinition, zone: ZoneInfo) -> Iterator[Finding]:
    keys, layer = (*here, "schedule"), (*here, "layer")
    if agent.schedule is not None:
        yield from values.valid(keys, cron.validate, agent.schedule, zone)
        if agent.layer in _NO_SCHEDULE:
            why = f"{_NO_SCHEDULE[agent.layer]} and takes no schedule"
            yield Finding(keys, why, 'remove it, or make the layer "Core"', reads=(layer,))
    elif agent.layer is AgentLayer.CORE:
        why = "is missing: a Core agent is started by its schedule"
        yield Finding(keys, why, 'add schedule = "0 3 * * *"', reads=(layer,))


def _warm(keys: Keys, agent: AgentDefinition, declared: Mapping[str, ToolConfig]) -> Iterator[Finding]:
    here, tool = keys[:-1], declared.get(agent.cli_tool)
    if agent.layer is not AgentLayer.GROWTH:
        yield Finding(keys, "is for agents that are started on demand", "leave it out", reads=((*here, "layer"),))
    if agent.resume is not None:
        problem = "goes on with no conversation: a process that waits does not know what was said there meanwhile"
        yield Finding(keys, problem, "leave out warm or resume", reads=((*here, "resume"),))
    if agent.isolation is Isolation.WORKTREE:
        problem = "starts a process before its run, and so before there is a worktree for it"
        yield Finding(keys, problem, "leave out warm or isolation", reads=((*here, "isolation"),))
    if tool is not None and tool.prompt is not PromptVia.STDIN:
        problem = f"{agent.cli_tool} is given its prompt on its command line, so it cannot be started before"
        remedy = 'leave it out, or have the program read stdin: prompt = "stdin"'
        yield Finding(keys, problem, remedy, reads=(("tools", agent.cli_tool, "prompt"),))
    elif tool is None and agent.cli_tool.rpartition("/")[2] not in WAIT_FOR_PROMPT:
        problem = f"{agent.cli_tool} does not wait for its prompt, or gains nothing by that"
        yield Finding(keys, problem, "leave it out", reads=((*here, "cli_tool"),))


def _duplicates(agents: tuple[AgentDefinition, ...]) -> Iterator[Finding]:
    first: dict[str, int] = {}
    for index, agent in enumerate(agents):
        other = first.setdefault(agent.name.casefold(), index)
        if other != index:
            yield Finding(
                ("agents", index, "name"),
                f"{agent.name!r} is taken by agents[{other}], {agents[other].name!r}",
                "names are file names too, so they must differ in more than case",
                reads=(("agents", other, "name"),),
            )


def _cli_tool(keys: Keys, tool: str, declared: Mapping[str, ToolConfig]) -> Iterator[Finding]:
    yield from values.program(keys, tool)
    base = tool.rpartition("/")[2]
    if tool in declared or base in BUILTIN_TOOLS:
        return
    meant = words.near(tool, (*BUILTIN_TOOLS, *declared))
    declare = f'declare it: [tools.{base or "NAME"}] argv = ["{tool or "PROGRAM"}"]'
    yield Finding(
        keys,
        f"{words.shown(tool)} is neither a built-in tool ({', '.join(BUILTIN_TOOLS)}) nor one of [tools]",
        f"did you mean {meant!r}? or {declare}" if meant else declare,
        reads=(("tools", tool),),
    )
