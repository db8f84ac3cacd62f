"""A task's models as an algorithm lays them out: the layout, and modules that a tier's vector is written into."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mhfl_mq.errors import LocalMisuse, TrainingFailed
from mhfl_mq.families.plan import OWN, Cut, Plan
from mhfl_mq.segments import Arrays, Layout, Packer, Tier, Vector
from mhfl_mq.segments.ranking import Ranking
from mhfl_mq.train.derive import layout_arrays
from mhfl_mq.train.layouts import Sizes, build_module, planned_layout
from mhfl_mq.train.ranked import flat_ranked
from mhfl_mq.train.scaler import add_scaler
from mhfl_mq.train.task import Examples, Task

__all__ = ["TaskModels", "TierModel", "arrays_of", "read_vector", "write_vector"]


def arrays_of(module: nn.Module) -> dict[str, Vector]:
    """What the layout holds of a module, by name, as arrays that share the module's memory."""
    return {name: array.detach().numpy() for name, array in layout_arrays(module).items()}


@dataclass(frozen=True, slots=True)
class TierModel:
    """The model of one tier, the algorithm's own arrays, and the packer between them and the tier's vector.

    `own` are by name without the mark (`logits`), float32; `places` says where each lies in the tier's vector.
    """

    module: nn.Module
    packer: Packer
    tier: str
    own: Mapping[str, Vector] = field(default_factory=dict)
    places: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def put(self, vector: Vector) -> None:
        """Write the tier's vector (float32) into the module and the own arrays; what does not travel stays."""
        self.packer.scatter(vector, self._arrays())

    def take(self) -> Vector:
        """The tier's vector, in memory of its own."""
        return self.packer.gather(self._arrays())

    def update(self, base: Vector) -> Vector:
        """What the device sends: what the parameters gained since `base`, and its own arrays as they are."""
        vector = self.take() - base
        for name, (start, stop) in self.places.items():
            vector[start:stop] = self.own[name].reshape(-1)
        return vector

    def _arrays(self) -> Arrays:
        """Everything that a layout may name: a tier's private arrays are called `<tier>:<name>`."""
        arrays = arrays_of(self.module)
        private = {f"{self.tier}:{name}": array for name, array in arrays.items()}
        return arrays | private | {OWN + name: array for name, array in self.own.items()}


class TaskModels:
    """All tiers of one task under an algorithm's plan. `tiers` are smallest first.

    `public` are the task's public examples, where the plan needs them. Raises `LayoutError` for what cannot be cut,
    `TaskError` for what the task lacks.
    """

    def __init__(
        self, task: Task, tiers: Sequence[Tier], plan: Plan | None = None, public: Examples | None = None
    ) -> None:
        self.task = task
        self.tiers = tuple(tiers)
        self.plan = plan or Plan()
        self.public = public
        self.layout: Layout
        self.sizes: Sizes
        self.layout, self.sizes = planned_layout(task, self.tiers, self.plan, public)
        self._packers: dict[int, Packer] = {}

    def build(self, tier: int) -> TierModel:
        """A new model of a tier (an index), with torch's own initial values and own arrays of zeros."""
        if not 0 <= tier < len(self.tiers):
            raise LocalMisuse(f"tier {tier}: there are {len(self.tiers)}")
        if tier not in self._packers:
            self._packers[tier] = Packer(self.layout, tier)
        own, places = {}, {}
        for parameter in self.layout.parameters:
            shape = self.layout.shape(parameter, tier)
            if parameter.name.startswith(OWN) and shape is not None:
                name = parameter.name.removeprefix(OWN)
                own[name] = np.zeros(shape, np.float32)
                places[name] = self.layout.place(parameter.name, tier)
        module = build_module(self.task, self.tiers, tier, self.plan)
        if self.plan.scaler:
            add_scaler(module, self._full)
        return TierModel(module, self._packers[tier], self.tiers[tier].name, own, places)

    @cached_property
    def _full(self) -> nn.Module:
        """The largest tier's model, to compare others with."""
        with torch.random.fork_rng(devices=[]):
            return build_module(self.task, self.tiers, len(self.tiers) - 1, self.plan)

    def initial(self, seed: int) -> Vector:
        """Everything before any training (float32, the layout's total), the same for the same seed and torch.

        Where tiers share coordinates, they are those of the largest tier.
        """
        flat = np.zeros(self.layout.total, np.float32)
        nested = self.plan.cut in (Cut.NESTED, Cut.RANKED) and not self.plan.private_last
        for tier in range(len(self.tiers) - 1 if nested else 0, len(self.tiers)):
            torch.manual_seed(seed)
            model = self.build(tier)
            vector, start = model.take(), 0
            for low, high in self.layout.runs[tier]:
                flat[low:high] = vector[start : start + high - low]
                start += high - low
            if self.plan.cut is Cut.RANKED:
                Ranking.of(self.layout).publish(flat_ranked(model.module), flat)
        return flat


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
