from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkfactory.config import units
from darkfactory.config.finding import Misfit


@pytest.mark.parametrize(
    ("written", "secs"),
    [
        (300, 300.0),
        (4.5, 4.5),
        (-1, -1.0),  # a limit's business, not the unit's
        ("90s", 90.0),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("1h 30m", 5400.0),
        ("2d", 172800.0),
        ("1d2h3m4.5s", 93784.5),
        ("0s", 0.0),
        ("0.1s", 0.1),
        ("PT5M", 300.0),
        ("P1D", 86400.0),
        ("P1DT2H", 93600.0),
        ("PT0.5S", 0.5),
    ],
)
def test_durations_are_seconds(written, secs):
    assert units.seconds(written) == secs
    assert type(units.seconds(written)) is float


@pytest.mark.parametrize(
    "written",
    [
        *("", " ", "5", "300", "m", "5 m", "5M", "1m1h", "5m5m", "-5m", "5x", "1e3s", "5m\n", "٣s", "9" * 400 + "s"),
        *("P", "PT", "P5M", "P1DT", "pt5m"),
        *(True, float("nan"), float("inf"), -float("inf"), 10**400, [5], {"m": 5}, None),
    ],
)
def test_what_is_no_duration_is_refused(written):
    with pytest.raises(Misfit, match="expected seconds or a duration"):
        units.seconds(written)


@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99), st.integers(0, 99))
def test_both_ways_to_write_a_duration_mean_the_same(days, hours, minutes, secs):
    plain = units.seconds(f"{days}d{hours}h{minutes}m{secs}s")
    assert plain == units.seconds(f"P{days}DT{hours}H{minutes}M{secs}S")
    assert plain == ((days * 24 + hours) * 60 + minutes) * 60 + secs


@pytest.mark.parametrize(
    ("written", "size"),
    [
        (2_147_483_648, 2**31),
        (0, 0),
        (-1, -1),
        ("512B", 512),
        ("1KiB", 1024),
        ("2GiB", 2**31),
        ("1.5 GiB", 3 * 2**29),
        ("1TiB", 2**40),
        ("3MiB", 3 * 2**20),
        ("1kB", 1000),
        ("500MB", 500_000_000),
        ("1GB", 10**9),
        ("2TB", 2 * 10**12),
    ],
)
def test_sizes_are_bytes(written, size):
    assert units.size(written) == size


@pytest.mark.parametrize(
    "written",
    ["", "5", "GiB", "5 gigabytes", "5gb", "5G", "1KB", "1kiB", "-1MB", "1e3MB", "5MB\n", True, 1.5, 2e9, [5], None],
)
def test_what_is_no_size_is_refused(written):
    with pytest.raises(Misfit, match="expected bytes or a size"):
        units.size(written)
