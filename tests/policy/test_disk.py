"""The floor of free bytes: nothing starts below it, everything goes on above it, and whose fault a full disk is."""

from __future__ import annotations

import pytest

from darkfactory.model.actions import Admit, Queue
from darkfactory.model.ends import Reason
from darkfactory.model.events import DiskChecked
from darkfactory.model.fleet import AgentLayer

from .world import CORE, GROWTH, SAFETY, World, agent

FLOOR = 1000


def looks(world: World, at: float, free_bytes: int) -> None:
    world.tell(DiskChecked(world.now(at), free_bytes, f"/: {free_bytes}"))


def full(*layers: AgentLayer, min_free_bytes: int = FLOOR) -> World:
    """A world with an agent in each of these layers, of whom none runs yet, on a full disk."""
    names = [layer.value.lower() for layer in layers]
    world = World.begun(
        *(agent(name, layer) for name, layer in zip(names, layers, strict=True)),
        agent("other", GROWTH),
        min_free_bytes=min_free_bytes,
    )
    looks(world, 1, 0)
    return world


def test_on_a_full_disk_every_request_waits_and_says_why() -> None:
    world = full(CORE, GROWTH)
    answer = world.asks("growth", 2)
    assert answer == Queue("disk", f"/: 0, min_free_bytes is {FLOOR}")
    world.due("core", 3)
    assert [request.waits_for for request in world.state.queue.values()] == ["disk", "disk"]
    looks(world, 100, FLOOR)
    assert world.starts("growth") == world.starts("core") == [100]


@pytest.mark.parametrize(("free_bytes", "starts"), [(FLOOR - 1, False), (FLOOR, True)])
def test_the_floor_itself_is_room_enough(free_bytes: int, starts: bool) -> None:
    world = full(GROWTH)
    looks(world, 2, free_bytes)
    assert isinstance(world.asks("growth", 3), Admit) == starts


def test_a_floor_of_nothing_is_none() -> None:
    world = full(GROWTH, min_free_bytes=0)
    assert isinstance(world.asks("growth", 3), Admit)


def test_what_runs_already_is_left_alone() -> None:
    world = World.begun(agent("it", SAFETY), min_free_bytes=FLOOR)
    looks(world, 1, 0)
    assert world.lives("it")
    assert not world.stops


def test_it_is_told_when_it_changes_and_not_each_time() -> None:
    world = full()
    for at, free_bytes in enumerate([1, 2, FLOOR, FLOOR + 1, 0, 3], 2):
        looks(world, at, free_bytes)
    kinds = [record.kind for record in world.records if record.kind.startswith("disk")]
    assert kinds == ["disk_low", "disk_has_room", "disk_low"]


@pytest.mark.parametrize("layer", AgentLayer)
def test_a_death_on_a_full_disk_is_tried_again_when_there_is_room_and_counts_nothing(layer: AgentLayer) -> None:
    world = World.begun(agent("it", layer), min_free_bytes=FLOOR)
    if layer is CORE:
        world.due("it", 1)
    elif layer is GROWTH:
        world.asks("it", 1)
    for at in range(100, 1100, 100):  # more often than any intensity allows
        looks(world, at, 0)
        world.ends("it", Reason.DISK)
        world.passes(at + 50)
        assert not world.lives("it")
        looks(world, at + 50, FLOOR)
        assert world.lives("it")
    assert world.state.agents["it"].bad_ends == ()
    assert len(world.starts("it")) == 11


def test_what_waits_for_room_outlives_a_restart_of_the_factory() -> None:
    world = World.begun(agent("it", GROWTH), min_free_bytes=FLOOR)
    world.asks("it", 1)
    looks(world, 100, 0)
    world.ends("it", Reason.DISK)
    reborn = world.reborn(at=200)
    looks(reborn, 200, 0)
    reborn.misses(200)
    assert not reborn.lives("it")
    looks(reborn, 300, FLOOR)
    assert reborn.starts("it") == [300]


def test_the_machines_fault_is_no_bad_end_after_a_restart_either() -> None:
    world = World.begun(agent("it", SAFETY), min_free_bytes=FLOOR)
    looks(world, 1, 0)
    world.ends("it", Reason.DISK)
    assert world.reborn().state.agents["it"].bad_ends == ()
