"""FedAvg: one model for all devices. The baseline that every other method is held against."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from mhfl_mq.errors import ConfigError
from mhfl_mq.families.base import About, Averaging, Family, Weighting
from mhfl_mq.families.numbers import Number
from mhfl_mq.families.sharing.heterofl import SERVER_RATE

__all__ = ["FedAvg"]


@dataclass(frozen=True, slots=True)
class FedAvg(Averaging):
    """The mean of one model over all devices, weighted by samples."""

    ABOUT: ClassVar[About] = About(
        name="fedavg",
        title="FedAvg: one model for all devices",
        family=Family.BASELINE,
        travels="the model's parameters",
        paper="McMahan et al.: Communication-efficient learning of deep networks, AISTATS 2017",
    )
    WEIGHTING: ClassVar[Weighting] = Weighting.SAMPLES
    NUMBERS: ClassVar[Mapping[str, Number]] = {"server_rate": SERVER_RATE}

    def check_tiers(self, tiers: int) -> None:
        """FedAvg has one tier."""
        if tiers != 1:
            raise ConfigError(
                f"fedavg trains one model for all devices, and the policy has {tiers} tiers",
                where="algorithm",
                remedy="leave one tier in the policy, or use heterofl",
            )
