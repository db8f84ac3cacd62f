"""What a benchmark's data set is: its records in memory, how they are scaled, and the networks that learn it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from mhfl_mq.train.derive import TierShape
from mhfl_mq.train.task import Examples

__all__ = ["BenchSet", "Records", "Whole"]

Whole = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Records:
    """All records of a set as its file has them, training and test part together.

    `inputs` (n, ...) raw numbers and `scale` what makes float32 network inputs of some of them; `targets` (n,) class
    numbers; `client` (n,) the natural device that a record comes from, all 0 where there is none; `place` (n,) where a
    device is scored: its own test records are those of the places of its training records; `unit` (n,) what must not
    be torn apart by a split into training and validation part (near duplicates have one number); `test` (n,) bool.
    """

    inputs: npt.NDArray[Any]
    targets: Whole
    client: Whole
    place: Whole
    unit: Whole
    test: npt.NDArray[np.bool_]
    scale: Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]]

    def pick(self, index: Whole) -> Examples:
        """The records of these numbers, scaled for the network."""
        inputs = np.ascontiguousarray(self.scale(self.inputs[index]))
        return Examples(torch.from_numpy(inputs), torch.from_numpy(self.targets[index]))


@dataclass(frozen=True, slots=True)
class BenchSet:
    """A benchmark's data set. `clients`: how many natural devices it has (0: none, it is split by a drawn mix).

    `load(folder)` reads its files (None: where they lie by default) and raises `TaskError` that says how to get them.
    `shape` is one network input's. `model(shape)` is a tier of the network that nests; `architectures` are unrelated
    ones that give as many features to their heads as each other.
    """

    name: str
    title: str
    classes: int
    clients: int
    shape: tuple[int, ...]
    load: Callable[[Path | None], Records]
    model: Callable[[TierShape], nn.Module]
    architectures: Mapping[str, Callable[[], nn.Module]]

    @property
    def splits(self) -> tuple[str, ...]:
        """The ways in which its training part can be given to devices, the usual one first."""
        drawn = ("dirichlet", "classes")
        return ("natural", *drawn) if self.clients else drawn
