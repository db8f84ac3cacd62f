"""The cells of a benchmark's matrix and what they share. Loads no torch."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Final

import mhfl_mq
from mhfl_mq.bench.methods import BASELINES, REFERENCE
from mhfl_mq.bench.sets import SETS, tiers_of

__all__ = ["FORMAT", "Cell", "Plan", "algorithm_of"]

FORMAT: Final = 1
"""Of a cell's document."""


@dataclass(frozen=True, slots=True)
class Cell:
    """Where a run stands in the matrix."""

    data: str
    constraint: str
    method: str
    seed: int

    @property
    def key(self) -> str:
        """Its file's name, without the ending."""
        return f"{self.data}.{self.constraint}.{self.method}.{self.seed}"


@dataclass(frozen=True, slots=True)
class Plan:
    """What all cells of a data set share."""

    rounds: int
    devices: int
    folder: str | None = None
    cohort: int | None = None
    evaluate_every: int = 1
    options: Mapping[str, float] = field(default_factory=dict)

    def fingerprint(self, cell: Cell) -> str:
        """A digest of what a cell's result depends on: a result with another one is of another run."""
        data = SETS[cell.data]
        tiers = [asdict(tier) for tier in tiers_of(data, algorithm_of(cell.method))]
        content = [FORMAT, mhfl_mq.__version__, asdict(cell), asdict(self), dict(data.options), tiers]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def algorithm_of(method: str) -> str:
    """The algorithm whose tiers and costs a method goes by."""
    return REFERENCE if method in BASELINES else method
