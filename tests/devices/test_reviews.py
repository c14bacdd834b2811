"""What reviews leave on the disk, and what they read of the journal."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

from darkfactory.devices import segments
from darkfactory.devices.reviews import ReportFiles

START = datetime(2026, 1, 5, tzinfo=UTC)


def name(day: int) -> str:
    return f"review-202601{day:02}-020000-abc123"


def test_a_report_is_a_page_and_a_result_for_our_user_alone(tmp_path: Path):
    reports = ReportFiles(tmp_path / "reviews")
    assert reports.newest() is None
    reports.write(name(5), "page", "{}", START)
    reports.write(name(6), "another page", '{"a": 1}', START)
    assert reports.newest() == ("another page", '{"a": 1}')
    files = sorted(path for path in reports.path.iterdir())
    assert [path.name for path in files] == [f"{name(5)}.json", f"{name(5)}.md", f"{name(6)}.json", f"{name(6)}.md"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert stat.S_IMODE(reports.path.stat().st_mode) == 0o700


def test_old_ones_go_and_what_is_not_ours_stays(tmp_path: Path):
    reports = ReportFiles(tmp_path)
    (tmp_path / "review-notes.json").write_text("mine")
    for day in (1, 2, 3):
        reports.write(name(day), "page", "{}", START - timedelta(days=30))
    reports.write(name(9), "page", "{}", datetime(2026, 1, 3, 1, tzinfo=UTC))
    assert {path.name for path in tmp_path.glob("*.json")} == {
        "review-notes.json",
        f"{name(3)}.json",
        f"{name(9)}.json",
    }


def line(kind: str, minutes: int) -> segments.Line:
    utc = (START + timedelta(minutes=minutes)).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return {"utc": utc, "kind": kind, "number": minutes}


def write(directory: Path, number: int, *lines: segments.Line, rest: bytes = b"") -> None:
    segments.path_of(directory, number).write_bytes(b"".join(map(segments.encode, lines)) + rest)


def read(directory: Path, minutes: int, *kinds: str) -> list[int]:
    return [each["number"] for each in segments.since(directory, START + timedelta(minutes=minutes), kinds)]


def test_the_journal_is_read_back_over_its_segments_as_far_as_it_is_asked_for(tmp_path: Path):
    write(tmp_path, 1, line("snapshot", 0), line("run_ended", 1), line("held", 2))
    write(tmp_path, 2, line("snapshot", 10), line("run_ended", 11), line("run_begun", 12))
    write(tmp_path, 3, line("snapshot", 20), line("held", 21), line("run_ended", 22))
    assert read(tmp_path, 0, "run_ended", "held") == [1, 2, 11, 21, 22]
    assert read(tmp_path, 2, "run_ended", "held") == [2, 11, 21, 22]
    assert read(tmp_path, 15, "run_ended") == [22]
    assert read(tmp_path, 11, "run_begun") == [12]
    assert read(tmp_path / "nowhere", 0, "held") == []


def test_segments_that_are_too_old_are_not_opened(tmp_path: Path):
    segments.path_of(tmp_path, 1).mkdir()  # it could not be read
    write(tmp_path, 2, line("snapshot", 10), line("held", 11))
    assert read(tmp_path, 11, "held") == [11]


def test_what_is_torn_or_no_record_is_passed_over(tmp_path: Path):
    bad = b'{"kind":"held","utc":"then"}\n{"kind":"held"\n[1]\n\xff"kind":"held"\n{"kind":"held","utc":"2026-01-'
    write(tmp_path, 1, line("snapshot", 0), line("held", 1), rest=bad)
    assert read(tmp_path, 0, "held") == [1]
