"""Which zone a program's times are in."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import TZPATH, ZoneInfo

import pytest

from darkfactory.devices import clock

NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("tz", "hour"),
    [
        ("Asia/Tokyo", 21),
        (":Asia/Tokyo", 21),
        ("", 12),
        ("CET-1CEST,M3.5.0,M10.5.0/3", 12),
        ("Mars/Olympus", 12),
        ("../passwd", 12),
        ("/nowhere/at/all", 12),
        ("/", 12),
    ],
)
def test_a_program_has_the_zone_that_its_environment_names(tz: str, hour: int) -> None:
    assert NOON.astimezone(clock.SystemClock().zone(tz)).hour == hour


def test_a_program_without_one_has_the_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokyo = next(path for path in (Path(root, "Asia/Tokyo") for root in TZPATH) if path.exists())
    local = tmp_path / "localtime"
    local.write_bytes(tokyo.read_bytes())
    monkeypatch.setattr(clock, "LOCAL_ZONE", local)
    assert NOON.astimezone(clock.SystemClock().zone(None)).hour == 21
    assert NOON.astimezone(clock.SystemClock().zone(str(local))).hour == 21
    local.write_bytes(b"not a zone")
    assert clock.SystemClock().zone(None) is UTC
    assert clock.zone_of("Europe/Berlin") == ZoneInfo("Europe/Berlin")
