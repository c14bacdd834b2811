"""Times in the words of tools and their providers; the phrases are real ones, with other times in them."""

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkfactory.tools.resets import reset_in_words, reset_time
from darkfactory.tools.text import MAX_MESSAGE

NOW = datetime(2026, 11, 23, 3, 53, 20, tzinfo=UTC)  # a Monday
BERLIN, LONDON, NEW_YORK = ZoneInfo("Europe/Berlin"), ZoneInfo("Europe/London"), ZoneInfo("America/New_York")


def at(month: int, day: int, hour: int, minute: int = 0, second: float = 0, year: int = 2026) -> datetime:
    return datetime(year, month, day, hour, minute, tzinfo=UTC) + timedelta(seconds=second)


def after(**span: float) -> datetime:
    return NOW + timedelta(**span)


ABSOLUTE = {
    "Claude AI usage limit reached|1795464000": at(11, 23, 20),
    "Claude AI usage limit reached|1795464000500": at(11, 23, 20, 0, 0.5),
    '429 {"type":"usage_limit_reached","resets_at":1795464000,"resets_in_seconds":3600}': at(11, 23, 20),
    r"responseBody: {\"plan_type\": \"plus\", \"resets_at\": 1795464000}": at(11, 23, 20),
    '"X-RateLimit-Reset": "1795464000000"': at(11, 23, 20),
    "Codex: limit resets at: 2026-11-24T10:13:01+0000": at(11, 24, 10, 13, 1),
    "quota exhausted until 2026-11-24T10:13:01.5Z": at(11, 24, 10, 13, 1),
    "retry after 2026-11-24T10:13:01+02:00": at(11, 24, 8, 13, 1),
    "try again at 2026-11-24 10:13 UTC": at(11, 24, 10, 13),
    "Retry-After: Wed, 25 Nov 2026 07:28:00 GMT": at(11, 25, 7, 28),
    # in a zone that it names
    "You've hit your session limit · resets 2am (Europe/Berlin)": at(11, 24, 1),
    "Claude usage limit reached. Your limit will reset at 3pm (America/New_York).": at(11, 23, 20),
    "You've hit your limit · resets 1:30am (Asia/Dhaka)": at(11, 23, 19, 30),
    "You've hit your weekly limit · resets Nov 27 at 4:30am (Asia/Calcutta)": at(11, 26, 23),
    "5-hour limit reached ∙ resets 1pm (Etc/GMT+5)": at(11, 23, 18),
    "Usage limit reached for gemini-3. Access resets at 10:57 PM GMT-3.": at(11, 24, 1, 57),
    "Requests per day (RPD) quotas reset at midnight Pacific time": at(11, 23, 8),
    "Daily quota reached: resets at 12:00 AM PST.": at(11, 23, 8),
    "resets at 00:00 UTC": at(11, 24, 0),
    "Limit resets noon ET": at(11, 23, 17),
    "limited until 9:05 p.m. MDT": at(11, 23, 4, 5),
    "available again at 22:10 UTC+05:30": at(11, 23, 16, 40),
}
RELATIVE = {
    "or try again in 2 days 17 hours 14 minutes.": after(days=2, hours=17, minutes=14),
    "Try again in 4 hours and 5 minutes.": after(hours=4, minutes=5),
    "try again in less than a minute": after(minutes=1),
    "wait an hour": after(hours=1),
    "You exceeded your current quota. Please retry in 38.52s.": after(seconds=38.52),
    "Rate limit reached (TPM): Limit 30000, Used 30000. Please try again in 1h2m3.5s. Visit": after(seconds=3723.5),
    "on requests per min (RPM): Limit 500, Used 500, Requested 1. Please try again in 20s.": after(seconds=20),
    "Please try again in 120ms.": after(milliseconds=120),
    "Retry-After: 120": after(seconds=120),
    "retry-after: '7.5'": after(seconds=7.5),
    r"{\"resets_in_seconds\": 3600}": after(hours=1),
    '"resets_in_seconds": 3600': after(hours=1),
    '"retry_delay_ms":71700': after(seconds=71.7),
    "retryDelayMs=60000": after(seconds=60),
    '{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"38s"}': after(seconds=38),
    "Please retry after 60 seconds.": after(seconds=60),
    "Suggested retry after 2s.. Retrying after 5688ms...": after(seconds=2),
    "Your quota will reset after 0s.. Retrying after 5710ms...": after(milliseconds=5710),
    "You have exhausted your capacity on this model. Your quota will reset after 23h59m.": after(hours=23, minutes=59),
    "Free usage exceeded, subscribe to Go [retrying in 73801s - attempt #1]": after(seconds=73801),
    "Free usage exceeded [retrying in ~20h]": after(hours=20),
    "Retrying in 60s (attempt 1/10): [API Error: 429 The usage limit has been reached]": after(seconds=60),
    "Please wait 5 minutes before trying again": after(minutes=5),
}
# In the zone of the program that says it, which here is Berlin: 04:53:20 on the clock.
LOCAL = {
    "You\u2019ve hit your usage limit. Visit https://chatgpt.com/ or try again at 5:53\u202fAM.": at(11, 23, 4, 53),
    "try again at Nov 28th, 2026 10:03 PM.": at(11, 28, 21, 3),
    "Your rate limit resets on Dec 1, 2026, 5:04 AM. To continue": at(12, 1, 4, 4),
    "resets Dec 3, 9am": at(12, 3, 8),
    "resets 3 December 2026, 21:30": at(12, 3, 20, 30),
    "resets 9am on Dec 3rd": at(12, 3, 8),
    "resets Jan 2, 8am": at(1, 2, 7, year=2027),
    "resets Nov 24": at(11, 23, 23),
    "resets Monday 9am": at(11, 23, 8),
    "resets Mon 4am": at(11, 30, 3),
    "resets on Thursday at 21:00:30": at(11, 26, 20, 0, 30),
    "try again tomorrow at 4 am": at(11, 24, 3),
    "resets 04:54": at(11, 23, 3, 54),
    "resets 12am": at(11, 23, 23),
    "resets 12pm": at(11, 23, 11),
    "resets 4:52am": at(11, 24, 3, 52),
    "resets 4:53am": at(11, 23, 3, 54),  # the minute is not over
    "resets 04:53:10": at(11, 24, 3, 53, 10),
}


