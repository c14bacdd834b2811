"""What is done about drift: each level acts on the narrowest scope that cures it."""

from __future__ import annotations

from typing import assert_never

from darkfactory.model.actions import Severity, Stop, StopAgent
from darkfactory.model.drift import CorrectionAction, DriftAlert
from darkfactory.model.ends import Reason
from darkfactory.model.state import Hold, Phase
from darkfactory.policy import siblings
from darkfactory.policy.draft import Draft
from darkfactory.policy.reconcile import stop_run


def correct(draft: Draft, alert: DriftAlert) -> None:
    """Apply an alert's action. A later, stronger one overrides what an earlier one set in motion."""
    agent = draft.agents[alert.agent_name]
    action = alert.recommended_action
    if action is CorrectionAction.NONE:
        return
    score = alert.drift_score
    draft.record(
        "drift",
        Severity.WARNING,
        agent=alert.agent_name,
        level=score.level.name.lower(),
        score=round(score.score, 4),
        action=action.value,
    )
    run = agent.run
    match action:
        case CorrectionAction.WARN:
            pass
        case CorrectionAction.RENEW:
            if run is not None and run.renew_at is None:
                draft.change_run(run, renew_at=draft.when.at + draft.config.nightwatch.moderate_finish_secs)
        case CorrectionAction.RESTART:
            if run is not None:
                stop_run(draft, run, Reason.CORRECTED_SEVERE, f"drift {score.score:.2f} was Severe")
        case CorrectionAction.HOLD:
            if agent.hold is None:
                hold(draft, alert.agent_name, "drift", f"drift {score.score:.2f} was Critical")
        case _:
            assert_never(action)


def hold(draft: Draft, name: str, reason: str, detail: str) -> None:
    """Stop an agent until a person resumes it, and tell a person so."""
    agent = draft.change(name, hold=Hold(reason, draft.when.utc, detail))
    draft.record("held", Severity.ERROR, agent=name, reason=reason, detail=detail)
    draft.gate_moved = True  # what waits for this agent is refused there
    siblings.join(draft, name)
    run = agent.run
    if run is not None and run.phase is not Phase.STOPPING:
        stop = Stop(Reason.CANCELLED, agent.definition.grace_secs, detail)
        draft.change_run(run, phase=Phase.STOPPING, stop=stop)
        draft.actions.append(StopAgent(run.layer, run.id, stop))
