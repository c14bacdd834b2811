"""Limits at the providers: ours, which the fleet file sets, and theirs, which we learn when they turn a run away.

A provider that turned a run away is blocked until the time that it named. Then one run tries (half-open), and the
others wait for how that goes: so a fleet of a hundred does not find out a hundred times.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

from attrs import evolve, frozen

from darkfactory.model.actions import Queue, Severity
from darkfactory.model.ends import CLASSES, Blame, ErrorClass, Reason, Verdict
from darkfactory.model.events import Moment
from darkfactory.model.providers import Block, Spending
from darkfactory.model.state import Request, Run, State
from darkfactory.policy import restart
from darkfactory.policy.admission import EARLY_SECS
from darkfactory.policy.chance import fraction
from darkfactory.policy.draft import Draft
from darkfactory.policy.history import timestamp

NEAR_PERCENT: Final = 80
"""Of a limit: told of once, before it is reached."""
RESET_JITTER_SECS: Final = 30.0
"""Up to so much is added to the time that a provider names, at which else everybody would come back."""
PROBE_SECS: Final = 900.0
"""How long one run tries alone. Not all tools tell of calls, and some runs never end: after that another one tries."""
EARLY: Final = timedelta(seconds=EARLY_SECS)
_LONGEST: Final = timedelta(seconds=restart.RESET_MAX_SECS + RESET_JITTER_SECS)

ONE_CALL: Final = Spending(calls=1)
"""What is counted for a run from its admission on."""

BLOCKING: Final = {ErrorClass.THROTTLED, ErrorClass.QUOTA, ErrorClass.BILLING, ErrorClass.PROVIDER_DOWN}
"""What turns away any other run as well. (A connection that broke may be this run's alone.)"""

UNFIT: Final = {ErrorClass.AUTH, ErrorClass.CONFIG, ErrorClass.MODEL_NOT_FOUND, ErrorClass.TOOL_MISSING}
"""What ends a run with a fallback that was never set up: the agent itself could have run."""


@frozen
class Choice:
    """Where a request would run."""

    provider: str | None
    fallback: bool = False
    waits: Queue | None = None
    """What keeps it from running there now."""


Known = dict[str | None, Queue | None]
"""What `obstacle` said of providers, for as long as nothing begins: a thousand requests may wait for one of them."""


def choose(draft: Draft, request: Request, known: Known | None = None) -> Choice:
    """The agent's own provider; its fallback's while that one is blocked, if the request has not been there before."""
    agent = draft.agents[request.agent]
    provider = draft.config.provider_of(agent.definition)
    known = {} if known is None else known
    if provider not in known:
        known[provider] = obstacle(draft, provider)
    waits = known[provider]
    blocked = waits is not None and waits.reason == "throttled"
    if blocked and agent.definition.fallback is not None and not agent.without_fallback and not request.fell_back:
        other = draft.config.provider_of(agent.definition.fallen_back())
        if obstacle(draft, other) is None:
            return Choice(other, fallback=True)
    return Choice(provider, waits=waits)


def obstacle(draft: Draft, provider: str | None) -> Queue | None:
    """Why no run may begin at the provider now; None when one may."""
    if provider is None:
        return None
    block = draft.providers[provider].block
    if block is not None:
        if not half_open(block, draft.when.utc):
            return Queue("throttled", f"{provider} turned a run away: {block.detail}", block.until)
        probe = draft.run(block.probe) if block.probe is not None else None
        alone_secs = probe.since + PROBE_SECS - draft.when.at if probe is not None else 0.0
        if probe is not None and alone_secs > EARLY_SECS:
            until = draft.when.utc + timedelta(seconds=alone_secs)
            return Queue("throttled", f"{probe.id} tries whether {provider} serves again", until)
    return next((limit.waits for limit in _limits(draft, provider) if limit.used >= limit.most), None)


def half_open(block: Block, utc: datetime) -> bool:
    """Whether its time has come. One further ahead than any is set comes from a clock that was wrong, and has."""
    return not utc + EARLY < block.until <= utc + _LONGEST


def obstacle_at_start(state: State, run_id: str, when: Moment) -> Queue | None:
    """Why a run that was admitted may not start after all; None when it may. It was counted itself meanwhile."""
    draft = Draft.of(state, when)
    run = draft.run(run_id)
    if run is None or run.provider is None:
        return None
    block = draft.providers[run.provider].block
    if block is not None and block.probe != run.id:
        return Queue("throttled", f"{run.provider} turned a run away: {block.detail}", block.until)
    own = {"calls_per_hour": run.spent.calls}
    reached = (each for each in _limits(draft, run.provider) if each.used - own.get(each.key, 0) >= each.most)
    return next((limit.waits for limit in reached), None)


@frozen
class _Limit:
    """One limit of ours, and how much of it is used up."""

    key: str
    used: float
    most: float
    waits: Queue
    """What is waited for once it is reached."""


def _limits(draft: Draft, provider: str) -> Iterator[_Limit]:
    limits = draft.config.providers.get(provider)
    if limits is None:
        return
    utc, state = draft.when.utc, draft.providers[provider]
    unsaved = state.unsaved_sum
    if limits.calls_per_hour is not None:
        used = draft.rate_limits.calls_at(provider, utc) + unsaved.calls
        detail = f"{provider}: {used} calls within the hour, calls_per_hour is {limits.calls_per_hour}"
        # what the journal was not told yet is not in there, and comes first
        until = _ahead(draft.rate_limits.free_at(provider, utc), utc)
        yield _Limit("calls_per_hour", used, limits.calls_per_hour, Queue("budget", detail, until))
    if limits.tokens_per_day is None and limits.usd_per_day is None:
        return
    today = utc.astimezone(draft.config.timezone).date()
    spent = state.spent_on.on(today) + unsaved
    midnight = datetime.combine(today + timedelta(days=1), datetime.min.time(), draft.config.timezone)
    midnight = _ahead(midnight, utc)  # where the clock is set back just behind it, it comes twice
    if limits.tokens_per_day is not None:
        detail = f"{provider}: {spent.tokens} tokens on {today}, tokens_per_day is {limits.tokens_per_day}"
        yield _Limit("tokens_per_day", spent.tokens, limits.tokens_per_day, Queue("budget", detail, midnight))
    if limits.usd_per_day is not None:
        detail = f"{provider}: {spent.usd:.2f} USD on {today}, usd_per_day is {limits.usd_per_day:g}"
        yield _Limit("usd_per_day", spent.usd, limits.usd_per_day, Queue("budget", detail, midnight))


def _ahead(until: datetime, utc: datetime) -> datetime:
    """When to look again: then, or soon if that has come already."""
    return until if until > utc else utc + timedelta(seconds=restart.WAIT_LEAST_SECS)


def begun(draft: Draft, run: Run, *, instead_of: str | None) -> None:
    """A run begins: it counts as a call at once, before it makes any, so that many begun together do not overdraw.

    `instead_of` is the provider that it fell back from. The record of its begin tells the journal.
    """
    if run.provider is None:
        return
    _count(draft, run.provider, run.agent, run.spent)
    state = draft.providers[run.provider]
    block = None if state.block is None else evolve(state.block, probe=run.id)
    draft.providers[run.provider] = evolve(state, runs=state.runs + 1, block=block)
    if instead_of is not None:
        other = draft.providers[instead_of]
        draft.providers[instead_of] = evolve(other, fallbacks=other.fallbacks + 1)
    if block is not None:
        draft.record("provider_probed", durable=False, provider=run.provider, run=run.id, agent=run.agent)


def spent(draft: Draft, run: Run, spending: Spending) -> bool:
    """Count what a run has used up so far, and whether that is more than before."""
    assert run.provider is not None
    more = spending.beyond(run.spent)
    if more == Spending():
        return False
    draft.change_run(run, spent=run.spent + more)
    state = draft.providers[run.provider]
    unsaved = {**state.unsaved, run.agent: state.unsaved.get(run.agent, Spending()) + more}
    draft.providers[run.provider] = evolve(state, unsaved=unsaved, unsaved_sum=state.unsaved_sum + more)
    return True


def ended(draft: Draft, run: Run, verdict: Verdict) -> None:
    """Learn from how a run ended."""
    assert run.provider is not None
    _save(draft, run.provider, run.agent)
    if verdict.reason is Reason.THROTTLED and verdict.error_class in BLOCKING:
        turned_away(draft, run, verdict.error_class, verdict.resets_at, verdict.detail)
    elif verdict.reason is Reason.SUCCEEDED or _own_fault(verdict):
        answered(draft, run)
    state = draft.providers[run.provider]
    if state.block is not None and state.block.probe == run.id:  # it told nothing: the next one tries
        draft.providers[run.provider] = evolve(state, block=evolve(state.block, probe=None))


def _own_fault(verdict: Verdict) -> bool:
    """It failed by itself, so it was served. One that was silent, or never came to an end, may not have been."""
    if verdict.error_class is None or verdict.reason in (Reason.STALLED, Reason.TIMED_OUT):
        return False
    return CLASSES[verdict.error_class].blame is Blame.AGENT


def turned_away(draft: Draft, run: Run, error: ErrorClass, resets_at: datetime | None, detail: str) -> None:
    """Block the run's provider. Those that were turned away together count once, and the latest time holds."""
    assert run.provider is not None
    state, utc = draft.providers[run.provider], draft.when.utc
    before = state.block
    times = 1 if before is None else before.times
    if before is not None and not half_open(before, utc) and before.probe != run.id:
        if resets_at is None or resets_at <= before.until:
            return
    elif before is not None:
        times += 1
    secs = restart.wait(times, (resets_at - utc).total_seconds() if resets_at is not None else None)
    secs += RESET_JITTER_SECS * fraction(draft.seed, "reset", run.provider, timestamp(utc))
    until, probe = utc + timedelta(seconds=secs), None
    if before is not None:
        until = until if half_open(before, utc) else max(until, before.until)
        probe = before.probe if before.probe != run.id else None  # it may yet be served
    block = Block(until, times, error, detail, probe)
    draft.providers[run.provider] = evolve(state, block=block)
    draft.gate_moved = True
    draft.record(
        "provider_blocked",
        Severity.ERROR if CLASSES[error].blame is Blame.OPERATOR else Severity.WARNING,
        provider=run.provider,
        until=timestamp(block.until),
        times=times,
        error_class=error.value,
        detail=detail,
        run=run.id,
        agent=run.agent,
    )


def answered(draft: Draft, run: Run) -> None:
    """The run was answered: if it is the one that tries, its provider serves again."""
    assert run.provider is not None
    state = draft.providers[run.provider]
    if state.block is not None and state.block.probe == run.id:
        draft.providers[run.provider] = evolve(state, block=None)
        draft.gate_moved = draft.ask_all = True
        draft.record("provider_serves", provider=run.provider, run=run.id, agent=run.agent)


def save(draft: Draft, *providers: str) -> None:
    """Tell the journal what was used up since it was told last."""
    for provider in providers:
        _save(draft, provider, *draft.providers[provider].unsaved)


def _save(draft: Draft, provider: str, *agents: str) -> None:
    """The same, of these agents."""
    state = draft.providers[provider]
    left, left_sum = dict(state.unsaved), state.unsaved_sum
    saved = {agent: left.pop(agent) for agent in agents if agent in left}
    for more in saved.values():
        left_sum = left_sum.beyond(more)
    draft.providers[provider] = evolve(state, unsaved=left, unsaved_sum=left_sum if left else Spending())
    for agent, more in saved.items():
        _count(draft, provider, agent, more)
        draft.record(
            "spent",
            Severity.DEBUG,
            agent=agent,
            provider=provider,
            calls=more.calls,
            tokens=more.tokens,
            usd=more.usd,
        )


def _count(draft: Draft, provider: str, agent: str, more: Spending) -> None:
    utc = draft.when.utc
    state = draft.providers[provider]
    today = utc.astimezone(draft.config.timezone).date()
    draft.providers[provider] = evolve(state, spent_on=state.spent_on.and_more(today, more))
    draft.rate_limits = draft.rate_limits.record_call(agent, provider, utc, more.calls)


@frozen
class Standing:
    """How it stands with one provider, for whoever asks."""

    calls_this_hour: int
    api_calls_remaining: int | None
    """Of the hour; None where there is no limit."""
    today: Spending


def standing(state: State, provider: str, utc: datetime) -> Standing:
    """What was used up there."""
    known = state.providers[provider]
    unsaved = known.unsaved_sum
    remaining = state.rate_limits.remaining(provider, utc)
    return Standing(
        calls_this_hour=state.rate_limits.calls_at(provider, utc) + unsaved.calls,
        api_calls_remaining=None if remaining is None else max(remaining - unsaved.calls, 0),
        today=known.spent_on.on(utc.astimezone(state.config.timezone).date()) + unsaved,
    )


def watch(draft: Draft, provider: str) -> tuple[list[Run], str]:
    """Tell once when a limit of ours is near, and once when it is reached; the runs to be stopped there, and why."""
    state = draft.providers[provider]
    told = {}
    limits = list(_limits(draft, provider))
    for limit in limits:
        share = 100 * limit.used / limit.most if limit.most else 100.0
        percent = 100 if share >= 100 else NEAR_PERCENT if share >= NEAR_PERCENT else 0
        if percent:
            told[limit.key] = percent
        if percent > state.told.get(limit.key, 0):
            draft.record(
                "provider_limit",
                Severity.ERROR if percent == 100 else Severity.WARNING,
                durable=False,
                provider=provider,
                limit=limit.key,
                percent=percent,
                detail=limit.waits.detail,
            )
    if told != state.told:
        draft.providers[provider] = evolve(state, told=told)
    if 100 not in told.values() or not draft.config.providers[provider].hard:
        return [], ""
    runs = [run for run in draft.live() if run.provider == provider]
    reached = (each for each in limits if each.used - _yet_to_call(each, runs) >= each.most)
    limit_reached = next(reached, None)
    return ([], "") if limit_reached is None else (runs, limit_reached.waits.detail)


def _yet_to_call(limit: _Limit, runs: list[Run]) -> int:
    """Of what is used up, calls that were counted for runs which have told of nothing yet: theirs to make."""
    return sum(run.spent == ONE_CALL for run in runs) if limit.key == "calls_per_hour" else 0
