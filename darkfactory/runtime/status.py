"""What a person asks of a running factory: how is each agent, and why is it not running?"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import frozen

from darkfactory.model.drift import DriftScore
from darkfactory.model.fleet import AgentLayer
from darkfactory.model.state import AgentState, State


@frozen
class AgentStatus:
    """One agent, now."""

    name: str
    layer: AgentLayer
    running: bool
    """It has a process, or one is being started or stopped."""
    condition: str
    """starting, running, stopping; held, disabled, refused; queued; idle."""
    reason: str | None
    """Why it waits, was refused or is held; None while it runs and when nothing is wanted of it."""
    run_id: str | None
    pid: int | None
    uptime: float | None
    """Seconds since the run was admitted; None without a run."""
    restart_count: int
    """Since the factory started."""
    health: float | None = None
    """The share of good looks at its runs and ends of them; None while nothing was seen of it."""
    drift_score: DriftScore | None = None
    """With its parts; None while nothing was seen of it."""


def statuses(state: State, at: float, drift: Mapping[str, DriftScore]) -> list[AgentStatus]:
    """Every agent in the order of the fleet file; `at` is Trio's time."""
    waiting = {request.agent: request.waits_for for request in state.queue.values()}
    return [_status(agent, waiting.get(name), at, drift.get(name)) for name, agent in state.agents.items()]


def _status(agent: AgentState, waits_for: str | None, at: float, drift: DriftScore | None) -> AgentStatus:
    run = agent.run
    condition, reason = _condition(agent, waits_for)
    return AgentStatus(
        name=agent.definition.name,
        layer=agent.definition.layer,
        running=run is not None,
        condition=condition,
        reason=reason,
        run_id=run.id if run is not None else None,
        pid=run.pid if run is not None else None,
        uptime=at - run.since if run is not None else None,
        restart_count=agent.restarts,
        health=drift.metrics.health_score if drift is not None else None,
        drift_score=drift,
    )


def _condition(agent: AgentState, waits_for: str | None) -> tuple[str, str | None]:
    if agent.run is not None:
        return agent.run.phase.value, None
    if agent.hold is not None:
        return "held", f"{agent.hold.reason}: {agent.hold.detail}"
    if not agent.definition.enabled:
        return "disabled", "enabled = false"
    if agent.missing is not None:
        return "refused", f"tool_missing: {agent.missing}"
    if waits_for is not None:
        return "queued", waits_for
    if agent.refused is not None:
        return "refused", agent.refused
    return "idle", None
