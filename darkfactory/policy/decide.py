"""The whole of deciding: `decide(state, event) -> (state, actions)`.

One funnel for everything that happens. Each event changes what it tells of; then the agents it touched, and those
whose deadline has come, are reconciled, and the queue goes through the gate. Nothing here waits, reads a clock or
draws a random number, so a history can be replayed and a year can be tested in a second.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from math import inf
from typing import Final

from attrs import asdict, evolve

from darkfactory.model import actions, events
from darkfactory.model.actions import Action, Cause, Queue, Refuse, Severity
from darkfactory.model.ends import ErrorClass, Reason, Verdict
from darkfactory.model.events import Event, Moment
from darkfactory.model.fleet import AgentLayer, OrchestratorConfig, Overlap
from darkfactory.model.messages import Mail
from darkfactory.model.providers import DaySpending, Provider, RateLimitTracker
from darkfactory.model.signals import Waiting
from darkfactory.model.state import AgentState, Durable, Phase, Request, Run, State
from darkfactory.policy import (
    admission,
    correction,
    limits,
    messages,
    pool,
    providers,
    redefinition,
    restart,
    review,
    shutdown,
    siblings,
)
from darkfactory.policy.chance import fraction
from darkfactory.policy.draft import Draft
from darkfactory.policy.history import one_run_less, timestamp
from darkfactory.policy.reconcile import drop, enqueue, may_begin_instead, reconcile, stop_run
from darkfactory.policy.restart import Again
from darkfactory.policy.schedule import LARGEST_SET_BACK

SWEEP_SECS: Final = 60.0
"""How often every agent is looked at although nothing happened to it."""


def initial(
    config: OrchestratorConfig,
    durable: Durable,
    when: Moment,
    *,
    seed: int = 0,
    announcing: Collection[str] = (),
    resume: Collection[str] = (),
    only_review: bool = False,
) -> tuple[State, tuple[Action, ...]]:
    """The state at the start: what is declared, and what the journal remembers of it.

    Runs that were alive become lost, new schedules begin now, and nothing starts yet: that takes the first
    `ToolsChecked`, which tells what can start at all. `announcing` names the agents whose tools announce themselves,
    `resume` those whose hold a person ends with this start. With `only_review` nothing starts for anything else, and
    what is remembered of schedules stays as it was.
    """
    undeclared, mail = _undeclared(config, durable)
    unknown = {*undeclared.cursors, *undeclared.holds, *undeclared.mail.boxes}
    if only_review:
        undeclared = evolve(undeclared, cursors=durable.cursors)
    state = State(
        config, {}, sweep_at=when.at + SWEEP_SECS, seed=seed, mail=mail, only_review=only_review, undeclared=undeclared
    )
    draft = Draft.of(state, when)
    forgotten: set[tuple[str, Cause]] = set()
    draft.rate_limits = RateLimitTracker.of(durable.calls)
    for name in sorted({*durable.spent_on, *durable.blocks, *config.providers, *config.providers_in_use()}):
        spent_on = durable.spent_on.get(name, DaySpending())
        draft.providers[name] = Provider(spent_on=spent_on, block=durable.blocks.get(name))
    for provider, limit in config.providers.items():
        draft.rate_limits = draft.rate_limits.update_limit(provider, limit.calls_per_hour)
    for definition in config.agents:
        ages = ((when.utc - end).total_seconds() for end in durable.bad_ends.get(definition.name, ()))
        # an end that the stepped clock puts into the future happened before now all the same
        bad_ends = tuple(when.at - max(age, 0.0) for age in ages)
        draft.agents[definition.name] = AgentState(
            definition,
            announces=definition.name in announcing,
            hold=durable.holds.get(definition.name),
            bad_ends=restart.within_period(bad_ends, config.layers[definition.layer], when.at),
            runs_on=durable.runs_on.get(definition.name),
        )
        if not only_review and not _arm(draft, definition.name, durable):
            forgotten.add((definition.name, Cause.CRON))
    for run_id, name in durable.alive.items():
        draft.record("run_ended", Severity.WARNING, run=run_id, agent=name, reason=Reason.LOST.value)
        messages.over(draft, name, run_id)
    _wait_again(draft, durable, forgotten)
    for name, agent in draft.agents.items():
        if agent.hold is not None:
            siblings.join(draft, name)
    for name in resume:
        _resume(draft, name)
    review.remember(draft, durable.reviews)
    if unknown:
        draft.record("state_kept", durable=False, agents=sorted(unknown), detail="no longer declared")
    return draft.done()


def _wait_again(draft: Draft, durable: Durable, forgotten: Collection[tuple[str, Cause]]) -> None:
    """Queue what waited when the last life ended, but for what is forgotten."""
    config, when = draft.config, draft.when
    for (name, cause), waits in durable.pending.items():
        if name not in draft.agents or (name, cause) in forgotten:
            continue
        if waits.occurrence is not None and waits.attempt == 1:
            not_before, delayed_by = _jittered(draft, name, waits.occurrence), "jitter"
        else:
            # what was backing off goes on to; but no longer than it could have been told to, whatever the clock did
            layer = config.layers[draft.agents[name].definition.layer]
            wait = min(
                (waits.wanted_at - when.utc).total_seconds(), layer.backoff_max_secs * (1 + layer.backoff_jitter)
            )
            not_before, delayed_by = when.at + wait, "backoff"
        request = Request(
            name,
            cause,
            waits.wanted_at,
            waits.occurrence,
            waits.attempt,
            waits.excused,
            not_before,
            delayed_by,
            until=waits.until,
            fell_back=waits.fell_back,
        )
        draft.queue[request.key] = request
        if waits.until is not None:
            _waited_on(draft, request, waits.until, durable)


def _waited_on(draft: Draft, request: Request, until: datetime, durable: Durable) -> None:
    """A request waited for its provider `until` then, or longer: while the factory lived, and while its block lasts."""
    block = durable.blocks.get(draft.config.provider_of(draft.agents[request.agent].definition) or "")
    told_until = min(durable.told_until or until, draft.when.utc)
    longer = max(until, told_until, block.until if block is not None else until)
    if longer > until:
        enqueue(draft, evolve(request, until=longer), Queue("starting", "the factory is starting"))


def _undeclared(config: OrchestratorConfig, durable: Durable) -> tuple[Durable, Mail]:
    """What belongs to agents that are not in the fleet file, kept for the day on which they are again; and all others'
    mail.
    """
    declared = {definition.name for definition in config.agents}
    boxes = durable.mail.boxes
    lost = {
        name: tuple(evolve(message, run=None, delivered=False) for message in box)
        for name, box in boxes.items()
        if name not in declared
    }
    mail = Mail({name: box for name, box in boxes.items() if name in declared}, durable.mail.known)
    undeclared = Durable(
        cursors={name: cursor for name, cursor in durable.cursors.items() if name not in declared},
        holds={name: hold for name, hold in durable.holds.items() if name not in declared},
        bad_ends={name: ends for name, ends in durable.bad_ends.items() if name not in declared},
        pending={key: waits for key, waits in durable.pending.items() if key[0] not in declared},
        runs_on={name: runs for name, runs in durable.runs_on.items() if name not in declared},
        mail=Mail(lost),
    )
    return undeclared, mail


def _arm(draft: Draft, name: str, durable: Durable) -> bool:
    """Set the cron cursor: where the journal left it (True), or now for a schedule that is new or was changed."""
    definition = draft.agents[name].definition
    before = durable.cursors.get(name)
    if definition.schedule is None or not definition.enabled:
        if before is not None:
            draft.record("schedule_disarmed", agent=name)
        return False
    if before is not None and before[0] == definition.schedule:
        ahead = before[1] - draft.when.utc
        if ahead <= LARGEST_SET_BACK:
            draft.change(name, cursor=before[1])
            return True
        detail = "it was dealt with up to a time that lies ahead: the clock must have been wrong; it begins now"
        cursor = timestamp(before[1])
        draft.record("schedule_ahead", Severity.WARNING, durable=False, agent=name, cursor=cursor, detail=detail)
    draft.change(name, cursor=draft.when.utc)
    draft.record("schedule_armed", agent=name, schedule=definition.schedule)
    return False


def decide(state: State, event: Event) -> tuple[State, tuple[Action, ...]]:
    """What the factory knows and does after `event`."""
    draft = Draft.of(state, event.when)
    late_secs = event.when.at - state.next_deadline()
    # not again and again: on a machine that always starves us limits must hold in the end
    spent = event.when.at > state.lenient_until + limits.CATCH_UP_SECS + limits.HELD_UP_SECS
    if late_secs > limits.HELD_UP_SECS and spent and draft.runs:
        draft.lenient_until = event.when.at + limits.CATCH_UP_SECS
        draft.record("held_up", Severity.WARNING, durable=False, late_secs=round(late_secs, 1))
    match event:
        case events.Tick():
            pass
        case events.ToolsChecked():
            _tools_checked(draft, event)
        case events.DiskChecked():
            _disk_checked(draft, event)
        case events.WorktreesCounted():
            draft.gate_moved = draft.gate_moved or event.count < draft.worktrees
            draft.worktrees = event.count
        case events.WorktreeMade():
            _worktree_made(draft, event)
        case events.WorktreeSettled():
            _worktree_settled(draft, event)
        case events.Spawn():
            _occurrence(draft, event)
        case events.CompoundReview():
            review.due(draft, event)
        case events.ReviewAsked():
            review.asked(draft, event)
        case events.ErrandAsked():
            review.errand_asked(draft, event.errand)
        case events.ImprovementFinished():
            review.finished(draft, event)
        case events.ErrandWithdrawn():
            _no_longer_wanted(draft, review.withdrawn(draft, event), event.why)
        case events.ReviewEnded():
            _no_longer_wanted(draft, review.ended(draft, event.result), "its review is over")
        case events.RunStarted():
            _run_started(draft, event)
        case events.OutputSeen():
            _output_seen(draft, event)
        case events.OutputTruncated():
            draft.record("output_truncated", Severity.WARNING, durable=False, run=event.run_id, stream=event.stream)
        case events.MemoryExceeded():
            _memory_exceeded(draft, event)
        case events.RunEnded():
            _run_ended(draft, event)
        case events.WarmReady():
            pool.ready(draft, event)
        case events.WarmEnded():
            pool.ended(draft, event)
        case events.Drifted():
            correction.correct(draft, event.alert)
        case events.DefinitionRead():
            redefinition.redefine(draft, event)
        case events.StartAsked():
            _start_asked(draft, event)
        case events.MessageSent():
            messages.sent(draft, event)
        case events.HandoffAsked():
            messages.handed_over(draft, event)
        case events.HoldAsked():
            _hold_asked(draft, event)
        case events.ResumeAsked():
            _resume_asked(draft, event)
        case events.ShutdownAsked():
            shutdown.ask(draft, event)
        case _:
            raise TypeError(f"nobody decides about {type(event).__name__}")
    _deadlines(draft)
    reconcile(draft)
    _answer(draft, event)
    shutdown.step(draft)
    return draft.done()


def _deadlines(draft: Draft) -> None:
    at = draft.when.at + admission.EARLY_SECS
    if draft.wakes and draft.wakes[0][0] <= at:
        draft.take_wakes(at)
        draft.gate_moved = True
    if draft.sweep_at <= at:
        draft.sweep_at = draft.when.at + SWEEP_SECS
        providers.save(draft, *draft.providers)
        _hold_to_limits(draft, *draft.providers)
        draft.touched.update(dict.fromkeys(draft.agents))
        draft.gate_moved = draft.ask_all = True


def _hold_to_limits(draft: Draft, *names: str) -> None:
    for name in names:
        stopped, why = providers.watch(draft, name)
        for run in stopped:
            stop_run(draft, run, Reason.BUDGET, why)


def _tools_checked(draft: Draft, event: events.ToolsChecked) -> None:
    for name, agent in draft.agents.items():
        missing = event.missing.get(name)
        without = name in event.without_fallback
        if without is not agent.without_fallback:
            agent = draft.change(name, without_fallback=without)
            if without:
                draft.record("fallback_missing", Severity.WARNING, durable=False, agent=name)
            else:
                draft.record("fallback_found", durable=False, agent=name)
        if missing == agent.missing:
            continue
        if missing is not None:
            # the record of the refusal too: the gate need not say the same again
            draft.change(name, missing=missing, refused="tool_missing")
            draft.record("tool_missing", Severity.WARNING, durable=False, agent=name, detail=missing)
        else:
            draft.change(name, missing=None, refused=None)
            draft.record("tool_found", durable=False, agent=name)
    draft.looked_at = True
    draft.touched.update(dict.fromkeys(draft.agents))
    draft.gate_moved = True


def _disk_checked(draft: Draft, event: events.DiskChecked) -> None:
    was_low, is_low = draft.disk_low is not None, event.free_bytes < draft.config.min_free_bytes
    draft.disk_low = event.what if is_low else None
    draft.gate_moved = True
    draft.touched.update({name: None for name, agent in draft.agents.items() if agent.definition.warm})
    if is_low and not was_low:
        draft.record("disk_low", Severity.ERROR, durable=False, detail=event.what)
    elif was_low and not is_low:
        draft.record("disk_has_room", durable=False, detail=event.what)


def _occurrence(draft: Draft, event: events.Spawn) -> None:
    agent = draft.agents.get(event.agent)
    if agent is None or agent.cursor is None or event.occurrence <= agent.cursor or draft.stopping is not None:
        return  # dealt with already; or, while stopping, left to the next start
    name = event.agent
    not_before = _jittered(draft, name, event.occurrence)
    request = Request(name, Cause.CRON, draft.when.utc, event.occurrence, not_before=not_before, delayed_by="jitter")
    superseded = draft.queue.pop(request.key, None)
    if superseded is not None:
        drop(draft, superseded, Refuse("superseded", "a newer occurrence came while it waited"))
        request = evolve(request, not_before=min(request.not_before, superseded.not_before))
    draft.change(name, cursor=event.occurrence)
    draft.record(
        "occurrence",
        agent=name,
        occurrence=timestamp(event.occurrence),
        first_missed=timestamp(event.first_missed) if event.first_missed else None,
    )
    # one that takes the place of an occurrence that was accepted already is not skipped: that one would be lost with it
    if agent.run is not None and agent.definition.overlap is Overlap.SKIP and superseded is None:
        drop(draft, request, Refuse("overlap", f"its run {agent.run.id} lives"))
        return
    restarts = agent.definition.overlap is Overlap.RESTART
    if agent.run is not None and restarts and may_begin_instead(draft, request):
        stop_run(draft, agent.run, Reason.CANCELLED, "a newer occurrence of its schedule has come")
    draft.queue[request.key] = request
    draft.gate_moved = True


def _jittered(draft: Draft, name: str, occurrence: datetime) -> float:
    """When an occurrence may start (Trio seconds): fixed by its scheduled time, however late it is told of.

    It has come, also where the clock was set back since.
    """
    jitter = draft.agents[name].definition.jitter_secs * fraction("jitter", name, timestamp(occurrence))
    late = max(0.0, (draft.when.utc - occurrence).total_seconds())
    return draft.when.at + jitter - late


def _worktree_made(draft: Draft, event: events.WorktreeMade) -> None:
    run = draft.run(event.run_id)
    review.worktree_made(draft, event)
    if run is not None:
        draft.change_run(run, worktree=event.path)
        draft.record(
            "worktree_made",
            durable=False,
            run=run.id,
            agent=run.agent,
            worktree=str(event.path),
            branch=event.branch,
            commit=event.commit,
        )


def _worktree_settled(draft: Draft, event: events.WorktreeSettled) -> None:
    run, path = event.run_id, str(event.path)
    review.worktree_settled(draft, event)
    if event.kept is None:
        draft.record("worktree_removed", durable=False, run=run, agent=event.agent, worktree=path)
        return
    draft.record(
        "worktree_kept",
        durable=False,
        run=run,
        agent=event.agent,
        worktree=path,
        branches=list(event.branches),
        why=event.kept,
        commits=event.commits,
        rescued=event.rescued,
    )


def _run_started(draft: Draft, event: events.RunStarted) -> None:
    run = draft.run(event.run_id)
    if run is None:
        return
    phase = Phase.RUNNING if run.phase is Phase.STARTING else run.phase
    draft.change_run(run, phase=phase, pid=event.pid)
    draft.record("run_started", durable=False, run=run.id, agent=run.agent, pid=event.pid)
    messages.delivered(draft, run)


def _output_seen(draft: Draft, event: events.OutputSeen) -> None:
    run = draft.run(event.run_id)
    if run is None:
        pool.said(draft, event)
        return
    at = event.when.at
    run = draft.change_run(
        run, last_output=at, output_bytes=event.output_bytes, finished_at=at if event.finished else None
    )
    limit = draft.agents[run.agent].definition.max_output_bytes
    if event.output_bytes > limit:
        run = stop_run(draft, run, Reason.OUTPUT_LIMIT, f"wrote more than max_output_bytes ({limit})")
    if event.waiting != run.waiting:
        run = _waits_anew(draft, run, event.waiting)
    if run.provider is None:
        return
    if event.answered:
        providers.answered(draft, run)
    if providers.spent(draft, run, event.spent):
        _hold_to_limits(draft, run.provider)


def _waits_anew(draft: Draft, run: Run, waiting: Waiting | None) -> Run:
    """A run waits at its provider, is told something else there, or gets on; the changed run."""
    if waiting is None:
        return draft.change_run(run, waiting=None, waits_since=None, waits_until=-inf)
    when, until = draft.when, -inf
    if waiting.until is not None:
        until = when.at + (waiting.until - when.utc).total_seconds()
    elif waiting.delay_secs is not None:
        until = when.at + waiting.delay_secs
    since = when.at if run.waits_since is None else run.waits_since
    run = draft.change_run(run, waiting=waiting, waits_since=since, waits_until=until)
    ahead = waiting.until is not None and waiting.until > when.utc  # else it was told too late, and is over
    if run.provider is not None and ahead and waiting.error in providers.BLOCKING:
        # the others need not find that out for themselves, however this one goes on
        providers.turned_away(draft, run, waiting.error, waiting.until, waiting.detail)
    return run


def _memory_exceeded(draft: Draft, event: events.MemoryExceeded) -> None:
    run = draft.run(event.run_id)
    if run is None:
        pool.grew(draft, event)
    else:
        limit = draft.agents[run.agent].definition.max_memory_bytes
        detail = f"its processes took {event.memory_bytes} bytes, max_memory_bytes is {limit}"
        stop_run(draft, run, Reason.MEMORY, detail)


def _run_ended(draft: Draft, event: events.RunEnded) -> None:
    run = draft.run(event.run_id)
    if run is None:
        return
    agent = draft.agents[run.agent]
    verdict = event.verdict
    after = restart.AFTER[verdict.reason]
    totals = asdict(event.totals, recurse=False, filter=lambda _, value: bool(value))
    review.run_ended(draft, event)
    messages.send(draft, run, event.sent)  # on the record before its end is, so that a crash between them loses nothing
    del draft.runs[run.id]
    draft.record(
        "run_ended",
        Severity.WARNING if after.counts or Again.CURED in (after.safety, after.others) else Severity.INFO,
        run=run.id,
        agent=run.agent,
        reason=verdict.reason.value,
        detail=verdict.detail or None,
        error_class=verdict.error_class.value if verdict.error_class is not None else None,
        retryable=verdict.retryable,
        resets_at=timestamp(verdict.resets_at) if verdict.resets_at is not None else None,
        decided_by=verdict.decided_by or None,
        exit_code=event.exit_code,
        secs=round(event.when.at - run.since, 3),
        output_bytes=run.output_bytes,
        hung_after_result=verdict.hung_after_result or None,
        no_evidence=verdict.no_evidence or None,
        unreaped=list(event.unreaped) or None,
        **totals,
    )
    if draft.stopping is not None and event.unreaped:
        draft.stopping = evolve(draft.stopping, unreaped=draft.stopping.unreaped + event.unreaped)
    layer = draft.config.layers[run.layer]
    bad_ends = restart.within_period(agent.bad_ends, layer, event.when.at)
    if after.counts:
        bad_ends += (event.when.at,)
    waits = agent.waits + 1 if verdict.reason in (Reason.THROTTLED, Reason.BUDGET) else 0
    if run.provider is not None:
        providers.spent(draft, run, event.spent)
        providers.ended(draft, run, verdict)
        _hold_to_limits(draft, run.provider)
    runs_on = agent.runs_on
    if runs_on is not None and restart.turned_away(verdict.reason, verdict.error_class):
        runs_on = one_run_less(runs_on)
    refusals = agent.refusals + 1 if verdict.reason is Reason.RESERVED else 0
    # the gate wakes for what waits
    draft.change(run.agent, run=None, bad_ends=bad_ends, waits=waits, refusals=refusals, runs_on=runs_on, wake_at=inf)
    draft.actions.append(correction.judged(run.agent, verdict.reason))
    draft.gate_moved = True
    planned: Again | None = None
    if after.counts and restart.exceeds_intensity(bad_ends, layer):
        if agent.hold is None:
            detail = f"{len(bad_ends)} bad ends within {layer.period_secs:g} s, the last: {verdict.detail}"
            correction.hold(draft, run.agent, "crash_loop", detail)
    elif agent.hold is None:
        planned = _plan_again(draft, run, verdict, len(bad_ends))
    messages.over(draft, run.agent, run.id, again=planned in _SAME_WORK)


_SAME_WORK: Final = {Again.CURED, Again.RETRIED, Again.REPEATED}
"""After an end of which this follows, the next run does what this one did."""


def _plan_again(draft: Draft, run: Run, verdict: Verdict, bad_ends: int) -> Again | None:
    """Plan what follows a run's end, as far as it is planned now; which that is."""
    if run.cause is Cause.REVIEW:
        return None  # what follows is the review's to say
    agent = draft.agents[run.agent]
    layer = draft.config.layers[run.layer]
    again = restart.after(verdict.reason, run.layer)
    unfit = run.fallback and verdict.error_class in providers.UNFIT
    waits: Queue | None = None
    match again:
        case Again.BACKED_OFF | Again.RETRIED if unfit:  # it waits for its own provider, as if there were no fallback
            again, delay, delayed_by = Again.CURED, 0.0, "throttled"
        case Again.NO | Again.RECONCILED:
            return None
        case Again.CURED if verdict.reason is Reason.DISK:
            delay, delayed_by = 0.0, "disk"  # nothing to wait for but the gate
        case Again.CURED if verdict.reason is Reason.RESERVED:
            delay = restart.lease_wait(agent.refusals, layer, fraction(draft.seed, "agent_mail", run.id))
            delayed_by = "agent_mail"
            waits = Queue("agent_mail", f"{verdict.detail}; asked again in {delay:.3g} s")
        case Again.CURED if verdict.error_class is ErrorClass.BUDGET and run.layer is not AgentLayer.SAFETY:
            return None  # its own; it is not given again by waiting: begun anew, the run would spend as much once more
        case Again.CURED if (obstacle := providers.obstacle(draft, run.provider)) is not None:
            delay, delayed_by, waits = 0.0, obstacle.reason, obstacle  # nor here
        case Again.CURED:
            resets_at = verdict.resets_at
            delay = restart.wait(agent.waits, (resets_at - draft.when.utc).total_seconds() if resets_at else None)
            delayed_by = "throttled"
            if verdict.reason is Reason.BUDGET:
                delayed_by = "budget"
        case Again.COOLED:
            delay, delayed_by = layer.success_cooldown_secs, "cooldown"
        case Again.RETRIED if _exhausted(draft, run, verdict):
            return None
        case Again.BACKED_OFF | Again.RETRIED | Again.REPEATED:
            delay = restart.backoff(bad_ends, layer, fraction(draft.seed, "backoff", run.id))
            delayed_by = "backoff"
            if run.layer is AgentLayer.SAFETY:
                siblings.join(draft, run.agent, draft.when.at + delay)
    if (run.agent, run.cause) in draft.queue:
        occurrence = timestamp(run.occurrence) if run.occurrence else None
        draft.record(
            "retry_dropped",
            agent=run.agent,
            run=run.id,
            occurrence=occurrence,
            reason="superseded",
            detail="a newer request of the same kind waits already",
        )
        return again
    request = Request(
        run.agent,
        run.cause,
        wanted_at=draft.when.utc + timedelta(seconds=delay),
        occurrence=run.occurrence,
        attempt=1 if run.cause is Cause.ALWAYS_ON else run.attempt + 1,
        excused=0 if run.cause is Cause.ALWAYS_ON else run.excused + (again in restart.EXCUSED),
        not_before=draft.when.at + delay,
        delayed_by=delayed_by,
        fell_back=run.fell_back and (unfit or verdict.reason in (Reason.THROTTLED, Reason.RESERVED)),
    )
    if delayed_by != "agent_mail" and (waits is not None or unfit):  # where it would run now may be another provider
        waits = providers.choose(draft, request).waits or waits
    enqueue(draft, request, waits or Queue(delayed_by, f"for {delay:.1f} s" if delay else ""))
    return again


