"""Chance that can be replayed: the same for the same arguments, spread otherwise."""

from __future__ import annotations

import re
from statistics import mean

from hypothesis import given
from hypothesis import strategies as st

from darkfactory.policy.chance import fraction, token

ARGUMENTS = st.lists(st.integers() | st.text(max_size=5), max_size=4)


@given(ARGUMENTS)
def test_the_same_arguments_draw_the_same(arguments: list[object]) -> None:
    assert fraction(*arguments) == fraction(*arguments)
    assert token(*arguments) == token(*arguments)


@given(ARGUMENTS)
def test_a_fraction_is_below_one_and_a_token_is_six_hex_digits(arguments: list[object]) -> None:
    assert 0.0 <= fraction(*arguments) < 1.0
    assert re.fullmatch("[0-9a-f]{6}", token(*arguments))


def test_other_arguments_draw_otherwise() -> None:
    assert len({fraction("a", "bc"), fraction("ab", "c"), fraction("abc"), fraction("a", "b", "c")}) == 4
    assert len({token(seed, "run") for seed in range(100)}) == 100


def test_fractions_are_spread_evenly() -> None:
    drawn = [fraction("even", number) for number in range(2000)]
    assert abs(mean(drawn) - 0.5) < 0.05
    assert min(drawn) < 0.01
    assert max(drawn) > 0.99