@pytest.mark.parametrize(("text", "instant"), (ABSOLUTE | RELATIVE | LOCAL).items(), ids=str)
def test_a_time_is_found_in(text, instant):
    assert reset_in_words(text, NOW, BERLIN) == instant


@pytest.mark.parametrize(
    "text",
    [
        "",
        "the meeting was reset at 4",
        "error 429 in line 12",
        "midnight Pacific time",  # and what is then?
        "at 3pm (America/New_York) the limit was 5",
        "Please wait and try again later. To increase your limits, request a quota increase",
        "This is usually temporary — try again in a moment.",
        "Please adjust your input and try again.",
        "connection reset after 30s",
        "reset your password at 3pm",
        "waited 30 s",
        "retry 3 times",
        "try again in 5 mice",
        "resets 25:00",
        "resets (Europe/Berlin)",
        "resets 13pm",
        "resets Feb 30",
        "resets Feb 29",  # there is none near
        "resets 3am (CEST)",  # in America, by some
        "resets 3am (Mars/Olympus)",
        "resets 3am (America/../../passwd)",
        "resets 3am UTC+99",
        # what has passed
        "Claude AI usage limit reached|1760000000",
        "Your quota will reset after 0s",
        "try again at Apr 28th, 2026 10:03 PM",
        "resets Nov 20, 9am",
        "limit resets at: 2025-09-11T10:13:01+0000",
        "retry in 9999999 weeks",
        "Retry-After: 999999999999",
        "resets 0000-01-01",
        "resets 9999-12-31T23:59:59-14:00",
    ],
    ids=str,
)
def test_no_time_is_found_in(text):
    assert reset_in_words(text, NOW, BERLIN) is None


@pytest.mark.parametrize(
    ("now", "text", "instant"),
    [
        # 02:30 does not exist in the night of the 29th of March, when 01:59:59 is followed by 03:00
        (at(3, 28, 20), "resets 2:30am", at(3, 29, 1)),
        (at(3, 28, 20), "resets 3am", at(3, 29, 1)),
        (at(3, 29, 1, 5), "resets 2:30am", at(3, 30, 0, 30)),
        # and comes twice in that of the 25th of October
        (at(10, 24, 20), "resets 2:30am", at(10, 25, 0, 30)),
        (at(10, 25, 1), "resets 2:30am", at(10, 25, 1, 30)),
        (at(10, 25, 2), "resets 2:30am", at(10, 26, 1, 30)),
        # the day is that of the named zone, and its offset that of the day
        (at(11, 23, 3), "resets 11pm (America/New_York)", at(11, 23, 4)),
        (at(10, 24, 12), "resets Oct 26, 9am", at(10, 26, 8)),
        (at(2, 28, 12, year=2028), "resets Feb 29, 9am", at(2, 29, 8, year=2028)),
    ],
)
def test_clocks_that_are_set_are_reckoned_with(now, text, instant):
    assert reset_in_words(text, now, BERLIN) == instant


