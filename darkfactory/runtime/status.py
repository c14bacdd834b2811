"""What a person asks of a running factory: how is each agent, and why is it not running?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from attrs import frozen

from darkfactory.model.drift import DriftScore
from darkfactory.model.events import Moment
from darkfactory.model.fleet import AgentLayer, Reservation
from darkfactory.model.state import AgentState, State
from darkfactory.policy.admission import PROVIDER_WAITS
from darkfactory.policy.providers import half_open, standing
from darkfactory.policy.reservations import obstacles


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
    provider: str | None = None
    """Whom it calls, or would; its fallback's while it runs with that."""
    fallback: bool = False
    """It runs with its fallback."""
    messages: int = 0
    """In its mailbox, those that its run was given included."""
    api_calls_remaining: int | None = None
    """Of that provider's `calls_per_hour`; None where there is no such limit."""
    leases: tuple[Reservation, ...] = ()
    """What its run has to itself, or shares with others."""
    warm: int = 0
    """Processes that wait for its next runs, and could be used now."""
    worktree: Path | None = None
    """Where it works; None while it has no worktree of its own."""


@frozen
class ProviderStatus:
    """One provider, now."""

    name: str
    blocked_until: datetime | None
    """UTC; None while it serves. In the past when it is known no better: then one run tries, or will."""
    half_open: bool
    """The time has come, and it is not known yet whether it serves again."""
    probe: str | None
    """The run that tries."""
    reason: str | None
    """Why it is blocked: a class of error and what was said; None while it serves."""
    waiting: int
    """Requests that wait for it."""
    calls_this_hour: int
    """Told or estimated; never less than one for each run."""
    api_calls_remaining: int | None
    """None where there is no limit."""
    tokens_today: int
    usd_today: float
    runs: int
    """That began there since the factory started."""
    fallbacks: int
    """Runs since then that began elsewhere because it was blocked."""

    @property
    def share_of_fallbacks(self) -> float:
        """Of the runs that should have begun there, those that fell back; 0 to 1."""
        return self.fallbacks / max(self.runs + self.fallbacks, 1)


def statuses(state: State, now: Moment, drift: Mapping[str, DriftScore]) -> list[AgentStatus]:
    """Every agent in the order of the fleet file."""
    reserved = obstacles(state)
    waiting: dict[str, str | None] = {}
    for key, request in state.queue.items():
        on_whom = reserved.get(key)
        waiting[request.agent] = f"reserved: {on_whom.detail}" if on_whom is not None else request.waits_for
    remaining = {name: standing(state, name, now.utc).api_calls_remaining for name in state.providers}
    found = []
    for name, agent in state.agents.items():
        provider = agent.run.provider if agent.run is not None else state.config.provider_of(agent.definition)
        left = remaining.get(provider) if provider is not None else None
        messages = len(state.mail.box(name))
        found.append(_status(agent, waiting.get(name), now.at, drift.get(name), provider, left, messages))
    return found


def provider_statuses(state: State, utc: datetime) -> list[ProviderStatus]:
    """Every provider that the fleet calls or limits, by name."""
    waiting = Counter(
        state.config.provider_of(state.agents[request.agent].definition)
        for request in state.queue.values()
        if request.waits_for in PROVIDER_WAITS
    )
    found = []
    for name in sorted({*state.config.providers, *state.config.providers_in_use()}):
        known, used = state.providers[name], standing(state, name, utc)
        block = known.block
        found.append(
            ProviderStatus(
                name=name,
                blocked_until=block.until if block is not None else None,
                half_open=block is not None and half_open(block, utc),
                probe=block.probe if block is not None else None,
                reason=f"{block.error.value}: {block.detail}" if block is not None else None,
                waiting=waiting[name],
                calls_this_hour=used.calls_this_hour,
                api_calls_remaining=used.api_calls_remaining,
                tokens_today=used.today.tokens,
                usd_today=used.today.usd,
                runs=known.runs,
                fallbacks=known.fallbacks,
            )
        )
    return found


def _status(
    agent: AgentState,
    waits_for: str | None,
    at: float,
    drift: DriftScore | None,
    provider: str | None,
    api_calls_remaining: int | None,
    messages: int,
) -> AgentStatus:
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
        provider=provider,
        fallback=run is not None and run.fallback,
        messages=messages,
        api_calls_remaining=api_calls_remaining,
        leases=run.leases if run is not None else (),
        warm=sum(each.ready_at is not None and each.ending is None for each in agent.warm),
        worktree=run.worktree if run is not None else None,
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
