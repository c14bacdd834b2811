"""What a single value of a fleet may be, whatever stands around it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from darkfactory.config import words
from darkfactory.config.finding import Finding, Misfit
from darkfactory.config.lines import Keys

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_PROVIDER = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_LONGEST_WORDS = 64
"""Characters of a capability or a keyword. What is longer is a sentence, and in no text twice."""
_LONGEST_GLOB = 256
"""What two of them have in common takes time in proportion to the product of their lengths."""
_RUN_MARK = "DARKFACTORY_RUN"
"""The variable by which the launcher knows a run's processes again."""


def name(keys: Keys, found: str) -> Iterator[Finding]:
    """What cannot name an agent, a tool or a provider: names become names of files."""
    if not _NAME.fullmatch(found):
        yield Finding(
            keys,
            f"{words.shown(found)} is not safe as a file name",
            "write name = \"...\" with at most 64 letters, digits, '.', '_' and '-', and neither '.' nor '-' first",
        )


def path(keys: Keys, found: Path) -> Iterator[Finding]:
    """What is no path to rely on, wherever the factory is started."""
    if not found.is_absolute():
        yield Finding(keys, "must be an absolute path")
    yield from text(keys, str(found))


def program(keys: Keys, found: str) -> Iterator[Finding]:
    """What cannot be a program to start."""
    if not found:
        yield Finding(keys, "must not be empty: it is the program to start")
    if found.startswith("~") or "${" in found:
        yield Finding(keys, "'~' and '${...}' are not expanded in a program's name", "write the whole path")
    yield from text(keys, found)


def arguments(keys: Keys, found: tuple[str, ...], instead: str = "put it into the agent's env") -> Iterator[Finding]:
    """What cannot be handed to a program, or was meant to be expanded."""
    for index, argument in enumerate(found):
        if "${" in argument:
            yield Finding(
                (*keys, index),
                "'${...}' is not expanded here: the value would be visible to everybody in ps",
                instead,
            )
        yield from text((*keys, index), argument)


def variable(keys: Keys, name: str, value: str) -> Iterator[Finding]:
    """What cannot be in an environment."""
    place = (*keys, name)
    if not name or "=" in name or "\0" in name:
        # What follows the '=' may be a secret that was put on the wrong side.
        place, head = keys, re.split("[=\0]", name)[0]
        yield Finding(place, f"{head!r}... is no variable's name: it must have a character, and neither '=' nor NUL")
    elif name == _RUN_MARK:
        yield Finding(place, "is set by darkfactory itself, to know the run's processes", "remove it")
    yield from text(place, value)


def provider(keys: Keys, name: str) -> Iterator[Finding]:
    """What is no key of a provider."""
    if not _PROVIDER.fullmatch(name):
        remedy = "write it in one way everywhere: lower-case letters, digits, '.', '_' and '-', no more than 64"
        yield Finding(keys, f"{words.shown(name)} is no key of a provider", remedy)


def model(keys: Keys, found: str) -> Iterator[Finding]:
    """What cannot name a model."""
    if not found:
        yield Finding(keys, "must not be empty", "leave it out for the tool's own default")
    yield from text(keys, found)


def few_words(keys: Keys, found: str, noun: str) -> Iterator[Finding]:
    """What is no `noun`, as the fleet file calls it, in a word or a few."""
    if not any(map(str.isalnum, found)):
        yield Finding(keys, f"{words.shown(found)} is no {noun}: it has neither a letter nor a digit")
    if len(found) > _LONGEST_WORDS:
        yield Finding(keys, f"is longer than the {_LONGEST_WORDS} characters of a {noun}", "name it in a few words")


def glob(keys: Keys, found: str) -> Iterator[Finding]:
    """What no path below the working directory could match, or would not as it was meant."""
    remedy = 'name it from working_dir on, as "src/**", "docs/*.md" or "Makefile"'
    if not found.strip():
        yield Finding(keys, "must not be empty", 'write "**" for everything')
    elif found.startswith(("/", "~")):
        yield Finding(keys, "must be relative to working_dir", remedy)
    elif ".." in found.split("/"):
        yield Finding(keys, "must not leave working_dir: '..' is no part of a path that a glob is matched with", remedy)
    elif "\\" in found:
        yield Finding(keys, "holds a backslash, which has no meaning here", "put a wildcard in brackets: [*]")
    elif len(found) > _LONGEST_GLOB:
        yield Finding(keys, f"must have at most {_LONGEST_GLOB} characters, found {len(found)}", remedy)
    yield from text(keys, found)


def pattern(here: Keys, found: str) -> Iterator[Finding]:
    """What is no regular expression that a line of output could be looked at with."""
    try:
        empty = re.compile(found.encode()).search(b"") is not None
    except (re.error, RecursionError, OverflowError) as error:
        yield Finding(here, f"is no regular expression: {error}", "see https://docs.python.org/3/library/re.html")
    else:
        if empty:
            yield Finding(here, "matches every line, also an empty one", "name what such a line must hold")


def valid(keys: Keys, validate: Callable[..., None], *values: object) -> Iterator[Finding]:
    """What a function that raises `Misfit` finds."""
    try:
        validate(*values)
    except Misfit as misfit:
        yield Finding(keys, misfit.problem, misfit.remedy)


def text(keys: Keys, found: str) -> Iterator[Finding]:
    """What cannot be handed on as text."""
    if "\0" in found:
        yield Finding(keys, "holds a NUL character, which no program can be given")
    if any("\ud800" <= character <= "\udfff" for character in found):
        yield Finding(keys, "holds half of a surrogate pair, which no file can hold")
