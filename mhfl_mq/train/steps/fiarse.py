"""Training the most important coordinates of the full model, with 0 in place of all others."""

from collections.abc import Iterable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from mhfl_mq.segments import Vector
from mhfl_mq.segments.ranking import MASK, RANK, by_class, chosen
from mhfl_mq.train.model import TaskModels
from mhfl_mq.train.ranked import flat_ranked, lay, ranked_arrays
from mhfl_mq.train.steps.base import Finished, Job, Stepper
from mhfl_mq.train.steps.plain import Plain, PlainStepper, outputs_of
from mhfl_mq.train.task import Examples

__all__ = ["Fiarse"]


class Fiarse(Plain):
    """The device's half of FIARSE."""

    def begin(self, job: Job) -> Stepper:
        """Start from the base."""
        return FiarseStepper(job)

    def score(self, models: TaskModels, tier: int, vector: Vector, examples: Examples) -> float:
        """The metric of the full model with 0 for what the tier does not hold."""
        model = models.build(tier)
        model.put(vector)
        lay(model.module, model.own)
        return float(models.task.metric(outputs_of(model.module, examples), examples.targets))


class FiarseStepper(PlainStepper):
    """Forward with the masked weights; what the tier holds learns from their gradient, all else stays 0.

    The published gradient also goes through the mask, whose slope at the threshold t is taken as 2t / (|w| + t)^2. So a
    weight w that is held learns 1 + 2t|w| / (|w| + t)^2 times as fast as otherwise: 1.5 times at the threshold, and
    less above. t is the smallest magnitude that the tier was given; a tier that holds all has none. Which coordinates
    a device holds does not change within a round; in the released code one that falls below t is masked until it rises.
    """

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._ranks, self._masks = by_class(self.model.own, RANK), by_class(self.model.own, MASK)
        self._places = lay(self.module, self.model.own)
        self._base = flat_ranked(self.module)
        threshold = min(float(np.abs(of_class).min()) for of_class in self._ranks)
        for name, array in ranked_arrays(self.module).items():
            if array.requires_grad and job.tier + 1 < len(job.models.tiers):
                array.register_hook(partial(_masked, array, self._places[name], threshold))  # type: ignore[no-untyped-call]

    def finish(self) -> Finished:
        """Deltas of what the tier holds, class by class; nothing is added to a mask."""
        gained = flat_ranked(self.module) - self._base
        sizes = [of_class.size for of_class in self._ranks]
        for here, of_class in zip(chosen(self._masks, sizes, gained.size), self._ranks, strict=True):
            of_class[:] = gained[here]
        for mask in self._masks:
            mask[:] = 0
        return Finished(self.model.update(self.job.base))

    def tensors(self) -> Iterable[Tensor]:
        """As for any model, and what it was and where the tier holds it."""
        yield from super().tensors()
        yield torch.from_numpy(self._base)
        yield from self._places.values()


def _masked(array: Tensor, place: Tensor, threshold: float, gradient: Tensor) -> Tensor:
    """The gradient of an array where the tier holds it, 0 elsewhere."""
    if not threshold:
        return gradient * place
    size = array.detach().abs()
    return gradient * place * (1.0 + 2.0 * threshold * size / (size + threshold) ** 2)
