"""A rehearsal: the rounds that a policy would open in the coming days, for a fleet that stays as it is.

The real federation machine decides, under the real schedule and rules, by a clock that jumps from timer to timer.
Every device that is invited delivers when a round's time is over, as large an update as its tier's can be.
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from mhfl_mq.policy import Policy
from mhfl_mq.policy.eligible import Fleet
from mhfl_mq.policy.facts import FACTS, DeviceFacts, Kind, Source
from mhfl_mq.protocol.effects import AggregatorEffect, CancelTimer, FetchUpdate, Merge, Persist, SetTimer, Stop, Tell
from mhfl_mq.protocol.events import AggregatorEvent, Heard, Merged, Started, TimerFired, UpdateStored
from mhfl_mq.protocol.federation import FederationMachine
from mhfl_mq.protocol.records import (
    DeviceSaved,
    PastSaved,
    RoundOpened,
    SavedState,
    UploadSaved,
    VersionAdded,
)
from mhfl_mq.protocol.rules import Decision, Rules
from mhfl_mq.run.rules import PolicyDecider, plain_rules
from mhfl_mq.wire.messages import Facts, Manifest, Offer, Presence, TierSpec, UpdateReady

__all__ = ["MOST_ROUNDS", "Planned", "rehearse"]

MOST_ROUNDS: Final = 2000
"""Rounds of one rehearsal: a policy that opens more opens them without a pause."""
MOST_TURNS: Final = 50_000
"""Turns of devices in one rehearsal: some seconds."""
_STEPS: Final = 200_000  # timers: the schedule is asked every ten minutes, which is a thousand times a week
_LAYOUT: Final = "0" * 64
_MODEL: Final = "0" * 64


@dataclass(frozen=True, slots=True)
class Planned:
    """A round: when it begins and ends (seconds since 1970), whom it invites, and the bytes of each device's update."""

    begin: float
    end: float
    updates: Mapping[str, int]
    out: Mapping[str, int]  # how many devices each rule keeps out


def rehearse(
    policy: Policy, fleet: Fleet, lengths: Sequence[int], since: float, until: float, round_s: float, seed: int = 0
) -> tuple[list[Planned], bool]:
    """The rounds from `since` to `until`, and whether these are all; each takes `round_s`, at most the deadline.

    `lengths` are the coordinates of the policy's tiers. Devices of a tier that the policy does not have stay away.
    """
    return _Rehearsal(policy, fleet, lengths, min(round_s, policy.participation.deadline_s), seed).play(since, until)


class _Decider(PolicyDecider):
    """The policy's decisions; what is rehearsed is not measured, so each round makes a version."""

    def gate(self, new: Mapping[str, float], head: Mapping[str, float]) -> Decision:
        """Yes."""
        return Decision(True)


