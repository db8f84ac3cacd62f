"""Durations and sizes as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mhfl_mq.policy.quantities import parse_bytes, parse_duration, show_bytes, show_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("15m", 900), ("30s", 30), ("2h", 7200), ("1h30m", 5400), ("500ms", 0.5), ("2.5s", 2.5), ("1d", 86400), ("0s", 0)],
)
def test_a_duration_is_read_in_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "15", "m", "12:30", "15 m", "-3s", "30m1h", "5s5s", "١٥m", "1e3s", "15min", "s15"]
)
def test_what_is_not_a_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration|twice"):
        parse_duration(text)


def test_a_duration_over_a_year_is_a_slip_of_the_unit() -> None:
    with pytest.raises(ValueError, match="longer than a year"):
        parse_duration("367d")


@pytest.mark.parametrize(
    ("text", "size"), [("256KiB", 262144), ("2MB", 2_000_000), ("1 GiB", 2**30), ("1.5kB", 1500), ("7B", 7)]
)
def test_a_size_is_read_in_bytes(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "256", "2 mb", "KiB", "-1MB", "2TB", "2MBit", "2  MB"])
def test_what_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a size"):
        parse_bytes(text)


def test_a_size_over_a_pebibyte_is_a_slip_of_the_unit() -> None:
    with pytest.raises(ValueError, match="pebibyte"):
        parse_bytes("99999999GiB")


@given(st.integers(0, 300), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_the_parts_of_a_duration_add_up(days: int, hours: int, minutes: int, seconds: int) -> None:
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    assert parse_duration(f"{days}d{hours}h{minutes}m{seconds}s") == total


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "40ms"), (12.5, "12.5s"), (125, "2m 5s"), (5400, "1h 30m"), (7200, "2h"), (90061, "1d 1h")],
)
def test_a_duration_is_shown_in_at_most_two_units(seconds: float, text: str) -> None:
    assert show_duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(812, "812 B"), (2_410_000, "2.41 MB"), (3e12, "3 TB"), (1500, "1.5 kB"), (999.8e6, "1000 MB")]
)
def test_a_size_is_shown_with_a_unit(size: float, text: str) -> None:
    assert show_bytes(size) == text
