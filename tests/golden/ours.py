"""Our side of the golden check: its federation's rounds through layout, training loop and streamed fold."""

import numpy as np

from mhfl_mq.families import Algorithm
from mhfl_mq.segments import Accumulator, Bounds, Packer, Vector
from mhfl_mq.train.loop import shard_luck, train_round
from mhfl_mq.train.model import TaskModels
from mhfl_mq.train.steps import Job, method_of
from tests.golden.network import Arrays
from tests.golden.setting import EXAMPLES, OPTIONS, PRESENT, TASK, TIER_OF, WIDTHS, examples

__all__ = ["FULL", "arrays_from", "flat_of", "models_of", "our_round"]

FULL = len(WIDTHS) - 1


def models_of(algorithm: Algorithm) -> TaskModels:
    """The golden network's tiers as the algorithm lays them out."""
    return TaskModels(TASK, WIDTHS, algorithm.plan)


def flat_of(models: TaskModels, arrays: Arrays) -> Vector:
    """The full model as the layout's vector."""
    return Packer(models.layout, FULL).gather(arrays)


def arrays_from(models: TaskModels, flat: Vector) -> dict[str, Vector]:
    """The full model's arrays, by name."""
    shapes = models.layout.shapes(FULL)
    arrays = {name: np.empty(shape, np.float32) for name, shape in shapes.items()}
    Packer(models.layout, FULL).scatter(flat, arrays)
    return arrays


def our_round(algorithm: Algorithm, models: TaskModels, head: Vector, round_number: int) -> Vector:
    """One round as devices and the aggregator do it: train each tier's part of the head, fold the updates, finalize."""
    layout = models.layout
    most = algorithm.weight(max(EXAMPLES.values()))
    total = Accumulator(layout.holdings, Bounds(cohort=len(TIER_OF), weight=most, value=100.0))
    for shard in PRESENT[round_number - 1]:
        tier = TIER_OF[shard]
        base = layout.take(head, tier).copy()
        numbers = algorithm.device_options({})
        job = Job(models, tier, base, examples(shard), OPTIONS, numbers, round_number, shard_luck(shard))
        trained = train_round(method_of(algorithm.about.name), job)
        total.fold(trained.update, tier, algorithm.weight(trained.weight))
    new = np.empty_like(head)
    algorithm.finalize(total, layout, head, new)
    return new
