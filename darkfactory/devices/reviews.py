"""What a compound review needs of the machine, and its reports: a page and a JSON file for each."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from attrs import frozen

from darkfactory.devices.segments import Line
from darkfactory.devices.statedir import write_atomically

if TYPE_CHECKING:  # most fleets have no review
    from darkfactory.devices.forge import Forge
    from darkfactory.devices.scan import Scanner

_NAME: Final = re.compile(r"review-[0-9]{8}-[0-9]{6}-[0-9a-z]+")


class Reports(Protocol):
    """Where reports go."""

    @property
    def scratch(self) -> Path:
        """A directory for files of the moment."""
        ...

    def write(self, review: str, page: str, result: str, since: datetime) -> None:
        """Write both files of a review, and delete those of reviews that began before `since`. Blocks; OSError."""
        ...


@frozen
class ReviewDevices:
    """What a review reads and writes besides worktrees."""

    scanner: Scanner
    forge: Forge
    reports: Reports
    lines: Callable[[datetime, Collection[str]], Iterable[Line]]
    """The journal's lines of these kinds since then, oldest first. Blocks."""


@frozen
class ReportFiles:
    """Reports in a directory of the state directory: `<review>.md` and `<review>.json`."""

    path: Path

    @property
    def scratch(self) -> Path:
        """See `Reports.scratch`; made when it is needed."""
        return self.path / ".scratch"

    def write(self, review: str, page: str, result: str, since: datetime) -> None:
        """See `Reports.write`."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(self.path / f"{review}.md", page, sync=False)
        write_atomically(self.path / f"{review}.json", result, sync=False)
        for name in self._names():
            if name < f"review-{since:%Y%m%d-%H%M%S}":
                for suffix in ("md", "json"):
                    (self.path / f"{name}.{suffix}").unlink(missing_ok=True)

    def newest(self) -> tuple[str, str] | None:
        """The last review's page and result; None where there is none. Blocks; OSError."""
        for name in reversed(self._names()):
            page, result = self.path / f"{name}.md", self.path / f"{name}.json"
            return page.read_text(encoding="utf-8"), result.read_text(encoding="utf-8")
        return None

    def _names(self) -> list[str]:
        """The reviews that there are reports of, the oldest first."""
        if not self.path.is_dir():
            return []
        return sorted(path.stem for path in self.path.glob("review-*.json") if _NAME.fullmatch(path.stem))