def _exhausted(draft: Draft, run: Run, verdict: Verdict) -> bool:
    """Whether there is no further attempt after a bad end.

    An on-demand agent's messages that no process was told are reason for one, after back-off; those of others wait for
    their schedule.
    """
    retries = draft.agents[run.agent].definition.retries
    owes = run.layer is AgentLayer.GROWTH and messages.owes(draft, run)
    return (run.attempt - run.excused > retries or verdict.retryable is False) and not owes


def _no_longer_wanted(draft: Draft, run: Run | None, why: str) -> None:
    """Stop a review's run that nobody waits for any more; None: it has none."""
    if run is not None:
        stop_run(draft, run, Reason.CANCELLED, why)


def _start_asked(draft: Draft, event: events.StartAsked) -> None:
    key = (event.agent, Cause.OPERATOR)
    if draft.stopping is not None:
        draft.outcomes[key] = Refuse("stopping", "the factory stops")
    elif draft.only_review:
        draft.outcomes[key] = Refuse("only_review", "the factory was started for a review alone")
    elif key in draft.queue:
        draft.outcomes[key] = Queue("already_queued", "an earlier request of the same kind waits")
    elif draft.looked_at:
        draft.queue[key] = Request(event.agent, Cause.OPERATOR, draft.when.utc)
        draft.gate_moved = True
    else:
        draft.outcomes[key] = starting = Queue("starting", "the factory is starting")
        enqueue(draft, Request(event.agent, Cause.OPERATOR, draft.when.utc), starting)


def _hold_asked(draft: Draft, event: events.HoldAsked) -> None:
    was_held = draft.agents[event.agent].hold is not None
    if not was_held:
        correction.hold(draft, event.agent, "operator", event.detail)
    draft.actions.append(actions.Answer(event.request, actions.Held(was_held)))


def _resume_asked(draft: Draft, event: events.ResumeAsked) -> None:
    draft.actions.append(actions.Answer(event.request, actions.Resumed(was_held=_resume(draft, event.agent))))


def _resume(draft: Draft, name: str) -> bool:
    if draft.agents[name].hold is None:
        return False
    draft.change(name, hold=None, bad_ends=(), refused=None)
    draft.record("resumed", agent=name)
    draft.actions.append(actions.ResetDrift(name))
    draft.gate_moved = True
    return True


def _answer(draft: Draft, event: Event) -> None:
    if draft.posted is not None:
        assert isinstance(event, events.MessageSent | events.HandoffAsked)
        draft.actions.append(actions.Answer(event.request, messages.outcome(draft, draft.posted)))
    if isinstance(event, events.StartAsked):
        draft.actions.append(actions.Answer(event.request, draft.outcomes[event.agent, Cause.OPERATOR]))
