"""FedGroups on the device: its own examples and, in every step, public ones with what all devices say of them."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, softmax

from mhfl_mq.errors import LocalMisuse
from mhfl_mq.families.native.fedgroups import GROUP_NUMBERS
from mhfl_mq.train.minibatches import batches
from mhfl_mq.train.steps.base import Finished, Job, Stepper
from mhfl_mq.train.steps.plain import Plain, PlainStepper, outputs_of
from mhfl_mq.train.task import Examples

__all__ = ["GroupStepper", "Groups", "softened"]


class Groups(Plain):
    """The device's half of FedGroups; without distillation, plain training of one's own architecture."""

    def begin(self, job: Job) -> Stepper:
        """Start from the group's model, and from the consensus as it came."""
        numbers = {name: job.numbers.get(name, number.default) for name, number in GROUP_NUMBERS.items()}
        if not numbers["distil"]:
            return PlainStepper(job)
        return GroupStepper(job, numbers["distil"], numbers["temperature"])


class GroupStepper(PlainStepper):
    """`weight` times the divergence from the consensus is a part of the loss.

    Before the first consensus it counts nothing, but is computed all the same: a probe measures what a step will cost.
    """

    def __init__(self, job: Job, weight: float, temperature: float) -> None:
        super().__init__(job)
        if job.models.public is None:
            raise LocalMisuse("FedGroups was given no public examples, and is to distil")
        self.public = job.models.public
        self.temperature = temperature
        said = torch.from_numpy(self.model.own["logits"])
        self.weight = weight if said.any() else 0.0
        self.consensus = softened(said, temperature)
        self._chosen = batches(len(self.public), job.options.batch, job.chance())

    def loss(self, batch: Examples) -> Tensor:
        """The task's loss, and the weighted divergence on as many public examples."""
        index = torch.from_numpy(next(self._chosen))
        scores = self.module(self.public.inputs[index])
        return super().loss(batch) + self.weight * self.divergence(scores, self.consensus[index])

    def divergence(self, scores: Tensor, wanted: Tensor) -> Tensor:
        """KL(consensus || model) at the temperature, times its square so that its slope does not depend on it."""
        said = log_softmax(scores / self.temperature, dim=1)
        return kl_div(said, wanted, reduction="batchmean") * self.temperature**2

    def finish(self) -> Finished:
        """The delta, and what the trained model says of every public example."""
        self.model.own["logits"][:] = softmax(outputs_of(self.module, self.public), dim=1).numpy()
        return Finished(self.model.update(self.job.base))


def softened(said: Tensor, temperature: float) -> Tensor:
    """Probabilities (n, classes) to the power of 1 / temperature, each row summing to one again."""
    least = float(np.finfo(np.float32).tiny)
    return softmax(said.clamp(min=least).log() / temperature, dim=1)
