"""HeteroFL by the static prefix: each coordinate becomes the mean over the devices whose tier holds it.

Diao, Ding, Tarokh: HeteroFL, ICLR 2021, equation 3 (static cut, per-coordinate mean). Neither its scaler nor its
masked cross entropy is needed here: devices deploy their own tier, and norms nest (see the notes on GroupNorm).
FedAvg (McMahan et al. 2017) is the case of one tier, weighted by samples.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import numpy as np

from mhfl_mq.errors import ConfigError
from mhfl_mq.segments import Accumulator, Contribution, Domain, Source, Vector

__all__ = ["FedAvg", "HeteroFL", "Weighting"]


class Weighting(Enum):
    """What an update counts: one, or the number of examples that it was trained on."""

    UNIFORM = "uniform"
    SAMPLES = "samples"


@dataclass(frozen=True, slots=True)
class HeteroFL:
    """Nested widths and depths, averaged per coordinate. `server_rate` scales the mean step."""

    weighting: Weighting = Weighting.UNIFORM
    server_rate: float = 1.0
    name: str = "heterofl"
    linear: bool = True

    def check_tiers(self, tiers: int) -> None:
        """Any number of tiers will do."""

    def device_options(self, training: Mapping[str, float]) -> dict[str, float]:
        """The training settings as they are: a device trains its tier's model as if it were the only one."""
        return dict(training)

    def weight(self, examples: float) -> float:
        """1, or the examples; a device without examples still counts as one, so that nothing divides by zero."""
        return 1.0 if self.weighting is Weighting.UNIFORM else float(max(1.0, examples))

    def contribute(self, delta: Vector, tier: int, examples: float) -> Contribution:
        """The delta times its weight, and that weight for each of the segments 0..tier."""
        weight = self.weight(examples)
        sums = {"prefix": delta.astype(np.float64) * weight}
        return Contribution("parameters", Domain.REAL, sums, np.full(tier + 1, weight))

    def finalize(self, total: Accumulator, head: Source, out: Vector | str | os.PathLike[str]) -> None:
        """Head plus the weighted mean of deltas; what nobody held stays as it is."""
        total.finalize(head, out, self.server_rate)


@dataclass(frozen=True, slots=True)
class FedAvg(HeteroFL):
    """One model for all devices: HeteroFL with a single tier, weighted by samples."""

    weighting: Weighting = Weighting.SAMPLES
    name: str = "fedavg"

    def check_tiers(self, tiers: int) -> None:
        """FedAvg has one tier."""
        if tiers != 1:
            raise ConfigError(
                f"fedavg trains one model for all devices, and the policy has {tiers} tiers",
                where="algorithm",
                remedy="leave one tier in the policy, or use heterofl",
            )
