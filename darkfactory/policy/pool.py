"""Warm processes: started ahead, so that a run need not wait until its program is up.

What waits here is no run. It has no admission and no verdict, takes no place among `max_concurrent_runs` and calls no
provider; it becomes a run's process when the gate has admitted one, and then has been that run's from the beginning:
it was started with its id. As everywhere, each look compares what is wanted with what there is. There are never more
than `warm` of them, those that are being started or ended included.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from attrs import evolve

from darkfactory.model.actions import Severity, StartWarm, Stop, StopRun
from darkfactory.model.ends import Reason
from darkfactory.model.events import MemoryExceeded, OutputSeen, WarmEnded, WarmReady
from darkfactory.model.fleet import AgentDefinition
from darkfactory.model.state import AgentState, Warm
from darkfactory.policy.admission import EARLY_SECS
from darkfactory.policy.chance import fraction, token
from darkfactory.policy.draft import Draft
from darkfactory.policy.history import timestamp
from darkfactory.policy.restart import backoff

FAULTS: Final = {"died", "finished", "memory", "output_limit", "lost"}
"""Ends that count: another process is started after a back-off."""


def run_id(draft: Draft, name: str, *seeds: object) -> str:
    """A new id for a run of the agent, or for a process that waits for one; `seeds` tell it from those before."""
    utc = timestamp(draft.when.utc)
    day_and_time = utc[:19].replace("-", "").replace(":", "").replace("T", "-")
    return f"{name}-{day_and_time}-{token(draft.seed, *seeds, utc)}"


def look(draft: Draft, name: str) -> None:
    """End what is not wanted any more, and start what is lacking."""
    agent = draft.agents[name]
    wanted = agent.definition.warm
    if draft.stopping is not None or not draft.looked_at:
        return  # the shutdown sees to them itself
    unwanted = _unwanted(agent)
    for each in agent.warm:
        why = unwanted or _worn(each, agent.definition, draft.when.at)
        if why is not None:
            _end(draft, name, each, why)
    if unwanted is None and draft.disk_low is None:
        _fill(draft, name, wanted)
    idle = agent.definition.warm_idle_secs
    for each in draft.agents[name].warm:
        if each.ready_at is not None and each.ending is None:
            draft.wake(name, each.ready_at + idle)


def _unwanted(agent: AgentState) -> str | None:
    if not agent.definition.enabled:
        return "disabled"
    if agent.hold is not None:
        return "held"
    return "tool_missing" if agent.missing is not None else None


def _worn(warm: Warm, definition: AgentDefinition, at: float) -> str | None:
    if warm.definition != definition:
        return "redefined"
    idle = warm.ready_at is not None and warm.ready_at + definition.warm_idle_secs <= at + EARLY_SECS
    return "idle" if idle else None


def _end(draft: Draft, name: str, warm: Warm, why: str) -> None:
    if warm.ending is None:
        definition = draft.agents[name].definition
        _replace(draft, name, evolve(warm, ending=why))
        stop = Stop(Reason.CANCELLED, definition.grace_secs, why)
        draft.actions.append(StopRun(definition.layer, warm.id, stop))


def _replace(draft: Draft, name: str, changed: Warm) -> None:
    agent = draft.agents[name]
    warm = tuple(changed if each.id == changed.id else each for each in agent.warm)
    draft.agents[name] = evolve(agent, warm=warm)


def _fill(draft: Draft, name: str, wanted: int) -> None:
    agent, at = draft.agents[name], draft.when.at
    lacking = wanted - len(agent.warm)
    if lacking <= 0:
        return
    if agent.warm_not_before > at + EARLY_SECS:
        draft.wake(name, agent.warm_not_before)
        return
    definition = agent.definition
    started = [
        Warm(run_id(draft, name, "warm", name, number), definition, at)
        for number in range(agent.warmed, agent.warmed + lacking)
    ]
    draft.agents[name] = evolve(agent, warm=(*agent.warm, *started), warmed=agent.warmed + lacking)
    draft.actions += [StartWarm(each.id, name, definition.layer) for each in started]


def ready(draft: Draft, event: WarmReady) -> None:
    """One is there, and can be used."""
    warm = _known(draft, event.agent, event.run_id)
    if warm is not None:
        _replace(draft, event.agent, evolve(warm, ready_at=draft.when.at, pid=event.pid))
        draft.touched[event.agent] = None
        draft.record("warm_started", durable=False, run=warm.id, agent=event.agent, pid=event.pid)


def said(draft: Draft, event: OutputSeen) -> None:
    """Something was printed, and no run did it: if a waiting process has, that may disqualify it."""
    for name, agent in draft.agents.items():
        warm = _known(draft, name, event.run_id) if agent.warm else None
        if warm is None:
            continue
        _replace(draft, name, evolve(warm, said=True))
        if event.finished:
            _end(draft, name, evolve(warm, said=True), "finished")
        elif event.output_bytes > agent.definition.max_output_bytes:
            _end(draft, name, evolve(warm, said=True), "output_limit")


def grew(draft: Draft, event: MemoryExceeded) -> None:
    """Something takes more memory than it may, and no run does: if it is a waiting process, it is ended."""
    for name, agent in draft.agents.items():
        warm = _known(draft, name, event.run_id) if agent.warm else None
        if warm is not None:
            _end(draft, name, warm, "memory")


def ended(draft: Draft, event: WarmEnded) -> None:
    """One is gone; or one that a run was to take over, and did not: then the run starts a process of its own."""
    warm = _known(draft, event.agent, event.run_id)
    agent = draft.agents[event.agent]
    why = "lost" if warm is None else warm.ending or "died"
    draft.record(
        "warm_ended",
        Severity.WARNING if why in FAULTS or event.unreaped else Severity.INFO,
        durable=False,
        run=event.run_id,
        agent=event.agent,
        reason=why,
        detail=event.detail or None,
        exit_code=event.exit_code,
        unreaped=list(event.unreaped) or None,
    )
    if draft.stopping is not None and event.unreaped:
        draft.stopping = evolve(draft.stopping, unreaped=draft.stopping.unreaped + event.unreaped)
    deaths, not_before = 0, agent.warm_not_before
    if why in FAULTS:
        deaths = agent.warm_deaths + 1
        chance = fraction(draft.seed, "warm", event.run_id)
        not_before = draft.when.at + backoff(deaths, draft.config.layers[agent.definition.layer], chance)
    draft.change(
        event.agent,
        warm=tuple(each for each in agent.warm if each.id != event.run_id),
        warm_deaths=deaths,
        warm_not_before=not_before,
    )


def take(draft: Draft, name: str) -> Warm | None:
    """The newest process that waits, for a run that begins now; None if there is none. It is no longer known here.

    The newest, so that of those that are never needed the same ones grow old and are replaced.
    """
    agent = draft.agents[name]
    waiting = [each for each in agent.warm if each.ready_at is not None and each.ending is None]
    if not waiting:
        return None
    taken = waiting[-1]
    draft.agents[name] = evolve(agent, warm=tuple(each for each in agent.warm if each is not taken), warm_deaths=0)
    return taken


def stop_all(draft: Draft, why: str, share: float) -> dict[str, Stop]:
    """How each of them is ended at a shutdown, by its id; no more patiently than `share` seconds."""
    stops: dict[str, Stop] = {}
    for name, agent in draft.agents.items():
        grace = min(share, agent.definition.grace_secs)
        for each in agent.warm:
            stops[each.id] = Stop(Reason.SHUTDOWN, grace, why)
            _replace(draft, name, evolve(each, ending=each.ending or "shutdown"))
    return stops


def left(draft: Draft) -> Iterator[Warm]:
    """All that there are, of all agents."""
    for agent in draft.agents.values():
        yield from agent.warm


def _known(draft: Draft, name: str, warm_id: str) -> Warm | None:
    return next((each for each in draft.agents[name].warm if each.id == warm_id), None)
