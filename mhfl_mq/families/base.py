"""The contract of an algorithm: contribute, sum, finalize.

Every algorithm of every family is "add, then finish": devices contribute vectors that add, the sum is one for all of
them, and the algorithm says what a device is told, what its update weighs, and what the sum becomes.
"""

import os
from collections.abc import Mapping
from typing import Protocol

from mhfl_mq.segments import Accumulator, Contribution, Source, Vector

__all__ = ["Algorithm"]


class Algorithm(Protocol):
    """One MHFL method. Stateless: what it needs of a round comes in as arguments."""

    @property
    def name(self) -> str:
        """What policies and offers call it."""
        ...

    @property
    def linear(self) -> bool:
        """Whether only the sum of contributions is needed: if not, secure aggregation is refused with it."""
        ...

    def check_tiers(self, tiers: int) -> None:
        """Raise `ConfigError` when the algorithm cannot serve so many tiers."""
        ...

    def device_options(self, training: Mapping[str, float]) -> dict[str, float]:
        """The numbers of the round's offer: the policy's training settings, and what this algorithm adds."""
        ...

    def weight(self, examples: float) -> float:
        """What the update of a device that trained on so many examples counts; at least 1.

        Grows with the examples, if at all.
        """
        ...

    def contribute(self, delta: Vector, tier: int, examples: float) -> Contribution:
        """What a device adds: its delta (the tier's vector) as weighted sums."""
        ...

    def finalize(self, total: Accumulator, head: Source, out: Vector | str | os.PathLike[str]) -> None:
        """Write the new model (a full vector) that follows from the head and the sum of all updates."""
        ...
