"""Training with a part that stays on the device: FedPer (a head of one's own) and LG-FedAvg (a body of one's own).

What does not travel is kept between rounds, and begins as the task's model of the federation's seed, on every device
alike.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import torch

from mhfl_mq.errors import LocalMisuse
from mhfl_mq.segments import Vector
from mhfl_mq.train.model import TaskModels, TierModel, arrays_of
from mhfl_mq.train.steps.base import Finished, Job, Kept, Stepper
from mhfl_mq.train.steps.plain import Plain, PlainStepper
from mhfl_mq.train.task import Examples

__all__ = ["Personal", "PersonalStepper", "begun_model", "keep", "private_names", "restore"]


class Personal(Plain):
    """The method of FedPer and LG-FedAvg: one step trains both parts."""

    def begin(self, job: Job) -> Stepper:
        """Start from the shared part as it came and the private part as it was kept."""
        return PersonalStepper(job)

    def score(self, models: TaskModels, tier: int, vector: Vector, examples: Examples) -> float:
        """Nobody but the device has the whole model."""
        raise LocalMisuse("only the devices can score these models")


class PersonalStepper(PlainStepper):
    """Gradient steps on both parts; the private one is kept."""

    def __init__(self, job: Job) -> None:
        self.private = private_names(job.models, job.tier)
        super().__init__(job, begun_model(job))
        restore(self.model, job.kept, self.private)

    def finish(self) -> Finished:
        """The shared part's delta; the private part stays here."""
        return Finished(self.model.update(self.job.base), keep(self.model, self.private))


def begun_model(job: Job) -> TierModel:
    """The tier's model as a federation of this seed begins with it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.options.seed)
        return job.models.build(job.tier)


def private_names(models: TaskModels, tier: int) -> frozenset[str]:
    """The arrays of a tier's model that are not in the layout."""
    travels = {name.rpartition(":")[2] for name in models.layout.shapes(tier)}
    return frozenset(arrays_of(models.build(tier).module)) - travels


def keep(model: TierModel, names: Iterable[str]) -> Mapping[str, Vector]:
    """Copies of these arrays of a model."""
    arrays = arrays_of(model.module)
    return {name: arrays[name].copy() for name in sorted(names)}


def restore(model: TierModel, kept: Kept, names: Iterable[str]) -> bool:
    """Write what was kept into the model; whether there was something of the right names and shapes."""
    arrays = arrays_of(model.module)
    wanted = sorted(names)
    if any(name not in kept or kept[name].shape != arrays[name].shape for name in wanted):
        return False
    for name in wanted:
        np.copyto(arrays[name], kept[name])
    return True
