"""All that a library user imports; the package itself passes it on. See there for why that is done in two steps."""

from darkfactory.config import load_config
from darkfactory.errors import (
    AgentNotFound,
    AlreadyRunning,
    ConfigError,
    Fault,
    HandoffFailed,
    JournalDamaged,
    OrchestratorError,
    SchedulerError,
    SpawnFailed,
    StateDirError,
)
from darkfactory.model.actions import Admission, Admit, Delivery, Queue, Refuse
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
    Fallback,
    JsonlMap,
    LayerConfig,
    NightwatchConfig,
    OrchestratorConfig,
    Overlap,
    Permissions,
    PromptVia,
    ProviderConfig,
    Secret,
    Strategy,
    ToolConfig,
)
from darkfactory.model.messages import HandoffContext
from darkfactory.model.providers import RateLimitTracker, RateLimitWindow
from darkfactory.model.routing import Route, RoutedBy, RoutingConfig, RunnerUp
from darkfactory.runtime.factory import AgentOrchestrator, Outcome, open_factory
from darkfactory.runtime.handoffs import read_handoff
from darkfactory.runtime.scheduler import TimeScheduler
from darkfactory.runtime.status import AgentStatus, ProviderStatus

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
    "Delivery",
    "DriftAlert",
    "DriftMetrics",
    "DriftScore",
    "ErrorClass",
    "Event",
    "Fallback",
    "Fault",
    "HandoffContext",
    "HandoffFailed",
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
    "ProviderConfig",
    "ProviderStatus",
    "Queue",
    "RateLimitTracker",
    "RateLimitWindow",
    "Reason",
    "Refuse",
    "Route",
    "RoutedBy",
    "RoutingConfig",
    "RunnerUp",
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
    "read_handoff",
]
