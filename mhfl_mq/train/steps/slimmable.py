"""Slimmable training: one step lowers the loss of a device's model and of all smaller ones inside it."""

import torch
from torch import Tensor

from mhfl_mq.train.steps.base import Job, Stepper
from mhfl_mq.train.steps.masked import MaskedStepper
from mhfl_mq.train.steps.plain import Plain
from mhfl_mq.train.submodel import SubModels
from mhfl_mq.train.task import Examples

__all__ = ["Slimmable"]


class Slimmable(Plain):
    """The device's half of slimmable HeteroFL."""

    def begin(self, job: Job) -> Stepper:
        """Start from the base."""
        return SlimmableStepper(job)


class SlimmableStepper(MaskedStepper):
    """The loss is the mean over the tiers up to the device's own of the loss of each, in one optimizer step.

    The published code sums. The mean is the same direction, and keeps one learning rate and one bound on the gradient's
    norm right for every tier: a sum would let the devices of the n-th tier step n times as far as those of the first.
    A step costs as much as all those tiers' steps together.
    """

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._models = SubModels(job.models, job.tier, self.module)

    def loss(self, batch: Examples) -> Tensor:
        """The mean of the tiers' losses on the same minibatch."""
        scores = [self.rows.masked(self._models.call(k, batch.inputs)) for k in range(self.job.tier + 1)]
        return torch.stack([self.task.loss(one, batch.targets) for one in scores]).mean()
