"""The scopes of the fleet: a task and nursery for each layer, and in it a task for each run.

    layer scope > agent scope > run scope > (shielded, bounded clean-up)

The agent's scope is around the whole task of its run, the run's scope around its life. A task that was started is
sure to reach its clean-up, also when a scope around it was cancelled before its first step: so no run that was
ordered is left without a verdict.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import TypeVar

import trio
from attrs import define, field
from trio_util import AsyncValue

from darkfactory.model.actions import StartRun, StartWarm, Stop
from darkfactory.model.ends import Reason
from darkfactory.model.fleet import STOP_ORDER, AgentLayer
from darkfactory.policy.shutdown import layer_grace
from darkfactory.runtime.agent_run import RunHandle, run_agent
from darkfactory.runtime.body import Handle, Workplace
from darkfactory.runtime.warm import WarmHandle, keep_warm

HandleT = TypeVar("HandleT", RunHandle, WarmHandle)


@define(eq=False)
class _LayerRoom:
    scope: trio.CancelScope = field(factory=trio.CancelScope)
    nursery: trio.Nursery | None = None
    """None before the layer's task has opened it."""
    runs: dict[str, RunHandle] = field(factory=dict)
    """By id: those whose task has not ended."""
    warm: dict[str, WarmHandle] = field(factory=dict)
    """By the id of the run that may come: processes that wait for one, and those whose clean-up has not ended."""
    empty: AsyncValue[bool] = field(factory=lambda: AsyncValue(True))

    def handles(self) -> Iterator[tuple[str, Handle]]:
        """All of both."""
        yield from self.runs.items()
        yield from self.warm.items()

    def named(self, run_id: str) -> list[Handle]:
        """The run's, and that of a process that waits for it."""
        return [handle for handle in (self.runs.get(run_id), self.warm.get(run_id)) if handle is not None]


@define(eq=False)
class Layers:
    """The three layers. Its methods do what actions say; they are no checkpoints unless they say so."""

    workplace: Callable[[str], Workplace]
    """What an agent's runs need, by the agent's name."""
    _rooms: dict[AgentLayer, _LayerRoom] = field(factory=lambda: {layer: _LayerRoom() for layer in AgentLayer})
    _bug: Exception | None = None
    _bug_seen: trio.Event = field(factory=trio.Event)

    async def live(self, layer: AgentLayer, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The task of one layer: its nursery is open until its scope, or the root's, is cancelled."""
        room = self._rooms[layer]
        with room.scope:
            async with trio.open_nursery() as nursery:
                room.nursery = nursery
                task_status.started()
                await trio.sleep_forever()

    async def raise_bugs(self) -> None:
        """Raise what a run's task raised, in the task that calls this: so the factory can stop in order first."""
        await self._bug_seen.wait()
        assert self._bug is not None
        raise self._bug

    def start(self, order: StartRun, journalled: int) -> None:
        """Start a run in its agent's scope, once the journal is durable up to `journalled`.

        The supervisor has the verdict of the agent's former run, and is not stopping the layer.
        """
        layer = self._rooms[order.layer]
        handle = layer.runs[order.run_id] = RunHandle(order, journalled, layer.warm.get(order.run_id))
        self._start(layer, layer.runs, handle, run_agent)

    def start_warm(self, order: StartWarm) -> None:
        """Start a process that waits for a run. The supervisor is not stopping the layer."""
        layer = self._rooms[order.layer]
        handle = layer.warm[order.run_id] = WarmHandle(order)
        self._start(layer, layer.warm, handle, keep_warm)

    def _start(
        self,
        layer: _LayerRoom,
        handles: dict[str, HandleT],
        handle: HandleT,
        live: Callable[[HandleT, Workplace], Awaitable[None]],
    ) -> None:
        assert layer.nursery is not None
        layer.empty.value = False
        layer.nursery.start_soon(self._live, layer, handles, handle, live, name=f"run {handle.order.run_id}")

    async def _live(  # noqa: ASYNC910 - what it calls is one
        self,
        layer: _LayerRoom,
        handles: dict[str, HandleT],
        handle: HandleT,
        live: Callable[[HandleT, Workplace], Awaitable[None]],
    ) -> None:
        try:
            with handle.agent_scope:
                await live(handle, self.workplace(handle.order.agent))
        except Exception as bug:  # not lost: `raise_bugs` raises it where the factory can stop in order
            self._bug = self._bug or bug
            self._bug_seen.set()
        finally:
            del handles[handle.order.run_id]
            layer.empty.value = not any(layer.handles())

    def stop_run(self, layer: AgentLayer, run_id: str, stop: Stop) -> None:
        """Cancel the run's scope."""
        for handle in self._rooms[layer].named(run_id):
            handle.ask_to_stop(stop)
            handle.scope.cancel(reason=stop.detail)

    def stop_agent(self, layer: AgentLayer, run_id: str, stop: Stop) -> None:
        """Cancel the agent's scope, and with it its run."""
        for handle in self._rooms[layer].named(run_id):
            handle.ask_to_stop(stop)
            handle.agent_scope.cancel(reason=stop.detail)

    def stop_layer(self, layer: AgentLayer, stops: Mapping[str, Stop]) -> None:
        """Cancel the layer's scope, and with it all its runs. Nothing can be started in it afterwards."""
        room = self._rooms[layer]
        for run_id, stop in stops.items():
            for handle in room.named(run_id):
                handle.ask_to_stop(stop)
        for _, handle in room.handles():
            handle.hurry()
        room.scope.cancel(reason="the layer is stopped")

    async def stop_in_order(self, grace_secs: float, why: str) -> None:
        """Stop what still lives, layer by layer, without the supervisor: the way out when it has failed.

        Waits for every run's task, `grace_secs` in all plus what killing takes.
        """
        await trio.lowlevel.checkpoint()
        stop_by = trio.current_time() + grace_secs
        for index, layer in enumerate(STOP_ORDER):
            room = self._rooms[layer]
            left = sum(any(self._rooms[later].handles()) for later in STOP_ORDER[index:])
            if left:
                share = layer_grace(stop_by - trio.current_time(), left)
                stop = Stop(Reason.SHUTDOWN, share, why)
                self.stop_layer(layer, {run_id: stop for run_id, _ in room.handles()})
                await room.empty.wait_value(True)

    def abandon(self) -> None:
        """Wait for nothing any more: cut every clean-up short, also those that have not begun."""
        for room in self._rooms.values():
            for _, handle in room.handles():
                handle.cleanup.cancel(reason="the bound on shutdown has come")
