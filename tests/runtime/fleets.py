"""What the runtime's tests share: small fleets, and questions to a simulated machine."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import trio

from darkfactory import AgentDefinition, AgentLayer, LayerConfig, OrchestratorConfig
from darkfactory.devices.process import LaunchSpec
from darkfactory.runtime.beat import Beat
from darkfactory.testing import Script, SimulatedMachine

STEADY = LayerConfig(backoff_jitter=0.0)
EXAMPLE = (
    AgentDefinition("sentinel", AgentLayer.SAFETY, "demo", "watch"),
    AgentDefinition("synchronizer", AgentLayer.CORE, "demo", "sync", schedule="0 3 * * *"),
    AgentDefinition("reviewer", AgentLayer.GROWTH, "demo", "review"),
)


def fleet(*agents: AgentDefinition, layer: LayerConfig = STEADY, **fields: object) -> OrchestratorConfig:
    layers = dict.fromkeys(AgentLayer, layer)
    return OrchestratorConfig(working_dir=Path("/"), agents=agents, layers=layers, **fields)  # type: ignore[arg-type]


def by_agent(**scripts: Script) -> Callable[[LaunchSpec], Script]:
    """A script for each agent, whose name (with _ for -) is the run id's beginning."""

    def script(spec: LaunchSpec) -> Script:
        agent = spec.run_id.rsplit("-", 3)[0]
        return scripts[agent.replace("-", "_")]

    return script


async def beating(beat: Beat) -> None:
    """Have it beat until cancelled, as a supervisor does."""
    beat.begin()
    while True:
        await trio.sleep_until(beat.next_at)
        beat.strike()


def secs(machine: SimulatedMachine, kind: str, **like: object) -> list[float]:
    """When these records were written, in seconds after the machine's start, to the millisecond."""
    return [
        round((datetime.fromisoformat(line["utc"]) - machine.start).total_seconds(), 3)
        for line in machine.records(kind, **like)
    ]
