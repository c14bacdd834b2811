"""The disk: whether there is room on it, and what has been kept for long enough.

An agent on a full disk fails whatever it does, and a supervisor that starts it again and again makes thousands of
deaths of it. So nothing starts while there is less than `min_free_bytes`; the gate says so, and everything goes on by
itself when there is room.
"""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from traceback import format_exc
from typing import Final

import structlog
import trio
from trio_util import AsyncValue

from darkfactory.devices.disk import Room
from darkfactory.devices.machine import Machine
from darkfactory.devices.runstore import Keep
from darkfactory.model.ends import Reason
from darkfactory.model.events import DiskChecked, WorktreesCounted
from darkfactory.model.fleet import OrchestratorConfig
from darkfactory.model.state import State
from darkfactory.runtime.agent_run import settled_event
from darkfactory.runtime.beat import Beat
from darkfactory.runtime.inbox import Sender

SETTLE_SECS: Final = 300.0
"""How long one worktree that a run left unsettled may take here, where nobody waits for it."""
PRUNE_SECS: Final = 600.0
"""Old runs are looked for no more often than this."""

_log = structlog.get_logger("darkfactory")


async def watch_disk(state: AsyncValue[State], machine: Machine, sender: Sender, beat: Beat) -> None:
    """Tell the supervisor when there is too little room, and when there is enough again; until cancelled.

    It looks with every beat. A run that ends badly looks for itself, at once; so what is told here is what the
    supervisor does not know yet.
    """
    config: OrchestratorConfig = state.value.config

    def is_news(room: Room) -> bool:
        was_low: bool = state.value.disk_low is not None
        return (room.free_bytes < config.min_free_bytes) != was_low

    def finds() -> bool:
        room = machine.disk.room_at_once(config.working_dir)
        return room is None or is_news(room)

    while True:
        await beat.wait(finds=finds)
        room = await machine.disk.room(config.working_dir)
        if is_news(room):
            await sender.send(DiskChecked(sender.now(), room.free_bytes, room.what))


async def prune_runs(state: AsyncValue[State], machine: Machine) -> None:
    """Delete what is kept of old runs: at the start, then after runs have begun, at most every ten minutes."""
    while True:
        config, begun = state.value.config, state.value.begun
        keep = Keep(
            per_agent=config.keep_runs,
            since=machine.clock.utc() - timedelta(days=config.keep_days),
            total_bytes=config.keep_bytes,
        )
        pruned = await machine.runs.prune(keep, living=_living(state.value))
        await machine.handoffs.prune(keep.since, _handed_over(state.value))
        if pruned.runs:
            _log.info("runs_pruned", runs=pruned.runs, freed_bytes=pruned.freed_bytes)
        if pruned.problem is not None:
            _log.warning("prune_failed", detail=pruned.problem)
        await trio.sleep(PRUNE_SECS)
        await state.wait_value(partial(_begun_since, begun))


def _living(state: State) -> frozenset[str]:
    """The runs that live, and those that a process waits for."""
    return frozenset(state.runs).union(each.id for agent in state.agents.values() for each in agent.warm)


def _handed_over(state: State) -> frozenset[str]:
    """The handoffs in the mailboxes, of agents that are gone as well."""
    boxes = [*state.mail.boxes.values(), *state.undeclared.mail.boxes.values()]
    return frozenset(message.id for box in boxes for message in box if message.handoff is not None)


def _begun_since(begun: int, state: State) -> bool:
    return state.begun != begun


async def keep_worktrees(state: AsyncValue[State], machine: Machine, sender: Sender, beat: Beat) -> None:
    """Settle the worktrees that runs left unsettled, tell how many there are, delete what was removed; until cancelled.

    What a life that was killed has left is settled at the start. Whatever goes wrong with that is told and stops
    nobody, even if it is a bug: worktrees are there to keep work, and they are kept.
    """
    await trio.lowlevel.checkpoint()
    if not state.value.config.isolates and not machine.worktrees.kept():
        return  # nobody has any
    while True:
        try:
            await _look_after_worktrees(state, machine, sender)
        except Exception as error:
            _log.error("worktrees_failed", detail=str(error), exception=format_exc())
        await beat.wait()


async def _look_after_worktrees(state: AsyncValue[State], machine: Machine, sender: Sender) -> None:
    for run_id in machine.worktrees.leftovers():
        with trio.move_on_after(SETTLE_SECS):
            settled = await machine.worktrees.settle(run_id, Reason.LOST.value)
            if settled is not None:
                await sender.send(settled_event(settled, sender.now()))
    count = machine.worktrees.kept()
    if state.value.config.isolates and count != state.value.worktrees:
        await sender.send(WorktreesCounted(sender.now(), count))
    problem = await machine.worktrees.bury()
    if problem is not None:
        _log.warning("worktree_not_deleted", detail=problem)
