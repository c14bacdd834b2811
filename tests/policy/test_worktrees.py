"""The gate and the worktrees: how many there may be, and who waits for that."""

from __future__ import annotations

from pathlib import Path

import pytest
from attrs import evolve

from darkfactory.model.actions import Admit, Queue
from darkfactory.model.ends import Reason
from darkfactory.model.events import WorktreeMade, WorktreesCounted, WorktreeSettled
from darkfactory.model.fleet import Fallback, Isolation, Overlap
from darkfactory.policy.restart import Again, after

from .world import CORE, GROWTH, SAFETY, World, agent


def apart(name: str, layer=GROWTH, **fields: object):
    return agent(name, layer, isolation=Isolation.WORKTREE, **fields)


def counts(world: World, at: float, count: int) -> None:
    world.tell(WorktreesCounted(world.now(at), count))


def test_at_the_limit_a_run_waits_with_the_remedy_and_starts_when_one_is_pruned() -> None:
    world = World.begun(apart("one"), max_worktrees=3)
    counts(world, 1, 3)
    answer = world.asks("one", 2)
    assert isinstance(answer, Queue)
    assert answer.reason == "max_worktrees"
    assert "--prune" in answer.detail
    counts(world, 3, 2)
    assert world.starts("one") == [3]


@pytest.mark.parametrize(("kept", "starts"), [(0, 2), (1, 1), (2, 0), (3, 0)])
def test_kept_ones_and_those_in_use_count_together(kept: int, starts: int) -> None:
    world = World.begun(apart("one"), apart("two"), apart("three"), max_worktrees=2)
    counts(world, 1, kept)
    answers = [world.asks(name, 2) for name in ("one", "two", "three")]
    assert sum(isinstance(answer, Admit) for answer in answers) == starts


def test_a_run_that_ends_makes_room_unless_its_worktree_is_kept() -> None:
    world = World.begun(apart("one"), apart("two"), max_worktrees=1)
    world.asks("one", 1)
    world.asks("two", 2)
    counts(world, 3, 1)  # told before its end
    world.ends("one", Reason.SUCCEEDED, 3)
    assert not world.lives("two")
    counts(world, 4, 0)
    assert world.starts("two") == [4]


def test_agents_that_share_do_not_wait_for_worktrees() -> None:
    world = World.begun(agent("shares", GROWTH), agent("always", SAFETY), max_worktrees=1)
    counts(world, 1, 5)
    assert isinstance(world.asks("shares", 2), Admit)
    assert world.lives("always")


def test_a_limit_on_worktrees_is_looked_at_after_what_comes_before_it() -> None:
    world = World.begun(apart("one"), max_worktrees=1)
    counts(world, 1, 1)
    world.holds("one", 2)
    assert world.asks("one", 3).reason == "held"  # type: ignore[attr-defined]


def test_an_occurrence_that_would_restart_its_agent_stops_nothing_while_there_is_no_room() -> None:
    world = World.begun(apart("it", CORE, overlap=Overlap.RESTART), max_worktrees=2)
    world.due("it", 1)
    counts(world, 2, 1)
    world.due("it", 3)
    assert world.stop_reason("it") is None
    counts(world, 4, 0)
    world.due("it", 5)
    assert world.stop_reason("it") is Reason.CANCELLED


def test_a_fallback_keeps_the_isolation() -> None:
    it = evolve(apart("it"), fallback=Fallback("codex"))
    assert it.fallen_back().isolation is Isolation.WORKTREE


def test_what_became_of_a_worktree_is_told() -> None:
    world = World.begun(apart("it"))
    world.asks("it", 1)
    run = world.run_of("it")
    path = Path("/w") / run
    world.tell(WorktreeMade(world.now(2), run, path, "darkfactory/it/x", "c0ffee", path))
    assert world.state.agents["it"].run is not None
    assert world.state.agents["it"].run.worktree == path
    world.tell(WorktreeSettled(world.now(3), run, "it", path, "1 commits", ("darkfactory/it/x",), 1, 2))
    world.tell(WorktreeSettled(world.now(3), "former", "gone", path, None))
    assert world.kinds("worktree_made")[0].data["branch"] == "darkfactory/it/x"
    assert world.kinds("worktree_kept")[0].data["rescued"] == 2
    assert world.kinds("worktree_removed")[0].data["run"] == "former"


def test_what_cannot_be_made_is_tried_again_like_any_failed_start() -> None:
    assert after(Reason.FAILED, GROWTH) is Again.RETRIED
    world = World.begun(apart("it", retries=1))
    world.asks("it", 1)
    world.ends("it", Reason.FAILED, 2)
    world.passes(10)
    assert len(world.starts("it")) == 2