class _Rehearsal:
    def __init__(self, policy: Policy, fleet: Fleet, lengths: Sequence[int], round_s: float, seed: int) -> None:
        names = [tier.name for tier in policy.tiers]
        self._lengths = tuple(lengths)
        self._round_s = round_s
        self._devices = [one for one in fleet.devices if one.present and one.facts.get("tier") in names]
        tiers = {one.device: names.index(str(one.facts["tier"])) for one in self._devices}
        decider = _Decider(policy, lengths, random.Random(seed), federation=fleet.federation)
        self._machine = FederationMachine(_rules(policy, lengths), decider, _saved(self._devices, tiers, fleet))
        self._timers: dict[str, float] = {}
        self._now = 0.0
        self._offers: dict[str, Offer] = {}
        self._begun: tuple[float, dict[str, int]] | None = None
        self._merging: int | None = None
        self._stopped = False
        self._turns = 0
        self._found: list[Planned] = []

    def play(self, since: float, until: float) -> tuple[list[Planned], bool]:
        self._now = since
        for one in self._devices:  # all at once: else the first round would begin with the first few
            self._machine.members.says(one.device, _facts(one), since)
            self._machine.members.presence(one.device, Presence(2, True, ""))
        self._handle(Started())
        for _ in range(_STEPS):
            self._deliver(until)
            if self._stopped or self.cut or not self._timers:
                break
            name = min(self._timers, key=lambda one: self._timers[one])
            if self._timers[name] >= until:
                break
            self._now = self._timers.pop(name)
            self._handle(TimerFired(name))
        return [one for one in self._found if one.begin < until], not self.cut

    @property
    def cut(self) -> bool:
        """Whether it has gone on for long enough: there may be more rounds than these."""
        return len(self._found) >= MOST_ROUNDS or self._turns >= MOST_TURNS

    def _deliver(self, until: float) -> None:
        """While a round is open, its devices deliver, and it makes a version; without a pause the next one follows."""
        while self._begun is not None and not (self._stopped or self.cut) and self._now < until:
            begin, out = self._begun
            self._begun, offers = None, self._offers
            self._offers = {}
            self._now = max(self._now, begin + self._round_s)
            sizes = {}
            for device, offer in offers.items():
                sizes[device] = self._size(device, offer)
                manifest = Manifest(_blob(device, offer.round), sizes[device], 1024, b"")
                ready = UpdateReady(offer.round, offer.base, 1.0, manifest, {"seconds": self._seconds(device)})
                self._handle(Heard(device, ready))
            self._found.append(Planned(begin, self._now, sizes, out))
            self._turns += len(sizes)
            if self._merging is not None:
                number, self._merging = self._merging, None
                self._handle(Merged(number, _MODEL))

    def _size(self, device: str, offer: Offer) -> int:
        upload = self._machine.eligibility.asked((device, offer.tier, 0)).next_bytes
        return upload or 4 * self._lengths[offer.tier]

    def _seconds(self, device: str) -> float:
        return self._machine.members.past(device).last_s

    def _handle(self, event: AggregatorEvent) -> None:
        for effect in self._machine.handle(event, self._now):
            self._perform(effect)

    def _perform(self, effect: AggregatorEffect) -> None:
        match effect:
            case SetTimer(name, after_s):
                self._timers[name] = self._now + after_s
            case CancelTimer(name):
                self._timers.pop(name, None)
            case Tell(device, Offer() as offer):
                self._offers[device] = offer
            case FetchUpdate(number, device, _, manifest):
                self._handle(UpdateStored(number, device, manifest.blob_id))
            case Merge(number):
                self._merging = number
            case Persist(changes, entries) if any(isinstance(one, RoundOpened) for one in changes):
                out = next((one.facts["out"] for one in entries if "out" in one.facts), {})
                self._begun = self._now, dict(out) if isinstance(out, dict) else {}  # type: ignore[arg-type]
            case Stop():
                self._stopped = True


def _rules(policy: Policy, lengths: Sequence[int]) -> Rules:
    """The policy's, without the bounds on what an update is: what is rehearsed are times, not updates."""
    tiers = tuple(
        TierSpec(tier.name, tier.width, tier.depth, max(1, length))
        for tier, length in zip(policy.tiers, lengths, strict=True)
    )
    return replace(
        plain_rules(policy, _LAYOUT, tiers), max_update_bytes=2**62, max_weight=math.inf, batch=1, compacts=True
    )


def _saved(devices: Sequence[DeviceFacts], tiers: Mapping[str, int], fleet: Fleet) -> SavedState:
    return SavedState(
        rounds_opened=fleet.rounds,
        last_round=fleet.rounds,
        head=VersionAdded(0, None, _MODEL, _LAYOUT, "initial", None, {}, ""),
        devices=tuple(
            DeviceSaved(
                one.device,
                1,
                tiers[one.device],
                "",
                _LAYOUT,
                int(_number(one, "examples")),
                _number(one, "link_mbit") * 1e6 / 8,
                (),
            )
            for one in devices
        ),
        committed_at=fleet.committed_at,
        turns={one.device: one.past.turns for one in devices},
        pasts={
            one.device: PastSaved(
                one.past.turned_at,
                one.past.missed,
                tuple(UploadSaved(up.at, up.size, up.seconds) for up in one.past.uploads),
                one.past.last_s,
            )
            for one in devices
        },
    )


def _facts(device: DeviceFacts) -> Facts:
    """What the device said, for the machine to hear again."""
    numbers: dict[str, float] = {}
    texts: dict[str, tuple[str, ...]] = {}
    for name, value in device.facts.items():
        fact = FACTS[name]
        if fact.source is Source.REPORTED and isinstance(value, tuple):
            texts[name] = value
        elif fact.source is Source.REPORTED and isinstance(value, str):
            texts[name] = (value,)
        elif fact.source is Source.REPORTED and fact.kind in (Kind.NUMBER, Kind.FLAG):
            numbers[name] = float(value)  # type: ignore[arg-type]
    return Facts(numbers, texts)


def _number(device: DeviceFacts, name: str) -> float:
    value = device.facts.get(name, 0.0)
    return float(value) if isinstance(value, int | float) else 0.0


def _blob(device: str, number: int) -> str:
    return f"{device} {number}"
