"""Distillation on public examples with models that stay on their devices: what FedMD and DS-FL have in common.

A round begins with steps towards what all devices said of the public examples last time, goes on with private
training, and ends with what the device says now.
"""

import numpy as np
import torch
from torch import Tensor

from mhfl_mq.errors import LocalMisuse
from mhfl_mq.families.distillation.fedmd import ALIGNING
from mhfl_mq.train.minibatches import batches
from mhfl_mq.train.model import TaskModels
from mhfl_mq.train.steps.base import Finished, Job
from mhfl_mq.train.steps.personal import PersonalStepper, keep
from mhfl_mq.train.steps.plain import descend, outputs_of
from mhfl_mq.train.task import Examples

__all__ = ["LOGITS", "AligningStepper", "public_of"]

LOGITS = "logits"
"""The own array: a row for each public example, a column for each class. All zeros: nobody has said anything yet."""


class AligningStepper(PersonalStepper):
    """Private training that begins with `align_steps` steps on public examples, towards the consensus.

    They are a part of the first step, so they are timed and slowed like it, and count in `steps`. Without a consensus
    (the first round: the table is all zeros, which no model says) and in the federation's first `warmup_rounds` rounds
    there are none, except in a rehearsal.
    """

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        number = {name: job.numbers.get(name, one.default) for name, one in ALIGNING.items()}
        self.consensus = torch.from_numpy(self.model.own[LOGITS].copy())
        self.public = public_of(job.models)
        early = job.round_number <= number["warmup_rounds"] or not self.consensus.any()
        self.spared = early and not job.rehearsal
        self.due = 0 if self.spared else int(number["align_steps"])
        self.aligned = 0

    def says(self, scores: Tensor) -> Tensor:
        """What is sent of an example's scores (n, classes)."""
        raise NotImplementedError

    def distance(self, scores: Tensor, wanted: Tensor) -> Tensor:
        """How far scores (n, classes) are from the consensus's rows: a scalar."""
        raise NotImplementedError

    def step(self, batch: Examples) -> float:
        """One private minibatch; before the first one, the alignment."""
        if self.aligned < self.due:
            self._align()
        return super().step(batch)

    def finish(self) -> Finished:
        """What the model says of all public examples now; the model itself is kept here."""
        self.model.own[LOGITS][:] = self.says(outputs_of(self.module, self.public)).numpy()
        steps = float(self.job.options.steps + self.aligned)
        metrics = {"steps": steps, "align_steps": float(self.aligned)}
        update, kept = self.model.update(self.job.base), keep(self.model, self.private)
        return Finished(update, kept, metrics, usual=not self.spared)

    def _align(self) -> None:
        chosen = batches(len(self.public), self.job.options.batch, self.job.chance())
        while self.aligned < self.due:
            index = torch.from_numpy(np.asarray(next(chosen)))
            loss = self.distance(self.module(self.public.inputs[index]), self.consensus[index])
            descend(loss, self.module, self.optimizer, self.job.options.clip)
            self.aligned += 1


def public_of(models: TaskModels) -> Examples:
    """The public examples that the plan asked for."""
    if models.public is None:
        raise LocalMisuse("an algorithm whose plan has no public examples asks for them")
    return models.public
