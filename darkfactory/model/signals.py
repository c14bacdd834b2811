"""What a tool's output said: one value for each thing seen, whatever the tool. (Not Unix signals.)"""

from __future__ import annotations

from enum import Enum

from attrs import frozen


class Stream(Enum):
    """Which of a run's two output files."""

    STDOUT = "stdout"
    STDERR = "stderr"


@frozen
class Started:
    """The tool announced itself. Tools may do so more than once in a run."""

    session: str | None = None
    """The tool's own id of the conversation; None when it gave none."""


@frozen
class Finished:
    """The tool's terminal event. The last one counts; a later `Started` takes it back."""

    ok: bool
    detail: str = ""
    """What it said of its end: the answer's first words or the error; capped."""


Signal = Started | Finished
