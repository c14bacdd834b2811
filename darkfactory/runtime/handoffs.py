"""Handoffs on their way to the disk, and back."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import trio

from darkfactory.devices.handoffs import HandoffStore
from darkfactory.errors import HandoffFailed
from darkfactory.model.actions import StartRun
from darkfactory.model.events import Moment
from darkfactory.model.messages import HandedOver, HandoffContext
from darkfactory.policy.handoff import HANDOFF_BYTES, from_block, from_json, stamped, to_json

WRITE_SECS: Final = 5.0
"""How long writing down what a run hands over may take."""


def read_handoff(path: str | os.PathLike[str]) -> HandoffContext:
    """The context in a handoff's file, for a program that work is handed over to. Blocks.

    HandoffFailed, which names the file, if it cannot be read, is torn, or is no handoff.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(HANDOFF_BYTES + 1)
    except OSError as error:
        raise HandoffFailed(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > HANDOFF_BYTES:
        raise HandoffFailed(f"{path}: is no handoff: it has more than {HANDOFF_BYTES} bytes")
    return from_json(data.decode(errors="replace"), str(path))


async def write_down(
    blocks: Iterable[str], order: StartRun, store: HandoffStore, now: Moment
) -> tuple[HandedOver, ...]:
    """What a run hands over, by the blocks in its answer; their files are whole then. Raises nothing but Cancelled."""
    await trio.lowlevel.checkpoint()
    until = trio.current_time() + WRITE_SECS
    found: list[HandedOver] = []
    for number, text in enumerate(blocks, 1):
        try:
            context = from_block(text, "its handoff block")
            handoff_id, to = f"{order.run_id}-h{number}", context.to_agent
            context = stamped(context, new_id=handoff_id, from_agent=order.agent, to_agent=to, now=now.utc)
            with trio.fail_at(until):
                file = await store.write(context.id, to_json(context))
        except HandoffFailed as failure:
            found.append(HandedOver(None, problem=str(failure)))
        except trio.TooSlowError:
            found.append(HandedOver(None, problem=f"it could not be written within {WRITE_SECS:g} s", unwritten=True))
        except OSError as error:
            found.append(HandedOver(None, problem=f"it cannot be written: {error}", unwritten=True))
        else:
            found.append(HandedOver(context, file))
    return tuple(found)
