"""What does Nightwatch cost: to count, to evaluate a thousand agents, and in memory?

Each agent's window is full: something was counted in each of its buckets.

    python benchmarks/drift.py
"""

from __future__ import annotations

import tracemalloc
from time import thread_time

from common import print_table, spread

from darkfactory.model.signals import Counts
from darkfactory.policy.drift import BUCKETS, NightwatchMonitor

AGENTS = 1000
ROUNDS = 50
FLUSH = Counts(tool_calls=5, tool_failures=1, api_calls=6, warnings=1)


def fill(monitor: NightwatchMonitor, agents: int) -> None:
    """Count something for each agent in every bucket of a window."""
    width = monitor.config.window_secs / BUCKETS
    for bucket in range(BUCKETS):
        for agent in range(agents):
            monitor.observe(f"agent-{agent}", FLUSH, bucket * width)
            monitor.observe_health(f"agent-{agent}", bucket % 9 != 0, bucket * width)


def main() -> None:
    """Print the tables."""
    tracemalloc.start()
    weighed = NightwatchMonitor()
    before = tracemalloc.get_traced_memory()[0]
    fill(weighed, AGENTS)
    per_agent = (tracemalloc.get_traced_memory()[0] - before) / AGENTS
    tracemalloc.stop()

    monitor = NightwatchMonitor()
    fill(monitor, AGENTS)
    at = monitor.config.window_secs
    counting, evaluating, all_scores = [], [], []
    for turn in range(ROUNDS):
        at += monitor.config.eval_interval_secs / ROUNDS
        begun = thread_time()
        for agent in range(AGENTS):
            monitor.observe(f"agent-{agent}", FLUSH, at)
        counting.append((thread_time() - begun) / AGENTS)
        for agent in range(turn, AGENTS, ROUNDS):
            begun = thread_time()
            monitor.evaluate(f"agent-{agent}", at)
            evaluating.append(thread_time() - begun)
        begun = thread_time()
        monitor.all_drift_scores(at)
        all_scores.append(thread_time() - begun)
    rows = [
        ("observe, one flush (mean of a round)", *spread(counting)),
        ("evaluate, one agent", *spread(evaluating)),
        (f"all_drift_scores, {AGENTS} agents", *spread(all_scores)),
    ]
    print_table(f"Nightwatch at {AGENTS} agents, ms of processor time", ("what", "p50", "p99", "max"), rows)
    print_table("Nightwatch in memory", ("agents", "bytes an agent"), [(AGENTS, round(per_agent))])


if __name__ == "__main__":
    main()
