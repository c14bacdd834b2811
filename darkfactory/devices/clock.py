"""The clock on the wall: the one place that asks the system what time it is.

Trio's clock serves every delay; this one only says which civil time and day it is. A simulation derives it from
Trio's clock instead (`darkfactory.testing`), so that a simulated week has dates.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol


class CivilClock(Protocol):
    """Tells the time of day."""

    def utc(self) -> datetime:
        """Now, aware, in UTC."""
        ...


class SystemClock:
    """The system's."""

    def utc(self) -> datetime:
        """Now, aware, in UTC."""
        return datetime.now(UTC)  # noqa: TID251 - the one exempt place
