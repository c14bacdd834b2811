from __future__ import annotations

import pytest

from darkfactory.config.lines import dotted, key_lines, line_of

DOCUMENT = '''\
# [none]
top = 1
"quoted key" = """
[none]
none = 1
"""
a.b.c = 2   # none = 3

[table]     # [none]
text = \'\'\'
[[none]]\'\'\'
date = 1979-05-27 07:32:00
list = [ "]", # ]
    [ 1,
      2 ],
    { x = 1, "y]" = "}" },
]

[[agents]]
name = 'a'
[agents.env]
KEY = "#"

[[agents]]
env.KEY = ""
'''


@pytest.mark.parametrize(
    ("line", "keys"),
    [
        (2, ("top",)),
        (3, ("quoted key",)),
        (7, ("a",)),
        (7, ("a", "b", "c")),
        (9, ("table",)),
        (10, ("table", "text")),
        (12, ("table", "date")),
        (13, ("table", "list")),
        (13, ("table", "list", 0)),
        (14, ("table", "list", 1)),
        (14, ("table", "list", 1, 0)),
        (15, ("table", "list", 1, 1)),
        (16, ("table", "list", 2)),
        (16, ("table", "list", 2, "y]")),
        (19, ("agents",)),
        (19, ("agents", 0)),
        (20, ("agents", 0, "name")),
        (21, ("agents", 0, "env")),
        (22, ("agents", 0, "env", "KEY")),
        (24, ("agents", 1)),
        (25, ("agents", 1, "env", "KEY")),
    ],
)
def test_each_key_has_its_line(line, keys):
    assert key_lines(DOCUMENT)[keys] == line


def test_nothing_in_a_string_or_a_comment_is_a_key():
    assert not [keys for keys in key_lines(DOCUMENT) if "none" in keys]


@pytest.mark.parametrize("keys", [("agents", 0, "schedule"), ("agents", 0, "args", 1)])
def test_what_is_missing_is_on_the_line_of_the_table_around_it(keys):
    assert line_of(key_lines(DOCUMENT), keys) == 19


def test_what_is_missing_from_the_whole_is_on_the_first_line():
    assert line_of({}, ("agents",)) == 1


def test_windows_lines_are_lines():
    assert key_lines("a = 1\r\nb = '''\r\n'''\r\nc = 1\r\n") == {("a",): 1, ("b",): 2, ("c",): 4}


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ((), ""),
        (("name",), "name"),
        (("agents", 2, "schedule"), "agents[2].schedule"),
        (("agents", 0, "env", "A B"), 'agents[0].env."A B"'),
        (("", "a\n"), '"".' + r'"a\n"'),
    ],
)
def test_a_place_is_written_as_toml_would(keys, text):
    assert dotted(keys) == text
