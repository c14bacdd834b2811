"""Is this cron expression one that will ever fire, and that means the same at every start?

croniter takes more than cron does. Six fields would be seconds; `H` and `R` are drawn by a hash or at random; `5-5` is
read as a range that goes all the way round; and a day that no month has is found out only when the next time is asked
for.
"""

from __future__ import annotations

import re
from datetime import datetime
from zoneinfo import ZoneInfo

from darkfactory.config import words
from darkfactory.config.finding import Misfit

ALIASES = ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly")

_DRAWN = re.compile(r"(?<![A-Za-z])[HhRr](?![A-Za-z])")
_ROUND = re.compile(r"(?<!\w)(\w+)-\1(?!\w)")


def validate(expression: str, zone: ZoneInfo) -> None:
    """Misfit unless the expression has five fields or is an alias, and has a next time in that zone."""
    from croniter import CroniterError, croniter  # a fleet without schedules does without: 0.7 MiB

    found = words.shown(expression)
    fields = expression.split()
    if len(fields) == 1 and fields[0].startswith("@"):
        if fields[0].lower() not in ALIASES:
            raise Misfit(f"{found} is no schedule", words.did_you_mean(fields[0], ALIASES, "aliases"))
    elif len(fields) != 5:
        count = f"{len(fields)} field{'' if len(fields) == 1 else 's'}"
        raise Misfit(f"a cron expression has five fields, {found} has {count}", "minute hour day month weekday")
    elif _DRAWN.search(expression):
        raise Misfit(f"{found} draws its times by H or R, which would change", "write the times")
    elif same := _ROUND.search(expression):
        raise Misfit(f"{found} has the range {same[0]!r}, which croniter reads as all values", f"write {same[1]}")
    try:
        # Any start will do: croniter looks 50 years ahead, and an impossible date is as impossible in all of them.
        croniter(expression, datetime(2024, 1, 1, tzinfo=zone)).get_next(datetime)
    except CroniterError as error:
        raise Misfit(f"{found} is no cron expression that ever fires: {error}") from None
