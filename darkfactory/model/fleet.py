"""What the operator declared. The fleet file is read into these values once; nothing here changes while it runs.

Durations are float seconds on keys ending in `_secs`, sizes are int bytes on keys ending in `_bytes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from zoneinfo import ZoneInfo

from attrs import evolve, field, frozen

from darkfactory.model.routing import RoutingConfig


class AgentLayer(Enum):
    """The three layers of a fleet; the value is the word used in TOML, logs and tables."""

    SAFETY = "Safety"
    """Always on."""
    CORE = "Core"
    """Started by its cron schedule."""
    GROWTH = "Growth"
    """Started on demand."""


STOP_ORDER = (AgentLayer.GROWTH, AgentLayer.CORE, AgentLayer.SAFETY)
"""The order in which a shutdown stops the layers; inside a layer everything stops at once."""


class Strategy(Enum):
    """Who is restarted with a Safety agent after its bad end; start order is that of the fleet file."""

    ONE_FOR_ONE = "one_for_one"
    """Nobody."""
    ONE_FOR_ALL = "one_for_all"
    """All others."""
    REST_FOR_ONE = "rest_for_one"
    """Those that start after it."""


class Overlap(Enum):
    """What a cron occurrence does while the agent's former run still lives."""

    SKIP = "skip"
    """Nothing; the skip is journalled."""
    QUEUE = "queue"
    """It waits for the run's end; only the newest occurrence is kept."""
    RESTART = "restart"
    """It stops the old run (reason "cancelled") and starts when that has ended."""


class PromptVia(Enum):
    """How a tool is given its task."""

    STDIN = "stdin"
    """The prompt file is its standard input."""
    ARG = "arg"
    """The prompt is its last argument."""
    FILE = "file"
    """The prompt file's path is its last argument."""


class Containment(Enum):
    """How runs are kept together, so that no process outlives the factory."""

    AUTO = "auto"
    """The first of the others that this machine offers."""
    CGROUP = "cgroup"
    """A cgroup for each run, and the guard."""
    GUARD = "guard"
    """Marks, sessions and descent; and a guard that goes by them when the factory is killed."""


class Permissions(Enum):
    """What an agent may do unasked. What that means in a tool's own words is in its adapter."""

    READ_ONLY = "read-only"
    """It may look, and change nothing."""
    WORKSPACE_WRITE = "workspace-write"
    """It may change files in the working directory, and have no network."""
    FULL_ACCESS = "full-access"
    """It may run any command as the user."""


class Isolation(Enum):
    """Where the runs of an agent work."""

    SHARED = "shared"
    """In `working_dir`, with all the others."""
    WORKTREE = "worktree"
    """Each in a git worktree and on a branch of its own."""


TOOL_OPTIONS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "bash": frozenset(),
        "claude": frozenset({"max_cost_usd", "max_turns", "model", "permissions", "resume"}),
        "codex": frozenset({"model", "permissions", "resume"}),
        "demo": frozenset(),
        "gemini": frozenset({"model", "permissions", "resume"}),
        "opencode": frozenset({"model", "permissions", "resume"}),
        "pi": frozenset({"model", "permissions", "resume"}),
        "qwen": frozenset({"max_turns", "model", "permissions", "resume"}),
    }
)
"""The names that `cli_tool` takes without a `[tools.X]`, each with the options of an agent that the program has.

Each has its adapter in `darkfactory.tools`. A program that `[tools.X]` declares has none of the options.
"""
BUILTIN_TOOLS = tuple(TOOL_OPTIONS)
TOOL_PROVIDERS: Mapping[str, str] = MappingProxyType(
    {"claude": "anthropic", "codex": "openai", "gemini": "google", "qwen": "qwen"}
)
"""The provider that a built-in tool calls unless its agent names another."""
PREFIXED_MODELS = frozenset({"opencode", "pi"})
"""Built-in tools whose models are named PROVIDER/MODEL."""
LACKING: Mapping[str, frozenset[Permissions]] = MappingProxyType({"pi": frozenset({Permissions.WORKSPACE_WRITE})})
"""The permissions that a tool has no way to hold an agent to."""
WAIT_FOR_PROMPT = frozenset({"codex", "demo", "pi"})
"""Built-in tools that may be started before there is a prompt: they wait for the end of their standard input, however
long that takes, and use nothing meanwhile. Most of the others give up after seconds (docs/tools.md)."""
SILENT = frozenset({"bash"})
"""Built-in tools that do not say how they ended: all that there is of it is an exit code."""


@frozen(repr=False)
class Secret:
    """A string that no repr, log, argv or journal shows."""

    value: str

    def __repr__(self) -> str:
        return "Secret(***)"


