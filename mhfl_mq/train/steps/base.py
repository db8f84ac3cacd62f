"""The contract of an algorithm's half in the training child; the other half is `mhfl_mq.families`.

A `Method` begins a `Stepper` for a `Job`; the loop (and the probe, which measures what a step costs) drives it
minibatch by minibatch. So an algorithm says what a step is, and nothing about seeds, deadlines, handicaps or files.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from mhfl_mq.segments import Vector
from mhfl_mq.train.model import TaskModels
from mhfl_mq.train.options import TrainOptions
from mhfl_mq.train.task import Examples

__all__ = ["Conclusion", "Finished", "Job", "Kept", "Method", "PastUpdate", "Stepper"]

Kept = Mapping[str, npt.NDArray[np.generic]]
"""Arrays that never leave a device, by name: private layers, what was not sent yet."""


@dataclass(frozen=True, slots=True)
class Job:
    """One device's training of one round. `base` is the tier's vector of the version that the round starts from.

    `numbers` are all numbers of the offer. `luck` are whole numbers of the device's own that, with the options' seed
    and the round, start every random choice, so that a round is repeatable. `kept` is what the device kept of its last
    round (empty at first, and after a change of tier, layout or algorithm).

    A `rehearsal` is for the probe, which measures what later rounds will cost: whatever a first round would spare is
    done too. Its first step is like the second, and carries what is done once a round; the steps from the second on,
    `Stepper.kinds` of them, are of all kinds, in the shares that they have in a round.
    """

    models: TaskModels
    tier: int
    base: Vector
    examples: Examples
    options: TrainOptions
    numbers: Mapping[str, float]
    round_number: int
    luck: tuple[int, ...] = ()
    kept: Kept = field(default_factory=dict)
    rehearsal: bool = False

    @property
    def seeds(self) -> np.random.SeedSequence:
        """Where the training's chance starts: minibatches, and torch's own."""
        return np.random.SeedSequence([self.options.seed, self.round_number, *self.luck])

    def chance(self) -> np.random.Generator:
        """A stream for the method itself, which is not the one that draws minibatches."""
        return np.random.default_rng(self.seeds.spawn(1)[0])


@dataclass(frozen=True, slots=True)
class Finished:
    """The tier's vector to send (float32; see `TierModel.update`), what the device keeps, and numbers for people.

    `usual` is false for a round whose steps say nothing about those of others: it spared work that others have, or had
    too few steps of some kind.
    """

    update: Vector
    kept: Kept = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    usual: bool = True


class Stepper(Protocol):
    """The training of one round, as it goes on."""

    @property
    def kinds(self) -> int:
        """Steps, one after the other, that show all that a step of a round may be: in fewer, some may be missed."""
        ...

    def step(self, batch: Examples) -> float:
        """Learn from one minibatch; gives the loss before the step."""
        ...

    def finish(self) -> Finished:
        """What the training came to."""
        ...

    def score(self, examples: Examples) -> float:
        """The task's metric of what this device would use now."""
        ...

    def tensors(self) -> Iterable[Tensor]:
        """Everything that lives from step to step (weights, gradients, the optimizer's state): the probe counts it."""
        ...


@dataclass(frozen=True, slots=True)
class PastUpdate:
    """One update of the round: the tier's vector, its tier, and what it counted."""

    vector: Vector
    tier: int
    weight: float


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What the aggregator's own step starts from: the head and the merged vector (both whole, float32).

    `updates` are the single updates, for methods that are not linear; else empty.
    """

    models: TaskModels
    head: Vector
    merged: Vector
    updates: Sequence[PastUpdate]
    options: TrainOptions
    numbers: Mapping[str, float]
    round_number: int


class Method(Protocol):
    """An algorithm's half in the training child."""

    def begin(self, job: Job) -> Stepper:
        """Start one round's training."""
        ...

    def score(self, models: TaskModels, tier: int, vector: Vector, examples: Examples) -> float:
        """The task's metric of a tier whose model is in the version; `vector` is what the tier holds of it."""
        ...

    def conclude(self, conclusion: Conclusion) -> Vector:
        """The new version (whole): only called where the algorithm `concludes`."""
        ...
