"""ScaleFL on a device: later exits count more, and the last one teaches the others (Ilhan et al., CVPR 2023)."""

from torch import Tensor

from mhfl_mq.families.sharing.scalefl import DISTIL, DISTIL_AFTER, TEMPERATURE
from mhfl_mq.train.steps.base import Job, Stepper
from mhfl_mq.train.steps.exit_scores import divergence, exit_net
from mhfl_mq.train.steps.plain import Plain, PlainStepper
from mhfl_mq.train.task import Examples

__all__ = ["ScaleFL", "ScaleStepper"]


class ScaleFL(Plain):
    """The method. A tier answers with its last exit, which is what its network gives."""

    def begin(self, job: Job) -> Stepper:
        """Start from the base."""
        return ScaleStepper(job)


class ScaleStepper(PlainStepper):
    """The mean of the L exits' losses in which exit j counts j of 1 + 2 + ... + L."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.net = exit_net(self.module)
        begun = job.rehearsal or job.round_number > job.numbers.get("distil_after", DISTIL_AFTER.default)
        self.distil = job.numbers.get("distil", DISTIL.default) if begun else 0.0
        self.temperature = job.numbers.get("temperature", TEMPERATURE.default)

    def loss(self, batch: Examples) -> Tensor:
        """ScaleFL's loss of one minibatch."""
        *earlier, last = self.net.exits(batch.inputs)
        exits = len(earlier) + 1
        total = exits * self.task.loss(last, batch.targets)
        for j, scores in enumerate(earlier, 1):
            one = self.task.loss(scores, batch.targets)
            if self.distil:
                one = one + self.distil * divergence(last, scores, self.temperature)
            total = total + j * one
        return total / (exits * (exits + 1) / 2)
