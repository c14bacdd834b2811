"""What a run's signals amount to: the fold of all of them, in bounded memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime
from typing import Any, assert_never

from attrs import define, field, frozen

from darkfactory.model import signals as seen
from darkfactory.model.ends import CLASSES, Blame, ErrorClass
from darkfactory.model.messages import Mention
from darkfactory.model.providers import Spending
from darkfactory.model.signals import Basis, Counts, Error, Finished, Signal, Stream, Totals, Usage, Waiting
from darkfactory.tools.mentions import written
from darkfactory.tools.text import name_of, one_line

ANSWER_CHARS = 4000
"""Of the last thing that the assistant said, this much is told."""
WHOLE_CHARS = 64 * 1024
"""Of the same, this much is kept."""
_OPEN_CALLS = 256
"""Tool calls that are told apart while they have not ended."""
_OPEN_TASKS = 256
NOTHING = Counts()
NOTHING_SPENT = Spending()
_TROUBLES = 2
_MENTIONS = 32
_HANDOFFS = 4


@frozen
class Place:
    """A line of a run's output; the first is 1."""

    stream: Stream
    line: int

    def __str__(self) -> str:
        return f"{self.stream.value}:{self.line}"


@define
class Tally:
    """What was seen of a run so far. Sums are of the whole run; None means that its tool did not tell."""

    earlier: Mapping[str, Usage] = field(factory=dict)
    """By session: what it had used up when the run before this one ended."""
    session: str | None = None
    session_usage: Usage | None = None
    """What the whole session has used up; None when the tool tells of its runs alone."""
    api_calls: int | None = None
    api_calls_estimated: bool = False
    tool_calls: int = 0
    """That began or ended."""
    tool_failures: int = 0
    denials: int = 0
    """Tool calls that it was not allowed."""
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None
    retries: int = 0
    answered: bool = False
    """Its provider has answered it."""
    waiting: Waiting | None = None
    """It waits for its provider; None as soon as it gets on, and once it has ended."""
    waited: Waiting | None = None
    """What it waits for, or waited for when it ended."""
    throttled_until: datetime | None = None
    """What its provider named last."""
    background: set[str] = field(factory=set)
    """Tasks that go on after a terminal event."""
    unknown: int = 0
    """Events and lines that were not understood."""
    said: str = ""
    """The last thing that the assistant said, capped."""
    mentions: dict[Mention, None] = field(factory=dict)
    """The first ones of the run, each once."""
    handoffs: tuple[str, ...] = ()
    """The handoff blocks of the last thing that it said."""
    finished: Finished | None = None
    """Its terminal event, unless it began anew behind it."""
    finished_at: Place | None = None
    error: Error | None = None
    """The last failure that it told of; None after a new start, or an end that was good."""
    error_at: Place | None = None
    last_words: str = ""
    """On stderr: the last line that tells of an error, or else the last line at all."""
    last_words_at: Place | None = None
    _more_mentions: bool = False
    _more_handoffs: bool = False
    _words_tell: bool = False
    _open: dict[str, str] = field(factory=dict)
    """Tool calls that have not ended, by id: what was called."""
    _troubles: dict[str, None] = field(factory=dict)
    """Failures since they were last taken, in words; the last ones, each once."""
    _counts: defaultdict[str, int] = field(factory=lambda: defaultdict(int))
    """Since they were last taken: fields of `Counts`."""

    @property
    def totals(self) -> Totals:
        """The sums."""
        return Totals(
            self.session,
            self.api_calls,
            self.api_calls_estimated,
            self.tool_calls,
            self.tool_failures,
            self.denials,
            self.input_tokens,
            self.output_tokens,
            None if self.cost_usd is None else round(self.cost_usd, 9),
            self.retries,
            self.unknown,
        )

    @property
    def spent(self) -> Spending:
        """The sums that limits are set on, as far as its tool tells."""
        if not (self.api_calls or self.input_tokens or self.output_tokens or self.cost_usd):
            return NOTHING_SPENT
        return Spending(
            max(self.api_calls or 0, 0),
            max((self.input_tokens or 0) + (self.output_tokens or 0), 0),
            max(round(self.cost_usd or 0.0, 9), 0.0),
        )

    @property
    def answer(self) -> str:
        """The last answer, or else the last thing said; capped."""
        return self.whole_answer[:ANSWER_CHARS]

    @property
    def whole_answer(self) -> str:
        """The same, up to `WHOLE_CHARS`."""
        answer = self.finished.answer if self.finished is not None else ""
        return answer[:WHOLE_CHARS] or self.said

    @property
    def left_out(self) -> tuple[str, ...]:
        """What of that which it wrote for other agents is not here, each kind in words."""
        told = {
            f"it mentioned others more than {_MENTIONS} times": self._more_mentions,
            f"it handed over more than {_HANDOFFS} times": self._more_handoffs,
        }
        return tuple(words for words, more in told.items() if more)

    @property
    def worked(self) -> bool:
        """There is evidence of work: it said something, or used a tool."""
        return bool(self.tool_calls or self.answer.strip())

    @property
    def over(self) -> bool:
        """A terminal event is the last thing that it said, and nothing goes on behind it."""
        return self.finished is not None and not self.background

    def counts(self) -> Counts:
        """What came since this was called last; `NOTHING` itself if nothing did."""
        if not self._counts:
            return NOTHING
        counts, self._counts = Counts(**self._counts), defaultdict(int)
        return counts

    @property
    def excused(self) -> bool:
        """It has a reason to be silent: it waits for its provider, or one of its tools works."""
        at_work = self.background or (self._open and self.finished is None)  # some tools leave calls open at the end
        return self.waiting is not None or bool(at_work)

    def troubles(self) -> tuple[str, ...]:
        """How the last failures since this was called last were put, oldest first."""
        if not self._troubles:
            return ()
        troubles, self._troubles = tuple(self._troubles), {}
        return troubles

    def _hear(self, text: str) -> None:
        """What it said may hold something for other agents; the final answer repeats what was said before."""
        found = written(text)
        for mention in found.mentions:
            if mention not in self.mentions and len(self.mentions) == _MENTIONS:
                self._more_mentions = True
                break
            self.mentions[mention] = None
        self.handoffs, self._more_handoffs = found.handoffs[:_HANDOFFS], len(found.handoffs) > _HANDOFFS

    def take(self, signal: Signal, place: Place | None = None) -> None:
        """Take the next signal, and where it was."""
        match signal:
            case seen.ToolCall():
                self._tool_call(signal)
            case seen.Said(text):
                self.said = text[:WHOLE_CHARS]
                self._hear(text)
                self._get_on()
            case seen.ApiCall(count, exact):
                self.api_calls = (self.api_calls or 0) + count
                self.api_calls_estimated |= not exact
                self._counts["api_calls"] += count if exact else 0
                if count and exact:  # an estimate may count what was asked in vain
                    self._get_on()
            case seen.Usage():
                self._use(signal)
            case seen.Started(session):
                self.session = session or self.session
                self.finished = self.finished_at = self.error = self.error_at = None
            case seen.Finished():
                self._end(signal, place)
            case seen.Retry(detail=detail, delay_secs=delay_secs, error=error):
                self.retries += 1
                self.waiting = self.waited = Waiting(error, None, delay_secs, detail)
            case seen.Throttled(until, detail):
                error = ErrorClass.THROTTLED if until is None else ErrorClass.QUOTA
                self.waiting = self.waited = Waiting(error, until, None, detail)
                self.throttled_until = until
            case seen.Error():
                self.error, self.error_at = signal, place
            case seen.Warning():
                self._counts["warnings"] += 1
            case seen.BackgroundTask(is_open, task):
                if not is_open:
                    self.background.discard(name_of(task))
                elif len(self.background) < _OPEN_TASKS:
                    self.background.add(name_of(task))
            case seen.Denied():
                self.denials += 1
            case seen.Unknown():
                self.unknown += 1
            case _:
                assert_never(signal)

    def lines(self, lines: int, error_lines: int = 0) -> None:
        """Take lines of a program that says nothing else of itself."""
        self._counts["lines"] += lines
        self._counts["error_lines"] += error_lines

    def words(self, text: str, place: Place, *, tells: bool) -> None:
        """Take a line of stderr; `tells` of an error or is just the last one so far."""
        if tells or not self._words_tell:
            self.last_words, self.last_words_at, self._words_tell = text, place, tells

    def _use(self, usage: Usage) -> None:
        before: Tally | Usage = self
        if usage.basis is Basis.SESSION:
            self.session_usage = usage
            earlier = self.earlier.get(self.session or "", Usage())
            usage = Usage(
                _less(usage.input_tokens, earlier.input_tokens),
                _less(usage.output_tokens, earlier.output_tokens),
                _less(usage.cost_usd, earlier.cost_usd),
            )
            before = Usage()
        self.input_tokens = _added(before.input_tokens, usage.input_tokens)
        self.output_tokens = _added(before.output_tokens, usage.output_tokens)
        self.cost_usd = _added(before.cost_usd, usage.cost_usd)

    def _get_on(self) -> None:
        self.answered, self.waiting, self.waited = True, None, None

    def _tool_call(self, call: seen.ToolCall) -> None:
        self._get_on()
        key = name_of(call.id)
        if call.ok is None:
            if key in self._open:
                return
            if key:
                self._open[key] = name_of(call.name)
                if len(self._open) > _OPEN_CALLS:
                    del self._open[next(iter(self._open))]
            self.tool_calls += 1
            return
        name = name_of(call.name)
        if key in self._open:
            name = self._open.pop(key) or name
        else:
            self.tool_calls += 1
        self.tool_failures += not call.ok
        if not call.ok:
            self._trouble(f"{name or 'a tool'} failed")
        self._counts["tool_calls"] += 1
        self._counts["tool_failures"] += not call.ok

    def _end(self, end: Finished, place: Place | None) -> None:
        self.finished, self.finished_at, self.waiting = end, place, None
        if end.answer:
            self._hear(end.answer)
        if end.ok:
            self.error = self.error_at = None
        own_fault = not end.ok and CLASSES[end.error or ErrorClass.UNKNOWN].blame is Blame.AGENT
        self._counts["finishes"] += 1
        self._counts["bad_finishes"] += own_fault
        if own_fault:
            self._trouble(one_line(end.detail))

    def _trouble(self, words: str) -> None:
        self._troubles.pop(words, None)
        self._troubles[words] = None
        if len(self._troubles) > _TROUBLES:
            del self._troubles[next(iter(self._troubles))]


def _less(total: Any, earlier: Any) -> Any:
    return total if total is None or earlier is None else total - earlier


def _added(so_far: Any, more: Any) -> Any:
    return so_far if more is None else (so_far or 0) + more
