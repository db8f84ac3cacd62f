"""When a round may begin: cron, windows and blackouts in a time zone, as intervals of absolute seconds.

Pure: the time comes in. `opening` decides for one instant and says when that changes; `next_opening` looks ahead. A
round is opened only where its whole deadline fits before the window ends and before a blackout begins, so no device
trains in a blackout, and nobody's deadline depends on the hour.

Cron lines are Debian's, by cronsim: at a daylight-saving change a fixed time that is skipped happens right after the
gap, one that comes twice happens once, and `*` goes on in real time. A window lasts real seconds: eight hours are
eight hours in such a night too.
"""

import heapq
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from mhfl_mq.policy.compiled import Schedule, Window
from mhfl_mq.policy.decide import Decision, Reason
from mhfl_mq.policy.quantities import show_duration

__all__ = [
    "HORIZON_S",
    "Opening",
    "check_cron",
    "fires",
    "jitter",
    "next_opening",
    "opening",
    "read_time",
    "show_time",
    "zone_of",
]

HORIZON_S: Final = 400 * 86400.0
"""How far ahead is looked: over a year, so that what comes once a year is found. What is not found is never."""
FIRST_YEAR: Final = 1971
LAST_YEAR: Final = 2400
"""Of times that people write: beyond them zones and cron lines have no times."""
_MOST_STEPS: Final = 50_000  # windows and times that one question looks at: about a second
_MERGED_S: Final = 8 * 86400.0  # as far as touching windows are taken for one: what comes later is looked at later
_WRONG_S: Final = 86400.0
_SHIFT_S: Final = 4 * 3600.0  # clocks are shifted by 3 h at most: a cron time may lie so far from where cronsim has it

Interval = tuple[float, float]
"""From (inclusive) and to (exclusive), in seconds since 1970, UTC."""
_Rule = Callable[[float], Iterator[Interval]]
"""The intervals in which a rule holds, in order, from the first one that ends after this instant."""


@dataclass(frozen=True, slots=True)
class Opening:
    """Whether a round may begin, and when that changes, in seconds since 1970 (None: not within `HORIZON_S`)."""

    now: bool
    changes_at: float | None


def opening(
    schedule: Schedule, deadline_s: float, now: float, committed_at: float | None = None, salt: str = ""
) -> Decision[Opening]:
    """Whether a round whose deadline is `deadline_s` may begin now.

    A time of `schedule.cron` is used up by a round that begins at it or later and makes a version, the last of which
    began at `committed_at`; after one that fails, another may try until the time lapses, `within_s` after it. `salt`
    draws the jitter, so that two federations do not begin together.
    """
    rules = _rules(schedule, deadline_s, committed_at, salt)
    reasons = [_reason(name, rule, schedule, now) for name, rule in rules.items()]
    found, looked_to = _first(list(rules.values()), now)
    if found is None:
        more = looked_to < now + HORIZON_S
        until = f"before {show_time(looked_to, schedule)}" if more else "any more"
        reason = Reason("schedule", False, f"no round is planned {until}")
        return Decision(Opening(False, looked_to if more else None), (*reasons, reason))
    start, end = found
    if start <= now:
        return Decision(Opening(True, end if end < math.inf else None), tuple(reasons))
    when = Reason("schedule", False, f"the next round may begin {show_time(start, schedule)}")
    return Decision(Opening(False, start), (*reasons, when))


def next_opening(
    schedule: Schedule, deadline_s: float, since: float, committed_at: float | None = None, salt: str = ""
) -> Interval | None:
    """The first interval from `since` on in which a round may begin; None: none was found, as far as is looked."""
    return _first(list(_rules(schedule, deadline_s, committed_at, salt).values()), since)[0]


def fires(cron: str, zone: ZoneInfo, since: float) -> Iterator[float]:
    """The times of a cron line after `since`, in order."""
    begin = datetime.fromtimestamp(math.floor(since - _SHIFT_S), UTC).astimezone(zone)
    last = since
    for one in CronSim(cron, begin):
        at = one.timestamp()
        if at > last:  # cronsim gives what a gap swallowed more than once, and forgets which of two hours it is in
            last = at
            yield at


def check_cron(line: str) -> str:
    """The line, when it is one; raises `ValueError` that names the field which is wrong.

    Five fields: with a sixth for seconds, cron lines of the field mean other things.
    """
    if len(line.split()) != 5:
        raise ValueError(f"'{line[:40]}' does not have the five fields of a cron line")
    try:
        CronSim(line, datetime(2026, 1, 1, tzinfo=UTC))
    except CronSimError as error:
        field = str(error).lower().removeprefix("bad ")
        raise ValueError(f"the {field} of the cron line '{line[:40]}' is wrong") from None
    return line


def read_time(written: str, schedule: Schedule) -> float:
    """Seconds since 1970 of a time as a person writes it, in the schedule's zone where it names none.

    Raises `ValueError` with what to write after `; `.
    """
    try:
        time = datetime.fromisoformat(written)
        if not FIRST_YEAR <= time.year <= LAST_YEAR:
            raise ValueError(written)
    except ValueError:
        write = "write e.g. 2026-11-24T22:00 (in the policy's zone) or 2026-11-24T22:00+09:00"
        raise ValueError(f"'{written[:40]}' is no time; {write}") from None
    return (time if time.tzinfo is not None else time.replace(tzinfo=zone_of(schedule.timezone))).timestamp()


@lru_cache(maxsize=64)
def zone_of(name: str) -> ZoneInfo:
    """A time zone; raises `ValueError` for a name that is none."""
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError):  # OSError: a name that is a folder of the database
        raise ValueError(f"there is no time zone {name!r}") from None


