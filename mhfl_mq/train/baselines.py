"""What a federation of mixed tiers is compared with, in one process: the same loop, data, rounds and options.

- `smallest-on-all`: every device trains the smallest tier (FedAvg of the model that all can carry);
- `exclusive-largest`: only the devices of the largest tier take part, with the largest model;
- `local-only`: each device trains its own tier alone, for as many steps; the score is the mean over the devices;
- `same-tiers`: the federation itself without network, devices and deadlines: what its numbers should come near.

A device starts a round from the global prefix of its tier; deltas are weighed and summed by the same algorithm and the
same exact fold as in the aggregator. The score is the mean over the last `LAST` rounds on the task's test data.
(The comparisons are those of HeteroFL, Diao et al. 2021, and of PracMHBench, Guo et al. 2025.)
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

import numpy as np

from mhfl_mq.errors import LocalMisuse
from mhfl_mq.families import Algorithm
from mhfl_mq.segments import Accumulator, Bounds, Vector
from mhfl_mq.train.evaluate import evaluate_tiers
from mhfl_mq.train.loop import shard_luck, train_round
from mhfl_mq.train.model import TaskModels
from mhfl_mq.train.options import TrainOptions
from mhfl_mq.train.reports import BASELINES, BaselineReport, Participant
from mhfl_mq.train.steps import Job, method_of
from mhfl_mq.train.task import Examples

__all__ = ["LAST", "Setting", "run_baseline"]

LAST: Final = 3
"""Rounds at the end whose mean is the score: the best round would be chosen on the test data."""
LARGEST_VALUE: Final = 1e4
"""Bound on a delta's coordinates, for the fold's grid; training that exceeds it has failed."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Everything that a baseline shares with the federation it is compared with."""

    models: TaskModels
    participants: Sequence[tuple[Participant, Examples]]
    test: Examples
    rounds: int
    options: TrainOptions
    initial_seed: int
    algorithm: Algorithm


def run_baseline(kind: str, setting: Setting, *, clock: Callable[[], float] = time.perf_counter) -> BaselineReport:
    """Run one of `BASELINES`; raises `LocalMisuse` for another name or a setting in which it means nothing."""
    if setting.rounds < 1 or not setting.participants:
        raise LocalMisuse(f"a baseline of {setting.rounds} rounds and {len(setting.participants)} devices")
    begun = clock()
    top = len(setting.models.tiers) - 1
    own = [(who.tier, who.shard, data) for who, data in setting.participants]
    match kind:
        case "smallest-on-all":
            tiers = _federated(setting, [(0, shard, data) for _, shard, data in own])
            result = tiers[0]
        case "exclusive-largest":
            largest = [one for one in own if one[0] == top]
            if not largest:
                raise LocalMisuse("no device carries the largest tier", where=kind)
            tiers = {top: _federated(setting, largest)[top]}  # nobody deploys its smaller prefixes
            result = tiers[top]
        case "local-only":
            tiers, result = _alone(setting, own)
        case "same-tiers":
            tiers = _federated(setting, own)
            result = tiers[max(tiers)]
        case _:
            raise LocalMisuse(f"there is no baseline {kind!r}", remedy=f"give one of {', '.join(BASELINES)}")
    names = {setting.models.tiers[k].name: value for k, value in tiers.items()}
    return BaselineReport(result, names, clock() - begun)


def _federated(setting: Setting, devices: Sequence[tuple[int, str, Examples]]) -> dict[int, float]:
    """Rounds of `devices` (tier, shard, data); the score of each tier that is fully trained."""
    models, layout = setting.models, setting.models.layout
    flat = models.initial(setting.initial_seed)
    measured = range(max(tier for tier, _, _ in devices) + 1)
    scores: dict[int, list[float]] = {k: [] for k in measured}
    for number in range(1, setting.rounds + 1):
        flat = _round(setting, flat, devices, number)
        if number > setting.rounds - LAST:
            found = list(evaluate_tiers(method_of(setting.algorithm.about.name), models, flat, setting.test).values())
            for k in measured:
                scores[k].append(found[k])
    assert flat.size == layout.total
    return {k: fmean(values) for k, values in scores.items()}


def _round(setting: Setting, flat: Vector, devices: Sequence[tuple[int, str, Examples]], number: int) -> Vector:
    """One round: everybody trains from `flat`, the mean of the deltas is added to it."""
    layout, algorithm = setting.models.layout, setting.algorithm
    weights = [algorithm.weight(len(data)) for _, _, data in devices]
    bounds = Bounds(cohort=len(devices), weight=max(weights), value=LARGEST_VALUE)
    total = Accumulator(layout.holdings, bounds)
    for (tier, shard, data), weight in zip(devices, weights, strict=True):
        total.fold(_trained(setting, flat, tier, shard, data, number), tier, weight)
    new = np.empty_like(flat)
    algorithm.finalize(total, layout, flat, new)
    return new


def _trained(setting: Setting, flat: Vector, tier: int, shard: str, data: Examples, number: int) -> Vector:
    """The delta of one device's round."""
    models = setting.models
    base = models.layout.take(flat, tier).copy()
    numbers = setting.algorithm.numbers
    job = Job(models, tier, base, data, setting.options, numbers, number, shard_luck(shard))
    return train_round(method_of(setting.algorithm.about.name), job).update


def _alone(setting: Setting, own: Sequence[tuple[int, str, Examples]]) -> tuple[dict[int, float], float]:
    """Every device by itself: the mean score of each tier's devices, and of all devices."""
    models = setting.models
    initial = models.initial(setting.initial_seed)
    scores: dict[int, list[float]] = {}
    for tier, shard, data in own:
        flat = initial.copy()
        for number in range(1, setting.rounds + 1):
            moved = models.layout.take(flat, tier) + _trained(setting, flat, tier, shard, data, number)
            models.layout.holdings.put(moved, tier, flat)
        vector = models.layout.take(flat, tier).copy()
        found = method_of(setting.algorithm.about.name).score(models, tier, vector, setting.test)
        scores.setdefault(tier, []).append(found)
    tiers = {k: fmean(values) for k, values in sorted(scores.items())}
    return tiers, fmean(value for values in scores.values() for value in values)
