"""FedRep: as FedPer, but a round first fits the head to the body as it came, then the body to that head.

Collins, Hassani, Mokhtari, Shakkottai: Exploiting shared representations for personalized federated learning, ICML
2021, algorithm 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from mhfl_mq.families.base import About, Averaging, Evaluated, Family
from mhfl_mq.families.numbers import Number
from mhfl_mq.families.plan import Plan, Shares
from mhfl_mq.families.sharing.heterofl import SERVER_RATE

__all__ = ["FedRep"]


@dataclass(frozen=True, slots=True)
class FedRep(Averaging):
    """The mean of bodies, one each as in the paper."""

    ABOUT: ClassVar[About] = About(
        name="fedrep",
        title="FedRep: a shared body, a head of one's own, trained one after the other",
        family=Family.SHARING,
        travels="the tier's parameters without the head",
        paper="Collins et al.: Exploiting shared representations for personalized FL, ICML 2021",
    )
    PLAN: ClassVar[Plan] = Plan(shares=Shares.BODY)
    NUMBERS: ClassVar[Mapping[str, Number]] = {
        "server_rate": SERVER_RATE,
        "head_share": Number(0.5, 0.0, 1.0, "share of a round's steps that train the head; the others train the body"),
    }
    EVALUATED: ClassVar[Evaluated] = Evaluated.DEVICES
