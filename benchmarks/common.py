"""What the figures have in common: percentiles, a table, silence."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence

import structlog
import trio

from darkfactory.devices.clock import SystemClock


def silence() -> None:
    """Have nothing logged; what was measured is the table."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))


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
    print(f"\n{SystemClock().utc():%Y-%m-%d}, {versions}", flush=True)
