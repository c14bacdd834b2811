"""darkfactory: supervises a fleet of command-line AI agents on one server, unattended.

    async with darkfactory.open_factory("fleet.toml") as factory:
        await factory.start("code-reviewer")

What is not named here is not meant to be imported, except `darkfactory.testing`.
"""

# The house, from the top; imports point down only, and CI checks it.
#
#   cli/        commands and tables
#   testing.py  a simulated machine: scripted processes, a civil clock, a journal in memory
#   runtime/    the Trio tasks: factory (wiring), supervisor, layers, agent_run, scheduler, toolwatch
#   policy/     decisions, pure: decide, reconcile, admission, restart, siblings, limits, correction, schedule,
#               shutdown, history
#   tools/      one module per command-line tool: how it is called, what its output says; verdict
#   config/     TOML text -> OrchestratorConfig, every fault at once with its line
#   devices/    what touches the machine: launcher, containment, capture, journal, statedir, clock
#   model/      values: fleet, events, actions, state, signals, ends, drift
#   errors.py   whose fault is it?
#
# policy, tools, config and devices do not import each other.

from darkfactory.config import load_config
from darkfactory.errors import (
    AgentNotFound,
    AlreadyRunning,
    ConfigError,
    Fault,
    JournalDamaged,
    OrchestratorError,
    SchedulerError,
    SpawnFailed,
    StateDirError,
)
from darkfactory.model.actions import Admission, Admit, Queue, Refuse
from darkfactory.model.drift import (
    ACTION_FOR,
    CorrectionAction,
    CorrectionLevel,
    DriftAlert,
    DriftMetrics,
    DriftScore,
)
from darkfactory.model.ends import ErrorClass, Reason, Verdict
from darkfactory.model.events import Event, Moment, ScheduleEvent, Spawn
from darkfactory.model.fleet import (
    AgentDefinition,
    AgentLayer,
    CompoundReviewConfig,
    Containment,
    JsonlMap,
    LayerConfig,
    NightwatchConfig,
    OrchestratorConfig,
    Overlap,
    Permissions,
    PromptVia,
    Secret,
    Strategy,
    ToolConfig,
)
from darkfactory.runtime.factory import AgentOrchestrator, Outcome, open_factory
from darkfactory.runtime.scheduler import TimeScheduler
from darkfactory.runtime.status import AgentStatus

__version__ = "0.1.0"

__all__ = [
    "ACTION_FOR",
    "Admission",
    "Admit",
    "AgentDefinition",
    "AgentLayer",
    "AgentNotFound",
    "AgentOrchestrator",
    "AgentStatus",
    "AlreadyRunning",
    "CompoundReviewConfig",
    "ConfigError",
    "Containment",
    "CorrectionAction",
    "CorrectionLevel",
    "DriftAlert",
    "DriftMetrics",
    "DriftScore",
    "ErrorClass",
    "Event",
    "Fault",
    "JournalDamaged",
    "JsonlMap",
    "LayerConfig",
    "Moment",
    "NightwatchConfig",
    "OrchestratorConfig",
    "OrchestratorError",
    "Outcome",
    "Overlap",
    "Permissions",
    "PromptVia",
    "Queue",
    "Reason",
    "Refuse",
    "ScheduleEvent",
    "SchedulerError",
    "Secret",
    "Spawn",
    "SpawnFailed",
    "StateDirError",
    "Strategy",
    "TimeScheduler",
    "ToolConfig",
    "Verdict",
    "load_config",
    "open_factory",
]
