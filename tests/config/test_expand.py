from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkfactory.config import expand
from darkfactory.config.finding import Misfit

ENVIRON = {"A": "one", "B_2": "two", "EMPTY": "", "TRAP": "${A} $$ ~", "HOME": "/home/me"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", ""),
        ("plain", "plain"),
        ("${A}", "one"),
        ("<${A}${B_2}>", "<onetwo>"),
        ("${EMPTY}", ""),
        ("$$", "$"),
        ("$${A}", "${A}"),
        ("$$${A}", "$one"),
        ("pa$word $A $", "pa$word $A $"),
        ("${TRAP}", "${A} $$ ~"),  # what comes out is not read again
    ],
)
def test_variables_are_replaced_once(text, value):
    assert expand.variables(text, ENVIRON) == value


def test_every_variable_that_is_not_set_is_named_once():
    with pytest.raises(Misfit) as caught:
        expand.variables("${X} ${A} ${Y} ${X} sk-plain", ENVIRON)
    assert caught.value.problem == "not set in the environment: X, Y"


@pytest.mark.parametrize("text", ["${", "${A", "${}", "${1A}", "${A-B}", "${A:-x}", "$$${"])
def test_what_only_begins_like_a_variable_is_refused(text):
    with pytest.raises(Misfit, match="is not followed by"):
        expand.variables(text, ENVIRON)


@given(st.text())
def test_a_text_with_its_dollars_doubled_stands_for_itself(text):
    assert expand.variables(text.replace("$", "$$"), {}) == text


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("work", "/base/work"),
        (".", "/base"),
        ("../x", "/base/../x"),
        ("/abs", "/abs"),
        ("~", "/home/me"),
        ("~/work", "/home/me/work"),
        ("${A}/x", "/base/one/x"),
        ("${HOME}/x", "/home/me/x"),
        ("a~b", "/base/a~b"),
        ("./~me", "/base/~me"),
        ("$$x", "/base/$x"),
    ],
)
def test_paths_begin_at_the_base_or_at_home(text, path):
    assert expand.path(text, base=Path("/base"), environ=ENVIRON) == Path(path)


def test_a_dollar_in_the_home_directory_is_no_variable():
    assert expand.path("~/x", base=Path("/base"), environ={"HOME": "/h/${A}"}) == Path("/h/${A}/x")


@pytest.mark.parametrize(
    ("text", "environ", "problem"),
    [
        ("", {}, "must not be empty"),
        ("${EMPTY}", {"EMPTY": ""}, "must not be empty"),
        ("~", {}, "HOME, which is not set"),
        ("~/x", {"HOME": ""}, "HOME, which is not set"),
        ("~other/x", {"HOME": "/home/me"}, "not another user's"),
        ("${NONE}/x", {}, "not set in the environment: NONE"),
    ],
)
def test_what_makes_no_path_is_refused(text, environ, problem):
    with pytest.raises(Misfit, match=problem):
        expand.path(text, base=Path("/base"), environ=environ)