@frozen
class LayerConfig:
    """How the agents of one layer are restarted (`[layers.X]`)."""

    max_restarts: int = 5
    """Restart intensity: bad ends within `period_secs` beyond which the agent is held, counted per agent."""
    period_secs: float = 600.0
    backoff_secs: float = 1.0
    """The first delay; it doubles with every bad end that is still inside the period."""
    backoff_max_secs: float = 300.0
    backoff_jitter: float = 0.1
    """Up to this fraction is added to each delay, so that agents that died together do not return together."""
    success_cooldown_secs: float = 60.0
    """How long an always-on agent rests after it succeeded."""
    strategy: Strategy = Strategy.ONE_FOR_ONE
    """In Safety alone it may be another one."""


@frozen
class MinSamples:
    """How much must have been seen before a part of the drift score counts (`[nightwatch.min_samples]`)."""

    signals: int = 20
    """For the error rate: tool calls, API calls, warnings and results; of a plain program, lines."""
    commands: int = 5
    """For the command success rate: tool calls that ended."""
    runs: int = 3
    """For the health: ends of runs, and looks at a run that lives."""


@frozen
class NightwatchConfig:
    """Where drift scores become correction levels; lower edges are inclusive (`[nightwatch]`)."""

    eval_interval_secs: float = 300.0
    """How often drift is evaluated, besides at each run's end."""
    minor_threshold: float = 0.10
    moderate_threshold: float = 0.20
    severe_threshold: float = 0.40
    critical_threshold: float = 0.70
    moderate_finish_secs: float = 600.0
    """How long a run may go on after a Moderate correction was asked for."""
    window_secs: float = 900.0
    """What lies further back is forgotten."""
    min_samples: MinSamples = field(factory=MinSamples)
    hysteresis: float = 0.05
    """How far below its threshold a score must fall before a level is left; half the threshold at most."""
    cooldown_secs: float = 300.0
    """Between two alerts of the same level about an agent."""


@frozen
class CompoundReviewConfig:
    """The nightly review (`[compound_review]`)."""

    schedule: str
    repo_path: Path
    """Of a checkout, or of a bare repository; absolute."""
    max_duration_secs: float = 1800.0
    """Of the whole, with the agent's run and the gate."""
    create_prs: bool = False
    """False: a dry run."""
    lookback_hours: float = 24.0
    """How far the first one looks back; each further one goes on where the last one ended."""
    base_branch: str = "main"
    gate: tuple[str, ...] = ()
    """The command that must exit with 0 on an improvement; none if it is empty."""
    gate_timeout_secs: float = 600.0
    agent: str | None = None
    """Who improves things; None for whom the router finds."""
    remote: str = "origin"
    """Where branches are pushed to: the name of a remote of the repository, or a URL."""
    github_repo: str | None = None
    """`[HOST[:PORT]/]OWNER/REPO` of the pull requests; None for what the remote's URL says."""
    max_open_prs: int = 3
    weights: Mapping[str, float] = field(factory=dict)
    """By kind of finding; the others have their default (`model.review.DEFAULT_WEIGHTS`)."""


@frozen
class ProviderConfig:
    """What may be used up at one provider, by all agents together (`[providers.X]`). None means no limit."""

    calls_per_hour: int | None = None
    """In any 60 minutes."""
    tokens_per_day: int | None = None
    """Input and output together, per civil day of the fleet's zone."""
    usd_per_day: float | None = None
    hard: bool = False
    """At a limit the runs that live are stopped as well; else nothing new is started."""


@frozen
class AgentMailConfig:
    """A server that leases are taken from besides our own gate (`[agent_mail]`)."""

    url: str
    """Of its MCP endpoint, http or https."""
    project: str | None = None
    """What the server calls the directory; None means the path of `working_dir`."""
    token: Secret | None = None
    """Sent as a bearer token."""
    ttl_secs: float = 600.0
    """How long leases last that are not renewed, as after a crash; they are renewed at half of it."""
    timeout_secs: float = 10.0
    """How long one conversation with it may take."""


@frozen
class JsonlMap:
    """How to read a program that prints a JSON object a line (`[tools.X.jsonl]`).

    Fields are named by their path in the object, with dots: `result.stats.cost`.
    """

    type: tuple[str, ...] = ("type",)
    """The fields that tell what kind of event it is; of several, those that it has are joined by "/"."""
    started: tuple[str, ...] = ()
    """The kinds by which it announces itself."""
    said: tuple[str, ...] = ()
    said_pieces: tuple[str, ...] = ()
    """Pieces of what was said; they are joined until an event of another meaning comes."""
    tool_call: tuple[str, ...] = ()
    """A tool call that began, or, where it has the field `ok`, one that ended."""
    api_call: tuple[str, ...] = ()
    finished: tuple[str, ...] = ()
    """It is done: well, unless it has the field `ok` and that says otherwise."""
    failed: tuple[str, ...] = ()
    """It is done, and it failed."""
    text: tuple[str, ...] = ("text",)
    """The fields, the first of which that it has holds what was said; of the end, its answer or its error."""
    ok: str = "ok"
    ok_values: tuple[str, ...] = ("true", "success", "ok", "completed", "0")
    """The values of `ok` that mean well, as JSON writes them, strings without their quotes."""
    tool_name: str = "name"
    """Of the tool that was called."""
    tool_id: str = "id"
    """Of the tool call, joining its begin and its end."""
    session: str = "session_id"
    input_tokens: str = "input_tokens"
    """Tokens and cost are added up over all events that have them."""
    output_tokens: str = "output_tokens"
    cost_usd: str = "cost_usd"


