"""What does one event cost, decided and turned into a state, at 20 and at 1,000 agents?

Every agent has a run that lives. Measured are the events that come most: output, and a run's end with the new start
that follows it.

    python benchmarks/decide.py
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import thread_time

from common import print_table, spread

from darkfactory import AgentDefinition, AgentLayer, LayerConfig, OrchestratorConfig, Reason, Verdict
from darkfactory.model.actions import StartRun
from darkfactory.model.events import Event, Moment, OutputSeen, RunEnded, RunStarted, Tick, ToolsChecked
from darkfactory.model.state import Durable, State
from darkfactory.policy.decide import decide, initial

EVENTS = 2000
START = datetime(2026, 1, 5, tzinfo=UTC)


def moment(at: float) -> Moment:
    """The same on both clocks."""
    return Moment(at, START + timedelta(seconds=at))


class World:
    """A state, and what the last event cost."""

    def __init__(self, agents: int) -> None:
        definitions = tuple(
            AgentDefinition(f"agent-{number}", AgentLayer.SAFETY, "demo", "work") for number in range(agents)
        )
        fleet = OrchestratorConfig(
            working_dir=Path("/"),
            agents=definitions,
            max_concurrent_runs=agents,
            layers={layer: LayerConfig(success_cooldown_secs=0) for layer in AgentLayer},
        )
        self.state: State = initial(fleet, Durable(), moment(0))[0]
        self.secs: dict[str, list[float]] = {}
        self.runs: list[str] = []
        self.tell(ToolsChecked(moment(0), {}))
        for run in self.runs:
            self.tell(RunStarted(moment(0), run, 1))

    def tell(self, event: Event) -> None:
        """Decide, and take the time."""
        begun = thread_time()
        self.state, todo = decide(self.state, event)
        self.secs.setdefault(type(event).__name__, []).append(thread_time() - begun)
        self.runs += [action.run_id for action in todo if isinstance(action, StartRun)]


def measure(agents: int) -> dict[str, list[float]]:
    """Seconds by kind of event."""
    world = World(agents)
    for number in range(EVENTS):
        at = 1 + number / 1000
        run = world.runs.pop(0)
        world.tell(OutputSeen(moment(at), run, 1000 + number, finished=False))
        world.tell(RunEnded(moment(at), run, Verdict(Reason.SUCCEEDED), 0))
        world.tell(RunStarted(moment(at), world.runs[-1], 1))
        world.tell(Tick(moment(at)))
    return world.secs


def main() -> None:
    """Print the table."""
    rows = []
    for agents in (20, 1000):
        secs = measure(agents)
        rows += [(agents, kind, *spread(secs[kind])) for kind in ("OutputSeen", "RunEnded", "Tick")]
    print_table("One event, ms of processor time", ("agents", "event", "p50", "p99", "max"), rows)


if __name__ == "__main__":
    main()
