"""When a round may begin, against an oracle that looks at every minute."""

import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mhfl_mq.policy import Schedule, Window
from mhfl_mq.policy.schedule import HORIZON_S, fires, next_opening, opening, show_time, zone_of

ZONES = ("Europe/Berlin", "America/New_York", "Pacific/Auckland")
YEAR_BEGINS = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())
MINUTES = 366 * 24 * 60
Bits = np.ndarray[tuple[int], np.dtype[np.bool_]]


# ---- the oracle: what every minute of a year is called on the wall ----------------------------------------------


@dataclass(frozen=True)
class Wall:
    """The wall clock's words for instants, one entry each."""

    minute: Any
    hour: Any
    day: Any
    month: Any
    weekday: Any  # Sunday is 0


def wall(seconds: Any) -> Wall:
    """Of seconds since 1970 as a clock without a zone would have them."""
    days = seconds // 86400
    dates = days.astype("datetime64[D]")
    months = dates.astype("datetime64[M]")
    return Wall(
        minute=seconds // 60 % 60,
        hour=seconds // 3600 % 24,
        day=(dates - months).astype(int) + 1,
        month=months.astype(int) % 12 + 1,
        weekday=(days + 4) % 7,
    )


@lru_cache
def year(zone: str) -> tuple[Wall, Bits, list[tuple[int, Wall]]]:
    """Each minute's wall time, whether that time was there before, and what was skipped before which minute."""
    utc = YEAR_BEGINS + 60 * np.arange(-3 * 1440, MINUTES + 3 * 1440)
    info = ZoneInfo(zone)
    halves = [datetime.fromtimestamp(int(one), info).utcoffset() or timedelta() for one in utc[::30]]
    offsets: Any = np.array([one.total_seconds() for one in halves]).astype(int).repeat(30)
    local = utc + offsets
    again = np.zeros(len(utc), bool)
    gaps = []
    for at in np.flatnonzero(np.diff(offsets)) + 1:
        shift = offsets[at] - offsets[at - 1]
        if shift < 0:
            again[at : at - shift // 60] = True
        else:
            gaps.append((int(at), wall(local[at - 1] + 60 * np.arange(1, shift // 60 + 1))))
    return wall(local), again, gaps


@dataclass(frozen=True)
class Cron:
    """A cron line that its test understands without reading it."""

    minute: str
    hour: str
    day: str
    weekday: str

    def __str__(self) -> str:
        return f"{self.minute} {self.hour} {self.day} * {self.weekday}"

    def matches(self, when: Wall) -> Any:
        """Which of these wall times it names."""
        day, weekday = _holds(self.day, when.day, 1, 31), _holds(self.weekday, when.weekday, 0, 6)
        star = self.day.startswith("*") or self.weekday.startswith("*")
        both = day & weekday if star else day | weekday
        return _holds(self.minute, when.minute, 0, 59) & _holds(self.hour, when.hour, 0, 23) & both

    def fires(self, zone: str) -> Bits:
        """In which minutes of the year it fires, three days before and after it included."""
        when, again, gaps = year(zone)
        found: Bits = self.matches(when)
        if not self.minute.startswith("*") and not self.hour.startswith("*"):
            found = found & ~again
            for at, skipped in gaps:
                found[at] |= bool(self.matches(skipped).any())
        return found


def _holds(field: str, value: Any, first: int, last: int) -> Any:
    allowed: set[int] = set()
    for part in field.split(","):
        span, _, step = part.partition("/")
        low, _, high = span.partition("-")
        begin, end = (first, last) if span == "*" else (int(low), int(high or low))
        allowed |= set(range(begin, end + 1, int(step or 1)))
    return np.isin(value, sorted(allowed))


def lasting(begins: Bits, minutes: int) -> Bits:
    """On from each of these minutes for so many."""
    steps = np.zeros(len(begins) + minutes, int)
    steps[: len(begins)] += begins
    steps[minutes:] -= begins
    return np.cumsum(steps)[: len(begins)] > 0


def stays(on: Bits, minutes: int) -> Bits:
    """On now, and for so many minutes more."""
    off = lasting(~on[::-1], minutes + 1)[::-1]
    return ~off


def oracle(
    zone: str,
    cron: Cron | None,
    within: int,
    windows: list[tuple[Cron, int]],
    blackouts: list[tuple[Cron, int]],
    round_: int,
) -> Bits:
    """In which minutes a round of so many minutes may begin."""
    size = len(year(zone)[1])
    found = np.ones(size, bool)
    if cron is not None:
        found &= lasting(cron.fires(zone), within)
    if windows:
        inside = np.zeros(size, bool)
        for one, minutes in windows:
            inside |= lasting(one.fires(zone), minutes)
        found &= stays(inside, round_)
    for one, minutes in blackouts:
        found &= stays(~lasting(one.fires(zone), minutes), round_)
    return found


def walked(schedule: Schedule, round_s: float, first: int, minutes: int) -> Bits:
    """The same, by going from opening to opening."""
    found = np.zeros(minutes, bool)
    at = float(YEAR_BEGINS + 60 * first)
    end = at + 60 * minutes
    while at < end:
        interval = next_opening(schedule, round_s, at)
        if interval is None:
            break
        begin, to = ((min(one, end) - YEAR_BEGINS) / 60 - first for one in interval)
        assert begin.is_integer()
        found[int(begin) : math.ceil(to)] = True
        at = min(interval[1], end)
    return found


# ---- laws -----------------------------------------------------------------------------------------------------


crons = st.builds(
    Cron,
    minute=st.sampled_from(["0", "30", "59", "15,45", "*/20", "7-53/23"]),
    hour=st.sampled_from(["0", "1", "2", "3", "22", "23", "2,14", "0-6/2", "*/6", "*"]),
    day=st.sampled_from(["*", "*", "1", "29,30,31", "10-20"]),
    weekday=st.sampled_from(["*", "*", "0", "1-5", "6"]),
)
periods = st.lists(st.tuples(crons, st.sampled_from([1, 30, 60, 90, 480, 1440, 3000])), max_size=2)


@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("zone", ZONES)
@given(
    cron=st.none() | crons,
    within=st.sampled_from([1, 45, 600]),
    windows=periods,
    blackouts=periods,
    round_=st.sampled_from([0, 5, 61]),
    day=st.integers(0, 365 - 25),
)
def test_rounds_may_begin_in_exactly_the_minutes_that_the_oracle_names(
    zone: str,
    cron: Cron | None,
    within: int,
    windows: list[tuple[Cron, int]],
    blackouts: list[tuple[Cron, int]],
    round_: int,
    day: int,
) -> None:
    schedule = Schedule(
        timezone=zone,
        cron="" if cron is None else str(cron),
        within_s=60.0 * within,
        windows=tuple(Window(str(one), 60.0 * minutes) for one, minutes in windows),
        blackouts=tuple(Window(str(one), 60.0 * minutes) for one, minutes in blackouts),
    )
    first, minutes = day * 1440, 25 * 1440
    wanted = oracle(zone, cron, within, windows, blackouts, round_)[3 * 1440 :][first : first + minutes]
    found = walked(schedule, 60.0 * round_, first, minutes)
    wrong = np.flatnonzero(found != wanted)
    assert not len(wrong), f"{show_time(YEAR_BEGINS + 60 * (first + int(wrong[0])), schedule)}: {schedule}"


@pytest.mark.parametrize("zone", ZONES)
def test_a_year_of_nights_agrees_with_the_oracle_in_every_minute(zone: str) -> None:
    """Windows over midnight, a month's end without rounds, a round of half an hour, and the hours that shift."""
    nights = [(Cron("0", "22", "*", "1-5"), 480), (Cron("30", "1", "*", "0,6"), 120)]
    ends = [(Cron("0", "0", "1", "*"), 1440), (Cron("15", "2", "*", "0"), 20)]
    schedule = Schedule(
        timezone=zone,
        windows=tuple(Window(str(one), 60.0 * minutes) for one, minutes in nights),
        blackouts=tuple(Window(str(one), 60.0 * minutes) for one, minutes in ends),
    )
    wanted = oracle(zone, None, 0, nights, ends, 30)[3 * 1440 : 3 * 1440 + MINUTES]
    assert (walked(schedule, 1800.0, 0, MINUTES) == wanted).all()


# ---- single cases ---------------------------------------------------------------------------------------------


def at(text: str, zone: str = "Europe/Berlin") -> float:
    """Seconds since 1970 of a wall time."""
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


NIGHTS = Schedule(cron="0 2 * * *", timezone="Europe/Berlin")


@pytest.mark.parametrize(
    ("cron", "since", "wanted"),
    [
        ("30 2 * * *", "2026-03-28T12:00", ["2026-03-29T03:00+02:00", "2026-03-30T02:30+02:00"]),
        ("30 2 * * *", "2026-10-24T12:00", ["2026-10-25T02:30+02:00", "2026-10-26T02:30+01:00"]),
        ("0 * * * *", "2026-10-25T01:30", ["2026-10-25T02:00+02:00", "2026-10-25T02:00+01:00"]),
        ("0 * * * *", "2026-03-29T00:30", ["2026-03-29T01:00+01:00", "2026-03-29T03:00+02:00"]),
    ],
    ids=["skipped: right after the gap", "twice: once", "hourly: both", "hourly: in real time"],
)
def test_a_change_of_the_clocks_neither_loses_nor_doubles_a_time(cron: str, since: str, wanted: list[str]) -> None:
    found = fires(cron, zone_of("Europe/Berlin"), at(since))
    assert [next(found), next(found)] == [datetime.fromisoformat(one).timestamp() for one in wanted]


def test_after_the_hour_that_comes_twice_a_time_in_it_is_not_found_again() -> None:
    second = datetime(2026, 10, 25, 2, 15, tzinfo=ZoneInfo("Europe/Berlin"), fold=1).timestamp()
    assert next(fires("30 2 * * *", zone_of("Europe/Berlin"), second)) == at("2026-10-26T02:30")


def test_a_time_of_the_cron_line_is_used_up_by_a_round_and_lapses_by_itself() -> None:
    at_two, yesterday = at("2026-11-24T02:00"), at("2026-11-23T02:01")
    assert opening(NIGHTS, 60.0, at_two, yesterday).answer.now
    assert opening(NIGHTS, 60.0, at_two + 3599.0, yesterday).answer.now
    late = opening(NIGHTS, 60.0, at_two + 3600.0, yesterday)
    assert not late.answer.now
    assert late.answer.changes_at == at("2026-11-25T02:00")
    assert "no round is due by '0 2 * * *'" in late.why
    assert "the next round may begin 2026-11-25 02:00 CET" in late.why
    used = opening(NIGHTS, 60.0, at_two + 10.0, at_two + 5.0).answer
    assert (used.now, used.changes_at) == (False, at("2026-11-25T02:00"))


def test_a_round_that_runs_past_the_next_time_is_followed_by_one_and_not_by_two() -> None:
    hourly = replace(NIGHTS, cron="0 * * * *")
    opened = at("2026-11-24T02:00")
    assert opening(hourly, 60.0, opened + 2.5 * 3600, opened).answer.now
    after = opening(hourly, 60.0, opened + 2.6 * 3600, opened + 2.5 * 3600).answer
    assert (after.now, after.changes_at) == (False, opened + 3 * 3600)


def test_jitter_is_the_same_each_time_within_its_bound_and_other_for_another_federation() -> None:
    schedule = replace(NIGHTS, jitter_s=600.0)
    begins = []
    for salt in ("a", "a", "b", "c"):
        found = next_opening(schedule, 60.0, at("2026-11-23T12:00"), None, salt)
        assert found is not None
        assert found[1] - found[0] == schedule.within_s
        begins.append(found[0] - at("2026-11-24T02:00"))
    assert begins[0] == begins[1]
    assert len(set(begins)) == 3
    assert all(0 <= one < 600.0 for one in begins)


def test_no_round_begins_that_could_last_into_a_blackout_and_the_reason_names_it() -> None:
    schedule = Schedule(timezone="Asia/Tokyo", blackouts=(Window("0 8 * * 1-5", 36000.0, "shift"),))
    before = opening(schedule, 1800.0, at("2026-11-24T07:29", "Asia/Tokyo"))
    assert before.answer.now
    assert before.answer.changes_at == at("2026-11-24T07:30", "Asia/Tokyo")
    near = opening(schedule, 1800.0, at("2026-11-24T07:31", "Asia/Tokyo"))
    assert near.why == (
        "schedule.blackouts: the blackout shift begins 2026-11-24 08:00 JST, before a round could end; "
        "schedule: the next round may begin 2026-11-24 18:00 JST"
    )
    during = opening(schedule, 1800.0, at("2026-11-24T12:00", "Asia/Tokyo"))
    assert "the blackout shift is on until 2026-11-24 18:00 JST" in during.why
    assert during.answer.changes_at == at("2026-11-24T18:00", "Asia/Tokyo")


def test_a_schedule_without_rules_is_open_without_end() -> None:
    found = opening(Schedule(interval_s=60.0), 60.0, 0.0)
    assert (found.answer.now, found.answer.changes_at, found.reasons) == (True, None, ())


def test_rules_that_never_hold_together_are_said_to_plan_no_round() -> None:
    schedule = Schedule(windows=(Window("0 2 * * *", 3600.0),), blackouts=(Window("0 0 * * *", 36000.0),))
    found = opening(schedule, 60.0, float(YEAR_BEGINS))
    assert (found.answer.now, found.answer.changes_at) == (False, None)
    assert "no round is planned any more" in found.why
    leap = Schedule(cron="0 0 29 2 *")
    assert next_opening(leap, 60.0, float(YEAR_BEGINS)) is None
    assert datetime(2028, 2, 29, tzinfo=UTC).timestamp() > YEAR_BEGINS + HORIZON_S


def test_windows_that_touch_without_end_are_looked_at_for_some_days_and_then_again() -> None:
    schedule = Schedule(windows=(Window("0 * * * *", 3600.0),))
    found = opening(schedule, 60.0, float(YEAR_BEGINS))
    assert found.answer.now
    assert found.answer.changes_at is not None
    assert found.answer.changes_at > YEAR_BEGINS + 7 * 86400
    assert found.why == "schedule.windows: in a window"


def test_windows_that_touch_are_one_however_far_ahead_they_are() -> None:
    """A round of an hour and a half fits into the first of a month of which every hour is a window."""
    schedule = Schedule(windows=(Window("0 * 1 * *", 3600.0),))
    begin = datetime(2026, 2, 1, tzinfo=UTC).timestamp()
    found = next_opening(schedule, 5400.0, datetime(2026, 1, 5, tzinfo=UTC).timestamp())
    assert found == (begin, begin + 86_400.0 - 5400.0)


@pytest.mark.parametrize("name", ["Europe/Berlim", "", "../etc/passwd", "Europe", "X" * 300])
def test_what_is_no_time_zone_is_a_value_error(name: str) -> None:
    with pytest.raises(ValueError, match="there is no time zone"):
        zone_of(name)


def test_rules_that_never_meet_are_looked_at_for_a_bounded_time_and_then_again() -> None:
    """Every minute has a time, and every minute a window that has closed by then."""
    schedule = Schedule(cron="*/2 * * * *", within_s=30.0, windows=(Window("1-59/2 * * * *", 30.0),))
    found = opening(schedule, 1.0, float(YEAR_BEGINS))
    assert not found.answer.now
    assert found.answer.changes_at is not None
    assert YEAR_BEGINS + 10 * 86_400 < found.answer.changes_at < YEAR_BEGINS + HORIZON_S
    assert "no round is planned before" in found.why
    assert next_opening(schedule, 1.0, float(YEAR_BEGINS)) is None


def test_windows_that_touch_for_days_have_no_gap_where_they_are_cut() -> None:
    """The one time of the year falls where the look at hourly windows is cut after eight days."""
    begin = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    for hour in range(5):
        schedule = Schedule(cron=f"30 {hour} 9 1 *", within_s=1200.0, windows=(Window("0 * * * *", 3600.0),))
        wanted = begin + 8 * 86_400 + hour * 3600 + 1800
        found = next_opening(schedule, 3660.0, begin)
        assert found is not None
        assert found[0] == wanted
        blacked = Schedule(cron=f"30 {hour} 9 1 *", within_s=1200.0, blackouts=(Window("0 * * * *", 3600.0),))
        assert next_opening(blacked, 3660.0, begin) is None
