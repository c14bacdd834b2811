"""All that a library user imports; the package itself passes it on. See there for why that is done in two steps."""

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
