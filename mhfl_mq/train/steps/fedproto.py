"""FedProto on the device (Tan et al., AAAI 2022): cross-entropy, and features near the prototype of their class.

The features behind a device's own prototypes are those of the trained model: one pass over its examples in evaluation
mode and without gradients, after the last step. (The released code collects them while it trains, with graphs.)
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from mhfl_mq.errors import TaskError, TrainingFailed
from mhfl_mq.families.native.fedproto import PROTOTYPE_NUMBERS
from mhfl_mq.segments import Vector
from mhfl_mq.train.parts import Head, split
from mhfl_mq.train.steps.base import Finished, Job, Stepper
from mhfl_mq.train.steps.personal import Personal, PersonalStepper, keep
from mhfl_mq.train.steps.plain import CHUNK
from mhfl_mq.train.task import Examples

__all__ = ["PrototypeStepper", "Prototypes", "class_means", "nearness"]

FARTHEST: Final = -1e30
"""The score of a class that has no prototype: below that of any other, and finite."""


class Prototypes(Personal):
    """The device's half of FedProto; the whole model stays on the device."""

    def begin(self, job: Job) -> Stepper:
        """Go on with the device's own model, and the prototypes as they came."""
        return PrototypeStepper(job)


class PrototypeStepper(PersonalStepper):
    """`known` says which classes have a prototype."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.head = job.models.sizes.heads[job.tier]
        self.prototypes = torch.from_numpy(self.model.own["prototypes"].copy())
        self.known = torch.from_numpy(self.model.own["shares"] > 0)
        self.numbers = {name: job.numbers.get(name, number.default) for name, number in PROTOTYPE_NUMBERS.items()}
        _check_classes(job.examples.targets, len(self.known), self.task.name)

    def loss(self, batch: Examples) -> Tensor:
        """The task's loss, and lambda times the mean square between features and prototypes over the whole batch.

        An example of a class without a prototype adds nothing to it.
        """
        features, scores = split(self.module, self.head, batch.inputs)
        loss = self.task.loss(scores, batch.targets)
        wanted = torch.where(self.known[batch.targets, None], self.prototypes[batch.targets], features.detach())
        return loss + self.numbers["lambda"] * mse_loss(features, wanted)

    def finish(self) -> Finished:
        """Per class: the share of the examples, and the mean feature times it. The model is kept here."""
        means, shares = class_means(self.module, self.head, self.job.examples, len(self.known))
        self._check_size(means)
        self.model.own["prototypes"][:] = means * shares[:, None]
        self.model.own["shares"][:] = shares
        metrics = {"classes": float(np.count_nonzero(shares)), "largest_feature": float(np.abs(means).max())}
        return Finished(self.model.update(self.job.base), keep(self.model, self.private), metrics)

    def score(self, examples: Examples) -> float:
        """The task's metric of the head's scores, or of the nearness to the prototypes where the option says so."""
        if not self.numbers["inference"] or not self.known.any():
            return super().score(examples)
        chunks = _features(self.module, self.head, examples)
        scores = torch.cat([nearness(features, self.prototypes, self.known) for features in chunks])
        self.module.train()
        return float(self.task.metric(scores, examples.targets))

    def _check_size(self, means: Vector) -> None:
        largest, found = self.numbers["largest_feature"], np.abs(means).max(axis=1)
        worst = int(np.argmax(found))
        if not found[worst] <= largest:
            raise TrainingFailed(
                f"the mean feature of class {worst} reaches {found[worst]:.6g}, beyond largest_feature ({largest:g})",
                where=f"task {self.task.name!r}",
                remedy="end the model's body in a layer that bounds or normalises, or raise the option "
                "largest_feature and limits.largest_value",
            )


def class_means(module: nn.Module, head: Head, examples: Examples, classes: int) -> tuple[Vector, Vector]:
    """Mean feature (classes, features) and share (classes,) of every class, float32; zeros where there is no example.

    One pass in evaluation mode, summed in float64; the module stays in that mode.
    """
    sums = torch.zeros(classes, head.features, dtype=torch.float64)
    at = 0
    for features in _features(module, head, examples):
        sums.index_add_(0, examples.targets[at : at + len(features)], features.double())
        at += len(features)
    counts = torch.bincount(examples.targets, minlength=classes).double()
    means = sums / counts.clamp(min=1.0)[:, None]
    return means.float().numpy(), (counts / len(examples)).float().numpy()


def nearness(features: Tensor, prototypes: Tensor, known: Tensor) -> Tensor:
    """Scores (n, classes): minus the squared distance to each prototype; a class without one is farthest."""
    away = torch.cdist(features, prototypes, compute_mode="donot_use_mm_for_euclid_dist").square()
    return torch.where(known[None, :], -away, torch.tensor(FARTHEST))


def _features(module: nn.Module, head: Head, examples: Examples) -> Iterator[Tensor]:
    """Features of all examples, chunk by chunk, in evaluation mode and without gradients."""
    module.eval()
    for at in range(0, len(examples), CHUNK):
        with torch.no_grad():
            features, _ = split(module, head, examples.inputs[at : at + CHUNK])
        yield features


def _check_classes(targets: Tensor, classes: int, task: str) -> None:
    whole = targets.ndim == 1 and targets.dtype == torch.int64
    if not whole or (len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < classes):
        raise TaskError(
            f"its targets are not class numbers from 0 to {classes - 1}",
            where=f"task {task!r}",
            remedy="prototypes are means per class: give whole numbers (int64), or use another algorithm",
        )
