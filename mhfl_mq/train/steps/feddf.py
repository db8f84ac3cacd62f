"""FedDF's torch half: devices say what their models say of public examples, the aggregator's models learn it.

Lin et al., NeurIPS 2020.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, softmax

from mhfl_mq.segments import Vector
from mhfl_mq.train.model import TaskModels
from mhfl_mq.train.steps.base import Conclusion, Finished, Job, Stepper
from mhfl_mq.train.steps.plain import Plain, PlainStepper, outputs_of
from mhfl_mq.train.steps.public import public_of
from mhfl_mq.train.steps.teaching import Index, put_back, teach, tier_model

__all__ = ["Ensemble", "EnsembleOfUpdates", "TellingStepper", "probabilities"]


class TellingStepper(PlainStepper):
    """Plain training; the delta goes up with the probabilities of all public examples."""

    def finish(self) -> Finished:
        """The delta, and what the trained model says."""
        self.model.own["logits"][:] = softmax(outputs_of(self.module, public_of(self.job.models)), dim=1).numpy()
        return Finished(self.model.update(self.job.base))


class Ensemble(Plain):
    """The ensemble is a table of the merged version."""

    def begin(self, job: Job) -> Stepper:
        """Start from the base."""
        return TellingStepper(job)

    def ensemble(self, told: Conclusion) -> Tensor:
        """Probabilities (public, classes); a row of zeros where nobody said anything."""
        start, stop = told.models.layout.where("~logits")
        return torch.from_numpy(told.merged[start:stop].copy()).reshape(len(public_of(told.models)), -1)

    def conclude(self, conclusion: Conclusion) -> Vector:
        """Every tier's model, which begins as the mean of its devices', and the aggregator's own, learn the ensemble.

        The divergence is KL(ensemble || model).
        """
        models, flat = conclusion.models, conclusion.merged.copy()
        wanted = self.ensemble(conclusion)
        rows = np.flatnonzero(wanted.sum(dim=1).numpy() > 0)

        def apart(scores: Tensor, index: Index) -> Tensor:
            return kl_div(log_softmax(scores, dim=1), wanted[torch.from_numpy(index)], reduction="batchmean")

        for tier in range(len(models.tiers)):
            student = tier_model(models, flat, tier)
            teach(student.module, public_of(models), rows, apart, conclusion, tier)
            put_back(models, student, flat, tier)
        return flat


class EnsembleOfUpdates(Ensemble):
    """The ensemble is made here, of every single device's model."""

    def begin(self, job: Job) -> Stepper:
        """Start from the base, and send no more than the delta."""
        return PlainStepper(job)

    def ensemble(self, told: Conclusion) -> Tensor:
        """The weighted mean of what each update's model says; no update, no rows."""
        public = public_of(told.models)
        weight = sum(update.weight for update in told.updates)
        mean = torch.zeros(len(public), 1)
        for update in told.updates:
            base = told.models.layout.take(told.head, update.tier)
            mean = mean + probabilities(told.models, update.tier, base + update.vector) * (update.weight / weight)
        return mean


def probabilities(models: TaskModels, tier: int, vector: Vector) -> Tensor:
    """What the model of a tier's vector says of the public examples: (public, classes)."""
    model = models.build(tier)
    model.put(vector)
    return softmax(outputs_of(model.module, public_of(models)), dim=1)
