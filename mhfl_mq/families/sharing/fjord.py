"""FjORD: every minibatch trains a tier drawn by chance among those that the device can hold (ordered dropout).

It travels as HeteroFL does, and the rule that wide coordinates are averaged over the devices that hold them is the
paper's own. What differs is the step on the device (see `mhfl_mq.train.steps.fjord`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from mhfl_mq.families.base import About, Averaging, Family, Weighting
from mhfl_mq.families.numbers import Number
from mhfl_mq.families.sharing.heterofl import SERVER_RATE

__all__ = ["FjORD"]


@dataclass(frozen=True, slots=True)
class FjORD(Averaging):
    """Nested tiers with ordered dropout; the mean per coordinate, weighted by samples."""

    ABOUT: ClassVar[About] = About(
        name="fjord",
        title="FjORD: ordered dropout, a width drawn for every minibatch",
        family=Family.SHARING,
        travels="the tier's parameters",
        paper="Horvath, Laskaridis, Almeida, Leontiadis, Venieris, Lane: FjORD: Fair and accurate federated learning "
        "under heterogeneous targets with ordered dropout, NeurIPS 2021",
    )
    WEIGHTING: ClassVar[Weighting] = Weighting.SAMPLES
    NUMBERS: ClassVar[Mapping[str, Number]] = {
        "server_rate": SERVER_RATE,
        "distil": Number(0, 0, 1, "1: the drawn width learns from the scores of the device's widest", whole=True),
    }
