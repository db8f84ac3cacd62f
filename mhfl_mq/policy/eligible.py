"""Who may be invited now: the rules on facts, the limits of each device, and the schedule, in pure decisions.

A rule that asks for a fact which is not known does not hold: the device is out, and the reason says so. `forbid` wins
over `require`. A rule's name in a reason is that of the policy file, or the path of the key that it stands for.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final

from mhfl_mq.policy.compiled import Condition, Policy, Rule, Schedule
from mhfl_mq.policy.conditions import show_value, test_of
from mhfl_mq.policy.decide import Decision, Reason
from mhfl_mq.policy.facts import FACTS, DeviceFacts, Source
from mhfl_mq.policy.quantities import show_bytes, show_duration
from mhfl_mq.policy.schedule import Opening, next_opening, opening, show_time, zone_of

__all__ = ["Eligibility", "Fleet", "decide", "explain"]


@dataclass(frozen=True, slots=True)
class Fleet:
    """What decisions look at: the devices that are there, `rounds` that have ended, and when the last one that made a
    version began. `federation` salts the schedule's jitter; `lengths` are the coordinates of the tiers."""

    devices: tuple[DeviceFacts, ...] = ()
    rounds: int = 0
    committed_at: float | None = None
    federation: str = ""
    lengths: Mapping[str, int] = field(default_factory=dict)


def decide(policy: Policy, fleet: Fleet, now: float) -> Decision[tuple[str, ...]]:
    """Who may be invited to a round that begins now; nobody while the schedule allows none.

    The reasons are the schedule's, and one for each rule that keeps devices out, with how many.
    """
    planned = _opening(policy, fleet, now)
    if not planned.answer.now:
        return Decision((), planned.reasons)
    rules = Eligibility(policy)
    chosen, out = [], Counter[str]()
    for device in fleet.devices:
        against = rules.against(device, fleet.rounds, now) if device.present else "present"
        if against:
            out[against] += 1
        else:
            chosen.append(device.device)
    kept = (Reason(rule, False, f"keeps {count} of {len(fleet.devices)} devices out") for rule, count in out.items())
    return Decision(tuple(chosen), (*planned.reasons, *kept))


def explain(policy: Policy, fleet: Fleet, device: DeviceFacts, now: float) -> Decision[Opening]:
    """Whether a device may be invited now, with every rule, and its next chance (None: not by waiting alone)."""
    planned = _opening(policy, fleet, now)
    rules = Eligibility(policy)
    own = rules.explain(device, fleet.rounds, now)
    here = () if device.present else (Reason("present", False, "it is not connected"),)
    reasons = (*here, *own.reasons, *planned.reasons)
    if here:
        return Decision(Opening(False, None), reasons)
    if own.answer and planned.answer.now:
        return Decision(Opening(True, planned.answer.changes_at), reasons)
    rested_at = now if own.answer else rules.free_at(device, fleet.rounds, now)
    chance = (
        None
        if rested_at is None
        else next_opening(
            policy.schedule, policy.participation.deadline_s, rested_at, fleet.committed_at, fleet.federation
        )
    )
    return Decision(Opening(False, None if chance is None else chance[0]), reasons)


def _opening(policy: Policy, fleet: Fleet, now: float) -> Decision[Opening]:
    deadline_s = policy.participation.deadline_s
    return opening(policy.schedule, deadline_s, now, fleet.committed_at, fleet.federation)


# ---- one device -----------------------------------------------------------------------------------------------

_Test = Callable[[DeviceFacts, int, float], bool]
_Words = Callable[[DeviceFacts, int, float], str]
_Next = Callable[[DeviceFacts, int, float], float | None]


@dataclass(frozen=True, slots=True)
class _Check:
    """One rule: whether it lets a device in, in which words, and when it would by waiting alone (None: never)."""

    name: str
    test: _Test
    words: _Words
    next_at: _Next = lambda _device, _rounds, _now: None


