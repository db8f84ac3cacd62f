"""Which tier each simulated device carries: measured costs, its profile, and one budget for the whole federation.

The models of a benchmark are far smaller than what such devices can hold, so absolute budgets would bind nobody. The
budget is therefore placed: it is the one number at which, by the reference algorithm's measured costs, the planned
mix of profiles carries the planned mix of tiers, or comes nearest to it. It is then the same for every algorithm, so
a costly one gets smaller tiers and a saving one larger. A device's tier is what the policy's own decision gives for
what the device measures: never a share of the width.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from mhfl_mq.bench.profiles import Bound, Constraint, Part, Profile
from mhfl_mq.policy import Budget, Tier, assign_tier, transfer_seconds
from mhfl_mq.wire.messages import Capability, ProbeResult

__all__ = ["NEVER_S", "Budgets", "Cost", "Device", "capability", "fleet_of", "place_budgets", "tier_of", "with_budgets"]

ROOM: Final = 1.1
"""How far a budget is above the cost that it must allow, where it cannot be midway between that and the next one."""
NEVER_S: Final = 1e9
"""Seconds of a step of a tier that no device runs: one that is the aggregator's own, or failed in its probe."""
REFUSED: Final = 10.0
"""What a device that could carry no tier counts, in tiers that it is away from its plan."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a tier costs on the machine that runs the benchmark: seconds per step, peak bytes, coordinates."""

    step_s: float
    peak_bytes: int
    length: int


@dataclass(frozen=True, slots=True)
class Budgets:
    """What a round may cost on every device; None: no bound. `memory_share` is of a device's memory."""

    train_s: float | None = None
    transfer_s: float | None = None
    memory_share: float | None = None


@dataclass(frozen=True, slots=True)
class Device:
    """A simulated device: its shard of the data, the machine that it plays, and the tier that it carries.

    `tier` is None where no tier fits: the federation refuses it.
    """

    name: str
    shard: str
    profile: Profile
    tier: int | None = None


def place_budgets(case: Constraint, costs: Sequence[Cost], steps: int) -> Budgets:
    """The budgets of a case over the reference algorithm's costs, tiers smallest first."""
    placed = {bound: _place(bound, case.fleet, costs, steps) for bound in case.bounds}
    return Budgets(placed.get(Bound.TRAIN), placed.get(Bound.TRANSFER), placed.get(Bound.MEMORY))


def _place(bound: Bound, fleet: Sequence[Part], costs: Sequence[Cost], steps: int) -> float:
    planned = [part for part in fleet if part.rank is not None]
    top = len(costs) - 1
    wanted = [round((part.rank or 0.0) * top) for part in planned]
    loads = [[_load(bound, cost, part.profile, steps) for cost in costs] for part in planned]
    least = max(row[tier] for row, tier in zip(loads, wanted, strict=True))
    above = [row[tier + 1] for row, tier in zip(loads, wanted, strict=True) if tier < top]
    most = min(above, default=math.inf)
    if least < most:
        return math.sqrt(least * most) if math.isfinite(most) else least * ROOM
    tried = sorted(load * ROOM for row in loads for load in row)
    return min(tried, key=lambda one: _misfit(one, planned, wanted, loads))


def _misfit(budget: float, planned: Sequence[Part], wanted: Sequence[int], loads: Sequence[Sequence[float]]) -> float:
    """How far the fleet is from its plan at this budget: tiers away, weighed by the devices' share."""
    total = 0.0
    for part, plan, row in zip(planned, wanted, loads, strict=True):
        fits = [tier for tier, load in enumerate(row) if load <= budget]
        total += part.share * (abs(fits[-1] - plan) if fits else REFUSED)
    return total


def _load(bound: Bound, cost: Cost, profile: Profile, steps: int) -> float:
    """What a round of this tier takes of the budget on a device of this profile."""
    match bound:
        case Bound.TRAIN:
            return steps * cost.step_s * profile.slowdown
        case Bound.TRANSFER:
            return transfer_seconds(cost.length, profile.link_bytes_s)
        case Bound.MEMORY:
            return cost.peak_bytes / profile.memory_bytes


def with_budgets(tiers: Sequence[Tier], budgets: Budgets, steps: int) -> tuple[Tier, ...]:
    """The policy's tiers with what they may cost. What memory a device has is for the device to say."""
    step_s = None if budgets.train_s is None else budgets.train_s / steps
    return tuple(replace(tier, budget=Budget(step_s=step_s, transfer_s=budgets.transfer_s)) for tier in tiers)


def capability(
    names: Sequence[str],
    costs: Sequence[Cost],
    profile: Profile,
    budgets: Budgets,
    *,
    session: int = 0,
    layout: str = "",
    examples: int = 0,
) -> Capability:
    """What a device of this profile says that it measured; a tier that its memory does not hold does not run."""
    room = math.inf if budgets.memory_share is None else budgets.memory_share * profile.memory_bytes
    probes = tuple(
        ProbeResult(name, cost.step_s * profile.slowdown, cost.peak_bytes)
        for name, cost in zip(names, costs, strict=True)
        if cost.step_s < NEVER_S and cost.peak_bytes <= room
    )
    return Capability(session, layout, examples, profile.link_bytes_s, probes)


def tier_of(tiers: Sequence[Tier], costs: Sequence[Cost], profile: Profile, budgets: Budgets) -> int | None:
    """The largest tier that fits, of those that devices may have; `tiers` have their budgets."""
    measured = capability([tier.name for tier in tiers], costs, profile, budgets)
    return assign_tier(tiers, [cost.length for cost in costs], measured).answer


def fleet_of(case: Constraint, shards: Sequence[str], seed: int) -> tuple[Device, ...]:
    """A device for each shard. Profiles by the case's shares; which device gets which is the seed's luck."""
    counts = _counts([part.share for part in case.fleet], len(shards))
    given = [part.profile for part, count in zip(case.fleet, counts, strict=True) for _ in range(count)]
    random.Random(f"{seed}/fleet").shuffle(given)
    digits = len(str(len(shards) - 1))
    return tuple(
        Device(f"d{index:0{digits}}", shard, profile)
        for index, (shard, profile) in enumerate(zip(shards, given, strict=True))
    )


def _counts(shares: Sequence[float], devices: int) -> list[int]:
    """So many devices of each part: by largest remainders, and at least one of each where there are enough."""
    exact = [share * devices / sum(shares) for share in shares]
    counts = [int(one) for one in exact]
    order = sorted(range(len(shares)), key=lambda index: (counts[index] - exact[index], -index))
    for index in order[: devices - sum(counts)]:
        counts[index] += 1
    for index in range(len(shares)):
        if not counts[index] and devices >= len(shares):
            counts[counts.index(max(counts))] -= 1
            counts[index] = 1
    return counts
