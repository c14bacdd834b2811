"""What does one event cost, decided and turned into a state, at 20 and at 1,000 agents?

Measured are the events that come most: output, and a run's end with the new start that follows it; with a run for
every agent, and with a thousand always-on agents at a gate that lets ten in. A sweep looks at all of them.

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

    def __init__(self, agents: int, room: int) -> None:
        definitions = tuple(
            AgentDefinition(f"agent-{number}", AgentLayer.SAFETY, "demo", "work") for number in range(agents)
        )
        fleet = OrchestratorConfig(
            working_dir=Path("/"),
            agents=definitions,
            max_concurrent_runs=room,
            layers={layer: LayerConfig(success_cooldown_secs=0) for layer in AgentLayer},
        )
        self.state: State = initial(fleet, Durable(), moment(0))[0]
        self.secs: dict[str, list[float]] = {}
        self.runs: list[str] = []
        self.tell(ToolsChecked(moment(0), {}))
        for run in self.runs:
            self.tell(RunStarted(moment(0), run, 1))

    def tell(self, event: Event, name: str | None = None) -> None:
        """Decide, and take the time, under the event's name unless it has another."""
        begun = thread_time()
        self.state, todo = decide(self.state, event)
        self.secs.setdefault(name or type(event).__name__, []).append(thread_time() - begun)
        self.runs += [action.run_id for action in todo if isinstance(action, StartRun)]


def measure(agents: int, room: int) -> dict[str, list[float]]:
    """Seconds by kind of event."""
    world = World(agents, room)
    for number in range(EVENTS):
        at = 1 + number / 1000
        run = world.runs.pop(0)
        world.tell(OutputSeen(moment(at), run, 1000 + number, finished=False))
        world.tell(RunEnded(moment(at), run, Verdict(Reason.SUCCEEDED), 0))
        world.tell(RunStarted(moment(at), world.runs[-1], 1))
        world.tell(Tick(moment(at)))
    for number in range(20):
        world.tell(Tick(moment(100.0 + 61 * number)), "sweep")
    return world.secs


def main() -> None:
    """Print the table."""
    rows = []
    for agents, room in ((20, 20), (1000, 1000), (1000, 10)):
        secs = measure(agents, room)
        rows += [(agents, room, kind, *spread(secs[kind])) for kind in ("OutputSeen", "RunEnded", "Tick", "sweep")]
    print_table("One event, ms of processor time", ("agents", "room", "event", "p50", "p99", "max"), rows)


if __name__ == "__main__":
    main()
