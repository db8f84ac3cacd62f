"""The cells of a benchmark's matrix and what they share. Loads no torch."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Final

import mhfl_mq
from mhfl_mq.bench.methods import BASELINES, REFERENCE
from mhfl_mq.bench.sets import SETS, Kind, kind_of, tiers_of

__all__ = ["FORMAT", "Cell", "Plan", "algorithm_of", "costs_wanted", "own_costs", "reference_costs"]

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
    validation: bool = False  # score on a part of the training data: for choosing settings
    options: Mapping[str, float] = field(default_factory=dict)

    def fingerprint(self, cell: Cell) -> str:
        """A digest of what a cell's result depends on: a result with another one is of another run."""
        data = SETS[cell.data]
        tiers = [asdict(tier) for tier in tiers_of(data, kind_of(algorithm_of(cell.method)))]
        own = dict(data.algorithm_options.get(cell.method, {}))
        content = [FORMAT, mhfl_mq.__version__, asdict(cell), asdict(self), dict(data.options), own, tiers]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def algorithm_of(method: str) -> str:
    """The algorithm whose tiers and costs a method goes by."""
    return REFERENCE if method in BASELINES else method


def own_costs(method: str) -> str:
    """The name of a method's own costs: of its algorithm, over its kind of tiers."""
    algorithm = algorithm_of(method)
    return f"{algorithm}.{kind_of(algorithm).value}"


def reference_costs(method: str) -> str:
    """The name of the costs by which a method's budgets are placed: the reference algorithm's, over the same tiers.

    So every kind of tiers gets the planned fleet, and what a method costs beyond plain training of its tiers counts
    against it. Unrelated architectures are no tiers of the reference: there, and where it cannot be measured, the
    method's own costs stand in.
    """
    kind = kind_of(algorithm_of(method))
    return own_costs(method) if kind is Kind.FOREIGN else f"{REFERENCE}.{kind.value}"


def costs_wanted(method: str) -> tuple[str, ...]:
    """The names of all costs that a method's cells need, the reference's first."""
    return tuple(dict.fromkeys((reference_costs(method), own_costs(method))))
