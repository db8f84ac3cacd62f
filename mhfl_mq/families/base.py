"""The contract of an algorithm: a plan, what an update weighs, and what the sum becomes.

Every algorithm of every family is "add, then finish". A version is one flat vector: parameters of models, and arrays of
the algorithm's own (see `Plan`). A device sends one vector over the coordinates that its tier holds: for parameters
the delta, for own arrays whatever adds. The aggregator sums, and `finalize` makes the next version of the sum. The
device's half, which needs torch, has the same name in `mhfl_mq.train.steps`.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar, Protocol

from mhfl_mq.errors import ConfigError
from mhfl_mq.families.numbers import Number
from mhfl_mq.families.plan import Plan
from mhfl_mq.segments import Accumulator, Layout, Source, Vector

__all__ = ["About", "Algorithm", "Averaging", "Evaluated", "Family", "Weighting"]


class Family(Enum):
    """The three families of model-heterogeneous federated learning, and what they are compared with."""

    SHARING = "parameter sharing"
    DISTILLATION = "distillation"
    NATIVE = "native architectures"
    BASELINE = "baseline"


class Evaluated(Enum):
    """Who can say how good a tier is."""

    AGGREGATOR = "aggregator"  # every tier's model is in the version
    DEVICES = "devices"  # a part of each model never leaves its device: devices report their own score


class Weighting(Enum):
    """What an update counts: one, or the number of examples that it was trained on."""

    UNIFORM = "uniform"
    SAMPLES = "samples"


@dataclass(frozen=True, slots=True)
class About:
    """What people are told of an algorithm. `travels`: what goes up, in words. `paper`: authors, title, venue, year.

    `linear`: the sum of all updates is enough. If not, each update is looked at by itself, and secure aggregation is
    refused with it.
    """

    name: str
    title: str
    family: Family
    travels: str
    paper: str
    linear: bool = True


class Algorithm(Protocol):
    """One MHFL method. Stateless: what it needs of a round comes in as arguments."""

    @property
    def about(self) -> About:
        """Its name and what people are told of it."""
        ...

    @property
    def plan(self) -> Plan:
        """How the layout is arranged."""
        ...

    @property
    def numbers(self) -> Mapping[str, float]:
        """Its own options, all of them; they travel in each offer."""
        ...

    @property
    def evaluated(self) -> Evaluated:
        """Who can say how good a tier is."""
        ...

    @property
    def concludes(self) -> bool:
        """Whether the aggregator's training child has a say after `finalize` (it trains a model of its own, say)."""
        ...

    def check_tiers(self, tiers: int) -> None:
        """Raise `ConfigError` when the algorithm cannot serve so many tiers."""
        ...

    def device_options(self, training: Mapping[str, float]) -> dict[str, float]:
        """The numbers of the round's offer: the policy's training settings, and this algorithm's own."""
        ...

    def weight(self, examples: float) -> float:
        """What the update of a device that trained on so many examples counts; at least 1.

        Grows with the examples, if at all.
        """
        ...

    def begin(self, layout: Layout, flat: Vector) -> None:
        """Make version 0 of first weights, in place (float32, the layout's total)."""
        ...

    def finalize(self, total: Accumulator, layout: Layout, head: Source, out: Vector | str | os.PathLike[str]) -> None:
        """Write the new version (a full vector) that follows from the head and the sum of all updates."""
        ...


@dataclass(frozen=True, slots=True)
class Averaging:
    """What most algorithms are at the aggregator: the weighted mean, coordinate by coordinate, over who holds it.

    A subclass gives `ABOUT`, and what differs. `numbers` are its own options, complete.
    """

    ABOUT: ClassVar[About]
    PLAN: ClassVar[Plan] = Plan()
    NUMBERS: ClassVar[Mapping[str, Number]] = {}
    WEIGHTING: ClassVar[Weighting] = Weighting.UNIFORM  # what the paper says, where a policy does not
    EVALUATED: ClassVar[Evaluated] = Evaluated.AGGREGATOR
    CONCLUDES: ClassVar[bool] = False

    weighting: Weighting = Weighting.UNIFORM
    numbers: Mapping[str, float] = field(default_factory=dict)

    @property
    def about(self) -> About:
        """Its name and what people are told of it."""
        return self.ABOUT

    @property
    def plan(self) -> Plan:
        """How the layout is arranged."""
        return self.PLAN

    @property
    def evaluated(self) -> Evaluated:
        """Who can say how good a tier is."""
        return self.EVALUATED

    @property
    def concludes(self) -> bool:
        """Whether the aggregator's training child has a say after `finalize`."""
        return self.CONCLUDES

    def check_tiers(self, tiers: int) -> None:
        """Any number of tiers will do, but one that is the aggregator's own needs another for the devices."""
        if self.plan.server and tiers < 2:
            raise ConfigError(
                f"{self.about.name} keeps the last tier for the aggregator's own model, and there is no other",
                where="algorithm",
                remedy="give at least two tiers: the devices' and, last, the aggregator's",
            )

    def device_options(self, training: Mapping[str, float]) -> dict[str, float]:
        """The training settings, and the algorithm's numbers."""
        return {**training, **self.numbers}

    def weight(self, examples: float) -> float:
        """1, or the examples; a device without examples still counts as one, so that nothing divides by zero."""
        return 1.0 if self.weighting is Weighting.UNIFORM else float(max(1.0, examples))

    def begin(self, layout: Layout, flat: Vector) -> None:
        """First weights are version 0 as they are."""

    def finalize(self, total: Accumulator, layout: Layout, head: Source, out: Vector | str | os.PathLike[str]) -> None:
        """Head plus the weighted mean of deltas, times `server_rate`; what nobody held stays as it is."""
        total.finalize(head, out, self.numbers.get("server_rate", 1.0))
