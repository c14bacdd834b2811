"""Agents that restart together: the strategies one_for_all and rest_for_one of the Safety layer.

    a bad end ──▶ its scope joins the regroup ──▶ stopped, the last first, each waited for
                                              ──▶ back-off ──▶ begun again in start order

The state is the set of those that have not begun again since. All else is seen by looking: a member with a run is to be
stopped, and none begins while another one still runs. So a member that fails while its group is being restarted only
widens the set and lengthens the wait, and two generations of a group never live side by side.

While an agent is held, whatever its strategy restarts with it stays down: it is not there to be restarted with.
"""

from __future__ import annotations

from math import inf

from attrs import frozen

from darkfactory.model.actions import Cause, Queue
from darkfactory.model.fleet import AgentLayer, Strategy
from darkfactory.model.state import Regroup, Request, Run
from darkfactory.policy.admission import EARLY_SECS
from darkfactory.policy.draft import Draft


def join(draft: Draft, name: str, not_before: float = -inf) -> None:
    """Have the agent restarted together with those that its strategy names, and not before then (Trio seconds)."""
    definition = draft.agents[name].definition
    strategy = draft.config.layers[definition.layer].strategy
    if strategy is Strategy.ONE_FOR_ONE or not definition.enabled:
        return
    group = start_order(draft)
    if strategy is Strategy.REST_FOR_ONE:
        group = group[group.index(name) :]
    before = draft.regroup or Regroup()
    draft.regroup = Regroup(before.members.union(group), max(before.not_before, not_before))
    draft.gate_moved = True


def begun(draft: Draft, name: str) -> None:
    """An agent has begun again."""
    if draft.regroup is not None and name in draft.regroup.members:
        members = draft.regroup.members - {name}
        draft.regroup = Regroup(members, draft.regroup.not_before) if members else None


def next_to_stop(draft: Draft) -> Run | None:
    """The run of the last member that has one; the member before it is to be stopped when that has ended."""
    if draft.regroup is None or draft.stopping is not None:
        return None
    runs = (draft.agents[name].run for name in reversed(start_order(draft)) if name in draft.regroup.members)
    return next((run for run in runs if run is not None), None)


def start_order(draft: Draft) -> list[str]:
    """The Safety agents that can run at all, in the order of the fleet file."""
    return [
        name
        for name, agent in draft.agents.items()
        if agent.definition.layer is AgentLayer.SAFETY and agent.definition.enabled
    ]


def in_start_order(draft: Draft) -> list[Request]:
    """The queue, first come, first served; but agents that restart together keep their order among each other."""
    queue = list(draft.queue.values())
    if draft.regroup is not None:
        places = [index for index, request in enumerate(queue) if request.cause is Cause.ALWAYS_ON]
        order = {name: index for index, name in enumerate(draft.agents)}
        requests = sorted((queue[index] for index in places), key=lambda request: order[request.agent])
        for index, request in zip(places, requests, strict=True):
            queue[index] = request
    return queue


@frozen
class Obstacle:
    """What keeps members of a regroup from beginning now."""

    members: frozenset[str]
    """Whom."""
    waits: Queue
    until: float = -inf
    """Trio seconds, where it passes by itself."""


def obstacle(draft: Draft) -> Obstacle | None:
    """What all or some members wait for; None when each may begin."""
    regroup = draft.regroup
    if regroup is None:
        return None
    order = [name for name in start_order(draft) if name in regroup.members]
    for name in order:
        run = draft.agents[name].run
        if run is not None:
            return Obstacle(regroup.members, Queue("siblings", f"until {run.id} has ended"))
    if regroup.not_before > draft.when.at + EARLY_SECS:
        left = regroup.not_before - draft.when.at
        return Obstacle(regroup.members, Queue("siblings", f"for {left:.1f} s"), regroup.not_before)
    rest_only = draft.config.layers[AgentLayer.SAFETY].strategy is Strategy.REST_FOR_ONE
    for index, name in enumerate(order):
        if draft.agents[name].hold is not None:
            of = order[index:] if rest_only else order
            return Obstacle(frozenset(of), Queue("siblings", f"until {name} is resumed"))
    return None