@pytest.mark.parametrize("zone", [UTC, NEW_YORK, timezone(timedelta(hours=14))], ids=str)
@pytest.mark.parametrize("text", [*ABSOLUTE, *RELATIVE], ids=str)
def test_who_names_the_zone_is_believed_wherever_the_reader_is(text, zone):
    assert reset_in_words(text, NOW, zone) == (ABSOLUTE | RELATIVE)[text]
    assert reset_in_words(text, NOW.astimezone(zone), LONDON) == (ABSOLUTE | RELATIVE)[text]


PIECES = (
    "resets |try again |retry after |until |at |in |1795464000|3|9999|:|30|am|PM|Mar |Feb 29|, |2026|-|T|Z|(|Asia/Tokyo"
    "|Etc/|)|PST|GMT-3|monday|tomorrow|h|m|ms| days|1e9|٣|\u202f|99999999999|."
)
WORDS = st.lists(st.sampled_from([*PIECES.split("|"), "|"]), max_size=12).map("".join)
INSTANTS = st.datetimes(timezones=st.sampled_from([UTC, BERLIN, NEW_YORK]))


@pytest.mark.parametrize(
    "text", ["try again in 5 \u017f", "resets_in_m\u017f: 5", "retry_after_m\u017f=5", "resets in 2 wee\u212a\u017f"]
)
def test_a_letter_that_only_folds_to_one_of_a_unit_is_none(text):
    assert reset_in_words(text, NOW, BERLIN) is None


@given(st.text() | WORDS | WORDS.map("resets ".__add__), INSTANTS, st.sampled_from([UTC, BERLIN, NEW_YORK]))
def test_no_text_raises_and_every_time_is_still_to_come(text, now, zone):
    instant = reset_in_words(text, now, zone)
    assert instant is None or (instant > now and instant.tzinfo is UTC)


@given(st.integers(1, 8 * 86400), st.sampled_from(["try again in {}s", "reset after {} seconds", "Retry-After: {}"]))
def test_any_number_of_seconds_is_that_many(secs, phrase):
    assert reset_in_words(phrase.format(secs), NOW, BERLIN) == after(seconds=secs)


@given(st.integers(600, 150_000))
def test_any_date_that_a_tool_prints_is_read_back_to_the_minute(minutes):
    civil = after(minutes=minutes, seconds=-20).astimezone(NEW_YORK)
    expected = civil.astimezone(UTC)
    for shape in ("resets %b %d, %Y, %I:%M %p ET", "try again at %Y-%m-%dT%H:%M (America/New_York)"):
        assert reset_in_words(civil.strftime(shape), NOW, BERLIN) == expected


@pytest.mark.parametrize("text", ["resets " * 10**5, "1" * 10**6, "try again in 1h" * 10**5, "resets" + " " * 10**6])
def test_of_a_long_text_only_the_beginning_is_read(text, monkeypatch):
    looked_at = []
    from darkfactory.tools import resets

    class Spy:
        def finditer(self, searched):
            looked_at.append(len(searched))
            return iter(())

    monkeypatch.setattr(resets, "_ANCHOR", Spy())
    assert reset_in_words(text, NOW, BERLIN) is None
    assert max(looked_at) <= MAX_MESSAGE


@pytest.mark.parametrize(
    ("value", "instant"),
    [
        (1795464000, at(11, 23, 20)),
        (1795464000.5, at(11, 23, 20, 0, 0.5)),
        (1795464000500, at(11, 23, 20, 0, 0.5)),
        (0, None),
        (-1, None),
        (True, None),
        ("1795464000", None),
        (None, None),
        (1e300, None),
        (float("nan"), None),
    ],
)
def test_an_epoch_is_an_instant(value, instant):
    assert reset_time(value) == instant
