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
from mhfl_mq.policy.conditions import holds, show_value, test_of
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
    own = Eligibility(policy).explain(device, fleet.rounds, now)
    here = () if device.present else (Reason("present", False, "it is not connected"),)
    reasons = (*here, *own.reasons, *planned.reasons)
    if here:
        return Decision(Opening(False, None), reasons)
    if own.answer.now and planned.answer.now:
        return Decision(Opening(True, planned.answer.changes_at), reasons)
    rested_at = now if own.answer.now else own.answer.changes_at
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
_Says = Callable[[DeviceFacts, int, float], Reason]
_Next = Callable[[DeviceFacts, int, float], float | None]


@dataclass(frozen=True, slots=True)
class _Check:
    """One rule: the quick answer, the answer in words, and when it changes by itself (None: it does not)."""

    name: str
    test: _Test
    says: _Says
    next_at: _Next = lambda _device, _rounds, _now: None


class Eligibility:
    """A policy's rules about single devices, made ready once: `against` takes microseconds."""

    def __init__(self, policy: Policy) -> None:
        self._checks = tuple(_checks(policy))
        self._tests = tuple((check.test, check) for check in self._checks)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the rules, in the order in which they are looked at."""
        return tuple(check.name for check in self._checks)

    def against(self, device: DeviceFacts, rounds: int, now: float) -> str:
        """The name of the first rule that keeps this device out; empty: none does. `rounds` have ended so far."""
        for test, check in self._tests:
            if not test(device, rounds, now):
                return check.name
        return ""

    def explain(self, device: DeviceFacts, rounds: int, now: float) -> Decision[Opening]:
        """Every rule with its numbers, and when waiting alone would let the device in (None: it would not)."""
        reasons = tuple(check.says(device, rounds, now) for check in self._checks)
        closed = [check for check in self._checks if not check.test(device, rounds, now)]
        if not closed:
            return Decision(Opening(True, None), reasons)
        times = [check.next_at(device, rounds, now) for check in closed]
        known = [at for at in times if at is not None]
        return Decision(Opening(False, max(known) if len(known) == len(times) else None), reasons)


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

    return _Check(rule.name, test, lambda device, _rounds, now: _said(rule, True, device, now))


def _forbidding(rule: Rule) -> _Check:
    tests = tuple((one.fact, test_of(one)) for one in rule.conditions)

    def test(device: DeviceFacts, _rounds: int, _now: float) -> bool:
        """One condition that surely does not hold is enough, whatever the others are."""
        facts = device.facts
        return any((value := facts.get(fact)) is not None and not check(value) for fact, check in tests)

    return _Check(rule.name, test, lambda device, _rounds, now: _said(rule, False, device, now))


def _said(rule: Rule, wanted: bool, device: DeviceFacts, now: float) -> Reason:
    parts = []
    known = []
    for one in rule.conditions:
        value = device.facts.get(one.fact)
        known.append(None if value is None else holds(one, value))
        parts.append(
            f"{one}: it is {show_value(value)}{_whose(one.fact, device, now)}"
            if value is not None
            else f"{one}: {one.fact} is not known, so the device is out"
        )
    met = all(one is True for one in known) if wanted else any(one is False for one in known)
    return Reason(rule.name, met, ("" if wanted else "forbidden where ") + ", ".join(parts))


def _whose(fact: str, device: DeviceFacts, now: float) -> str:
    if FACTS[fact].source is Source.VERIFIED or device.said_at is None:
        return f" ({FACTS[fact].source.value})"
    return f" (reported {show_duration(max(0.0, now - device.said_at))} ago)"


# ---- what a device has done -------------------------------------------------------------------------------------


def _cooldown(failures: int, cooldown_s: float, schedule: Schedule) -> _Check:
    def rests_until(device: DeviceFacts) -> float:
        past = device.past
        return 0.0 if past.missed < failures or past.turned_at is None else past.turned_at + cooldown_s

    def open_to(device: DeviceFacts, now: float) -> bool:
        until = rests_until(device)
        return until <= now or until > now + cooldown_s  # later: a clock was wrong

    def says(device: DeviceFacts, _rounds: int, now: float) -> Reason:
        until, missed = rests_until(device), device.past.missed
        rests = f", rests until {show_time(until, schedule)}" if until > now else ""
        turns = f"{missed} turn{'' if missed == 1 else 's'} in a row without an update"
        return Reason("participation.cooldown", open_to(device, now), f"{turns}, {failures} are too many{rests}")

    return _Check(
        "participation.cooldown",
        lambda device, _rounds, now: open_to(device, now),
        says,
        lambda device, _rounds, _now: rests_until(device),
    )


def _interval(least_s: float, schedule: Schedule) -> _Check:
    name = f"{_LIMITS}.min_interval"

    def free_at(device: DeviceFacts, now: float) -> float:
        turned = device.past.turned_at
        return 0.0 if turned is None or turned > now + least_s else turned + least_s  # later: a clock was wrong

    def says(device: DeviceFacts, _rounds: int, now: float) -> Reason:
        turned = device.past.turned_at
        last = "had no turn yet" if turned is None else f"its last turn began {show_time(turned, schedule)}"
        return Reason(name, free_at(device, now) <= now, f"{last}, {show_duration(least_s)} must lie between two")

    return _Check(
        name,
        lambda device, _rounds, now: free_at(device, now) <= now,
        says,
        lambda device, _rounds, now: free_at(device, now),
    )


def _bytes(most: int, schedule: Schedule) -> _Check:
    name = f"{_LIMITS}.upload_per_day"

    def used(device: DeviceFacts, now: float) -> int:
        begin, end = _day(schedule.timezone, now)
        return sum(one.size for one in device.past.uploads if begin <= one.at < end)

    def says(device: DeviceFacts, _rounds: int, now: float) -> Reason:
        sent, coming = used(device, now), device.next_bytes
        text = f"{show_bytes(sent)} today, the next update is {show_bytes(coming)}, {show_bytes(most)} are allowed"
        return Reason(name, sent + coming <= most, text)

    return _Check(
        name,
        lambda device, _rounds, now: used(device, now) + device.next_bytes <= most,
        says,
        lambda device, _rounds, now: _day(schedule.timezone, now)[1] if device.next_bytes <= most else None,
    )


def _training(most_s: float, schedule: Schedule) -> _Check:
    name = f"{_LIMITS}.training_per_day"

    def last(device: DeviceFacts) -> float:
        # One that was longer than a whole day's limit (a machine that slept) must not keep the device out for ever.
        return min(most_s, device.past.uploads[-1].seconds) if device.past.uploads else 0.0

    def used(device: DeviceFacts, now: float) -> float:
        begin, end = _day(schedule.timezone, now)
        return sum(one.seconds for one in device.past.uploads if begin <= one.at < end)

    def says(device: DeviceFacts, _rounds: int, now: float) -> Reason:
        spent, coming = used(device, now), last(device)
        text = f"{_seconds(spent)} today, the last training took {_seconds(coming)}, {_seconds(most_s)} are allowed"
        return Reason(name, spent + coming <= most_s, text)

    return _Check(
        name,
        lambda device, _rounds, now: used(device, now) + last(device) <= most_s,
        says,
        lambda device, _rounds, now: _day(schedule.timezone, now)[1] if last(device) <= most_s else None,
    )


def _share(largest: float) -> _Check:
    name = "participation.largest_share"

    def allowed(rounds: int) -> int:
        """Turns after the next round, rounded up: else devices that share all rounds evenly would all be out."""
        return math.ceil(round(largest * (rounds + 1), 9))

    def says(device: DeviceFacts, rounds: int, _now: float) -> Reason:
        turns = device.past.turns
        text = f"it had its turn in {turns} of {rounds} rounds, at most {largest:.0%} are allowed"
        return Reason(name, turns + 1 <= allowed(rounds), text)

    return _Check(name, lambda device, rounds, _now: device.past.turns + 1 <= allowed(rounds), says)


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
