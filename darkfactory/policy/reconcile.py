"""Wanted against actual: the steps that bring an agent to where it should be, and the queue through the gate.

Level, not edge: each step looks at what is, not at what just happened, so an event that was missed costs a delay
until the next look and nothing else.
"""

from __future__ import annotations

from collections.abc import Container
from math import inf
from typing import assert_never

from attrs import evolve

from darkfactory.model.actions import FOR_MESSAGES, LEVEL, Cause, Queue, Refuse, Severity, StartRun, Stop, StopRun
from darkfactory.model.actions import Admit as Admitted
from darkfactory.model.ends import Reason
from darkfactory.model.fleet import AgentLayer
from darkfactory.model.providers import Spending
from darkfactory.model.state import AgentState, Phase, Request, Run
from darkfactory.policy import admission, limits, messages, pool, providers, reservations, review, siblings
from darkfactory.policy.draft import Draft
from darkfactory.policy.history import timestamp


def reconcile(draft: Draft) -> None:
    """Look at every touched agent, then send the queue through the gate if anything moved there."""
    looked_at: set[str] = set()
    member = siblings.next_to_stop(draft)
    if member is not None:
        stop_run(draft, member, Reason.SIBLING, "it restarts together with another agent")
    while draft.touched:
        touched, draft.touched = draft.touched, {}
        looked_at.update(touched)
        for name in touched:
            _reconcile_agent(draft, name)
    if draft.gate_moved and draft.queue and draft.looked_at and draft.stopping is None:
        draft.gate_moved = False
        _pass_gate(draft, looked_at)


def _reconcile_agent(draft: Draft, name: str) -> None:
    agent = draft.agents[name]
    # nearly every look at an agent finds nothing: so nobody is asked about what is not there
    if name in draft.mail.boxes:
        messages.expire(draft, name)
    if draft.review is not None:
        review.want_run(draft, name)
    if agent.run is not None:
        _hold_to_limits(draft, agent, agent.run)
    elif draft.stopping is None and not draft.only_review:
        if agent.definition.layer is AgentLayer.SAFETY:
            if (name, Cause.ALWAYS_ON) not in draft.queue:
                request = Request(name, Cause.ALWAYS_ON, wanted_at=draft.when.utc)
                draft.queue[request.key] = request
            draft.gate_moved = True
        elif agent.definition.layer is AgentLayer.GROWTH and (draft.queue or draft.mail.boxes):
            messages.want_run(draft, name)
    if (agent.definition.warm or agent.warm) and not draft.only_review:
        pool.look(draft, name)


def _hold_to_limits(draft: Draft, agent: AgentState, run: Run) -> None:
    announces = agent.announces and not run.fallback  # of what it fell back on that is not known
    limit = limits.next_limit(run, agent.definition, announces=announces)
    if limit is None:
        return
    at = max(limit.at, draft.lenient_until)
    if at <= draft.when.at + admission.EARLY_SECS:
        stop_run(draft, run, limit.reason, limit.detail, lingered=limit.lingered)
    else:
        draft.wake_at_limit(run.agent, at)


def stop_run(draft: Draft, run: Run, reason: Reason, detail: str, *, lingered: bool = False) -> Run:
    """Have a run stopped; one that is being stopped already keeps its first reason. The changed run."""
    if run.phase is Phase.STOPPING:
        return run
    grace = draft.agents[run.agent].definition.grace_secs
    stop = Stop(reason, grace, detail, lingered)
    run = draft.change_run(run, phase=Phase.STOPPING, stop=stop)
    told = "lingered" if lingered else reason.value
    draft.record("run_stopping", durable=False, run=run.id, agent=run.agent, reason=told, detail=detail or None)
    draft.actions.append(StopRun(run.layer, run.id, stop))
    return run


def enqueue(draft: Draft, request: Request, waits: Queue) -> None:
    """Let a request wait for a reason that is known already."""
    draft.queue[request.key] = _made_to_wait(draft, request, waits)
    if request.not_before > draft.when.at:
        draft.wake(request.agent, request.not_before)


def drop(draft: Draft, request: Request, why: Refuse) -> None:
    """Tell that a request will not start. One that is wanted again at the next look is told when that changes."""
    draft.outcomes[request.key] = why
    agent = draft.agents[request.agent]
    if request.cause is Cause.REVIEW:
        review.refused(draft, why)
    if request.cause not in LEVEL:
        draft.record(
            "dropped",
            Severity.WARNING,
            agent=request.agent,
            cause=request.cause.value,
            occurrence=timestamp(request.occurrence) if request.occurrence else None,
            reason=why.reason,
            detail=why.detail,
        )
    elif agent.refused != why.reason:
        draft.agents[request.agent] = evolve(agent, refused=why.reason)
        draft.record(
            "refused", Severity.WARNING, durable=False, agent=request.agent, reason=why.reason, detail=why.detail
        )


