"""Which agent gets a task that names none.

Fit comes first: what was required, else what the text names, else what its words ask for, else the declared fallback.
Only among agents that fit as well does it matter who can begin at once, who has least to do, and who is declared first.
A word in a text is a guess, so whoever asks is told by which words an agent was found, and whom it was preferred to.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from attrs import evolve, frozen

from darkfactory.model.actions import FOR_MESSAGES, Cause
from darkfactory.model.fleet import AgentDefinition, AgentLayer, OrchestratorConfig
from darkfactory.model.routing import Route, RoutedBy, RunnerUp, Standing, folded
from darkfactory.model.state import Request
from darkfactory.policy import admission, providers
from darkfactory.policy.draft import Draft
from darkfactory.policy.quoting import plain

KEYWORDS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "security": (
            *("secure", "insecure", "vulnerability", "vulnerable", "exploit", "exploitable", "CVE", "OWASP", "XSS"),
            *("CSRF", "SSRF", "RCE", "injection", "authentication", "authorization", "authorisation", "auth"),
            *("encryption", "encrypt", "credential", "secret", "password", "privilege escalation", "path traversal"),
            *("threat", "attack", "attacker", "penetration test", "pentest", "harden", "hardening", "audit"),
        ),
        "code-review": (
            *("review", "reviewer", "reviewing", "reviewed", "pull request", "merge request", "PR", "PRs", "diff"),
            *("lint", "linting", "code quality", "code smell", "readability", "second opinion"),
        ),
        "architecture": (
            *("architectural", "architect", "design", "redesign", "refactor", "refactoring", "restructure", "ADR"),
            *("coupling", "decouple", "modular", "modularity", "module boundary", "layering", "microservice"),
        ),
        "testing": (
            *("test", "tested", "tester", "untested", "coverage", "pytest", "regression", "flaky", "fuzz", "fuzzing"),
            *("fuzzer", "TDD", "QA", "end to end", "e2e"),
        ),
        "sync": (
            *("syncing", "synced", "synchronize", "synchronise", "synchronizing", "synchronising", "synchronization"),
            *("synchronisation", "upstream", "mirror", "mirroring", "rebase", "backport", "replicate"),
        ),
        "dependency-management": (
            *("dependency", "outdated", "lock file", "lockfile", "upgrade", "upgrading", "bump"),
            *("package manager", "package update", "requirements.txt", "package.json", "Cargo.toml", "go.mod"),
            *("npm", "pip", "dependabot", "renovate", "semver"),
        ),
        "documentation": (
            *("document", "documenting", "documented", "undocumented", "doc", "readme", "docstring", "changelog"),
            *("tutorial", "user guide", "wiki", "release notes", "API reference"),
        ),
        "performance": (
            *("slow", "slowness", "slower", "faster", "speed", "latency", "throughput", "profiling"),
            *("profiler", "benchmark", "benchmarking", "optimize", "optimise", "optimizing", "optimising", "hot path"),
            *("optimization", "optimisation", "bottleneck", "memory leak", "memory usage", "CPU usage", "N+1"),
        ),
    }
)
"""Capability -> the words that ask for it, besides its own name. `[routing.keywords]` adds to them."""

READ_CHARS: Final = 10_000
"""Of a text: what it is about stands at its beginning, and the supervisor must not read for long."""

_LONGEST_WORD: Final = 64
_PIECE: Final = re.compile(
    # Scripts without spaces have no bounds of words: there each character is one.
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003fffd]"
    # Letters and digits, and marks upon them, which are neither for `re`.
    r"|(?:[^\W_\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003fffd]"
    r"|[\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0900-\u0963\u0966-\u0dff])+"
    # What stands between words without parting them: the signs of C++ and of go.mod.
    r"|[^\w\s-]"
)


@frozen
class _Phrase:
    """Words that ask for a capability when they follow one another in a text."""

    words: tuple[str, ...]
    capability: str
    shown: str
    """As it is declared."""


_Index = dict[str, list[_Phrase]]
"""By the first word."""


def route(
    config: OrchestratorConfig,
    text: str,
    capabilities: Collection[str],
    standing: Mapping[str, Standing],
    *,
    excluding: Mapping[str, str] = MappingProxyType({}),
) -> Route:
    """Choose an agent for a task.

    `capabilities` are required: the agent declares all of them, or there is none. Without any, the text decides, of
    which the first `READ_CHARS` are read. `standing` tells how it stands with each agent; one that it does not know can
    be given a task and has nothing to do. `excluding` is agent -> why this task is not for it.
    """
    declared = {agent.name: frozenset(map(folded, agent.capabilities)) for agent in config.agents}
    required = tuple(sorted({*map(folded, capabilities)}))
    keywords = _keywords(config, text, frozenset().union(*declared.values()))
    named = frozenset(capability for capability, words in keywords.items() if capability in words)
    looked_for = required or tuple(keywords)
    passed_over: dict[str, str] = {}
    candidates: list[_Candidate] = []
    for order, agent in enumerate(config.agents):
        declares = declared[agent.name]
        if declares.isdisjoint(looked_for):
            continue
        stands = standing.get(agent.name, Standing())
        lacks = [capability for capability in required if capability not in declares]
        why_not = excluding.get(agent.name) or stands.unavailable
        if lacks:
            passed_over[agent.name] = f"it does not declare {_listed(lacks)}"
        elif why_not is not None:
            passed_over[agent.name] = plain(why_not)
        else:
            besides = declares.difference(required)
            asked_for = {capability: words for capability, words in keywords.items() if capability in besides}
            candidates.append(_Candidate(agent, required, asked_for, named & besides, stands.load, order))
    found = _Found(looked_for, keywords, passed_over)
    if candidates:
        return found.choose(sorted(candidates, key=_Candidate.rank))
    return _without_fit(config, found, standing, excluding, required=bool(required))


@frozen
class _Candidate:
    """An agent that fits and can be given the task."""

    agent: AgentDefinition
    required: tuple[str, ...]
    asked_for: Mapping[str, tuple[str, ...]]
    """What it declares besides and the text asks for, with the words."""
    named: frozenset[str]
    """Those of them that the text names."""
    load: int
    order: int

    def grounds(self) -> dict[str, int]:
        """What it is ranked by, what matters most first; less is better.

        Words are too weak to keep a task from an agent that declares what is required and can begin at once; where
        nothing is required they are all there is to go by.
        """
        fit = {
            "the text names more of what it declares": -len(self.named),
            "it declares more of what the text asks for": -len(self.asked_for),
        }
        soon = {"it can begin at once": int(self.agent.layer is not AgentLayer.GROWTH)}
        apart = {"it has less to do": self.load, "it is declared first": self.order}
        return (soon | fit if self.required else fit | soon) | apart

    def rank(self) -> tuple[int, ...]:
        """The best one has the least."""
        return tuple(self.grounds().values())

    def reasons(self) -> Iterator[str]:
        """What speaks for it."""
        if self.required:
            yield f"declares all that is required: {_listed(self.required)}"
        if self.named:
            yield f"the text names {_listed(sorted(self.named))}, which it declares"
        for capability, words in self.asked_for.items():
            if capability not in self.named:
                yield f"declares {capability}, which the text asks for ({_listed(words)})"
        match self.agent.layer:
            case AgentLayer.GROWTH:
                yield "is started for it"
            case layer:
                yield f"is told with its next prompt, as a {layer.value} agent"
        yield f"has {self.load or 'nothing'} to do before it"

    def before(self, other: _Candidate) -> str:
        """Why it is chosen and the other one is not."""
        theirs = other.grounds()
        return next(ground for ground, ours in self.grounds().items() if ours < theirs[ground])


@frozen
class _Found:
    """What every answer tells, whoever is chosen."""

    looked_for: tuple[str, ...]
    keywords: Mapping[str, tuple[str, ...]]
    passed_over: Mapping[str, str]

    def choose(self, candidates: list[_Candidate]) -> Route:
        """The first one."""
        best, *others = candidates
        reasons = [*best.reasons()]
        if others:
            reasons.append(f"comes before {others[0].agent.name}: {best.before(others[0])}")
        return Route(
            best.agent.name,
            RoutedBy.CAPABILITIES if best.required or best.named else RoutedBy.KEYWORDS,
            tuple(reasons),
            self.looked_for,
            self.keywords,
            tuple(RunnerUp(other.agent.name, tuple(other.reasons())) for other in others),
            self.passed_over,
        )

    def otherwise(self, agent: str | None, *reasons: str) -> Route:
        """The fallback, or nobody."""
        by = None if agent is None else RoutedBy.FALLBACK
        return Route(agent, by, reasons, self.looked_for, self.keywords, passed_over=self.passed_over)


def _without_fit(
    config: OrchestratorConfig,
    found: _Found,
    standing: Mapping[str, Standing],
    excluding: Mapping[str, str],
    *,
    required: bool,
) -> Route:
    """The answer where no agent that can be given the task fits."""
    fallback = config.routing.fallback
    if required:
        nobody = f"no agent that can be given it declares {_listed(found.looked_for)}"
        if len(found.looked_for) > 1:
            nobody += " together"
        declared = sorted({folded(capability) for agent in config.agents for capability in agent.capabilities})
        reasons = [nobody, f"the agents declare {_listed(declared) or 'no capability'}"]
        if fallback is not None:
            reasons.append(f"the fallback {fallback} does not get what was required of others")
        return found.otherwise(None, *reasons)
    if found.looked_for:
        nobody = f"no agent that can be given it declares {' or '.join(found.looked_for)}, which the text asks for"
    else:
        nobody = "the text names no capability and holds no keyword of one"
    if fallback is None:
        return found.otherwise(None, nobody, "no fallback is declared ([routing] fallback)")
    why_not = excluding.get(fallback) or standing.get(fallback, Standing()).unavailable
    if why_not is not None:
        passed_over = {**found.passed_over, fallback: plain(why_not)}
        return evolve(found, passed_over=passed_over).otherwise(None, nobody, f"nor can the fallback {fallback}")
    return found.otherwise(fallback, nobody, "it is the declared fallback")


def standing_of(draft: Draft) -> dict[str, Standing]:
    """How it stands with every agent: whom the gate would refuse a run now, or keep waiting for its provider.

    Whatever passes by itself within a run, or keeps all agents waiting, is no reason to pass one over.
    """
    requests = (request.agent for request in draft.queue.values() if request.cause not in FOR_MESSAGES)
    load = Counter([*draft.runs.values(), *requests])
    load.update({name: sum(each.run is None for each in box) for name, box in draft.mail.boxes.items()})
    known: providers.Known = {}
    found = {}
    for name, agent in draft.agents.items():
        request = Request(name, Cause.CRON, draft.when.utc)
        provider = providers.choose(draft, request, known).waits
        around = admission.Surroundings(draft.config, draft.when, live_runs=0, provider=provider)
        obstacle = admission.admit(evolve(agent, run=None), request, around)
        found[name] = Standing(f"{obstacle.reason}: {obstacle.detail}" if obstacle is not None else None, load[name])
    return found


def _keywords(config: OrchestratorConfig, text: str, declared: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Capability -> what asks for it in the text: its own name, where that is known, and its words."""
    index = _index(config.routing.keywords, declared)
    words = _words(text[:READ_CHARS])
    found: dict[str, dict[str, None]] = {}
    for position, word in enumerate(words):
        for known in (_DEFAULT, index):
            for phrase in known.get(word, ()):
                if words[position : position + len(phrase.words)] == phrase.words:
                    found.setdefault(phrase.capability, {})[phrase.shown] = None
    return {capability: tuple(sorted(found[capability])) for capability in sorted(found)}


