"""What does a tick of the timetable cost at 1,000 agents?

Ticks: a simulated day, looked at every minute, of schedules spread over the day as people spread them. The worst case
stands beside it: all 1,000 at the same minute, which is 1,000 occurrences and not a tick.

    python benchmarks/cron.py
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from time import thread_time
from zoneinfo import ZoneInfo

from common import print_table, spread

from darkfactory.policy.schedule import Schedule, ScheduledAgent
from darkfactory.runtime.scheduler import TimeScheduler

AGENTS = 1000
START = datetime(2026, 1, 5, tzinfo=UTC)
DAY_MINUTES = 24 * 60


def spread_out(chance: random.Random) -> str:
    """A daily or weekly time, now and then an hourly one."""
    minute, hour, weekday = chance.randrange(60), chance.randrange(24), chance.randrange(7)
    return chance.choice(
        [f"{minute} {hour} * * *"] * 6 + [f"{minute} {hour} * * {weekday}"] * 3 + [f"{minute} * * * *"]
    )


def ticks(expressions: Sequence[str], zone: str) -> tuple[list[float], int]:
    """Seconds of each minute's look over a day, and how many occurrences were found."""
    agents = [
        ScheduledAgent(f"agent-{number}", Schedule(expression, ZoneInfo(zone)), START)
        for number, expression in enumerate(expressions)
    ]
    timetable = TimeScheduler(agents, sender=None, beat=None)  # nothing is sent: only looked up
    took, found = [], 0
    for minute in range(1, DAY_MINUTES + 1):
        now = START + timedelta(minutes=minute)
        begun = thread_time()
        due = list(timetable._due(now))  # noqa: SLF001 - a tick, without its sleep
        took.append(thread_time() - begun)
        found += len(due)
    return took, found


def main() -> None:
    """Print the table."""
    chance = random.Random(1)
    fleets = {
        "spread over the day": [spread_out(chance) for _ in range(AGENTS)],
        "every 15 minutes, all at once": ["*/15 * * * *"] * AGENTS,
    }
    rows = []
    for what, expressions in fleets.items():
        for zone in ("UTC", "Europe/Berlin"):
            took, found = ticks(expressions, zone)
            mean = 1000 * sum(took) / len(took)
            each = 1e6 * sum(took) / found
            rows.append((what, zone, found, f"{mean:.3f}", *spread(took), f"{each:.0f}"))
    head = ("schedules", "zone", "occurrences", "mean", "p50", "p99", "max", "us an occurrence")
    print_table(f"A tick of the timetable at {AGENTS:,} agents, ms of processor time ({DAY_MINUTES} ticks)", head, rows)


if __name__ == "__main__":
    main()