def show_time(at: float, schedule: Schedule) -> str:
    """An instant for people, in the schedule's zone, to the second where that matters: `2026-11-24 22:00 JST`."""
    local = datetime.fromtimestamp(at, zone_of(schedule.timezone))
    return local.strftime("%Y-%m-%d %H:%M:%S %Z" if at % 60 >= 1 else "%Y-%m-%d %H:%M %Z")


# ---- the rules ------------------------------------------------------------------------------------------------


def _rules(schedule: Schedule, deadline_s: float, committed_at: float | None, salt: str) -> dict[str, _Rule]:
    """By their names; only those that the schedule has."""
    zone = zone_of(schedule.timezone)
    rules: dict[str, _Rule] = {}
    if schedule.cron:
        rules["schedule.cron"] = lambda at: _due(schedule, zone, at, committed_at, salt)
    if schedule.windows:
        rules["schedule.windows"] = lambda at: _inside(schedule.windows, zone, at, deadline_s)
    if schedule.blackouts:
        rules["schedule.blackouts"] = lambda at: _outside(schedule.blackouts, zone, at, deadline_s)
    return rules


def _first(rules: Sequence[_Rule], since: float) -> tuple[Interval | None, float]:
    """The first interval from `since` on in which all rules hold; and, where there is none, how far was looked."""
    intervals = [rule(since) for rule in rules]
    current: list[Interval] = [(-math.inf, -math.inf)] * len(rules)
    start, steps = since, 0
    while start < since + HORIZON_S:
        for index, one in enumerate(intervals):
            while current[index][1] <= start:
                following = next(one, None)
                steps += 1
                if following is None:
                    return None, math.inf
                if steps > _MOST_STEPS:
                    return None, start
                current[index] = following
        later = max([start, *(begin for begin, _ in current)])
        end = min([math.inf, *(end for _, end in current)])
        if later < end:
            return (later, end), later
        start = later
    return None, math.inf


def _due(schedule: Schedule, zone: ZoneInfo, at: float, committed_at: float | None, salt: str) -> Iterator[Interval]:
    """From each time of the cron line until it lapses, unless it is used up."""
    # A time that lies far ahead was taken from a clock that was wrong: it may not stop rounds for years.
    used = -math.inf if committed_at is None or committed_at > at + _WRONG_S else committed_at
    for time in fires(schedule.cron, zone, max(used, at - schedule.within_s - schedule.jitter_s)):
        if time > at + HORIZON_S:
            break
        begin = time + jitter(schedule, salt, time)
        if begin + schedule.within_s > at:
            yield begin, begin + schedule.within_s


def _inside(windows: Sequence[Window], zone: ZoneInfo, at: float, deadline_s: float) -> Iterator[Interval]:
    """In a window, early enough for a whole round."""
    for begin, end in _periods(windows, zone, at, deadline_s):
        if end - deadline_s > max(at, begin):
            yield begin, end - deadline_s


def _outside(blackouts: Sequence[Window], zone: ZoneInfo, at: float, deadline_s: float) -> Iterator[Interval]:
    """In no blackout, and early enough for a whole round before the next one."""
    free = at
    for begin, end in _periods(blackouts, zone, at, deadline_s):
        if begin - deadline_s > free:
            yield free, begin - deadline_s
        free = max(free, end)
    yield free, math.inf


def _periods(windows: Sequence[Window], zone: ZoneInfo, at: float, deadline_s: float) -> Iterator[Interval]:
    """The windows that end after `at`, in order; those that touch or overlap are one, as far as anybody looks."""
    merged: Interval | None = None
    for begin, end in heapq.merge(*(_of(window, zone, at) for window in windows)):
        if begin > at + HORIZON_S:
            break
        if merged is None:
            merged = begin, end
        elif begin <= merged[1] < max(at, merged[0]) + deadline_s + _MERGED_S:
            merged = merged[0], max(merged[1], end)
        elif end > merged[1]:
            yield merged
            # What is cut because it goes on for days must not lose the rounds that span the cut.
            merged = min(begin, merged[1] - deadline_s) if begin <= merged[1] else begin, end
    if merged is not None:
        yield merged


def _of(window: Window, zone: ZoneInfo, at: float) -> Iterator[Interval]:
    return ((time, time + window.lasts_s) for time in fires(window.cron, zone, at - window.lasts_s))


def jitter(schedule: Schedule, salt: str, what: float) -> float:
    """Seconds from 0 to the schedule's jitter, always the same for one time (or round) of one federation."""
    return schedule.jitter_s * (zlib.crc32(f"{salt} {what:.0f}".encode()) / 2**32)


# ---- in words -------------------------------------------------------------------------------------------------


def _reason(name: str, rule: _Rule, schedule: Schedule, now: float) -> Reason:
    found = next(rule(now), None)
    holds = found is not None and found[0] <= now
    match name:
        case "schedule.cron":
            says = f"a round is due by '{schedule.cron}'" if holds else f"no round is due by '{schedule.cron}'"
        case "schedule.windows":
            says = "in a window" if holds else "no window is open that a whole round fits into"
        case _:
            says = "in no blackout" if holds else _blackout(schedule, now)
    if holds and found is not None and found[1] < now + _MERGED_S:
        says += f" for {show_duration(found[1] - now)}"
    return Reason(name, holds, says)


def _blackout(schedule: Schedule, now: float) -> str:
    """The blackout that is on, or that is next."""
    zone = zone_of(schedule.timezone)
    coming = ((next(_of(one, zone, now), (math.inf, math.inf)), index) for index, one in enumerate(schedule.blackouts))
    (begin, end), index = min(coming)
    name = schedule.blackouts[index].name or f"'{schedule.blackouts[index].cron}'"
    if begin > now:
        return f"the blackout {name} begins {show_time(begin, schedule)}, before a round could end"
    return f"the blackout {name} is on until {show_time(end, schedule)}"
