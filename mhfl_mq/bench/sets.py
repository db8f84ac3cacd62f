"""The data sets of `mhfl bench` by name: which task each is, for how many devices, with which tiers and settings.

Names and settings are known without torch; `open_task` loads it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mhfl_mq.families.base import Family
from mhfl_mq.families.plan import Cut
from mhfl_mq.families.registry import algorithm_class
from mhfl_mq.policy import Tier

if TYPE_CHECKING:
    from mhfl_mq.train.task import Task

__all__ = ["SETS", "DataSet", "Files", "Kind", "kind_of", "open_task", "tiers_of"]


class Kind(Enum):
    """How the tiers of an algorithm differ."""

    WIDTH = "width"
    DEPTH = "depth"
    BOTH = "both"
    FOREIGN = "foreign"  # unrelated architectures
    SERVER = "server"  # width, and the last tier is the aggregator's own
    INNER = "inner"  # depth, and no tier has the first block alone


class Files(Enum):
    """Whether a data set has files of its own to look for."""

    SHIPPED = "shipped"  # with the package
    KNOWN_PLACE = "known place"  # of the system, where no folder is given
    NEEDED = "needed"


@dataclass(frozen=True, slots=True)
class DataSet:
    """One data set under one split. `options` train it, `algorithm_options` are by algorithm and win over them.

    `target` is the accuracy, mean over tiers, of the time to a target.
    """

    name: str
    title: str
    source: str  # its name in `mhfl_mq.bench.data`
    tiers: Mapping[Kind, tuple[Tier, ...]]
    options: Mapping[str, float]
    rounds: int
    devices: int
    target: float
    split: str = ""  # the source's usual one
    files: Files = Files.SHIPPED
    folders: tuple[str, ...] = ()  # other names that its folder may have
    algorithm_options: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def shards(self, devices: int) -> tuple[str, ...]:
        """A shard for each device."""
        return tuple(f"{index}/{devices}" for index in range(devices))

    def folder(self, given: Path | None) -> Path | None:
        """Where its files lie under the folder that a person gave: in one of its own names, or right there."""
        if given is None or self.files is Files.SHIPPED:
            return None
        for name in (self.source, *self.folders):
            if (given / name).is_dir():
                return given / name
        return given if self.files is Files.NEEDED else None


def open_task(data: DataSet, folder: Path | None, devices: int, seed: int, *, validation: bool = False) -> "Task":
    """The task, split for a seed; with `validation`, scored on a part of the training data instead of the test part.

    Raises `TaskError` that says how to get files that are missing.
    """
    from mhfl_mq.bench.data import find_set, make_task

    return make_task(find_set(data.source), folder, devices, seed, data.split, validation)


def tiers_of(data: DataSet, kind: Kind) -> tuple[Tier, ...]:
    """The tiers of a kind; those in width where the data set has no others."""
    return data.tiers.get(kind, data.tiers[Kind.WIDTH])


def kind_of(algorithm: str) -> Kind:
    """How an algorithm's tiers differ, by what it is: unrelated for a native one, by its plan for the others."""
    cls = algorithm_class(algorithm)
    if algorithm in _KINDS:
        return _KINDS[algorithm]
    if cls.ABOUT.family is Family.NATIVE:
        return Kind.FOREIGN
    plan = cls.PLAN
    if plan.server:
        return Kind.SERVER
    if plan.private_last:
        return Kind.INNER
    return Kind.DEPTH if plan.exits or plan.cut is Cut.WHOLE else Kind.WIDTH


_KINDS: Final[Mapping[str, Kind]] = {"scalefl": Kind.BOTH}
"""Algorithms whose tiers do not follow from their plan."""

_SERIES: Final[Mapping[Kind, tuple[Tier, ...]]] = {
    Kind.WIDTH: (Tier("small", 0.125), Tier("medium", 0.375), Tier("large", 1.0)),
    Kind.DEPTH: (Tier("small", 1.0, 1), Tier("medium", 1.0, 2), Tier("large", 1.0, 4)),
    Kind.INNER: (Tier("small", 1.0, 2), Tier("medium", 1.0, 3), Tier("large", 1.0, 4)),
    Kind.SERVER: (Tier("small", 0.125), Tier("medium", 0.375), Tier("large", 1.0)),
    Kind.BOTH: (Tier("small", 0.25, 2), Tier("medium", 0.5, 3), Tier("large", 1.0, 4)),
    Kind.FOREIGN: (
        Tier("small", 1.0, architecture="mlp"),
        Tier("medium", 1.0, architecture="lstm"),
        Tier("large", 1.0, architecture="dilated"),
    ),
}
_GATEWAYS: Final = (Tier("small", 0.03125), Tier("medium", 0.25), Tier("large", 1.0))
_PICTURE: Final = (Tier("small", 0.0625), Tier("medium", 0.25), Tier("large", 1.0))
_TRAINING: Final = {"steps": 20.0, "rate": 0.01, "adam": 1.0}
_LATE: Final[Mapping[str, Mapping[str, float]]] = {
    **{name: {"warmup_rounds": 10.0} for name in ("fedmd", "dsfl")},
    **{name: {"distill_steps": 20.0} for name in ("feddf", "feddf-weights")},
}
"""On the rig a network says little for many rounds, and a model that learns that well goes on saying little."""

SETS: Final[Mapping[str, DataSet]] = {
    one.name: one
    for one in (
        DataSet(
            name="wind",
            title="Wind farm, power band from two hours of wind (a table of wind speed alone reaches 0.862)",
            source="wind",
            tiers=_SERIES,
            options={**_TRAINING, "batch": 64.0, "decay": 0.93},
            rounds=30,
            devices=12,
            target=0.8,
        ),
        DataSet(
            name="wind-gateways",
            title="The same wind farm, where the smallest class of devices holds 2 of 64 channels",
            source="wind",
            tiers={**_SERIES, Kind.WIDTH: _GATEWAYS, Kind.SERVER: _GATEWAYS},
            options={**_TRAINING, "batch": 64.0, "decay": 0.93},
            rounds=30,
            devices=12,
            target=0.8,
        ),
        DataSet(
            name="hydraulic-valve",
            title="Hydraulic rig, state of the valve",
            source="hydraulic-valve",
            tiers=_SERIES,
            options={**_TRAINING, "batch": 32.0, "decay": 0.95},
            rounds=40,
            devices=12,
            target=0.9,
            files=Files.NEEDED,
            folders=("hydraulic_1hz",),
            algorithm_options=_LATE,
        ),
        DataSet(
            name="hydraulic-accumulator",
            title="Hydraulic rig, gas pressure of the accumulator",
            source="hydraulic-accumulator",
            tiers=_SERIES,
            options={**_TRAINING, "batch": 32.0, "rate": 0.002, "decay": 0.98},
            rounds=60,
            devices=12,
            target=0.75,
            files=Files.NEEDED,
            folders=("hydraulic_1hz",),
            algorithm_options=_LATE,
        ),
        *(
            DataSet(
                name=name,
                title=title,
                source="fashion-mnist",
                tiers={**_SERIES, Kind.WIDTH: _PICTURE, Kind.SERVER: _PICTURE},
                options={**_TRAINING, "batch": 32.0, "rate": 0.003, "decay": 0.97},
                rounds=40,
                devices=20,
                target=0.75,
                split=split,
                files=Files.KNOWN_PLACE,
            )
            for name, split, title in (
                ("fashion-mnist", "dirichlet", "Fashion-MNIST, Dirichlet 0.3 over the devices"),
                ("fashion-mnist-classes", "classes", "Fashion-MNIST, two classes a device"),
            )
        ),
    )
}
