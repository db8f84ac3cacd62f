"""A task's models cut into tiers: the layout, derived once, and modules that a flat prefix is written into."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mhfl_mq.errors import LocalMisuse, TaskError, TrainingFailed
from mhfl_mq.segments import Arrays, Layout, Packer, Tier, Vector
from mhfl_mq.train.derive import TierShape, derive_layout, layout_arrays
from mhfl_mq.train.task import Task

__all__ = ["TaskModels", "TierModel", "arrays_of", "read_vector", "write_vector"]


def arrays_of(module: nn.Module) -> Arrays:
    """What the layout holds of a module, by name, as arrays that share the module's memory."""
    return {name: array.detach().numpy() for name, array in layout_arrays(module).items()}


@dataclass(frozen=True, slots=True)
class TierModel:
    """The model of one tier and the packer between it and its prefix."""

    module: nn.Module
    packer: Packer

    def put(self, prefix: Vector) -> None:
        """Write a prefix (float32, the tier's length) into the module."""
        self.packer.scatter(prefix, arrays_of(self.module))

    def take(self) -> Vector:
        """The module's prefix, in memory of its own."""
        return self.packer.gather(arrays_of(self.module))


class TaskModels:
    """All tiers of one task: derives the layout and builds models of its tiers. `tiers` are smallest first."""

    def __init__(self, task: Task, tiers: Sequence[Tier]) -> None:
        self.task = task
        self.tiers = tuple(tiers)
        sample = task.sample() if task.sample is not None else None
        self.layout: Layout = derive_layout(task.model, self.tiers, sample=sample, annotations=task.annotations)
        self._packers: dict[int, Packer] = {}

    def build(self, tier: int) -> TierModel:
        """A new model of a tier (an index), with torch's own initial values."""
        if not 0 <= tier < len(self.tiers):
            raise LocalMisuse(f"tier {tier}: there are {len(self.tiers)}")
        if tier not in self._packers:
            self._packers[tier] = Packer(self.layout, tier)
        shape = TierShape(self.tiers[tier].width, self.tiers[tier].depth)
        try:
            module = self.task.model(shape)
        except Exception as error:
            what = f"its model of {shape} cannot be built: {type(error).__name__}: {error}"
            raise TaskError(what, where=f"task {self.task.name!r}") from error
        return TierModel(module, self._packers[tier])

    def initial(self, seed: int) -> Vector:
        """The full model before any training (float32), the same for the same seed on the same torch."""
        torch.manual_seed(seed)
        return self.build(len(self.tiers) - 1).take()


def read_vector(paths: Sequence[Path], length: int) -> Vector:
    """The first `length` coordinates that raw little-endian float32 files hold, one file after the other."""
    parts: list[Vector] = []
    missing = length
    for path in paths:
        if missing <= 0:
            break
        try:
            part = np.fromfile(path, "<f4", count=missing).astype(np.float32, copy=False)
        except OSError as error:
            raise TrainingFailed(f"{path.name} cannot be read: {error.strerror}", where=str(path)) from error
        parts.append(part)
        missing -= part.size
    if missing:
        raise TrainingFailed(
            f"the base model ends after {length - missing} of {length} coordinates",
            where=", ".join(map(str, paths)),
            remedy="fetch its segments again",
        )
    return np.concatenate(parts)


def write_vector(path: Path, vector: Vector) -> None:
    """Write raw little-endian float32 under a temporary name first, so that `path` is never half a vector."""
    half = path.with_name(path.name + ".part")
    try:
        vector.astype("<f4", copy=False).tofile(half)
        half.replace(path)
    except OSError as error:
        half.unlink(missing_ok=True)
        raise TrainingFailed(f"{path.name} cannot be written: {error.strerror}", where=str(path)) from error
