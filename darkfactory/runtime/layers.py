"""The scopes of the fleet: a task and nursery for each layer, in it a task for each agent, in that its run.

    layer scope > agent scope > run scope > (shielded, bounded clean-up)

An agent's task lives its runs one after the other, so that two runs of one agent cannot be, by construction. It is
made at the agent's first run, and again after its scope was cancelled.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping

import trio
from attrs import define, field
from trio_util import AsyncValue

from darkfactory.model.actions import StartRun, Stop
from darkfactory.model.ends import Reason
from darkfactory.model.fleet import STOP_ORDER, AgentLayer
from darkfactory.policy.shutdown import layer_grace
from darkfactory.runtime.agent_run import RunHandle, Workplace, run_agent


@define(eq=False)
class _AgentRoom:
    orders: trio.MemorySendChannel[RunHandle]
    scope: trio.CancelScope = field(factory=trio.CancelScope)


@define(eq=False)
class _LayerRoom:
    scope: trio.CancelScope = field(factory=trio.CancelScope)
    nursery: trio.Nursery | None = None
    """None before the layer's task has opened it."""
    agents: dict[str, _AgentRoom] = field(factory=dict)
    """By name; an agent whose scope was cancelled has none until its next run."""
    runs: dict[str, RunHandle] = field(factory=dict)
    """By id: those whose task has not come back."""
    empty: AsyncValue[bool] = field(factory=lambda: AsyncValue(True))


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

        The supervisor has the verdict of the agent's former run, and does not stop the layer.
        """
        layer = self._rooms[order.layer]
        room = layer.agents.get(order.agent)
        if room is None:
            assert layer.nursery is not None
            # room for one order: the verdict is known a moment before the task comes back for the next
            send, receive = trio.open_memory_channel[RunHandle](1)
            room = layer.agents[order.agent] = _AgentRoom(send)
            layer.nursery.start_soon(self._live_agent, layer, room, receive, name=f"agent {order.agent}")
        handle = layer.runs[order.run_id] = RunHandle(order, journalled)
        layer.empty.value = False
        room.orders.send_nowait(handle)

    async def _live_agent(
        self, layer: _LayerRoom, room: _AgentRoom, orders: trio.MemoryReceiveChannel[RunHandle]
    ) -> None:
        with room.scope, orders:
            try:
                async for handle in orders:
                    await self._live_run(layer, handle)
            finally:
                # Ordered just before the scope was cancelled, it will have no process; but an end it must have.
                with contextlib.suppress(trio.WouldBlock):
                    handle = orders.receive_nowait()
                    await self._live_run(layer, handle)  # noqa: ASYNC102 - its clean-up is shielded and bounded

    async def _live_run(self, layer: _LayerRoom, handle: RunHandle) -> None:  # noqa: ASYNC910 - run_agent is one
        try:
            await run_agent(handle, self.workplace(handle.order.agent))
        except Exception as bug:  # not lost: `raise_bugs` raises it where the factory can stop in order
            self._bug = self._bug or bug
            self._bug_seen.set()
        finally:
            del layer.runs[handle.order.run_id]
            layer.empty.value = not layer.runs

    def stop_run(self, layer: AgentLayer, run_id: str, stop: Stop) -> None:
        """Cancel the run's scope."""
        handle = self._rooms[layer].runs.get(run_id)
        if handle is not None:
            handle.ask_to_stop(stop)
            handle.scope.cancel(reason=stop.detail)

    def stop_agent(self, layer: AgentLayer, agent: str, run_id: str, stop: Stop) -> None:
        """Cancel the agent's scope, and with it its run."""
        room = self._rooms[layer].agents.pop(agent, None)
        handle = self._rooms[layer].runs.get(run_id)
        if handle is not None:
            handle.ask_to_stop(stop)
        if room is not None:
            room.scope.cancel(reason=stop.detail)

    def stop_layer(self, layer: AgentLayer, stops: Mapping[str, Stop]) -> None:
        """Cancel the layer's scope, and with it all its runs. Nothing can be started in it afterwards."""
        room = self._rooms[layer]
        for run_id, stop in stops.items():
            handle = room.runs.get(run_id)
            if handle is not None:
                handle.ask_to_stop(stop)
        room.scope.cancel(reason="the layer is stopped")

    async def stop_in_order(self, grace_secs: float, why: str) -> None:
        """Stop what still lives, layer by layer, without the supervisor: the way out when it has failed.

        Waits for every run's task, `grace_secs` in all plus what killing takes.
        """
        await trio.lowlevel.checkpoint()
        stop_by = trio.current_time() + grace_secs
        for index, layer in enumerate(STOP_ORDER):
            room = self._rooms[layer]
            left = sum(bool(self._rooms[later].runs) for later in STOP_ORDER[index:])
            if left:
                share = layer_grace(stop_by - trio.current_time(), left)
                stop = Stop(Reason.SHUTDOWN, share, why)
                self.stop_layer(layer, dict.fromkeys(room.runs, stop))
                await room.empty.wait_value(True)

    def abandon(self) -> None:
        """Wait for nothing any more: cut every clean-up short."""
        for room in self._rooms.values():
            for handle in room.runs.values():
                if handle.cleanup is not None:
                    handle.cleanup.cancel(reason="the bound on shutdown has come")
