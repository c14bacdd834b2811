"""The clock on the wall: the one place that asks the system what time it is.

Trio's clock serves every delay; this one only says which civil time and day it is. A simulation derives it from
Trio's clock instead (`darkfactory.testing`), so that a simulated week has dates.
"""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Protocol
from zoneinfo import ZoneInfo

LOCAL_ZONE = Path("/etc/localtime")


class CivilClock(Protocol):
    """Tells the time of day."""

    def utc(self) -> datetime:
        """Now, aware, in UTC."""
        ...

    def zone(self, tz: str | None) -> tzinfo:
        """The zone of a program whose environment has that `TZ`; None: it has none, and so the machine's."""
        ...


class SystemClock:
    """The system's."""

    def utc(self) -> datetime:
        """Now, aware, in UTC."""
        return datetime.now(UTC)  # noqa: TID251 - the one exempt place

    def zone(self, tz: str | None) -> tzinfo:
        """As C libraries have it: a name or a file, and UTC where that says nothing."""
        return zone_of(str(LOCAL_ZONE) if tz is None else tz)


def zone_of(tz: str) -> tzinfo:
    """The zone that a `TZ` means; UTC where it is of another form than a name or a path, or there is none such."""
    name = tz.removeprefix(":")
    try:
        if not name.startswith("/"):
            return ZoneInfo(name) if name else UTC
        with Path(name).open("rb") as file:
            return ZoneInfo.from_file(file)
    except (KeyError, ValueError, OSError):
        return UTC
