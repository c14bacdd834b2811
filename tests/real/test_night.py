"""The night of ten agents with real processes, real files and a real server: a provider says wait from two to five.

The clock runs as clocks do while anybody works. Only when nobody does, the test moves it on to what comes next.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import define, evolve, field
from trio.testing import MockClock

from darkfactory import AgentOrchestrator, OrchestratorConfig, load_config, open_factory
from darkfactory.devices.machine import Machine
from darkfactory.runtime.factory import this_machine
from darkfactory.testing import SimulatedClock

pytestmark = pytest.mark.real

EVENING = datetime(2026, 1, 5, 1, 59, tzinfo=UTC)
TWO, FIVE = (EVENING.replace(hour=hour, minute=0) for hour in (2, 5))

FILE = """
name = "night"
working_dir = "{path}"
state_dir = "{path}/state"
max_concurrent_runs = 3
min_free_bytes = 0
"""
AGENT = """
[[agents]]
name = "{provider}-{number}"
layer = "Core"
cli_tool = "demo"
schedule = "{minute} {hours} * * *"
task = "{provider}-{number}"
provider = "{provider}"
args = ["--behaviour", "ask", "--url", "{url}/{provider}"]
"""


@define(eq=False)
class Models:
    """Two providers on one port; alpha's limit is reached from two to five."""

    clock: SimulatedClock
    answered: list[str] = field(factory=list)
    """Whose tasks, in order."""
    refused: list[str] = field(factory=list)

    async def handle(self, stream: trio.SocketStream) -> None:
        """One request, and its answer."""
        async with stream:
            head = b""
            while b"\r\n\r\n" not in head:
                head += await stream.receive_some(65536)
            head, _, body = head.partition(b"\r\n\r\n")
            (length,) = [int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
            while len(body) < length:
                body += await stream.receive_some(65536)
            task = json.loads(body)["task"]
            if head.startswith(b"POST /alpha ") and TWO <= self.clock.utc() < FIVE:
                self.refused.append(task)
                status, said = 429, {"error": "You have hit your limit.", "resets_at": FIVE.timestamp()}
            else:
                self.answered.append(task)
                status, said = 200, {"text": "done", "input_tokens": 100, "output_tokens": 7}
            reply = json.dumps(said).encode()
            await stream.send_all(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%s" % (status, len(reply), reply))


def records(path: Path, kind: str, **like: object) -> list[dict[str, Any]]:
    lines = b"".join(file.read_bytes() for file in sorted((path / "state" / "journal").glob("*.jsonl")))
    found = [json.loads(line) for line in lines.splitlines()]
    return [line for line in found if line["kind"] == kind and all(line.get(key) == like[key] for key in like)]


async def nobody_works(factory: AgentOrchestrator, ended: int) -> None:
    """Until so many runs, the former ones included, have begun and ended."""
    await factory.wait_statuses(
        lambda found: (
            sum(status.runs for status in factory.provider_statuses()) >= ended
            and not any(status.running for status in found)
        )
    )


def test_the_night_of_ten_agents(tmp_path: Path) -> None:
    clock = MockClock(rate=1.0)
    trio.run(night, tmp_path, clock, clock=clock)


async def night(path: Path, clock: MockClock) -> None:
    time = SimulatedClock(EVENING)
    models = Models(time)

    @contextmanager
    def machine(config: OrchestratorConfig) -> Iterator[Machine]:
        with this_machine(config) as found:
            yield evolve(found, clock=time)

    async def at(factory: AgentOrchestrator, when: datetime, ended: int) -> None:
        """Move on to that time, and wait until so many runs in all have ended."""
        clock.jump((when - time.utc()).total_seconds())
        await nobody_works(factory, ended)

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, models.handle, 0, host="127.0.0.1"))
        config = load_config(fleet(path, listener.socket.getsockname()[1]), {})
        async with open_factory(config, machine=machine, seed=1) as factory:
            ended = 0
            for minute in range(1, 5 * 60, 5):
                when = EVENING + timedelta(minutes=minute)
                if when == FIVE:
                    before_five = {status.name: status for status in factory.provider_statuses()}
                    when, ended = FIVE + timedelta(seconds=31), ended + 5
                else:
                    due = [agent for agent in config.agents if due_at(agent.schedule or "", when)]
                    alpha_serves = ended == 0 or when > FIVE
                    ended += sum(agent.provider == "beta" or alpha_serves for agent in due)
                await at(factory, when, ended)
        nursery.cancel_scope.cancel()

    assert (before_five["alpha"].waiting, before_five["beta"].waiting) == (5, 0)
    assert before_five["alpha"].blocked_until is not None
    assert FIVE <= before_five["alpha"].blocked_until <= FIVE + timedelta(seconds=30)
    assert models.refused == ["alpha-0"]

    morning = [line for line in records(path, "run_begun") if datetime.fromisoformat(line["utc"]) >= FIVE]
    assert [line["agent"] for line in morning][:5] == [f"alpha-{number}" for number in range(5)]
    (probed,), (serves,) = records(path, "provider_probed"), records(path, "provider_serves")
    assert probed["run"] == serves["run"] == morning[0]["run"]
    assert morning[1]["utc"] >= serves["utc"]

    wanted = {(line["agent"], line["occurrence"]) for line in records(path, "occurrence")}
    ends = {line["run"]: line for line in records(path, "run_ended")}
    begun = records(path, "run_begun")
    well = [(line["agent"], line["occurrence"]) for line in begun if ends[line["run"]]["reason"] == "succeeded"]
    assert len(well) == len(wanted) == 20
    assert set(well) == wanted
    assert sorted(models.answered) == sorted(agent for agent, _ in well)
    assert [end["reason"] for end in ends.values()].count("throttled") == len(ends) - 20 == 1
    assert all(ends[line["run"]]["api_calls"] == 1 for line in morning)
    assert not records(path, "dropped")
    assert len(records(path, "queued", reason="throttled")) == 5


def fleet(path: Path, port: int) -> Path:
    """The first of alpha's runs at two, the others at three, all of them again at six."""
    file = path / "night.toml"
    agents = [
        AGENT.format(
            provider=provider,
            number=number,
            minute=5 * number,
            hours="2,6" if (provider, number) == ("alpha", 0) else "3,6",
            url=f"http://127.0.0.1:{port}",
        )
        for number in range(5)
        for provider in ("alpha", "beta")
    ]
    file.write_text(FILE.format(path=path) + "".join(agents))
    return file


def due_at(schedule: str, when: datetime) -> bool:
    minute, hours, *_ = schedule.split()
    return when.minute == int(minute) and str(when.hour) in hours.split(",")
