"""FedPer: the body is shared, the head never leaves its device.

Arivazhagan, Aggarwal, Singh, Choudhary: Federated learning with personalization layers, 2019. Bodies may be of tiers:
then they are averaged per coordinate, as in HeteroFL.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from mhfl_mq.families.base import About, Averaging, Evaluated, Family, Weighting
from mhfl_mq.families.numbers import Number
from mhfl_mq.families.plan import Plan, Shares
from mhfl_mq.families.sharing.heterofl import SERVER_RATE

__all__ = ["FedPer"]


@dataclass(frozen=True, slots=True)
class FedPer(Averaging):
    """The weighted mean of bodies."""

    ABOUT: ClassVar[About] = About(
        name="fedper",
        title="FedPer: a shared body, a head of one's own, trained together",
        family=Family.SHARING,
        travels="the tier's parameters without the head",
        paper="Arivazhagan et al.: Federated learning with personalization layers, 2019",
    )
    PLAN: ClassVar[Plan] = Plan(shares=Shares.BODY)
    NUMBERS: ClassVar[Mapping[str, Number]] = {"server_rate": SERVER_RATE}
    WEIGHTING: ClassVar[Weighting] = Weighting.SAMPLES
    EVALUATED: ClassVar[Evaluated] = Evaluated.DEVICES
