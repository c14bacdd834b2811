"""How the tools can be logged in: where a login would be, without a look at any.

A tool that is logged out fails at once, or after minutes of trying, and nobody's agent is to blame. What can be known
beforehand is in this table; whoever has files and variables to look at looks (`cli.surroundings`). What is looked for
was tried out with the versions that the adapters were made for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType

from attrs import frozen

from darkfactory.model.fleet import AgentDefinition, ToolConfig

_PROVIDER = "{PROVIDER}"


@frozen
class Kept:
    """A file that a tool keeps."""

    directory: str
    """Below HOME where it begins with `~`, else below the working directory or one above it."""
    name: str
    moved_by: str = ""
    """The variable that names another directory."""

    def shown(self, env: Mapping[str, str]) -> str:
        """Where it is, for a person; the value of no variable is in it."""
        directory = f"${self.moved_by}" if env.get(self.moved_by) else self.directory
        return f"{directory}/{self.name}" if directory else self.name

    def paths(self, env: Mapping[str, str], home: Path | None, working_dir: Path) -> Iterator[Path]:
        """Where it may be: in none but one directory, or in the working directory and any above it."""
        if moved := env.get(self.moved_by):
            yield working_dir / moved / self.name
        elif not self.directory.startswith("~"):
            for directory in (working_dir, *working_dir.parents):
                yield directory / self.directory / self.name
        elif home is not None:
            yield home / self.directory.removeprefix("~").lstrip("/") / self.name


@frozen(kw_only=True)
class Login:
    """What logs a tool in, by any of it."""

    env: tuple[str, ...]
    """Variables that hold a key; `{PROVIDER}` in a name stands for that of the agent's model."""
    files: tuple[Kept, ...]
    """Where it keeps a login."""
    chosen_by: tuple[str, ...] = ()
    """Variables by which it takes a login from where nobody looks: a cloud's, or another directory's."""
    settings: tuple[Kept, ...] = ()
    """Files that may name a login, or an address that needs none. They are not read."""
    args: tuple[str, ...] = ()
    """Parts of words in an agent's `args` that do the same."""
    ask: tuple[str, ...] = ()
    """Words by which the program itself tells, quickly and without a network; with exit code 0 it is logged in."""
    denial: str = ""
    """A part of what it prints when it is not. With neither it is not known."""
    optional: bool = False
    """Some of its models need none."""
    remedy: str

    def names(self, agent: AgentDefinition) -> tuple[str, ...]:
        """The variables that may hold a key for the agent's model; `*` where it says of no provider."""
        provider, slash, _ = (agent.model or "").partition("/")
        word = provider.upper().replace("-", "_").replace(".", "_") if slash else "*"
        return tuple(name.replace(_PROVIDER, word) for name in self.env)

    def brought_by(self, agent: AgentDefinition) -> str | None:
        """The part of its `args` that may bring a login."""
        return next((part for part in self.args for word in agent.args if part in word), None)


def variable(names: tuple[str, ...], env: Mapping[str, str]) -> str | None:
    """The first of the environment's variables that is named so and not empty; `*` in a name matches anything."""
    return next((found for name in names for found, value in env.items() if value and fnmatchcase(found, name)), None)


# Names of keys that do not follow from the name of a provider.
_OTHER_KEYS = (
    "AI_GATEWAY_API_KEY",
    "ANTHROPIC_OAUTH_TOKEN",
    "CLOUDFLARE_API_KEY",
    "COPILOT_GITHUB_TOKEN",
    "GEMINI_API_KEY",
    "GH_TOKEN",
    "GITHUB_TOKEN",
    "GOOGLE_CLOUD_API_KEY",
    "GOOGLE_GENERATIVE_AI_API_KEY",
    "HF_TOKEN",
    "KIMI_API_KEY",
    "MOONSHOT_API_KEY",
)
_CLOUDS = ("AWS_*", "GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT")

