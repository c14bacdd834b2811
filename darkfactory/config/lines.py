"""Which line does a key stand on?

No TOML library keeps line numbers, and a fault without one sends somebody searching at 3 a.m. So the text is read a
second time, for its keys only. The text must have passed tomllib: this scanner finds where things are and never
whether they are right.
"""

from __future__ import annotations

import bisect
import json
import re
import tomllib
from collections.abc import Mapping

from attrs import define, field

Keys = tuple[str | int, ...]
"""A place in the tree: `("agents", 2, "schedule")`; integers are positions in an array."""

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}'  # up to two quotes may stand before the closing three
    r"|'''.*?'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
_SPACE = re.compile(r"[ \t]*")
_GAP = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_PLAIN = re.compile(r"[^,\]}#\n]+")
"""A number, a boolean or a date: dates may hold a space, nothing of the kind a delimiter."""


def dotted(keys: Keys) -> str:
    """The place as people write it: `agents[2].schedule`, with quotes where TOML wants them."""
    text = ""
    for key in keys:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            text += ("." if text else "") + (key if _BARE_KEY.fullmatch(key) else json.dumps(key))
    return text


def line_of(lines: Mapping[Keys, int], keys: Keys) -> int:
    """The line of a place, or of the nearest thing around it that has one; the first line for the whole file."""
    while keys:
        if keys in lines:
            return lines[keys]
        keys = keys[:-1]
    return 1


def key_lines(text: str) -> dict[Keys, int]:
    """The 1-based line on which each key, table and array element of a TOML text first appears.

    Raises RecursionError where arrays and inline tables nest about as deep as tomllib itself can go.
    """
    scanner = _Scanner(text.replace("\r\n", "\n"))
    scanner.document()
    return scanner.lines


@define(eq=False)
class _Scanner:
    """A position in the text, moved on by each method over what it is named after."""

    text: str
    at: int = 0
    lines: dict[Keys, int] = field(factory=dict)
    newlines: list[int] = field(init=False)
    sizes: dict[Keys, int] = field(factory=dict)
    """How many elements each array of tables has so far: a header inside one means the last of them."""

    def __attrs_post_init__(self) -> None:
        self.newlines = [match.start() for match in re.finditer("\n", self.text)]

    def document(self) -> None:
        table: Keys = ()
        while self._skip(_GAP) < len(self.text):
            if self.text.startswith("[[", self.at):
                table = self._header(2)
            elif self.text[self.at] == "[":
                table = self._header(1)
            else:
                self._pair(table)

    def _header(self, brackets: int) -> Keys:
        start = self.at
        self.at += brackets
        *parents, last = self._key()
        self.at += brackets
        table: Keys = ()
        for part in parents:
            table = self._latest((*table, part))
            self._note(table, start)
        table = (*table, last)
        self._note(table, start)
        if brackets == 2:
            self.sizes[table] = self.sizes.get(table, 0) + 1
        table = self._latest(table)
        self._note(table, start)
        return table

    def _latest(self, table: Keys) -> Keys:
        return (*table, self.sizes[table] - 1) if table in self.sizes else table

    def _pair(self, table: Keys) -> None:
        start = self.at
        for part in self._key():
            table = (*table, part)
            self._note(table, start)
        self.at += 1  # the equals sign
        self._value(table)

    def _key(self) -> list[str]:
        """A dotted key with the space around it; leaves the position at what ends it."""
        parts = []
        while True:
            self._skip(_SPACE)
            if quoted := _STRING.match(self.text, self.at):
                self.at = quoted.end()
                parts.append(tomllib.loads(f"key = {quoted[0]}")["key"])
            else:
                start = self.at
                parts.append(self.text[start : self._skip(_BARE_KEY)])
            self._skip(_SPACE)
            if self.text[self.at] != ".":
                return parts
            self.at += 1

    def _value(self, keys: Keys) -> None:
        self._skip(_SPACE)
        first = self.text[self.at]
        if first in "\"'":
            self._skip(_STRING)
        elif first == "[":
            self._array(keys)
        elif first == "{":
            self._inline_table(keys)
        else:
            self._skip(_PLAIN)

    def _array(self, keys: Keys) -> None:
        self.at += 1
        index = 0
        while self.text[self._skip(_GAP)] != "]":
            if self.text[self.at] == ",":
                self.at += 1
                continue
            self._note((*keys, index), self.at)
            self._value((*keys, index))
            index += 1
        self.at += 1

    def _inline_table(self, keys: Keys) -> None:
        self.at += 1
        while self.text[self._skip(_GAP)] != "}":
            if self.text[self.at] == ",":
                self.at += 1
                continue
            self._pair(keys)
        self.at += 1

    def _skip(self, pattern: re.Pattern[str]) -> int:
        match = pattern.match(self.text, self.at)
        assert match is not None, f"tomllib passed what is no TOML at {self.at}"
        self.at = match.end()
        return self.at

    def _note(self, keys: Keys, position: int) -> None:
        self.lines.setdefault(keys, bisect.bisect_left(self.newlines, position) + 1)
