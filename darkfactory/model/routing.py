"""How a task finds its agent: what the operator may say of it, and what a choice looks like."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from enum import Enum
from functools import lru_cache

from attrs import field, frozen

_APART = re.compile(r"[\s_-]+")


@frozen
class RoutingConfig:
    """Who gets a task that names no agent (`[routing]`)."""

    fallback: str | None = None
    """The agent that gets what fits nobody; None means that such a task is refused."""
    keywords: Mapping[str, tuple[str, ...]] = field(factory=dict)
    """Capability -> words that ask for it, besides those that it has by default."""


@lru_cache(maxsize=4096)
def folded(capability: str) -> str:
    """A capability as it is compared: `Code Review` and `code_review` are `code-review`."""
    return _APART.sub("-", unicodedata.normalize("NFKC", capability).casefold()).strip("-")


@frozen
class Standing:
    """Whether an agent can be given a task, and how much it has at hand."""

    unavailable: str | None = None
    """Why it is passed over, in the gate's words; None while it can be given one."""
    load: int = 0
    """Its live run and whatever waits for it."""


class RoutedBy(Enum):
    """What a choice was made by; the value is the word used in JSON and the journal."""

    CAPABILITIES = "capabilities"
    """The agent declares what was required, or what the text names."""
    KEYWORDS = "keywords"
    """The agent declares what words of the text ask for."""
    FALLBACK = "fallback"
    """No agent that can be given a task fits, and this one is declared for that."""


@frozen
class RunnerUp:
    """An agent that would have been chosen if those before it could not."""

    agent: str
    reasons: tuple[str, ...]
    """What speaks for it, each for a person to read."""


@frozen
class Route:
    """The choice of an agent for a task, or the refusal, and why."""

    agent: str | None
    """None is a refusal."""
    by: RoutedBy | None
    """None with a refusal."""
    reasons: tuple[str, ...]
    """Why this agent, or why none; each for a person to read."""
    looked_for: tuple[str, ...] = ()
    """The capabilities: those required, or else those that the text asks for."""
    keywords: Mapping[str, tuple[str, ...]] = field(factory=dict)
    """Capability -> the words that ask for it in the text, as they are declared, not as they were written."""
    runners_up: tuple[RunnerUp, ...] = ()
    """Best first."""
    passed_over: Mapping[str, str] = field(factory=dict)
    """Agent -> why it was not considered although something that was looked for speaks for it."""
