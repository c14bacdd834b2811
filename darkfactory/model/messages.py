"""What agents, and people, tell agents: messages, and the context that a handoff passes on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from typing import Final

from attrs import evolve, field, frozen

SCHEMA_VERSION: Final = 1
"""Of handoff files. A newer release may add fields, which this one passes over."""
MESSAGE_TTL_SECS: Final = 86_400.0
"""How long a message waits in a mailbox unless it says otherwise."""
MESSAGE_TTL_MAX_SECS: Final = 366 * 86_400.0
MESSAGE_BYTES: Final = 16 * 1024
"""The longest message, in UTF-8."""
KNOWN: Final = 4096
"""Ids chosen by senders that are remembered."""


@frozen
class Message:
    """A message on its way, from its acceptance to the end of the run that was told it."""

    id: str
    to: str
    """The agent."""
    text: str
    sent: datetime
    """UTC."""
    expires: datetime
    """UTC: a run that begins later is not told it."""
    sender: str | None = None
    """An agent, or whoever the embedding program names; None for the operator."""
    hops: int = 0
    """How many messages led to this one: each was sent by a run because of the one before."""
    handoff: str | None = None
    """The file with the context of a handoff; None for a plain message."""
    run: str | None = None
    """The run that it was given to; None while it waits."""
    delivered: bool = False
    """That run has a process, which has read it or can."""


@frozen
class Mention:
    """A message that an agent wrote into what it said: `@name` and the rest of the paragraph."""

    to: str
    """As it was written; perhaps nobody's name."""
    text: str


@frozen(kw_only=True)
class HandoffContext:
    """What one agent passes on to another with its work. `task` is what is left to do.

    The last five fields are filled in where it is handed over, if they are not set.
    """

    task: str
    progress_summary: str = ""
    decisions: tuple[str, ...] = ()
    files_touched: tuple[str, ...] = ()
    timestamp: datetime | None = None
    """UTC: when it was written; None becomes the time at which it was handed over."""
    id: str = ""
    """A second handoff of the same id to the same agent is refused."""
    from_agent: str = ""
    to_agent: str = ""
    ttl_secs: float = MESSAGE_TTL_SECS
    schema_version: int = SCHEMA_VERSION


@frozen
class HandedOver:
    """A handoff that an agent wrote into its final answer."""

    context: HandoffContext | None
    """None where what it wrote is none."""
    file: str = ""
    """Where it is, whole."""
    problem: str = ""
    """What is wrong with it, for a person."""
    unwritten: bool = False
    """That is the disk's fault, not its own."""


@frozen
class Sent:
    """What an agent's run leaves for others."""

    mentions: tuple[Mention, ...] = ()
    handoffs: tuple[HandedOver, ...] = ()
    left_out: tuple[str, ...] = ()
    """What is not here, since there was too much of it; each for a person."""


@frozen
class Mail:
    """The mailboxes. The collections are never changed in place: each step makes a new value."""

    boxes: Mapping[str, tuple[Message, ...]] = field(factory=dict)
    """By agent, oldest first; an agent without messages has none."""
    known: Mapping[str, datetime] = field(factory=dict)
    """The ids that senders chose, and until when (UTC) they are remembered; oldest first."""

    def box(self, agent: str) -> tuple[Message, ...]:
        """The agent's messages, oldest first."""
        return self.boxes.get(agent, ())

    def accept(self, message: Message, *, named: bool) -> Mail:
        """With one more message; `named`: its sender chose the id."""
        boxes = {**self.boxes, message.to: (*self.box(message.to), message)}
        if not named:
            return Mail(boxes, self.known)
        known = {each: until for each, until in self.known.items() if until > message.sent and each != message.id}
        while len(known) >= KNOWN:
            del known[next(iter(known))]
        return Mail(boxes, {**known, message.id: message.expires})

    def give(self, agent: str, ids: Collection[str], run_id: str) -> Mail:
        """Give these to a run."""
        return self._change(agent, lambda each: evolve(each, run=run_id) if each.id in ids else each)

    def deliver(self, agent: str, run_id: str) -> Mail:
        """The run has a process."""
        return self._change(agent, lambda each: evolve(each, delivered=True) if each.run == run_id else each)

    def take_back(self, agent: str, run_id: str) -> Mail:
        """What the run was given waits again."""
        return self._change(agent, lambda each: evolve(each, run=None, delivered=False) if each.run == run_id else each)

    def remove(self, agent: str, ids: Collection[str]) -> Mail:
        """These are done, or have expired."""
        return self._change(agent, lambda each: None if each.id in ids else each)

    def _change(self, agent: str, change: Callable[[Message], Message | None]) -> Mail:
        box = tuple(changed for each in self.box(agent) if (changed := change(each)) is not None)
        boxes = {**self.boxes, agent: box}
        if not box:
            del boxes[agent]
        return Mail(boxes, self.known)
