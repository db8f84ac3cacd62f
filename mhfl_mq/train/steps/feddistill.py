"""FedDistill on the device (Jeong et al. 2018): the task's loss, and the distance to the mean logits of the class."""

import torch
from torch import Tensor

from mhfl_mq.errors import TaskError
from mhfl_mq.families.distillation.feddistill import FedDistill
from mhfl_mq.train.steps.base import Finished, Job, Stepper
from mhfl_mq.train.steps.personal import Personal, PersonalStepper, keep
from mhfl_mq.train.steps.plain import outputs_of
from mhfl_mq.train.task import Examples

__all__ = ["ClassLogits", "FedDistillStepper", "check_classes"]


class ClassLogits(Personal):
    """Training of a model that stays on the device, towards what all said of each class."""

    def begin(self, job: Job) -> Stepper:
        """Go on with the device's own model."""
        return FedDistillStepper(job)


class FedDistillStepper(PersonalStepper):
    """A class of which nothing is known yet has no distance; the first round has none at all."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.gamma = job.numbers.get("gamma", FedDistill.NUMBERS["gamma"].default)
        self.table = torch.from_numpy(self.model.own["logits"].copy())
        self.known = torch.from_numpy((self.model.own["shares"] > 0) | job.rehearsal)
        check_classes(job.examples, len(self.known), self.task.name)

    def loss(self, batch: Examples) -> Tensor:
        """The task's loss, plus gamma times the mean squared difference to the row of each example's class."""
        scores: Tensor = self.module(batch.inputs)
        loss = self.task.loss(scores, batch.targets)
        known = self.known[batch.targets]
        if not self.gamma or not known.any():
            return loss
        apart = (scores[known] - self.table[batch.targets[known]]).square().mean()
        return loss + self.gamma * apart

    def finish(self) -> Finished:
        """For each class: the sum of its examples' logits over all examples here, and its share of them."""
        targets, count = self.job.examples.targets, len(self.job.examples)
        scores = outputs_of(self.module, self.job.examples).double()
        sums = torch.zeros(self.table.shape, dtype=torch.float64).index_add_(0, targets, scores)
        self.model.own["logits"][:] = (sums / count).float().numpy()
        shares = torch.bincount(targets, minlength=len(self.known)).double() / count
        self.model.own["shares"][:] = shares.float().numpy()
        return Finished(self.model.update(self.job.base), keep(self.model, self.private))


def check_classes(examples: Examples, classes: int, task: str) -> None:
    """Raise `TaskError` for targets that are not class numbers below `classes`."""
    targets = examples.targets
    if targets.ndim != 1 or targets.dtype != torch.int64:
        raise TaskError(
            f"its targets are {targets.dtype} of {tuple(targets.shape)}, not class numbers",
            where=f"task {task!r}",
            remedy="give int64 targets (n,), or use an algorithm that asks for no classes",
        )
    if len(targets) and not (int(targets.min()) >= 0 and int(targets.max()) < classes):
        what = f"its targets are {int(targets.min())} to {int(targets.max())}, and its models score {classes} classes"
        raise TaskError(what, where=f"task {task!r}", remedy="let the models score every class, numbered from 0")
