"""`darkfactory verdict`: how a run ended, judged offline from what it left, and by which line."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final

import click

from darkfactory.devices.clock import SystemClock
from darkfactory.model.ends import Verdict
from darkfactory.model.signals import Stream
from darkfactory.policy.history import timestamp
from darkfactory.tools.reader import Reader
from darkfactory.tools.tally import Tally
from darkfactory.tools.text import MAX_DETAIL, one_line
from darkfactory.tools.tool import Tool
from darkfactory.tools.verdict import Evidence, judge

CHUNK_BYTES: Final = 256 * 1024


def explain(
    tool: Tool,
    exit_code: int,
    files: dict[Stream, Path],
    former: Path | None = None,
    at: datetime | None = None,
    *,
    as_json: bool = False,
) -> None:
    """Print the verdict on the run that printed these files; `former` is stdout of the run that it resumed.

    It ended at `at`; None: when its stdout was last written to. OSError if a file cannot be read.
    """
    zone = SystemClock().zone(os.environ.get("TZ"))
    now = datetime.fromtimestamp(files[Stream.STDOUT].stat().st_mtime, UTC) if at is None else at
    before = Tally() if former is None else _read(tool, {Stream.STDOUT: former}, Tally())
    earlier = {} if before.session is None or before.session_usage is None else {before.session: before.session_usage}
    tally = _read(tool, files, Tally(earlier))
    verdict = judge(
        Evidence(
            tally=tally,
            now=now if now.tzinfo is not None else now.replace(tzinfo=zone),
            zone=lambda: zone,
            finished=tally.finished,
            exit_code=exit_code,
            output_bytes=sum(path.stat().st_size for path in files.values()),
            reports=tool.reports,
            exit_classes=tool.exit_classes,
        )
    )
    found = _found(verdict, tally, _shown(verdict.decided_by, files))
    click.echo(json.dumps(found, indent=1) if as_json else _for_people(found))


def _read(tool: Tool, files: dict[Stream, Path], tally: Tally) -> Tally:
    reader = Reader(tool, tally)
    for stream, path in files.items():
        with path.open("rb") as file:
            while data := file.read(CHUNK_BYTES):
                reader.feed(stream, data)
    reader.finish()
    return tally


def _shown(place: str, files: dict[Stream, Path]) -> str:
    """What decided, with the file, the line's number and its beginning where it was a line."""
    for stream, path in files.items():
        name, _, number = place.partition(":")
        if name == stream.value and number:
            with path.open("rb") as file:
                line = next(islice(file, int(number) - 1, None), b"")
            return f"{path}:{number}: {one_line(line[: 4 * MAX_DETAIL].decode('utf-8', 'replace'))}"
    return place


def _found(verdict: Verdict, tally: Tally, decided_by: str) -> dict[str, Any]:
    totals = tally.totals
    return {
        "outcome": verdict.reason.value,
        "error_class": verdict.error_class.value if verdict.error_class is not None else None,
        "retryable": verdict.retryable,
        "resets_at": timestamp(verdict.resets_at) if verdict.resets_at is not None else None,
        "detail": verdict.detail,
        "decided_by": decided_by,
        "session_id": totals.session,
        "api_calls": totals.api_calls,
        "tool_calls": totals.tool_calls,
        "tool_failures": totals.tool_failures,
        "denials": totals.denials,
        "input_tokens": totals.input_tokens,
        "output_tokens": totals.output_tokens,
        "cost_usd": totals.cost_usd,
        "retries": totals.retries,
        "unknown_events": totals.unknown_events,
        "no_evidence": verdict.no_evidence,
        "answer": tally.answer,
    }


def _for_people(found: dict[str, Any]) -> str:
    def told(key: str, unit: str = "") -> str:
        return "not told" if found[key] is None else f"{found[key]}{unit}"

    outcome = found["outcome"]
    if found["error_class"] not in (None, outcome):
        outcome += f" ({found['error_class']})"
    if found["no_evidence"]:
        outcome += ", and printed nothing"
    rows = {"detail": found["detail"], "decided by": found["decided_by"]}
    if found["retryable"] is not None:
        again = "it could end better" if found["retryable"] else "it would end in the same way"
        rows["run again"] = again + (f", from {found['resets_at']} on" if found["resets_at"] else "")
    rows |= {
        "session": told("session_id"),
        "tool calls": f"{found['tool_calls']}, {found['tool_failures']} failed, {found['denials']} not allowed",
        "API calls": f"{told('api_calls')}, tried again {found['retries']} times",
        "tokens": f"{told('input_tokens')} in, {told('output_tokens')} out",
        "cost": told("cost_usd", " USD"),
        "unknown": f"{found['unknown_events']} lines or events were not understood" if found["unknown_events"] else "",
        "answer": one_line(found["answer"]),
    }
    return "\n".join([outcome, *(f"  {name + ':':<12}{text}" for name, text in rows.items() if text)])
