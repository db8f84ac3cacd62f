"""Training on a device that lacks classes: their scores are masked, and their rows of the head are not sent."""

import torch
from torch import Tensor

from mhfl_mq.errors import TaskError
from mhfl_mq.families.plan import OWN
from mhfl_mq.families.sharing.rows import ROWS, head_arrays
from mhfl_mq.train.model import TierModel, arrays_of
from mhfl_mq.train.steps.base import Finished, Job, Stepper
from mhfl_mq.train.steps.plain import Plain, PlainStepper
from mhfl_mq.train.task import Examples

__all__ = ["Masked", "MaskedStepper", "Rows"]


class Rows:
    """The classes that a device has, where the layout has rows of classes; else nothing is masked."""

    def __init__(self, job: Job, model: TierModel) -> None:
        """`model` has the base's arrays."""
        self._model = model
        self._own = [array for name, array in model.own.items() if (OWN + name).startswith(ROWS)]
        self._absent: Tensor | None = None
        if not self._own:
            return
        self._absent = torch.ones(len(self._own[0]), dtype=torch.bool)
        self._absent[_classes(job, len(self._absent))] = False
        names = {p.name for p in head_arrays(job.models.layout).values()}
        arrays = arrays_of(model.module)
        self._before = {name: arrays[name].copy() for name in names if name in arrays}

    def masked(self, scores: Tensor) -> Tensor:
        """The scores (n, classes) with 0 for every class that the device lacks.

        0, as in the published code, and not minus infinity: so the scores of the other classes are learnt against one
        level that is the same on all devices, and a device of one class still learns something.
        """
        return scores if self._absent is None else scores.masked_fill(self._absent, 0.0)

    def write(self) -> None:
        """Rows of absent classes are as they came, and the own arrays say which classes there are."""
        if self._absent is None:
            return
        absent = self._absent.numpy()
        arrays = arrays_of(self._model.module)
        for name, before in self._before.items():
            arrays[name][absent] = before[absent]
        for own in self._own:
            own[:] = ~absent


class Masked(Plain):
    """The device's half of HeteroFL and FedRolex."""

    def begin(self, job: Job) -> Stepper:
        """Start from the base."""
        return MaskedStepper(job)


class MaskedStepper(PlainStepper):
    """Plain training, of the classes that the device has where the layout asks for that."""

    def __init__(self, job: Job, model: TierModel | None = None) -> None:
        super().__init__(job, model)
        self.rows = Rows(job, self.model)

    def loss(self, batch: Examples) -> Tensor:
        """The task's loss of the masked scores."""
        return self.task.loss(self.rows.masked(self.module(batch.inputs)), batch.targets)

    def finish(self) -> Finished:
        """The delta, and the rows that it has."""
        self.rows.write()
        return Finished(self.model.update(self.job.base))


def _classes(job: Job, classes: int) -> Tensor:
    """The numbers of the classes that the device's examples have; `TaskError` where they are none."""
    targets, where = job.examples.targets, f"task {job.models.task.name!r}"
    if targets.ndim != 1 or targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        raise TaskError(
            f"its targets are {targets.dtype} {tuple(targets.shape)}, not numbers of classes (n,)",
            where=where,
            remedy="leave out the algorithm's option 'masked': it is for classification",
        )
    found: Tensor = torch.unique(targets)
    if len(found) and not 0 <= int(found[0]) <= int(found[-1]) < classes:
        what = f"its targets are {int(found[0])} to {int(found[-1])}, and its head scores {classes} classes"
        raise TaskError(what, where=where, remedy="number the classes from 0")
    return found.long()