@frozen
class ToolConfig:
    """A program of the operator's own that agents may name as their `cli_tool` (`[tools.X]`).

    The patterns are regular expressions of Python's `re`, searched in every line of stdout and stderr.
    """

    argv: tuple[str, ...]
    prompt: PromptVia = PromptVia.STDIN
    success: str | None = None
    """A line that says that it ended well; with it set, exit 0 without such a line is a failure."""
    error: str | None = None
    """A line that tells of a failure: without a later success, the run failed."""
    throttle: str | None = None
    """A line by which its provider says wait; a failure after it is the provider's."""
    jsonl: JsonlMap | None = None
    """None for a program that prints no such events."""
    provider: str | None = None
    """Whom it calls, unless its agent names another; None for nobody that has limits."""

    @property
    def reports(self) -> bool:
        """It says how it ended: a line or an event is declared for that."""
        return self.success is not None or (self.jsonl is not None and bool(self.jsonl.finished or self.jsonl.failed))


DEFAULT_ENV_PASS = ("PATH", "HOME", "LANG", "LC_*", "TZ", "TMPDIR")
"""Environment variables that every agent inherits; a trailing `*` matches any ending."""


@frozen
class Fallback:
    """What an agent runs with instead while its provider is blocked (`[agents.fallback]`)."""

    cli_tool: str | None = None
    """None means the agent's own."""
    model: str | None = None
    """None means the tool's own default."""
    provider: str | None = None
    """None means the tool's own; it must be another one than the agent's."""
    args: tuple[str, ...] = ()
    """Appended to the tool's arguments, instead of the agent's own."""


@frozen
class Reservation:
    """Paths that an agent wants to be left alone with while it runs (`reserve`)."""

    glob: str
    """Relative to the working directory; see `policy.reservations.intersects`."""
    shared: bool = False
    """With others that share it as well; else with nobody."""


@frozen
class AgentDefinition:
    """One agent of the fleet (`[[agents]]`)."""

    name: str
    """Unique, and safe as a file name: letters, digits, `.`, `_`, `-`; no leading dot; 64 characters at most."""
    layer: AgentLayer
    cli_tool: str
    """A built-in tool's name, the path of one, or a key of `[tools]`."""
    task: str
    """The prompt; for `bash` the script."""
    schedule: str | None = None
    """A cron expression: required in Core, refused elsewhere."""
    capabilities: tuple[str, ...] = ()
    """What it can be given tasks for; compared without regard to case, hyphens, underscores and spaces."""
    accepts_from: tuple[str, ...] | None = None
    """The agents that may send to it; None means all. Those who are no agents may in any case."""
    max_memory_bytes: int | None = None
    """None means no limit."""
    enabled: bool = True
    model: str | None = None
    """None means the tool's own default."""
    permissions: Permissions | None = None
    """None means the unattended default of its tool."""
    max_turns: int | None = None
    """Answers of the model in one run; None means no limit."""
    max_cost_usd: float | None = None
    """What one run may spend; None means no limit."""
    resume: str | None = None
    """The tool's id of a conversation that every run goes on with; None means that each begins a new one."""
    args: tuple[str, ...] = ()
    """Appended to the tool's arguments."""
    provider: str | None = None
    """Whose limits its runs share: a key, the same for all agents that call there. None means its tool's own."""
    fallback: Fallback | None = None
    env: Mapping[str, Secret] = field(factory=dict)
    env_pass: tuple[str, ...] = DEFAULT_ENV_PASS
    timeout_secs: float | None = field()
    """Longest life of a run; None means none. The default is two hours, and none in Safety."""
    start_timeout_secs: float = 120.0
    """Longest time to the first output, for tools that announce themselves."""
    stall_timeout_secs: float = 900.0
    """Longest silence between two outputs."""
    linger_secs: float = 15.0
    """How long the process may live on after its terminal event."""
    grace_secs: float = 5.0
    """Between SIGTERM and SIGKILL."""
    retries: int = 0
    """More attempts of one occurrence after bad ends (Core, Growth)."""
    overlap: Overlap = Overlap.SKIP
    catchup_secs: float = 3600.0
    """The oldest a missed occurrence may be when it would start."""
    jitter_secs: float = 0.0
    """Occurrences start up to this much later, by an amount fixed by agent and occurrence."""
    max_runs_per_day: int | None = None
    """Per civil day of the fleet's zone; None means no limit."""
    max_output_bytes: int = 256 * 1024**2
    reserve: tuple[Reservation, ...] = ()
    """What each of its runs has leases on."""
    warm: int = 0
    """Processes that are started ahead and wait for their prompt (Growth)."""
    warm_idle_secs: float = 3600.0
    """One that has waited this long is ended, and another one started in its place."""
    isolation: Isolation = Isolation.SHARED

    @timeout_secs.default
    def _timeout_by_layer(self) -> float | None:
        return None if self.layer is AgentLayer.SAFETY else 7200.0

    def fallen_back(self) -> AgentDefinition:
        """The agent as it runs with its fallback, which it must have. A conversation of its own tool is not resumed."""
        other = self.fallback
        assert other is not None
        return evolve(
            self,
            cli_tool=other.cli_tool or self.cli_tool,
            model=other.model,
            provider=other.provider,
            args=other.args,
            resume=None,
            fallback=None,
        )


