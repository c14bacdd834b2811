"""A week of the example fleet by the code that runs in production: quick, and the same every time."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import trio
import trio._core._run as trio_internals
from trio.testing import MockClock

from darkfactory import load_config, open_factory
from darkfactory.devices.process import LaunchSpec
from darkfactory.testing import FAILS, HANGS, SUCCEEDS, LeapingClock, Script, SimulatedMachine

ROOT = Path(__file__).parents[2]
DAY = 86400.0
WEEK = 7 * DAY


def lived(days: int, seed: int, clock: trio.abc.Clock | None = None) -> SimulatedMachine:
    """The example fleet for some days; its agents succeed, fail and hang as the seed has it."""
    chance = random.Random(seed)

    def script(spec: LaunchSpec) -> Script:
        if spec.run_id.startswith("security-sentinel"):
            return Script(secs=600.0)
        return chance.choice([SUCCEEDS, SUCCEEDS, SUCCEEDS, FAILS, HANGS])

    async def live() -> SimulatedMachine:
        machine = SimulatedMachine(script)
        fleet = load_config(ROOT / "fleet.example.toml", {})
        async with open_factory(fleet, machine=machine.open, seed=seed) as factory:
            for _ in range(days):
                await factory.start("code-reviewer")
                await trio.sleep(DAY)
        return machine

    return trio.run(live, clock=LeapingClock() if clock is None else clock)


def test_a_week_has_the_runs_that_it_should() -> None:
    machine = lived(7, 1)
    assert machine.records("factory_stopped")[0]["exit_code"] == 0
    assert len(machine.records("occurrence")) == 7 * 24 * 30
    begun = {line["run"] for line in machine.records("run_begun")}
    ended = {line["run"] for line in machine.records("run_ended")}
    assert begun == ended
    # ten minutes of work, twenty seconds of rest
    assert abs(len(machine.records("run_begun", agent="security-sentinel")) - WEEK / 620) <= 1
    # every occurrence ran or says why not
    occurrences = {line["occurrence"] for line in machine.records("occurrence")}
    ran = {line["occurrence"] for line in machine.records("run_begun", cause="cron")}
    dropped = {line["occurrence"] for line in machine.records("dropped", cause="cron")}
    assert ran | dropped == occurrences


def test_two_days_with_one_seed_have_one_journal_to_the_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(trio_internals, "_r") or not hasattr(trio_internals, "_ALLOW_DETERMINISTIC_SCHEDULING"):
        pytest.skip("this Trio no longer lets its task order be fixed")
    monkeypatch.setattr(trio_internals, "_ALLOW_DETERMINISTIC_SCHEDULING", True)

    def journal(seed: int) -> Any:
        monkeypatch.setattr(trio_internals, "_r", random.Random(0))
        return bytes(lived(2, seed).journal.data)

    assert journal(7) == journal(7)
    assert journal(7) != journal(8)


def test_two_days_on_the_leaping_clock_are_two_on_trios_mock_clock_to_the_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(trio_internals, "_r") or not hasattr(trio_internals, "_ALLOW_DETERMINISTIC_SCHEDULING"):
        pytest.skip("this Trio no longer lets its task order be fixed")

    class AsTheyWere(random.Random):
        """The loop goes round less often on the leaping clock: chance would fall out otherwise there."""

        def shuffle(self, x: Any) -> None:
            """Leave them."""

    monkeypatch.setattr(trio_internals, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
    monkeypatch.setattr(trio_internals, "_r", AsTheyWere())
    leaping, mock = (lived(2, 7, clock).journal.data for clock in (LeapingClock(), MockClock(autojump_threshold=0)))
    assert leaping == mock


def test_the_leaping_clock_waits_in_earnest_where_no_time_is_set() -> None:
    async def ask() -> float:
        await trio.sleep(5)
        assert await trio.to_thread.run_sync(lambda: 7) == 7
        return trio.current_time()

    assert trio.run(ask, clock=LeapingClock()) == 5
