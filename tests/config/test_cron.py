from __future__ import annotations

import contextlib
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkfactory.config import cron
from darkfactory.config.finding import Misfit

ZONE = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    "expression",
    [
        *cron.ALIASES,
        "0 2 * * *",
        "*/15 8-18 * * mon-fri",
        "0 3 1,15 * *",
        "0 0 29 2 *",
        "0  2 * * *",
        "30 2 * mar thu",  # names hold an H or an R too
        "0 0 * * 5#2",
    ],
)
def test_what_fires_passes(expression):
    cron.validate(expression, ZONE)


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("", "has five fields, the string '' has 0 fields"),
        ("daily", "has 1 field$"),
        ("0 2 * *", "has 4 fields"),
        ("0 0 2 * * *", "has 6 fields"),
        ("0 0 2 * * * 2026", "has 7 fields"),
        ("@reboot", "is no schedule"),
        ("@", "is no schedule"),
        ("H * * * *", "draws its times"),
        ("0 h * * *", "draws its times"),
        ("H(0-29)/10 * * * *", "draws its times"),
        ("R * * * *", "draws its times"),
        ("1,r(1-5) * * * *", "draws its times"),
        ("0 0-0 * * *", "'0-0', which croniter reads as all values"),
        ("0 2 * * 1,mon-mon", "'mon-mon', which"),
        ("0 0 31 2 *", "ever fires"),
        ("0 0 30 2 *", "ever fires"),
        ("60 * * * *", "ever fires"),
        ("x * * * *", "ever fires"),
        ("0 0 * * 8", "ever fires"),
    ],
)
def test_what_never_fires_or_is_drawn_is_refused(expression, problem):
    with pytest.raises(Misfit, match=problem):
        cron.validate(expression, ZONE)


def test_an_alias_asks_did_you_mean():
    with pytest.raises(Misfit) as caught:
        cron.validate("@dayly", ZONE)
    assert caught.value.remedy == "did you mean '@daily'?"


FIELD = st.one_of(
    st.sampled_from(["*", "0", "1", "31", "L", "?", "*/5", "1-5", "mon", "jan", "5#2", "L5", "1W", "-", "9" * 30]),
    st.text("0123456789*,-/#?LlWw()HRh", min_size=1, max_size=4),
)


@settings(deadline=None)
@given(st.one_of(st.text(), st.lists(FIELD, min_size=5, max_size=5).map(" ".join)))
def test_any_text_passes_or_is_a_misfit(text):
    with contextlib.suppress(Misfit):
        cron.validate(text, ZONE)