def _one_per_layer() -> Mapping[AgentLayer, LayerConfig]:
    return {layer: LayerConfig() for layer in AgentLayer}


@frozen
class OrchestratorConfig:
    """A whole fleet, validated: every reference resolves, every limit makes sense.

    Made by `darkfactory.load_config` from TOML, or by hand in an embedding program and in tests; made by hand it is
    checked for what the types cannot say when the factory opens.
    """

    working_dir: Path
    """Where the agents run; absolute."""
    agents: tuple[AgentDefinition, ...] = ()
    nightwatch: NightwatchConfig = field(factory=NightwatchConfig)
    compound_review: CompoundReviewConfig | None = None
    """None where the fleet file has no such section."""
    name: str = "fleet"
    timezone: ZoneInfo = field(factory=lambda: ZoneInfo("UTC"))
    """Schedules and calendar days are meant in this zone."""
    state_dir: Path | None = None
    """None means `darkfactory/<name>` in the user's state directory."""
    max_concurrent_runs: int = 10
    nice: int = 10
    """How much less the processors heed the agents than us, 0 to 19: that many busy ones must not delay a decision."""
    shutdown_grace_secs: float = 10.0
    min_free_bytes: int = 1024**3
    """Nothing starts with less room than this where the agents work and where their output goes; 0: no such floor."""
    keep_runs: int = 200
    """Directories of ended runs, for each agent."""
    keep_days: float = 30.0
    """How long runs, and parts of the journal that the next start does not need, are kept."""
    keep_bytes: int = 10 * 1024**3
    """What the directories of ended runs may take, of all agents together."""
    max_worktrees: int = 50
    """Kept worktrees, with those of the runs that live, at which no run that wants one is started."""
    containment: Containment = Containment.AUTO
    layers: Mapping[AgentLayer, LayerConfig] = field(factory=_one_per_layer)
    tools: Mapping[str, ToolConfig] = field(factory=dict)
    providers: Mapping[str, ProviderConfig] = field(factory=dict)
    agent_mail: AgentMailConfig | None = None
    """None where the gate alone gives leases."""
    routing: RoutingConfig = field(factory=RoutingConfig)
    source: Path | None = None
    """The fleet file, resolved; None for a fleet made in a program."""

    def agent(self, name: str) -> AgentDefinition:
        """The agent of that name; KeyError when there is none."""
        for definition in self.agents:
            if definition.name == name:
                return definition
        raise KeyError(name)

    @property
    def isolates(self) -> bool:
        """Some runs have worktrees of their own."""
        reviews = self.compound_review is not None
        return reviews or any(agent.isolation is Isolation.WORKTREE for agent in self.agents)

    def providers_in_use(self) -> frozenset[str]:
        """Those of the agents and of their fallbacks."""
        definitions = [*self.agents, *(agent.fallen_back() for agent in self.agents if agent.fallback is not None)]
        return frozenset(filter(None, map(self.provider_of, definitions)))

    def provider_of(self, agent: AgentDefinition) -> str | None:
        """Whose limits the agent's runs share; None where it calls nobody that is known."""
        if agent.provider is not None:
            return agent.provider
        if agent.cli_tool in self.tools:
            return self.tools[agent.cli_tool].provider
        tool = agent.cli_tool.rpartition("/")[2]
        if tool in PREFIXED_MODELS and agent.model is not None and "/" in agent.model:
            return agent.model.partition("/")[0].casefold()
        return TOOL_PROVIDERS.get(tool)
