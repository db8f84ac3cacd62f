"""Training at the aggregator, on public examples, towards what the devices said of them (FedDF, Fed-ET)."""

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mhfl_mq.errors import TrainingFailed
from mhfl_mq.families.distillation.feddf import TEACHING
from mhfl_mq.segments import Vector
from mhfl_mq.train.minibatches import batches
from mhfl_mq.train.model import TaskModels, TierModel
from mhfl_mq.train.steps.base import Conclusion
from mhfl_mq.train.steps.plain import descend
from mhfl_mq.train.task import Examples

__all__ = ["CLIP", "put_back", "teach", "tier_model"]

CLIP: Final = 5.0
"""Bound on the gradient's norm, as in FedDF's code."""

Index = npt.NDArray[np.int64]


def tier_model(models: TaskModels, flat: Vector, tier: int) -> TierModel:
    """The model of a tier of this version (whole)."""
    model = models.build(tier)
    model.put(models.layout.take(flat, tier).copy())
    return model


def put_back(models: TaskModels, model: TierModel, flat: Vector, tier: int) -> None:
    """Write a tier's model over its place in a version (whole)."""
    models.layout.holdings.put(model.take(), tier, flat)


def teach(
    module: nn.Module,
    public: Examples,
    rows: Index,
    loss: Callable[[Tensor, Index], Tensor],
    told: Conclusion,
    tier: int,
) -> None:
    """Steps of Adam on minibatches of these public examples: `loss` has the scores of a batch and its numbers.

    No examples, no steps. The minibatches follow from the seed, the round and the tier.
    """
    number = _numbers(told.numbers)
    steps = int(number["distill_steps"]) if len(rows) else 0
    if not steps:
        return
    seeds = np.random.SeedSequence([told.options.seed, told.round_number, tier])
    chosen = batches(len(rows), int(number["distill_batch"]), np.random.default_rng(seeds))
    optimizer = torch.optim.Adam(module.parameters(), lr=number["distill_rate"])
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    module.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(seeds.generate_state(1)[0]))
        for step in range(steps):
            index = rows[next(chosen)]
            value = loss(module(public.inputs[torch.from_numpy(index)]), index)
            if not torch.isfinite(value):
                raise TrainingFailed(
                    f"the loss of the aggregator's own training is {value.item()} at step {step + 1} of {steps}",
                    where=f"tier {told.models.tiers[tier].name!r}",
                    remedy=f"lower distill_rate (now {number['distill_rate']:g})",
                )
            descend(value, module, optimizer, CLIP)
            falling.step()


def _numbers(given: Mapping[str, float]) -> dict[str, float]:
    return {name: given.get(name, number.default) for name, number in TEACHING.items()}
