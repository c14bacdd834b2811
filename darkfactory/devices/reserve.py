"""Room on the disk that is kept for the journal alone: when everything is full, decisions can still be written.

The file is given up in slices, not at once, since whoever has filled the disk takes what becomes free as well.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import structlog
from attrs import define, field

RESERVE_BYTES: Final = 1024**2
SLICE_BYTES: Final = 16 * 1024
"""Some eighty records."""
ROOM_BYTES: Final = 2 * RESERVE_BYTES
"""With less than this free the reserve is not filled again: it would only take the journal's last room."""

_log = structlog.get_logger("darkfactory")


@define(eq=False)
class Reserve:
    """A file of allocated blocks that nobody reads."""

    path: Path
    held: int = field(init=False, default=0)
    """Bytes."""

    @property
    def whole(self) -> bool:
        """Nothing was given up."""
        return self.held == RESERVE_BYTES

    def fill(self) -> bool:
        """Make it whole, if there is room for that; whether it is now. No checkpoint, and a call of milliseconds."""
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                self.held = min(os.fstat(fd).st_size, RESERVE_BYTES)
                room = os.fstatvfs(fd)
                if self.whole or room.f_bavail * room.f_frsize >= ROOM_BYTES:
                    os.posix_fallocate(fd, 0, RESERVE_BYTES)
                    self.held = RESERVE_BYTES
            finally:
                os.close(fd)
        except OSError as error:
            _log.warning("journal_reserve_missing", held=self.held, detail=str(error))
        return self.whole

    def give_up(self) -> bool:
        """Free a slice; False when nothing is left to free, or it cannot be."""
        if self.held == 0:
            return False
        left = max(0, self.held - SLICE_BYTES)
        try:
            os.truncate(self.path, left)
        except OSError:
            return False
        self.held = left
        _log.warning("journal_reserve_used", held=left)
        return True
