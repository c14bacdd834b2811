"""Which level of containment is chosen, what is told of it, and what becomes of a level that is not to be had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from darkfactory import (
    AgentDefinition,
    AgentLayer,
    AgentOrchestrator,
    ConfigError,
    Containment,
    OrchestratorConfig,
    open_factory,
)
from darkfactory.devices import machine
from darkfactory.devices.cgroup import Cgroups, NoCgroup
from darkfactory.errors import SpawnFailed

from .test_behaviours import journal

pytestmark = pytest.mark.real


class Pretended(Cgroups):
    """Cgroups in an ordinary directory; nothing is started in them."""

    @classmethod
    def open(cls, instance: str, **_: Any) -> Cgroups:
        Path(instance).mkdir()
        return cls(Path(instance), limits_memory=True)


class Refused(Cgroups):
    @classmethod
    def open(cls, instance: str, **_: Any) -> Cgroups:
        raise NoCgroup("the test has none")


def fleet(path: Path, wanted: Containment = Containment.AUTO) -> OrchestratorConfig:
    """An agent that nobody starts."""
    idle = AgentDefinition("idle", AgentLayer.GROWTH, "demo", "x")
    return OrchestratorConfig(path, (idle,), state_dir=path / "state", containment=wanted)


def names(path: Path) -> set[str]:
    return {entry.name for entry in path.iterdir()}


async def told(path: Path, wanted: Containment) -> dict[str, Any]:
    async with open_factory(fleet(path, wanted)):
        pass
    (line,) = [line for line in journal(path / "state") if line["kind"] == "containment"]
    assert any("both killed" in limit for limit in line["not_guaranteed"])
    return line


@pytest.mark.parametrize("wanted", [Containment.AUTO, Containment.CGROUP])
async def test_cgroups_are_taken_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: Containment):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(machine, "Cgroups", Pretended)
    line = await told(tmp_path, wanted)
    assert (line["level"], line["memory"]) == ("cgroup", "kernel")
    assert "why_no_cgroup" not in line
    assert names(tmp_path) == {"state"}  # it was given back


async def test_without_cgroups_the_guard_goes_by_marks_and_it_is_told_why(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(machine, "Cgroups", Refused)
    line = await told(tmp_path, Containment.AUTO)
    assert (line["level"], line["memory"], line["why_no_cgroup"]) == ("guard", "sampled", "the test has none")


async def test_the_guard_alone_can_be_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "Cgroups", Pretended)
    line = await told(tmp_path, Containment.GUARD)
    assert line["level"] == "guard"
    assert "why_no_cgroup" not in line


async def test_cgroups_that_are_demanded_and_not_there_are_a_fault_and_nothing_is_held(tmp_path: Path, monkeypatch):
    config = fleet(tmp_path, Containment.CGROUP)
    with monkeypatch.context() as patch:
        patch.setattr(machine, "Cgroups", Refused)
        with pytest.raises(ConfigError) as caught:
            await AgentOrchestrator(config).run()
    (fault,) = caught.value.faults
    assert fault.path == "containment"
    assert "the test has none" in fault.problem
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(machine, "Cgroups", Pretended)
    async with open_factory(config):
        pass


async def test_a_guard_that_cannot_be_started_keeps_the_factory_from_starting(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(machine, "Cgroups", Pretended)
    monkeypatch.setattr("sys.executable", "/no/such/python")
    with pytest.raises(SpawnFailed, match="nothing starts without it"):
        await AgentOrchestrator(fleet(tmp_path)).run()
    assert names(tmp_path) == {"state"}
