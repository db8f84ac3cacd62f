"""LG-FedAvg: the head is shared, the body that makes its features never leaves its device.

Liang, Liu, Ziyin, Allen, Auerbach, Brent, Salakhutdinov, Morency: Think locally, act globally, 2020. Bodies may be of
any size or kind; heads of more features hold the smaller ones as a prefix, as in HeteroFL.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from mhfl_mq.families.base import About, Averaging, Evaluated, Family, Weighting
from mhfl_mq.families.numbers import Number
from mhfl_mq.families.plan import Plan, Shares
from mhfl_mq.families.sharing.heterofl import SERVER_RATE

__all__ = ["LGFedAvg"]


@dataclass(frozen=True, slots=True)
class LGFedAvg(Averaging):
    """The weighted mean of heads."""

    ABOUT: ClassVar[About] = About(
        name="lg-fedavg",
        title="LG-FedAvg: a shared head, a body of one's own",
        family=Family.SHARING,
        travels="the head's parameters",
        paper="Liang et al.: Think locally, act globally, 2020",
    )
    PLAN: ClassVar[Plan] = Plan(shares=Shares.HEAD)
    NUMBERS: ClassVar[Mapping[str, Number]] = {"server_rate": SERVER_RATE}
    WEIGHTING: ClassVar[Weighting] = Weighting.SAMPLES
    EVALUATED: ClassVar[Evaluated] = Evaluated.DEVICES