class Eligibility:
    """A policy's rules about single devices, made ready once: `against` takes microseconds. `rounds` have ended."""

    def __init__(self, policy: Policy) -> None:
        self._checks = tuple(_checks(policy))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the rules, in the order in which they are looked at."""
        return tuple(check.name for check in self._checks)

    def against(self, device: DeviceFacts, rounds: int, now: float) -> str:
        """The name of the first rule that keeps this device out; empty: none does."""
        for check in self._checks:
            if not check.test(device, rounds, now):
                return check.name
        return ""

    def free_at(self, device: DeviceFacts, rounds: int, now: float) -> float | None:
        """When waiting alone lets a device in that is out now; None: it does not."""
        times = [check.next_at(device, rounds, now) for check in self._checks if not check.test(device, rounds, now)]
        known = [at for at in times if at is not None]
        return max(known) if known and len(known) == len(times) else None

    def explain(self, device: DeviceFacts, rounds: int, now: float) -> Decision[bool]:
        """Whether a device may be invited, with every rule and its numbers."""
        reasons = tuple(
            Reason(check.name, check.test(device, rounds, now), check.words(device, rounds, now))
            for check in self._checks
        )
        return Decision(all(reason.holds for reason in reasons), reasons)


def _checks(policy: Policy) -> list[_Check]:
    part, limits, schedule = policy.participation, policy.schedule.per_device, policy.schedule
    checks = [_forbidding(rule) for rule in part.forbid]
    checks += [_requiring(rule) for rule in part.require]
    if limits.quiet_on_battery:
        checks.append(_requiring(Rule(f"{_LIMITS}.quiet_on_battery", (Condition("on_battery", "is", False),))))
    if part.cooldown_s:
        checks.append(_cooldown(part.failures, part.cooldown_s, schedule))
    if limits.min_interval_s:
        checks.append(_interval(limits.min_interval_s, schedule))
    if limits.upload_bytes is not None:
        checks.append(_bytes(limits.upload_bytes, schedule))
    if limits.training_s is not None:
        checks.append(_training(limits.training_s, schedule))
    if part.largest_share < 1:
        checks.append(_share(part.largest_share))
    return checks


_LIMITS: Final = "schedule.per_device"


def _requiring(rule: Rule) -> _Check:
    tests = tuple((one.fact, test_of(one)) for one in rule.conditions)

    def test(device: DeviceFacts, _rounds: int, _now: float) -> bool:
        facts = device.facts
        for fact, check in tests:
            value = facts.get(fact)
            if value is None or not check(value):
                return False
        return True

    return _Check(rule.name, test, lambda device, _rounds, now: _said(rule, device, now))


def _forbidding(rule: Rule) -> _Check:
    tests = tuple((one.fact, test_of(one)) for one in rule.conditions)

    def test(device: DeviceFacts, _rounds: int, _now: float) -> bool:
        """One condition that surely does not hold is enough, whatever the others are."""
        facts = device.facts
        return any((value := facts.get(fact)) is not None and not check(value) for fact, check in tests)

    return _Check(rule.name, test, lambda device, _rounds, now: f"forbidden where {_said(rule, device, now)}")


def _said(rule: Rule, device: DeviceFacts, now: float) -> str:
    """Each condition with the fact's value."""
    return ", ".join(f"{one}: {_fact(one.fact, device, now)}" for one in rule.conditions)


def _fact(fact: str, device: DeviceFacts, now: float) -> str:
    value = device.facts.get(fact)
    if value is None:
        return f"{fact} is not known, so the device is out"
    return f"it is {show_value(value)}{_whose(fact, device, now)}"


def _whose(fact: str, device: DeviceFacts, now: float) -> str:
    if FACTS[fact].source is Source.VERIFIED or device.said_at is None:
        return f" ({FACTS[fact].source.value})"
    return f" (reported {show_duration(max(0.0, now - device.said_at))} ago)"


# ---- what a device has done -------------------------------------------------------------------------------------


def _cooldown(failures: int, cooldown_s: float, schedule: Schedule) -> _Check:
    def rests_until(device: DeviceFacts, now: float) -> float:
        turned = device.past.turned_at
        if device.past.missed < failures or turned is None or turned > now + cooldown_s:  # a clock was wrong
            return 0.0
        return turned + cooldown_s

    def words(device: DeviceFacts, _rounds: int, now: float) -> str:
        until, missed = rests_until(device, now), device.past.missed
        rests = f", rests until {show_time(until, schedule)}" if until > now else ""
        return f"{missed} turn{'' if missed == 1 else 's'} in a row without an update, {failures} are too many{rests}"

    return _Check(
        "participation.cooldown",
        lambda device, _rounds, now: rests_until(device, now) <= now,
        words,
        lambda device, _rounds, now: rests_until(device, now),
    )


