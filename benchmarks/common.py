"""What the figures have in common: percentiles, a table, a directory that is gone afterwards."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import trio


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def spread(secs: Sequence[float]) -> tuple[str, str, str]:
    """p50, p99 and the longest, in milliseconds."""
    return tuple(f"{1000 * value:.3g}" for value in (percentile(secs, 0.5), percentile(secs, 0.99), max(secs)))


def print_table(title: str, head: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """A Markdown table with where and when it was measured."""
    head = list(head)
    print(f"\n**{title}**\n")
    for row in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(map(str, row)) + " |")
    versions = f"Python {platform.python_version()}, trio {trio.__version__}, {platform.system()} {platform.release()}"
    print(f"\n{datetime.now(UTC):%Y-%m-%d}, {versions}", flush=True)
    sys.stdout.flush()
