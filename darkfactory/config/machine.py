"""What this machine lacks for a fleet that is right; it is looked for when a command is about to use the fleet."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from darkfactory.config.finding import Finding
from darkfactory.config.lines import Keys
from darkfactory.errors import Fault
from darkfactory.model.fleet import Isolation, OrchestratorConfig

_AGENT_MAIL = ("mcp", "httpx2")
"""The modules of the extra."""
_BYPASS = {"--dangerously-skip-permissions", "--permission-mode=bypassPermissions", "bypassPermissions"}
"""Words of `args` with which claude refuses to start as root, unless IS_SANDBOX is set."""


def missing_paths(config: OrchestratorConfig) -> tuple[Fault, ...]:
    """The directories that the fleet needs and this machine does not have. No fault has a line.

    Looks at the disk. The paths themselves are not told: parts of them may come from the environment.
    """
    return tuple(finding.fault() for finding in absent(config))


def absent(config: OrchestratorConfig) -> Iterator[Finding]:
    """`missing_paths`, before they have lines; what is not installed; what a program refuses to do for this user."""
    wanted: dict[Keys, Path] = {("working_dir",): config.working_dir}
    if config.compound_review is not None:
        wanted["compound_review", "repo_path"] = config.compound_review.repo_path
    for keys, path in wanted.items():
        if not _is_dir(path):
            yield Finding(keys, "is not an existing directory", "create it, or correct the path")
    if config.agent_mail is not None and any(find_spec(module) is None for module in _AGENT_MAIL):
        yield Finding(("agent_mail",), "needs more than is installed", "pip install 'darkfactory[agent-mail]'")
    in_repository = _is_dir(config.working_dir) and _has_git(config.working_dir)
    for index, agent in enumerate(config.agents):
        if agent.isolation is Isolation.WORKTREE and _is_dir(config.working_dir) and not in_repository:
            yield Finding(
                ("agents", index, "isolation"),
                "takes a git repository, and working_dir is in none",
                'make it one (git init, and a commit), or write isolation = "shared"',
                reads=(("working_dir",),),
            )
    for index, agent in enumerate(config.agents if os.geteuid() == 0 else ()):
        sandbox = "IS_SANDBOX" in agent.env or "IS_SANDBOX" in agent.env_pass
        if agent.cli_tool.rpartition("/")[2] == "claude" and not _BYPASS.isdisjoint(agent.args) and not sandbox:
            yield Finding(
                ("agents", index, "args"),
                "claude refuses to skip permissions for root",
                'leave that to permissions = "full-access", or set env = { IS_SANDBOX = "1" } where that is true',
                reads=(("agents", index, "cli_tool"),),
            )


def _has_git(path: Path) -> bool:
    """Whether a directory looks like a part of a git repository; git itself is asked when a run wants a worktree."""
    try:
        here = path.resolve()
        places = [directory / ".git" for directory in (here, *here.parents)]
        return any(place.is_file() or (place / "HEAD").exists() for place in places)  # what git takes for one, mostly
    except OSError:
        return False


def _is_dir(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a parent that may not be searched
        return False