LOGINS: Mapping[str, Login] = MappingProxyType(
    {
        "claude": Login(
            env=("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN"),
            files=(Kept("~/.claude", ".credentials.json", "CLAUDE_CONFIG_DIR"),),
            chosen_by=("CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_FOUNDRY", "CLAUDE_CODE_USE_VERTEX"),
            args=("--settings",),
            # As an option, since a version that does not know the command would take words for a task.
            ask=("auth", "status", "--json"),
            denial='"loggedIn": false',
            remedy="run `claude` once and log in, or pass ANTHROPIC_API_KEY on",
        ),
        "codex": Login(
            # `codex login status` knows neither of the variables, nor the key of a provider in its configuration.
            env=("CODEX_API_KEY", "OPENAI_API_KEY"),
            files=(Kept("~/.codex", "auth.json", "CODEX_HOME"),),
            settings=(Kept("~/.codex", "config.toml", "CODEX_HOME"),),
            args=("model_provider", "--oss"),
            remedy="run `codex login`, or pass CODEX_API_KEY on",
        ),
        "gemini": Login(
            env=("GEMINI_API_KEY",),
            files=(Kept("~/.gemini", "oauth_creds.json"), Kept("~/.gemini", "gemini-credentials.json")),
            chosen_by=(
                "CLOUD_SHELL",
                "GEMINI_CLI_HOME",
                "GEMINI_CLI_USE_COMPUTE_ADC",
                "GOOGLE_GEMINI_BASE_URL",
                "GOOGLE_GENAI_USE_GCA",
                "GOOGLE_GENAI_USE_VERTEXAI",
            ),
            settings=(
                Kept("~/.gemini", "settings.json"),
                Kept("~/.gemini", ".env"),
                Kept("~", ".env"),
                Kept(".gemini", "settings.json"),
                Kept(".gemini", ".env"),
                Kept("", ".env"),
            ),
            remedy="run `gemini` once and log in, or pass GEMINI_API_KEY on",
        ),
        "opencode": Login(
            env=("{PROVIDER}_API_KEY", *_OTHER_KEYS),
            files=(Kept("~/.local/share", "opencode/auth.json", "XDG_DATA_HOME"),),
            chosen_by=("OPENCODE_CONFIG", "OPENCODE_CONFIG_CONTENT", "OPENCODE_CONFIG_DIR", *_CLOUDS),
            settings=(
                Kept("~/.config", "opencode/opencode.json", "XDG_CONFIG_HOME"),
                Kept("~/.config", "opencode/opencode.jsonc", "XDG_CONFIG_HOME"),
                Kept("", "opencode.json"),
                Kept("", "opencode.jsonc"),
            ),
            optional=True,
            remedy="run `opencode auth login`, or pass the key of its provider on",
        ),
        "pi": Login(
            env=("{PROVIDER}_API_KEY", *_OTHER_KEYS),
            files=(Kept("~/.pi/agent", "auth.json", "PI_CODING_AGENT_DIR"),),
            chosen_by=_CLOUDS,
            settings=(Kept("~/.pi/agent", "models.json", "PI_CODING_AGENT_DIR"),),
            args=("--api-key", "--extension"),
            remedy="run `pi` once and log in, or pass the key of its provider on",
        ),
        "qwen": Login(
            env=("OPENAI_API_KEY",),
            files=(),  # what it keeps is of a login that was discontinued
            chosen_by=("QWEN_HOME",),
            settings=(
                Kept("~/.qwen", "settings.json"),
                Kept("~/.qwen", ".env"),
                Kept("~", ".env"),
                Kept(".qwen", "settings.json"),
                Kept(".qwen", ".env"),
                Kept("", ".env"),
            ),
            args=("--auth-type", "--openai-api-key"),
            remedy="pass OPENAI_API_KEY on, or choose a provider by `/auth` in `qwen`",
        ),
    }
)
"""By the tool's name. Those that are not in it have no login that is known of: `bash`, `demo`, the operator's own."""


def login_of(agent: AgentDefinition, tools: Mapping[str, ToolConfig]) -> Login | None:
    """How the agent's tool can be logged in; None where nothing is known of that."""
    return None if agent.cli_tool in tools else LOGINS.get(agent.cli_tool.rpartition("/")[2])
