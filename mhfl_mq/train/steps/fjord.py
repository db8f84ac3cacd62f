"""Ordered dropout: one width for each minibatch, drawn among those that the device can hold."""

from dataclasses import replace
from typing import Final

import torch
from torch import Tensor, nn

from mhfl_mq.train.steps.base import Finished, Job, Stepper
from mhfl_mq.train.steps.plain import Plain, PlainStepper
from mhfl_mq.train.submodel import SubModels
from mhfl_mq.train.task import Examples

__all__ = ["FjORD", "soft_cross_entropy"]

FEWEST: Final = 4
"""Steps for each tier that may be drawn, from which on a round shows about what all rounds cost."""


class FjORD(Plain):
    """The device's half of FjORD."""

    def begin(self, job: Job) -> Stepper:
        """Start from the base."""
        return FjORDStepper(job)


class FjORDStepper(PlainStepper):
    """Each minibatch trains a tier drawn uniformly among those up to the device's own.

    With `distil` the device's widest model learns from the labels in every minibatch, and the drawn one from its scores
    (temperature 1; nothing flows back into them). Velocity is that of the widest model: what a minibatch leaves out
    still moves by its momentum, whether it is a channel or a block. In a rehearsal each tier has its turn.
    """

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._models = SubModels(job.models, job.tier, self.module)
        self.kinds = job.tier + 1
        self._taken = 0
        self._chance = job.chance()
        self._distil = job.numbers.get("distil", 0.0) != 0

    def loss(self, batch: Examples) -> Tensor:
        """The loss of the tier that is drawn, or what it and the widest learn together."""
        drawn = self._draw()
        if drawn == self.job.tier or not self._distil:
            return self.task.loss(self._models.call(drawn, batch.inputs), batch.targets)
        widest = self.module(batch.inputs)
        learns = soft_cross_entropy(self._models.call(drawn, batch.inputs), torch.softmax(widest.detach(), dim=1))
        return self.task.loss(widest, batch.targets) + learns

    def finish(self) -> Finished:
        """The delta. Of few steps chance alone may make a round twice as long as another."""
        return replace(super().finish(), usual=self.kinds == 1 or self.job.options.steps >= FEWEST * self.kinds)

    def _draw(self) -> int:
        if not self.job.rehearsal:
            return int(self._chance.integers(self.job.tier + 1))
        self._taken += 1
        return max(self._taken - 2, 0) % self.kinds

    def step(self, batch: Examples) -> float:
        """One minibatch, with a gradient of 0 for every array that the drawn tier has not."""
        loss = self.loss(batch)
        for parameter in self.module.parameters():
            parameter.grad = torch.zeros_like(parameter)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.job.options.clip:
            nn.utils.clip_grad_norm_(self.module.parameters(), self.job.options.clip)
        self.optimizer.step()
        return float(loss.detach())


def soft_cross_entropy(scores: Tensor, taught: Tensor) -> Tensor:
    """Mean cross-entropy of scores (n, classes) against shares of the classes (n, classes)."""
    return -(taught * torch.log_softmax(scores, dim=1)).sum(dim=1).mean()