def _interval(least_s: float, schedule: Schedule) -> _Check:
    def free_at(device: DeviceFacts, now: float) -> float:
        turned = device.past.turned_at
        return 0.0 if turned is None or turned > now + least_s else turned + least_s  # a clock was wrong

    def words(device: DeviceFacts, _rounds: int, _now: float) -> str:
        turned = device.past.turned_at
        last = "had no turn yet" if turned is None else f"its last turn began {show_time(turned, schedule)}"
        return f"{last}, {show_duration(least_s)} must lie between two"

    return _Check(
        f"{_LIMITS}.min_interval",
        lambda device, _rounds, now: free_at(device, now) <= now,
        words,
        lambda device, _rounds, now: free_at(device, now),
    )


def _bytes(most: int, schedule: Schedule) -> _Check:
    def words(device: DeviceFacts, _rounds: int, now: float) -> str:
        sent, coming = show_bytes(_today(device, schedule, now)[0]), show_bytes(device.next_bytes)
        return f"{sent} today, the next update is {coming}, {show_bytes(most)} are allowed"

    return _Check(
        f"{_LIMITS}.upload_per_day",
        lambda device, _rounds, now: _today(device, schedule, now)[0] + device.next_bytes <= most,
        words,
        lambda device, _rounds, now: _day(schedule.timezone, now)[1] if device.next_bytes <= most else None,
    )


def _training(most_s: float, schedule: Schedule) -> _Check:
    def coming(device: DeviceFacts) -> float:
        # One that was longer than a whole day's limit (a machine that slept) must not keep the device out for ever.
        return min(most_s, device.past.last_s)

    def words(device: DeviceFacts, _rounds: int, now: float) -> str:
        spent, last = _seconds(_today(device, schedule, now)[1]), _seconds(coming(device))
        return f"{spent} today, the last training took {last}, {_seconds(most_s)} are allowed"

    return _Check(
        f"{_LIMITS}.training_per_day",
        lambda device, _rounds, now: _today(device, schedule, now)[1] + coming(device) <= most_s,
        words,
        lambda _device, _rounds, now: _day(schedule.timezone, now)[1],
    )


def _share(largest: float) -> _Check:
    def allowed(rounds: int) -> int:
        """Turns after the next round, rounded up: else devices that share all rounds evenly would all be out."""
        return math.ceil(round(largest * (rounds + 1), 9))

    return _Check(
        "participation.largest_share",
        lambda device, rounds, _now: device.past.turns + 1 <= allowed(rounds),
        lambda device, rounds, _now: (
            f"it had its turn in {device.past.turns} of {rounds} rounds, at most {largest:.0%} are allowed"
        ),
    )


def _today(device: DeviceFacts, schedule: Schedule, now: float) -> tuple[int, float]:
    """Bytes that a device sent and seconds that it trained on this day of the schedule's zone."""
    begin, end = _day(schedule.timezone, now)
    today = [one for one in device.past.uploads if begin <= one.at < end]
    return sum(one.size for one in today), sum(one.seconds for one in today)


@lru_cache(maxsize=8)
def _day_of(zone: str, date: tuple[int, int, int]) -> tuple[float, float]:
    begin = datetime(*date, tzinfo=zone_of(zone))
    return begin.timestamp(), (begin + timedelta(days=1)).timestamp()  # by the wall clock: 23 to 25 hours


def _day(zone: str, now: float) -> tuple[float, float]:
    """Beginning and end of the day in this zone, in seconds since 1970."""
    today = datetime.fromtimestamp(now, zone_of(zone))
    return _day_of(zone, (today.year, today.month, today.day))


def _seconds(seconds: float) -> str:
    return show_duration(seconds) if seconds >= 1 else f"{seconds:.3g}s"
