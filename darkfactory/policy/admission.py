"""The admission gate: the one place that says whether a run may start now.

Every way to start a run (always-on, cron, operator) asks here, and every answer but Admit carries a reason that the
journal, the log and the status show.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from attrs import frozen

from darkfactory.model.actions import LEVEL, Cause, Queue, Refuse
from darkfactory.model.events import Moment
from darkfactory.model.fleet import AgentLayer, Isolation, OrchestratorConfig
from darkfactory.model.state import AgentState, Request

REQUEST_TTL_SECS: Final = 3600.0
"""How long an operator's request and a retry may wait. (An occurrence has `catchup_secs`; those of `LEVEL` last.)"""

ON_TIME_SECS: Final = 5.0
"""An occurrence this late counts as on time, whatever `catchup_secs` says: a busy machine is no misfire."""

PROVIDER_WAITS: Final = {"throttled", "budget"}
"""Reasons to wait that are a provider's limits: the time that a request waits for them makes it no older."""

EARLY_SECS: Final = 0.001
"""A sleep may end one rounding error early (measured on mock clocks); deadlines this near have come."""


@frozen
class Surroundings:
    """What the gate looks at besides the agent and its request."""

    config: OrchestratorConfig
    when: Moment
    live_runs: int
    """Runs without a verdict, of all agents."""
    disk_low: str | None = None
    """`State.disk_low`."""
    provider: Queue | None = None
    """What it waits for where it would run; None when it need not."""
    siblings: Queue | None = None
    """What the agent waits for because it restarts together with others; None when it need not."""
    reserved: Queue | None = None
    """Who has taken what it reserves; None when it can have all of it."""
    worktrees: int = 0
    """`Draft.worktrees_in_use`; asked for only where the run wants one."""


def admit(agent: AgentState, request: Request, around: Surroundings) -> Queue | Refuse | None:
    """None admits. Refusals come first, then what can be waited for."""
    return _refusal(agent, request, around) or _lateness(agent, request, around.when) or _wait(agent, request, around)


def unavailable(agent: AgentState) -> Refuse | None:
    """Why nothing can be started for the agent before a person has done something; None where something can."""
    if not agent.definition.enabled:
        return Refuse("disabled", "enabled = false in the fleet file")
    if agent.hold is not None:
        since = agent.hold.since.isoformat(timespec="seconds")
        return Refuse("held", f"held since {since} ({agent.hold.reason}); a person must resume it")
    if agent.missing is not None:
        return Refuse("tool_missing", agent.missing)
    return None


def isolated(agent: AgentState, request: Request) -> bool:
    """Whether the run would have a worktree of its own."""
    return request.cause is Cause.REVIEW or agent.definition.isolation is Isolation.WORKTREE


def _refusal(agent: AgentState, request: Request, around: Surroundings) -> Refuse | None:
    definition = agent.definition
    refusal = unavailable(agent)
    if refusal is not None:
        return refusal
    if request.cause in (Cause.OPERATOR, Cause.REVIEW) and definition.layer is AgentLayer.SAFETY:
        return Refuse("always_on", "an agent of the Safety layer is started by the factory alone")
    limit = definition.max_runs_per_day
    if limit is not None and agent.runs_on is not None and agent.runs_on[1] >= limit:
        today = around.when.utc.astimezone(around.config.timezone).date()
        if agent.runs_on[0] == today:
            return Refuse("max_runs_per_day", f"{limit} runs were started on {today}")
    return None


def _lateness(agent: AgentState, request: Request, when: Moment) -> Refuse | None:
    definition = agent.definition
    if request.cause in LEVEL or request.waits_for in PROVIDER_WAITS:
        return None
    if request.occurrence is not None and request.attempt == 1:
        allowed = max(definition.catchup_secs, ON_TIME_SECS) + definition.jitter_secs
        if when.utc - max(request.occurrence, request.until or request.occurrence) > timedelta(seconds=allowed):
            return Refuse("missed", f"older than catchup_secs ({definition.catchup_secs:g}) when it could start")
    elif when.utc - max(request.wanted_at, request.until or request.wanted_at) > timedelta(seconds=REQUEST_TTL_SECS):
        return Refuse("expired", f"waited longer than {REQUEST_TTL_SECS:g} s")
    return None


def _wait(agent: AgentState, request: Request, around: Surroundings) -> Queue | None:
    if agent.run is not None:
        return Queue("own_run", f"its run {agent.run.id} lives")
    if request.not_before > around.when.at + EARLY_SECS:
        return Queue(request.delayed_by, f"for {request.not_before - around.when.at:.1f} s")
    if around.disk_low is not None:
        return Queue("disk", f"{around.disk_low}, min_free_bytes is {around.config.min_free_bytes}")
    if around.siblings is not None:
        return around.siblings
    if around.provider is not None:
        return around.provider
    if around.reserved is not None:
        return around.reserved
    limit = around.config.max_worktrees
    if isolated(agent, request) and around.worktrees >= limit:
        remedy = "merge what is worth it, then remove some: darkfactory worktrees FLEET --prune"
        return Queue(
            "max_worktrees", f"{around.worktrees} worktrees are kept or in use, max_worktrees is {limit}; {remedy}"
        )
    if around.live_runs >= around.config.max_concurrent_runs:
        return Queue("max_concurrent_runs", f"{around.live_runs} runs live")
    return None
