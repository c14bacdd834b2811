"""For any document: every line is right, and what cannot be read as a fleet is a ConfigError.

The documents are written in every way that TOML has, and the writer notes the line of all that they hold.
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import attrs
from attrs import define, field
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from darkfactory.config import check_config, parse_config
from darkfactory.config.lines import Keys, key_lines
from darkfactory.errors import ConfigError
from darkfactory.model.fleet import (
    AgentDefinition,
    CompoundReviewConfig,
    LayerConfig,
    MinSamples,
    NightwatchConfig,
    OrchestratorConfig,
    ToolConfig,
)

SCALARS = st.one_of(
    st.sampled_from(["true", "false", "nan", "-inf", "1_000", "0xff", "-7", "1.5e3", "07:32:00"]),
    st.sampled_from(["1979-05-27", "1979-05-27 07:32:00", "1979-05-27T07:32:00Z"]),
    st.integers(-(2**63), 2**63).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.sampled_from(["5m", "2GiB", "Core", "@daily", "bash", "${X}", "[a]", "a = 1", "# no", ""]).map(json.dumps),
    st.text().map(lambda text: quoted(text)),
    st.sampled_from([r"'a # [x]'", "''", r"'\'", r'"\""', r'"\\"', r'"\u0041\\"', "'''it''s [x]'''", '"""a"""""']),
    st.sampled_from(['"""\n[x]\nkey = 1\n# "no"\n"""', "'''\n[[x]]\nkey = [\n'''", '"""\n\\"""\n[x]\n"""', "''''''"]),
)

# How long an example takes says something of the machine alone.
UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

NOISE = st.lists(st.sampled_from(["", "  ", "# [x]", "# key = 1", '# """', "\t# it's"]), max_size=2)

KEYS = st.one_of(
    st.sampled_from(["a", "b", "c-d", "1", "true", "name", "x.y", "a b", "[a]", "#", '"', "'", ""]), st.text(max_size=5)
)


def quoted(text: str) -> str:
    """A basic string; whatever is not plain is escaped, since JSON and TOML agree only on that."""
    return '"' + re.sub(r"[^ !#-\[\]-~]", lambda found: f"\\U{ord(found[0]):08X}", text) + '"'


@define(eq=False)
class Writer:
    """A document while it is written."""

    draw: st.DrawFn
    keys: st.SearchStrategy[str]
    text: str = ""
    lines: dict[Keys, int] = field(factory=dict)

    def table(self, place: Keys, depth: int) -> None:
        """Key and value pairs, then (at depth 0 and 1) tables and arrays of tables with headers of their own."""
        names = self.draw(st.lists(self.keys, unique=True, max_size=5))
        headers = [name for name in names if depth < 2 and self.draw(st.booleans())]
        for name in names:
            if name not in headers:
                self.noise()
                self.pair((*place, name), depth + 1)
                self.text += self.draw(st.sampled_from(["\n", "  # [x]\n", "\t\r\n"]))
        for name in headers:
            inside = (*place, name)
            if self.draw(st.booleans()):
                for index in range(self.draw(st.integers(1, 3))):
                    self.header("[[", inside, "]]")
                    self.note((*inside, index), self.line - 1)
                    self.table((*inside, index), depth + 1)
            else:
                self.header("[", inside, "]")
                self.table(inside, depth + 1)

    def header(self, opening: str, place: Keys, closing: str) -> None:
        self.noise()
        for length in range(1, len(place) + 1):
            self.note(place[:length], self.line)
        dotted = ".".join(self.name(key) for key in place if isinstance(key, str))
        self.text += f"{opening} {dotted}\t{closing} # ]\n"

    def pair(self, place: Keys, depth: int) -> None:
        """`key = value`, or `key.key = value`."""
        self.note(place, self.line)
        name = self.name(str(place[-1]))
        if depth < 3 and self.draw(st.integers(0, 4)) == 0:
            inner = self.draw(self.keys)
            place = (*place, inner)
            self.note(place, self.line)
            name += f" . {self.name(inner)}"
        self.text += f"{name} = "
        self.value(place, depth)

    def value(self, place: Keys, depth: int) -> None:
        kind = self.draw(st.sampled_from(["scalar", "scalar", "array", "inline"])) if depth < 4 else "scalar"
        if kind == "scalar":
            self.text += self.draw(SCALARS)
        elif kind == "array":
            self.text += "["
            for index in range(self.draw(st.integers(0, 3))):
                self.text += self.draw(st.sampled_from(["", " ", "\n", " # ],\n\n"]))
                self.note((*place, index), self.line)
                self.value((*place, index), depth + 1)
                self.text += self.draw(st.sampled_from([",", " ,", "\n,"]))
            self.text += self.draw(st.sampled_from(["", "\n", "# ]\n"])) + "]"
        else:
            names = self.draw(st.lists(self.keys, unique=True, max_size=3))
            self.text += "{"
            for number, name in enumerate(names):
                self.text += ", " if number else " "
                self.pair((*place, name), depth + 1)
            self.text += " }"

    def noise(self) -> None:
        for line in self.draw(NOISE):
            self.text += line + "\n"

    def name(self, key: str) -> str:
        """A key bare, in single or in double quotes, as far as it can be written so."""
        ways = [quoted(key)]
        if re.fullmatch("[A-Za-z0-9_-]+", key):
            ways.append(key)
        if re.fullmatch(r"[ -&(-~]*", key):
            ways.append(f"'{key}'")
        return self.draw(st.sampled_from(ways))

    def note(self, place: Keys, line: int) -> None:
        self.lines.setdefault(place, line)

    @property
    def line(self) -> int:
        return self.text.count("\n") + 1


