"""Stopping in order: Growth, then Core, then Safety; in parallel inside a layer; never longer than the bound."""

from __future__ import annotations

from typing import Final

from attrs import evolve

from darkfactory.model.actions import Finish, Severity, Stop, StopLayer, StopReview
from darkfactory.model.ends import Reason
from darkfactory.model.events import ShutdownAsked
from darkfactory.model.fleet import STOP_ORDER, AgentLayer
from darkfactory.model.state import Phase, Run, Stopping, Warm
from darkfactory.policy import pool
from darkfactory.policy.admission import EARLY_SECS
from darkfactory.policy.draft import Draft

REAP_SECS: Final = 1.0
"""What the bound allows beyond the graces, for killing and reaping."""


def ask(draft: Draft, event: ShutdownAsked) -> None:
    """Begin to stop; asked again with `kill`, take away what patience is left."""
    at = event.when.at
    if draft.stopping is None:
        grace = 0.0 if event.kill else draft.config.shutdown_grace_secs
        draft.stopping = Stopping(event.why, stop_by=at + grace, bound_at=at + grace + REAP_SECS, killed=event.kill)
        draft.record("factory_stopping", why=event.why, runs=len(draft.runs))
        _stop_review(draft, grace)
        if event.kill:
            _kill_all(draft, event.why)
    elif event.kill and not draft.stopping.killed:
        bound = min(draft.stopping.bound_at, at + REAP_SECS)
        draft.stopping = evolve(draft.stopping, stop_by=at, bound_at=bound, killed=True)
        draft.record("factory_killing", Severity.WARNING, why=event.why, runs=len(draft.runs))
        _stop_review(draft, 0.0)
        _kill_all(draft, event.why)


def step(draft: Draft) -> None:
    """Go on to the next layer once one is empty; finish when nobody lives or the bound has come."""
    stopping = draft.stopping
    if stopping is None or stopping.finished:
        return
    live = _by_layer(draft)
    if not live and draft.review is None:
        _finish(draft, stopping, stopping.unreaped)
    elif draft.when.at >= stopping.bound_at - EARLY_SECS:
        unended: list[Run | Warm] = [*draft.live(), *pool.left(draft)]
        named = tuple(f"{each.pid or '(no pid)'} {each.id}" for each in unended)
        _finish(draft, stopping, stopping.unreaped + named)
    elif live and not stopping.killed and stopping.layer not in live:
        layer = next(layer for layer in STOP_ORDER if layer in live)
        draft.stopping = evolve(stopping, layer=layer)
        share = layer_grace(stopping.stop_by - draft.when.at, len(live))
        _stop_layer(draft, stopping.why, layer, live[layer], share)


def _by_layer(draft: Draft) -> dict[AgentLayer, list[Run]]:
    """The runs of each layer that has any, or has processes that wait for one: those are all in Growth."""
    live: dict[AgentLayer, list[Run]] = {}
    for run in draft.live():
        live.setdefault(run.layer, []).append(run)
    if any(pool.left(draft)):
        live.setdefault(AgentLayer.GROWTH, [])
    return live


def layer_grace(left_secs: float, layers_left: int) -> float:
    """A layer's share of the time left: as much for each layer that still has runs."""
    return max(0.0, left_secs) / layers_left


def _stop_review(draft: Draft, grace_secs: float) -> None:
    if draft.review is not None:
        draft.actions.append(StopReview(grace_secs))


def _kill_all(draft: Draft, why: str) -> None:
    live = _by_layer(draft)
    for layer in STOP_ORDER:
        if layer in live:
            _stop_layer(draft, why, layer, live[layer], 0.0)


def _stop_layer(draft: Draft, why: str, layer: AgentLayer, runs: list[Run], share: float) -> None:
    stops = pool.stop_all(draft, why, share) if layer is AgentLayer.GROWTH else {}
    for run in runs:
        grace = min(share, draft.agents[run.agent].definition.grace_secs)
        first = run.stop if run.stop is not None else Stop(Reason.SHUTDOWN, grace, why)
        stop = evolve(first, grace_secs=min(first.grace_secs, grace))
        stops[run.id] = stop
        draft.change_run(run, phase=Phase.STOPPING, stop=stop)
    draft.record("layer_stopping", durable=False, layer=layer.value, runs=len(runs), grace_secs=round(share, 3))
    draft.actions.append(StopLayer(layer, stops))


def _finish(draft: Draft, stopping: Stopping, unreaped: tuple[str, ...]) -> None:
    draft.stopping = evolve(stopping, finished=True)
    severity, exit_code = (Severity.ERROR, 1) if unreaped else (Severity.INFO, 0)
    draft.record("factory_stopped", severity, why=stopping.why, exit_code=exit_code, unreaped=list(unreaped) or None)
    draft.actions.append(Finish(exit_code, unreaped))
