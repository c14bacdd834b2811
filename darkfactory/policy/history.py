"""What the journal's records amount to.

The journal is the only memory that outlives the process. Folding its records gives back exactly what the supervisor
knew and must not forget: where cron stood, who is held, which bad ends count, what was accepted and not yet begun, and
which runs had no verdict. A snapshot is the fold written down, so that the records before it need not be read again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from attrs import asdict, evolve

from darkfactory.model.actions import LEVEL, Cause, Record
from darkfactory.model.ends import ErrorClass, Reason
from darkfactory.model.events import Moment
from darkfactory.model.messages import Mail, Message
from darkfactory.model.providers import Block, DaySpending, RateLimitTracker, Spending
from darkfactory.model.review import Handled, ReviewMemory, ReviewOutcome
from darkfactory.model.state import Durable, Hold, Pending, State
from darkfactory.policy.restart import AFTER, turned_away, within_period


def timestamp(instant: datetime) -> str:
    """UTC as journals write it: ISO 8601 with microseconds and a Z."""
    return instant.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def instant(text: str) -> datetime:
    """The inverse of `timestamp`."""
    return datetime.fromisoformat(text)


def one_run_less(runs_on: tuple[date, int]) -> tuple[date, int]:
    """The runs of a day without the last one."""
    day, runs = runs_on
    return day, max(runs - 1, 0)


def line_of(record: Record) -> dict[str, Any]:
    """The JSON object that stands for a record in the journal."""
    return {"utc": timestamp(record.when.utc), "kind": record.kind, **record.data, **record.journal_only}


def fold(lines: Iterable[Mapping[str, Any]], zone: ZoneInfo) -> Durable:
    """The durable state after these journal lines, oldest first. Kinds that change nothing durable are passed over.

    A snapshot takes the place of everything before it. `zone` is the fleet's: it tells on which civil day a run began.
    """
    cursors: dict[str, tuple[str, datetime]] = {}
    holds: dict[str, Hold] = {}
    bad_ends: dict[str, list[datetime]] = {}
    pending: dict[tuple[str, Cause], Pending] = {}
    alive: dict[str, str] = {}
    runs_on: dict[str, tuple[date, int]] = {}
    calls = RateLimitTracker()
    spent_on: dict[str, DaySpending] = {}
    blocks: dict[str, Block] = {}
    mail = Mail()
    reviews = ReviewMemory()
    told_until: datetime | None = None

    for line in lines:
        told_until = utc = instant(line["utc"])
        agent: str = line.get("agent", "")
        match line["kind"]:
            case "snapshot":
                durable = from_snapshot(line)
                cursors, holds = dict(durable.cursors), dict(durable.holds)
                bad_ends = {name: list(ends) for name, ends in durable.bad_ends.items()}
                pending, alive, runs_on = dict(durable.pending), dict(durable.alive), dict(durable.runs_on)
                calls = RateLimitTracker.of(durable.calls)
                spent_on, blocks = dict(durable.spent_on), dict(durable.blocks)
                mail, reviews = durable.mail, durable.reviews
            case "schedule_armed":
                cursors[agent] = (line["schedule"], utc)
                pending.pop((agent, Cause.CRON), None)
            case "schedule_disarmed":
                cursors.pop(agent, None)
                pending.pop((agent, Cause.CRON), None)
            case "occurrence":
                scheduled = instant(line["occurrence"])
                # a repaired journal may not know the schedule any more; then it is armed anew
                cursors[agent] = (cursors[agent][0] if agent in cursors else "", scheduled)
                pending[agent, Cause.CRON] = Pending(utc, scheduled)
            case "queued" if Cause(line["cause"]) not in LEVEL:
                occurrence = instant(line["occurrence"]) if line.get("occurrence") else None
                until = instant(line["until"]) if line.get("until") else None
                pending[agent, Cause(line["cause"])] = Pending(
                    instant(line["wanted_at"]),
                    occurrence,
                    line["attempt"],
                    line.get("excused", 0),
                    until,
                    line.get("fell_back", False),
                )
            case "dropped":
                pending.pop((agent, Cause(line["cause"])), None)
            case "run_begun":
                pending.pop((agent, Cause(line["cause"])), None)
                alive[line["run"]] = agent
                mail = mail.give(agent, line.get("messages", ()), line["run"]) if "messages" in line else mail
                day = utc.astimezone(zone).date()
                before = runs_on.get(agent)
                runs_on[agent] = (day, before[1] + 1 if before is not None and before[0] == day else 1)
                provider = line.get("provider")
                if provider is not None:
                    spent_on[provider] = spent_on.get(provider, DaySpending()).and_more(day, Spending(calls=1))
                    calls = calls.record_call(agent, provider, utc)
            case "spent":
                provider, more = line["provider"], Spending(line["calls"], line["tokens"], line["usd"])
                day = utc.astimezone(zone).date()
                spent_on[provider] = spent_on.get(provider, DaySpending()).and_more(day, more)
                calls = calls.record_call(agent, provider, utc, more.calls)
            case "provider_blocked":
                error = ErrorClass(line["error_class"])
                blocks[line["provider"]] = Block(instant(line["until"]), line["times"], error, line["detail"])
            case "provider_serves":
                blocks.pop(line["provider"], None)
            case "message":
                mail = mail.accept(_message(line), named=line.get("named", False))
            case "messages_delivered":
                mail = mail.deliver(agent, line["run"])
            case "messages_done":
                mail = mail.remove(agent, line["ids"])
            case "message_expired":
                mail = mail.remove(agent, {line["id"]})
            case "run_ended":
                alive.pop(line["run"], None)
                mail = mail.take_back(agent, line["run"]) if agent in mail.boxes else mail
                reason, error_class = Reason(line["reason"]), line.get("error_class")
                if AFTER[reason].counts:
                    bad_ends.setdefault(agent, []).append(utc)
                if agent in runs_on and turned_away(reason, ErrorClass(error_class) if error_class else None):
                    runs_on[agent] = one_run_less(runs_on[agent])
            case "review_armed":
                reviews = evolve(reviews, schedule=line["schedule"], cursor=utc)
            case "review_disarmed":
                reviews = evolve(reviews, schedule=None, cursor=None)
            case "review_begun":
                reviews = reviews.begun(line["review"], instant(line["occurrence"]) if "occurrence" in line else None)
            case "review_skipped":
                reviews = evolve(reviews, cursor=instant(line["occurrence"]))
            case "review_improved":
                handled = Handled(utc, ReviewOutcome.LOST, line["branch"], line["tip"], owed=True)
                reviews = reviews.handling(line["finding"], handled)
            case "review_ended":
                reviews = _review_ended(reviews, line)
            case "held":
                holds[agent] = Hold(line["reason"], utc, line["detail"])
            case "resumed":
                holds.pop(agent, None)
                bad_ends.pop(agent, None)
            case _:
                pass
    ends = {name: tuple(ends) for name, ends in bad_ends.items()}
    return Durable(
        cursors, holds, ends, pending, alive, runs_on, calls.calls, spent_on, blocks, mail, reviews, told_until
    )


def durable_of(state: State, when: Moment) -> Durable:
    """What of `state` must outlive the process: the fold of everything recorded so far, at `when`.

    Bad ends that no longer count at `when` are left out, so that what is remembered has a bound.
    """
    kept, layers = state.undeclared, state.config.layers
    longest = timedelta(seconds=max(layer.period_secs for layer in layers.values()))
    cursors, holds, runs_on = dict(kept.cursors), dict(kept.holds), dict(kept.runs_on)
    bad_ends = {name: tuple(end for end in ends if end > when.utc - longest) for name, ends in kept.bad_ends.items()}
    pending = dict(kept.pending)
    for name, agent in state.agents.items():
        if agent.cursor is not None and agent.definition.schedule is not None:
            cursors[name] = (agent.definition.schedule, agent.cursor)
        if agent.hold is not None:
            holds[name] = agent.hold
        if agent.runs_on is not None:
            runs_on[name] = agent.runs_on
        counting = within_period(agent.bad_ends, layers[agent.definition.layer], when.at)
        bad_ends[name] = tuple(when.utc - timedelta(seconds=when.at - end) for end in counting)
    for key, request in state.queue.items():
        if request.cause not in LEVEL:
            pending[key] = Pending(
                request.wanted_at,
                request.occurrence,
                request.attempt,
                request.excused,
                request.until,
                request.fell_back,
            )
    bad_ends = {name: ends for name, ends in bad_ends.items() if ends}
    spent_on = {name: each.spent_on for name, each in state.providers.items() if each.spent_on != DaySpending()}
    blocks = {name: evolve(each.block, probe=None) for name, each in state.providers.items() if each.block is not None}
    calls = state.rate_limits.calls
    kept_boxes = {
        name: waiting
        for name, box in kept.mail.boxes.items()
        if (waiting := tuple(message for message in box if message.expires > when.utc))
    }
    mail = Mail({**kept_boxes, **state.mail.boxes}, state.mail.known)
    return Durable(
        cursors, holds, bad_ends, pending, dict(state.runs), runs_on, calls, spent_on, blocks, mail, state.reviews
    )


def snapshot(durable: Durable, when: Moment) -> Record:
    """The record that says all of `durable`: what a segment of the journal begins with."""
    return Record(
        "snapshot",
        when,
        data={
            "cursors": {agent: [schedule, timestamp(at)] for agent, (schedule, at) in durable.cursors.items()},
            "holds": {
                agent: [hold.reason, timestamp(hold.since), hold.detail] for agent, hold in durable.holds.items()
            },
            "bad_ends": {agent: [*map(timestamp, ends)] for agent, ends in durable.bad_ends.items()},
            "pending": [
                [
                    agent,
                    cause.value,
                    timestamp(waits.wanted_at),
                    timestamp(waits.occurrence) if waits.occurrence else None,
                    waits.attempt,
                    waits.excused,
                    timestamp(waits.until) if waits.until else None,
                    waits.fell_back,
                ]
                for (agent, cause), waits in durable.pending.items()
            ],
            "alive": dict(durable.alive),
            "runs_on": {agent: [day.isoformat(), count] for agent, (day, count) in durable.runs_on.items()},
            "calls": [[*key, minutes] for key, minutes in durable.calls.items()],
            "spent_on": {
                provider: [on.day.isoformat(), on.spent.calls, on.spent.tokens, on.spent.usd]
                for provider, on in durable.spent_on.items()
            },
            "blocks": {
                provider: [timestamp(block.until), block.times, block.error.value, block.detail]
                for provider, block in durable.blocks.items()
            },
            "mail": [_line_of(message) for box in durable.mail.boxes.values() for message in box],
            "known": {each: timestamp(until) for each, until in durable.mail.known.items()},
            "reviews": _told_of_reviews(durable.reviews),
        },
    )


def from_snapshot(line: Mapping[str, Any]) -> Durable:
    """The inverse of `snapshot`, from its journal line. What it does not mention is empty: so is the first of all."""
    return Durable(
        cursors={agent: (schedule, instant(at)) for agent, (schedule, at) in line.get("cursors", {}).items()},
        holds={
            agent: Hold(reason, instant(since), detail)
            for agent, (reason, since, detail) in line.get("holds", {}).items()
        },
        bad_ends={agent: tuple(map(instant, ends)) for agent, ends in line.get("bad_ends", {}).items()},
        pending={(agent, Cause(cause)): _pending(*waits) for agent, cause, *waits in line.get("pending", ())},
        alive=line.get("alive", {}),
        runs_on={agent: (date.fromisoformat(day), count) for agent, (day, count) in line.get("runs_on", {}).items()},
        calls={
            (agent, provider): tuple((minute, count) for minute, count in minutes)
            for agent, provider, minutes in line.get("calls", ())
        },
        spent_on={
            provider: DaySpending(date.fromisoformat(day), Spending(*spent))
            for provider, (day, *spent) in line.get("spent_on", {}).items()
        },
        blocks={
            provider: Block(instant(until), times, ErrorClass(error), detail)
            for provider, (until, times, error, detail) in line.get("blocks", {}).items()
        },
        mail=_mail(line),
        reviews=_reviews(**line.get("reviews", {})),
    )


def _review_ended(reviews: ReviewMemory, line: Mapping[str, Any]) -> ReviewMemory:
    utc, outcome, finding = instant(line["utc"]), ReviewOutcome(line["outcome"]), line.get("finding")
    branch, tip, url, owed = line.get("branch"), line.get("tip"), line.get("pr_url"), line.get("owed", False)
    handled = Handled(utc, outcome, branch, tip, url, owed) if finding else None
    until = line.get("told_until")
    return reviews.ended(
        outcome,
        commit=line.get("commit"),
        told_until=instant(until) if until is not None else None,
        finding=finding,
        handled=handled,
    )


def _told_of_reviews(reviews: ReviewMemory) -> dict[str, Any]:
    cursor, until = reviews.cursor, reviews.told_until
    return {
        "schedule": reviews.schedule,
        "cursor": timestamp(cursor) if cursor is not None else None,
        "begun_so_far": reviews.begun_so_far,
        "alive": reviews.alive,
        "failures": reviews.failures,
        "commit": reviews.commit,
        "told_until": timestamp(until) if until is not None else None,
        "handled": [
            [finding, timestamp(each.on), each.outcome.value, each.branch, each.commit, each.pr_url, each.owed]
            for finding, each in reviews.handled.items()
        ],
    }


def _reviews(
    schedule: str | None = None,
    cursor: str | None = None,
    begun_so_far: int = 0,
    alive: str | None = None,
    failures: int = 0,
    commit: str | None = None,
    told_until: str | None = None,
    handled: Iterable[tuple[str, str, str, str | None, str | None, str | None, bool]] = (),
) -> ReviewMemory:
    """From a snapshot."""
    return ReviewMemory(
        schedule,
        instant(cursor) if cursor is not None else None,
        begun_so_far,
        alive,
        failures,
        commit,
        instant(told_until) if told_until is not None else None,
        {
            finding: Handled(instant(on), ReviewOutcome(outcome), branch, tip, url, owed)
            for finding, on, outcome, branch, tip, url, owed in handled
        },
    )


def _mail(line: Mapping[str, Any]) -> Mail:
    boxes: dict[str, tuple[Message, ...]] = {}
    for each in line.get("mail", ()):
        message = _message(each)
        boxes[message.to] = (*boxes.get(message.to, ()), message)
    return Mail(boxes, {each: instant(until) for each, until in line.get("known", {}).items()})


def _line_of(message: Message) -> dict[str, Any]:
    """A message in a snapshot: as its own line tells it, and what became of it since."""
    told = asdict(message)
    utc, expires = told.pop("sent"), told.pop("expires")
    return {"utc": timestamp(utc), "agent": told.pop("to"), "expires": timestamp(expires), **told}


def _message(line: Mapping[str, Any]) -> Message:
    """From its own line, or from a snapshot."""
    return Message(
        line["id"],
        line["agent"],
        line["text"],
        instant(line["utc"]),
        instant(line["expires"]),
        line.get("sender"),
        line.get("hops", 0),
        line.get("handoff"),
        line.get("run"),
        line.get("delivered", False),
    )


def _pending(
    wanted_at: str,
    occurrence: str | None,
    attempt: int,
    excused: int = 0,
    until: str | None = None,
    fell_back: bool = False,
) -> Pending:
    """From a snapshot; earlier releases wrote less of it."""
    return Pending(
        instant(wanted_at),
        instant(occurrence) if occurrence else None,
        attempt,
        excused,
        instant(until) if until else None,
        fell_back,
    )