def may_begin_instead(draft: Draft, request: Request) -> bool:
    """Whether nothing keeps the request waiting but its agent's run, which would be stopped for it, and its jitter."""
    agent = evolve(draft.agents[request.agent], run=None)
    provider = providers.choose(draft, request).waits
    leases = reservations.Table(lambda: [run for run in draft.live() if run.agent != request.agent])
    if agent.definition.reserve:
        for other in draft.queue.values():
            if other.waits_for == "reserved":
                leases.claim(other.agent, draft.agents[other.agent].definition.reserve)
    reserved = leases.obstacle(request.agent, agent.definition.reserve)
    around = admission.Surroundings(
        draft.config,
        draft.when,
        len(draft.runs) - 1,
        draft.disk_low,
        provider,
        reserved=reserved,
        worktrees=_worktrees(draft, request),
    )
    return admission.admit(agent, evolve(request, not_before=-inf), around) is None


def ask_gate(
    draft: Draft,
    request: Request,
    obstacle: siblings.Obstacle | None,
    leases: reservations.Table,
    known: providers.Known | None = None,
) -> Queue | Refuse | None:
    """What the gate says to a request now; None admits.

    `obstacle` is that of `siblings` for this pass. `leases` is what is taken: the runs', and what those requests want
    that were asked about before in this pass; if this one has to wait for that too, so is what it wants.
    """
    waits = obstacle.waits if obstacle is not None and request.agent in obstacle.members else None
    provider = providers.choose(draft, request, known).waits
    agent = draft.agents[request.agent]
    wanted = agent.definition.reserve
    reserved = leases.obstacle(request.agent, wanted)
    around = admission.Surroundings(
        draft.config,
        draft.when,
        len(draft.runs),
        draft.disk_low,
        provider,
        waits,
        reserved,
        _worktrees(draft, request),
    )
    answer = admission.admit(agent, request, around)
    if answer is not None and answer is reserved:
        leases.claim(request.agent, wanted)
    return answer


def _worktrees(draft: Draft, request: Request) -> int:
    return draft.worktrees_in_use() if admission.isolated(draft.agents[request.agent], request) else 0


def _pass_gate(draft: Draft, looked_at: Container[str]) -> None:
    obstacle = siblings.obstacle(draft)  # nothing that this pass does can make one
    leases = reservations.Table(draft.live)
    waiting: dict[tuple[str, Cause], Request] = {}
    known: providers.Known = {}
    for request in siblings.in_start_order(draft):
        if request.cause in FOR_MESSAGES and not messages.waits(draft, request.agent):
            continue  # what it was for has expired while it waited, which is recorded
        if draft.only_review and request.cause is not Cause.REVIEW:
            waiting[request.key] = request
            continue
        if request.agent not in looked_at and not draft.ask_all and _waits_on(draft, request, obstacle, known):
            waiting[request.key] = request
            continue
        answer = ask_gate(draft, request, obstacle, leases, known)
        match answer:
            case None:
                leases.begun(_begin(draft, request))
                known.clear()
            case Queue():
                draft.outcomes[request.key] = answer
                if request.waits_for != answer.reason:
                    request = _made_to_wait(draft, request, answer)
                waiting[request.key] = request
                if request.not_before > draft.when.at:
                    draft.wake(request.agent, request.not_before)
                if answer.until is not None:
                    draft.wake(request.agent, draft.when.at + (answer.until - draft.when.utc).total_seconds())
                if obstacle is not None and answer is obstacle.waits and obstacle.until > draft.when.at:
                    draft.wake(request.agent, obstacle.until)
            case Refuse():
                drop(draft, request, answer)
            case _:
                assert_never(answer)
    draft.queue = waiting


