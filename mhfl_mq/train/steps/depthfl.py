"""DepthFL on a device: every exit learns from the labels, and from what the other exits say (Kim et al., ICLR 2023)."""

from torch import Tensor

from mhfl_mq.families.sharing.depthfl import RAMP, mutual_weight
from mhfl_mq.segments import Vector
from mhfl_mq.train.model import TaskModels
from mhfl_mq.train.steps.base import Job, Stepper
from mhfl_mq.train.steps.exit_scores import ExitEnsemble, divergence, exit_net
from mhfl_mq.train.steps.plain import Plain, PlainStepper, outputs_of
from mhfl_mq.train.task import Examples

__all__ = ["DepthFL", "DepthStepper"]


class DepthFL(Plain):
    """The method. What a tier answers is the mean of its exits' scores."""

    def begin(self, job: Job) -> Stepper:
        """Start from the base."""
        return DepthStepper(job)

    def score(self, models: TaskModels, tier: int, vector: Vector, examples: Examples) -> float:
        """The metric of the tier's exits together."""
        model = models.build(tier)
        model.put(vector)
        return float(models.task.metric(outputs_of(ExitEnsemble(exit_net(model.module)), examples), examples.targets))


class DepthStepper(PlainStepper):
    """Sum over the tier's exits of the task's loss, and of the mean divergence of the other exits' answers from it."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.net = exit_net(self.module)
        self.mutual = mutual_weight(job.round_number, job.numbers.get("ramp", RAMP.default))

    def loss(self, batch: Examples) -> Tensor:
        """DepthFL's loss of one minibatch; the smallest tier, with one exit, has nobody to learn from."""
        scores = self.net.exits(batch.inputs)
        total = self.task.loss(scores[0], batch.targets)
        for learner in scores[1:]:
            total = total + self.task.loss(learner, batch.targets)
        if len(scores) > 1:
            pairs = [divergence(other, learner) for learner in scores for other in scores if other is not learner]
            total = total + self.mutual * sum(pairs[1:], pairs[0]) / (len(scores) - 1)
        return total

    def score(self, examples: Examples) -> float:
        """The metric of the exits together, as they are now."""
        value = float(self.task.metric(outputs_of(ExitEnsemble(self.net), examples), examples.targets))
        self.module.train()
        return value
