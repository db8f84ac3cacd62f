"""The data sets of `mhfl bench` by name: which task each is, for how many devices, with which tiers and settings.

Names and settings are known without torch; `open_task` loads it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mhfl_mq.families import make_algorithm
from mhfl_mq.policy import Tier

if TYPE_CHECKING:
    from mhfl_mq.train.task import Task

__all__ = ["SETS", "DataSet", "Kind", "tiers_of"]

Kind = str
"""How an algorithm's tiers differ: `width`, `depth`, `both`, or `foreign` (unrelated architectures)."""


@dataclass(frozen=True, slots=True)
class DataSet:
    """One data set. `open_task(folder, devices, seed)` gives its task, `shards(devices)` a shard for each device.

    `tiers` are by kind. `options` train it. `target` is the accuracy, mean over tiers, of the time to a target.
    """

    name: str
    title: str
    open_task: "Callable[[Path | None, int, int], Task]"
    shards: Callable[[int], tuple[str, ...]]
    tiers: Mapping[Kind, tuple[Tier, ...]]
    options: Mapping[str, float]
    rounds: int
    devices: int
    target: float
    needs: str = ""  # what must be in the folder, and how to get it; empty: it ships with the package
    algorithm_options: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # by algorithm


def tiers_of(data: DataSet, algorithm: str) -> tuple[Tier, ...]:
    """The tiers that this algorithm cuts: by what its plan says, in width where it says nothing."""
    kind = _kind(algorithm)
    return data.tiers.get(kind, data.tiers["width"])


def _kind(algorithm: str) -> Kind:
    if algorithm in _KINDS:
        return _KINDS[algorithm]
    plan = getattr(make_algorithm(algorithm), "plan", None)
    if getattr(plan, "exits", False) or getattr(plan, "private_last", False):
        return "depth"
    if getattr(getattr(plan, "cut", None), "value", "") == "apart":
        return "foreign"
    return "width"


_KINDS: Final[Mapping[str, Kind]] = {"scalefl": "both"}
"""Algorithms whose tiers do not follow from their plan."""


def _numbered(devices: int) -> tuple[str, ...]:
    return tuple(f"{index}/{devices}" for index in range(devices))


def _wind(folder: Path | None, devices: int, seed: int) -> "Task":
    from mhfl_mq.train.wind import TASK

    return TASK


SETS: Final[Mapping[str, DataSet]] = {
    one.name: one
    for one in (
        DataSet(
            name="wind",
            title="wind farm, power band from two hours of wind; a table of wind speed alone reaches 0.862",
            open_task=_wind,
            shards=_numbered,
            tiers={"width": (Tier("small", 0.0625), Tier("medium", 0.25), Tier("large", 1.0))},
            options={"steps": 20.0, "batch": 64.0, "rate": 0.01, "adam": 1.0, "decay": 0.93},
            rounds=30,
            devices=12,
            target=0.8,
        ),
    )
}