@st.composite
def documents(draw: st.DrawFn, keys: st.SearchStrategy[str] = KEYS) -> tuple[str, dict[Keys, int]]:
    """A text that tomllib takes, and the line of each key, table and array element in it."""
    writer = Writer(draw, keys)
    writer.table((), 0)
    writer.noise()
    return writer.text, writer.lines


def places(value: object, here: Keys = ()) -> set[Keys]:
    """Everything in a tree that has a place."""
    match value:
        case dict():
            inside = {(*here, key): each for key, each in value.items()}
        case list():
            inside = {(*here, index): each for index, each in enumerate(value)}
        case _:
            inside = {}
    return set(inside).union(*(places(each, place) for place, each in inside.items()))


@settings(UNTIMED)
@given(documents())
def test_each_key_and_element_is_on_the_line_where_it_was_written(document):
    text, lines = document
    assert set(lines) == places(tomllib.loads(text)), "the writer knows what it wrote"
    assert key_lines(text) == lines


SECTIONS = (
    OrchestratorConfig,
    NightwatchConfig,
    MinSamples,
    LayerConfig,
    CompoundReviewConfig,
    ToolConfig,
    AgentDefinition,
)
WORDS = st.sampled_from(
    [attribute.name for section in SECTIONS for attribute in attrs.fields(section)] + ["Safety", "core", "bash", "A=B"]
)

EXAMPLES = [
    (Path(__file__).parents[1] / "data" / name).read_text() for name in ("many_mistakes.toml", "seed_example.toml")
]


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """An example of which some pieces were moved, lost or replaced."""
    text = draw(st.sampled_from(EXAMPLES))
    for _ in range(draw(st.integers(1, 4))):
        if draw(st.booleans()):
            pieces = text.split("\n")
            separator = "\n"
        else:
            pieces = re.split("([^A-Za-z0-9_]+)", text)
            separator = ""
        at = draw(st.integers(0, len(pieces) - 1))
        other = draw(st.integers(0, len(pieces) - 1))
        pieces[at] = draw(st.one_of(st.just(""), st.just(pieces[other]), SCALARS, WORDS))
        text = separator.join(pieces)
    return text


@settings(UNTIMED, max_examples=300)
@given(st.one_of(st.text(), documents(WORDS).map(lambda document: document[0]), damaged()))
def test_any_text_is_a_fleet_in_order_or_a_config_error(text):
    try:
        config = parse_config(text, file="fleet.toml", base=Path("/base"), environ={"X": "x"})
    except ConfigError as error:
        faults = error.faults
        lines = {fault.line for fault in faults if fault.line is not None}
        assert faults
        assert lines <= set(range(1, text.count("\n") + 2))
    else:
        assert check_config(config) == ()
