"""darkfactory: supervises a fleet of command-line AI agents on one server, unattended.

    async with darkfactory.open_factory("fleet.toml") as factory:
        await factory.start("code-reviewer")

What is not named in `darkfactory.facade` is not meant to be imported, except `darkfactory.testing`.
"""

# The house, from the top; imports point down only, and CI checks it.
#
#   cli/        commands and tables
#   facade.py   what a library user imports, as darkfactory.NAME
#   testing.py  a simulated machine: scripted processes, a civil clock, a journal in memory
#   runtime/    the Trio tasks: factory, life (wiring), supervisor, layers, body, agent_run, warm, scheduler, toolwatch,
#               reviewer
#   policy/     decisions, pure: decide, reconcile, admission, routing, messages, handoff, reservations, pool, restart,
#               siblings, limits, correction, schedule, shutdown, history; of reviews: review, findings, choice
#   tools/      one module per command-line tool: how it is called, what its output says; verdict
#   config/     TOML text -> OrchestratorConfig, every fault at once with its line
#   devices/    what touches the machine: launcher, spawning, containment, procfs, capture, journal, statedir, clock,
#               git, place, worktrees, scan, forge, github
#   model/      values: fleet, events, actions, state, signals, ends, drift, review
#   errors.py   whose fault is it?
#
# policy, tools, config and devices do not import each other.

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from darkfactory.facade import *  # noqa: F403 - so that type checkers see them
else:

    def __getattr__(name: str) -> Any:
        """Import the facade when something of it is first used: the command does with less, and sooner."""
        return getattr(import_module("darkfactory.facade"), name)
