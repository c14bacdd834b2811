"""What the journal's records amount to.

The journal is the only memory that outlives the process. Folding its records gives back exactly what the supervisor
knew and must not forget: where cron stood, who is held, which bad ends count, what was accepted and not yet begun, and
which runs had no verdict.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from darkfactory.model.actions import Cause, Record
from darkfactory.model.ends import Reason
from darkfactory.model.state import Durable, Hold
from darkfactory.policy.restart import AFTER


def timestamp(instant: datetime) -> str:
    """UTC as journals write it: ISO 8601 with microseconds and a Z."""
    return instant.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def instant(text: str) -> datetime:
    """The inverse of `timestamp`."""
    return datetime.fromisoformat(text)


def line_of(record: Record) -> dict[str, Any]:
    """The JSON object that stands for a record in the journal."""
    return {"utc": timestamp(record.when.utc), "kind": record.kind, **record.data}


def fold(lines: Iterable[Mapping[str, Any]], zone: ZoneInfo) -> Durable:
    """The durable state after these journal lines, oldest first. Kinds that change nothing durable are passed over.

    `zone` is the fleet's: it tells on which civil day a run began.
    """
    cursors: dict[str, tuple[str, datetime]] = {}
    holds: dict[str, Hold] = {}
    bad_ends: dict[str, tuple[datetime, ...]] = {}
    pending: dict[tuple[str, Cause], tuple[datetime, datetime | None, int]] = {}
    alive: dict[str, str] = {}
    runs_on: dict[str, tuple[date, int]] = {}

    for line in lines:
        utc = instant(line["utc"])
        agent: str = line.get("agent", "")
        match line["kind"]:
            case "schedule_armed":
                cursors[agent] = (line["schedule"], utc)
                pending.pop((agent, Cause.CRON), None)
            case "schedule_disarmed":
                cursors.pop(agent, None)
                pending.pop((agent, Cause.CRON), None)
            case "occurrence":
                scheduled = instant(line["occurrence"])
                cursors[agent] = (cursors[agent][0], scheduled)
                pending[agent, Cause.CRON] = (utc, scheduled, 1)
            case "queued" if line["cause"] != Cause.ALWAYS_ON.value:
                occurrence = instant(line["occurrence"]) if line.get("occurrence") else None
                pending[agent, Cause(line["cause"])] = (instant(line["wanted_at"]), occurrence, line["attempt"])
            case "dropped":
                pending.pop((agent, Cause(line["cause"])), None)
            case "run_begun":
                pending.pop((agent, Cause(line["cause"])), None)
                alive[line["run"]] = agent
                day = utc.astimezone(zone).date()
                before = runs_on.get(agent)
                runs_on[agent] = (day, before[1] + 1 if before is not None and before[0] == day else 1)
            case "run_ended":
                alive.pop(line["run"], None)
                if AFTER[Reason(line["reason"])].counts:
                    bad_ends[agent] = (*bad_ends.get(agent, ()), utc)
            case "held":
                holds[agent] = Hold(line["reason"], utc, line["detail"])
            case "resumed":
                holds.pop(agent, None)
                bad_ends.pop(agent, None)
            case _:
                pass
    return Durable(cursors, holds, bad_ends, pending, alive, runs_on)
