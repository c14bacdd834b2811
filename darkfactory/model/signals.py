"""What a tool's output said: one value for each thing seen, whatever the tool. (Not Unix signals.)"""

from __future__ import annotations

from datetime import datetime
from enum import Enum

from attrs import frozen

from darkfactory.model.ends import ErrorClass


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
class Said:
    """The assistant's own words, put together from their pieces; never a tool's result, never a quoted prompt.

    Which of them are the answer is known at the end: `Finished.answer`.
    """

    text: str


@frozen
class ToolCall:
    """The agent used one of its tools."""

    name: str = ""
    """Empty where only its `id` is told."""
    ok: bool | None = None
    """None when it began, and has not ended yet."""
    id: str = ""
    """Joins a beginning and its end; empty when the tool gives none."""


@frozen
class Denied:
    """The agent was not allowed to use a tool."""

    name: str = ""


@frozen
class ApiCall:
    """The provider answered a request. A count of 0 says that the tool tells of them, and as yet there was none."""

    count: int = 1
    exact: bool = True
    """False where the tool does not tell of each, and the count is an estimate."""


class Basis(Enum):
    """What a `Usage` counts."""

    MORE = "more"
    """What came since the last one: they add up."""
    SESSION = "session"
    """All of the conversation, earlier runs of it included: the run's own is the difference to where those ended."""


@frozen
class Usage:
    """What was used up. None where the tool does not say; tokens are those that it counts as input and output."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None
    basis: Basis = Basis.MORE


@frozen
class Retry:
    """A request to the provider failed, and the tool tries again by itself."""

    detail: str = ""
    attempt: int | None = None
    delay_secs: float | None = None
    error: ErrorClass | None = None
    """What kind of failure it was; None when that is not known."""


@frozen
class Throttled:
    """The provider said wait; the tool may end with it, or wait and go on."""

    until: datetime | None = None
    """Aware; None when it did not say, or only in words."""
    detail: str = ""


@frozen
class Waiting:
    """What a tool waits for that waits on its provider. (Made out of the signals above; it is none itself.)"""

    error: ErrorClass | None
    """How its provider failed it; None when that is not known."""
    until: datetime | None
    """Aware; None when no instant was told."""
    delay_secs: float | None
    """In how many seconds the tool said that it would try again, counted from then; None when it did not."""
    detail: str
    """What it said, which may name a time in words."""


@frozen
class Warning:  # noqa: A001 - the field's word; modules are imported and names kept qualified
    """Something went wrong that the tool could do without."""

    text: str = ""


@frozen
class Error:
    """A failure, told in its own words by a tool that may go on or end; a terminal event is believed before it."""

    text: str = ""
    error: ErrorClass | None = None


@frozen
class Unknown:
    """An event of a kind that is not known here, or a line that is none."""


@frozen
class BackgroundTask:
    """Work that goes on after the terminal event; the process is waited for while one is open."""

    open: bool
    id: str = ""


@frozen
class Finished:
    """The tool's terminal event. The last one counts; a later `Started` takes it back."""

    ok: bool
    detail: str = ""
    """What it said of its end, for a person: the answer's first words or the error; capped."""
    error: ErrorClass | None = None
    """None when it ended well, or did not say what was wrong."""
    retryable: bool | None = None
    """Whether the same run could end better; None leaves that to the class."""
    resets_at: datetime | None = None
    """Aware: when what it was short of is there again, where that is known."""
    answer: str = ""
    """The whole of its last answer, where it repeats that; capped by the longest line."""


Signal = (
    Started
    | Said
    | ToolCall
    | Denied
    | ApiCall
    | Usage
    | Retry
    | Throttled
    | Warning
    | Error
    | Unknown
    | BackgroundTask
    | Finished
)


@frozen
class Counts:
    """How many of each thing a stretch of output showed: what Nightwatch judges by."""

    tool_calls: int = 0
    """That ended."""
    tool_failures: int = 0
    """Those of them that failed."""
    api_calls: int = 0
    """That were told of; estimates are left out."""
    warnings: int = 0
    finishes: int = 0
    """Terminal events; a run can have several."""
    bad_finishes: int = 0
    """Those of them that told of a failure which is the agent's own (not its provider's, not the machine's)."""
    lines: int = 0
    """Of both streams; for plain tools only, as those say nothing else."""
    error_lines: int = 0
    """Lines on stderr of a plain tool that tell of an error."""


@frozen
class Totals:
    """What a whole run amounted to. None means that its tool does not tell."""

    session: str | None = None
    api_calls: int | None = None
    api_calls_estimated: bool = False
    """Its tool does not tell of each: `api_calls` was made out from other things that it said."""
    tool_calls: int = 0
    """That began or ended."""
    tool_failures: int = 0
    denials: int = 0
    """Tool calls that it was not allowed."""
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None
    retries: int = 0
    """Of requests to the provider, by the tool itself."""
    unknown_events: int = 0
    """Events and lines that were not understood."""