def _waits_on(draft: Draft, request: Request, obstacle: siblings.Obstacle | None, known: providers.Known) -> bool:
    """Whether an untouched agent's request waits for what it waited for before: a cheap look instead of a question.

    With a thousand agents at a gate for ten, a pass would else cost what asking all of them costs. What this look
    cannot see, that a request has become too old, is found when all are asked. Who waits for leases is always asked:
    only if nothing else keeps him is what he wants taken for those behind him.
    """
    match request.waits_for:
        case "own_run":
            return draft.agents[request.agent].run is not None
        case "max_concurrent_runs":
            return obstacle is None and len(draft.runs) >= draft.config.max_concurrent_runs
        case "max_worktrees":
            return obstacle is None and draft.worktrees_in_use() >= draft.config.max_worktrees
        case "throttled" | "budget" if (waits := providers.choose(draft, request, known).waits) is not None:
            return waits.reason == request.waits_for
        case waits_for:
            return waits_for == request.delayed_by and request.not_before > draft.when.at + admission.EARLY_SECS


def _made_to_wait(draft: Draft, request: Request, waits: Queue) -> Request:
    """The request as it waits from now on, for another reason than before."""
    until = request.until
    if waits.reason in admission.PROVIDER_WAITS:
        until = waits.until or draft.when.utc
    elif request.waits_for in admission.PROVIDER_WAITS:
        until = draft.when.utc
    request = evolve(request, waits_for=waits.reason, until=until)
    _record_waiting(draft, request, waits)
    return request


def _record_waiting(draft: Draft, request: Request, waits: Queue) -> None:
    durable = request.cause not in LEVEL
    agent = draft.agents[request.agent]
    if agent.refused is not None:
        draft.agents[request.agent] = evolve(agent, refused=None)
    draft.record(
        "queued",
        durable=durable,
        agent=request.agent,
        cause=request.cause.value,
        wanted_at=timestamp(request.wanted_at),
        occurrence=timestamp(request.occurrence) if request.occurrence else None,
        attempt=request.attempt,
        excused=request.excused or None,
        fell_back=request.fell_back or None,
        until=timestamp(request.until) if request.until is not None else None,
        reason=waits.reason,
        detail=waits.detail,
    )


def _begin(draft: Draft, request: Request) -> Run:
    agent = draft.agents[request.agent]
    definition = agent.definition
    when = draft.when
    place = providers.choose(draft, request)
    errand = request.cause is Cause.REVIEW
    warm = None if place.fallback or errand else pool.take(draft, definition.name)
    run_id = pool.run_id(draft, definition.name, draft.begun) if warm is None else warm.id
    run = Run(
        id=run_id,
        agent=definition.name,
        layer=definition.layer,
        cause=request.cause,
        occurrence=request.occurrence,
        attempt=request.attempt,
        excused=request.excused,
        since=when.at,
        provider=place.provider,
        fallback=place.fallback,
        fell_back=place.fallback or request.fell_back,
        leases=definition.reserve,
        spent=providers.ONE_CALL if place.provider is not None else Spending(),
        last_output=when.at if warm is not None and warm.said else None,  # it has announced itself
        errand=review.begun(draft, run_id) if errand else None,
    )
    today = when.utc.astimezone(draft.config.timezone).date()
    so_far = agent.runs_on[1] if agent.runs_on is not None and agent.runs_on[0] == today else 0
    again = request.attempt > 1 or (request.cause is Cause.ALWAYS_ON and agent.begun > 0)
    draft.begun += 1
    draft.runs[run_id] = definition.name
    draft.change(
        definition.name,
        run=run,
        refused=None,
        begun=agent.begun + 1,
        restarts=agent.restarts + again,
        runs_on=(today, so_far + 1),
    )
    siblings.begun(draft, definition.name)
    given = () if errand else messages.give(draft, run)
    draft.outcomes[request.key] = Admitted(run_id)
    draft.record(
        "run_begun",
        run=run_id,
        agent=definition.name,
        cause=request.cause.value,
        occurrence=timestamp(request.occurrence) if request.occurrence else None,
        attempt=request.attempt,
        provider=run.provider,
        fallback=run.fallback or None,
        messages=[message.id for message in given] or None,
        leases=reservations.told(run.leases) or None,
        warm=warm is not None or None,
    )
    providers.begun(draft, run, instead_of=draft.config.provider_of(definition) if run.fallback else None)
    draft.actions.append(
        StartRun(
            run_id=run_id,
            agent=definition.name,
            layer=definition.layer,
            cause=request.cause,
            occurrence=request.occurrence,
            attempt=request.attempt,
            fallback=run.fallback,
            messages=given,
            warm=warm is not None,
            errand=run.errand,
        )
    )
    _reconcile_agent(draft, definition.name)
    draft.touched.pop(definition.name, None)
    return run