def _index(keywords: Mapping[str, Iterable[str]], names: Iterable[str]) -> _Index:
    """What asks for these capabilities, and for those of these names."""
    phrases = [(folded(capability), keyword) for capability, each in keywords.items() for keyword in each]
    phrases += [(name, name) for name in {*names, *map(folded, keywords)}]
    index: _Index = {}
    for capability, shown in phrases:
        words = _words_of(shown)
        if words:
            index.setdefault(words[0], []).append(_Phrase(words, capability, shown))
    return index


def _words(text: str) -> tuple[str, ...]:
    """The words of a text, each in one form: without case, and without the plural where it looks English.

    Hyphens and underscores part words as spaces do, so that `code-review` is found in "Code Review".
    """
    forms: dict[str, str] = {}
    pieces = _PIECE.findall(text)
    for piece in pieces:
        if piece not in forms:
            forms[piece] = _form(piece)
    return tuple(forms[piece] for piece in pieces)


_words_of = lru_cache(maxsize=4096)(_words)
"""For what is declared: the same ones come again with every text."""


def _form(word: str) -> str:
    if len(word) > _LONGEST_WORD:  # nobody declares such a one, and normalizing takes quadratic time
        return ""
    word = unicodedata.normalize("NFKC", word).casefold()
    if not word.isascii() or len(word) < 4:
        return word
    if word.endswith("s") and not word.endswith("ss"):
        word = word[:-1]
    if word.endswith("ie"):  # dependencies, dependency; and so that it is found again, cookie
        return word[:-2] + "y"
    return word[:-1] if word.endswith(("che", "she", "se", "xe", "ze")) else word  # patches, patch; caches, cache


def _listed(words: Iterable[str]) -> str:
    return ", ".join(map(plain, words))


_DEFAULT: Final = _index(KEYWORDS, ())
