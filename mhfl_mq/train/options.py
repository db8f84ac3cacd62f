"""How a tier is trained in one round: the numbers that an offer carries, and how a weak device is played."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final

from mhfl_mq.errors import TaskError

__all__ = ["Handicap", "TrainOptions"]

_WHOLE: Final = frozenset({"steps", "batch", "seed"})
MAX_STEPS: Final = 1_000_000
"""More steps than any round has: a typing error, and the device would be gone for days."""


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """The numbers of `Offer.options` that local training reads; those it does not know belong to others.

    `steps` minibatches of `batch` examples; the optimizer is SGD with `momentum`, or Adam where `adam` is not 0,
    made anew every round. The learning rate of round r (1, 2, ...) is `rate * max(decay ** (r - 1), rate_floor)`:
    a federation that never ends goes on learning. `clip` bounds the gradient's norm (0: not), `seed` starts all luck.
    """

    steps: int = 20
    batch: int = 64
    rate: float = 0.1
    momentum: float = 0.9
    adam: float = 0.0
    decay: float = 1.0
    rate_floor: float = 0.1
    clip: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        limits = {
            "steps": (1, MAX_STEPS),
            "batch": (1, 1 << 20),
            "rate": (1e-9, 1e3),
            "momentum": (0.0, 0.999),
            "adam": (0.0, 1.0),
            "decay": (1e-3, 1.0),
            "rate_floor": (0.0, 1.0),
            "clip": (0.0, 1e9),
            "seed": (0, 1 << 53),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:  # false for NaN as well
                raise TaskError(f"{name} is {value}", where="training options", remedy=f"give {low} to {high}")

    @classmethod
    def from_numbers(cls, numbers: Mapping[str, float]) -> "TrainOptions":
        """The options that the numbers of an offer give; raises `TaskError` for one that cannot be used."""
        known = {field.name for field in fields(cls)}
        found: dict[str, int | float] = {}
        for name, value in numbers.items():
            if name not in known:
                continue
            if name in _WHOLE and value != int(value):
                raise TaskError(f"{name} is {value}", where="training options", remedy="give a whole number")
            found[name] = int(value) if name in _WHOLE else float(value)
        return cls(**found)  # type: ignore[arg-type]  # whole numbers are int: see above

    def rate_in(self, round_number: int) -> float:
        """The learning rate of a round (numbered from 1)."""
        return self.rate * max(self.decay ** max(round_number - 1, 0), self.rate_floor)


@dataclass(frozen=True, slots=True)
class Handicap:
    """Makes this machine play a weaker one, for demos: `slowdown` times slower, with `memory_bytes` (0: as it is).

    The probe multiplies the step time that it measured by `slowdown` and leaves out tiers whose training needs more
    than `memory_bytes`; training really takes `slowdown` times as long, by sleeping after each step for
    (slowdown - 1) times what the step took.
    """

    slowdown: float = 1.0
    memory_bytes: int = 0

    def __post_init__(self) -> None:
        if not 1.0 <= self.slowdown <= 1e6:
            raise TaskError(f"a slowdown of {self.slowdown}", where="handicap", remedy="give 1 to 1e6")
        if self.memory_bytes < 0:
            raise TaskError(f"a memory of {self.memory_bytes} bytes", where="handicap", remedy="give 0 or more")
