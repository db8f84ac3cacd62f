"""FeDepth: every device ends with the full model, and trains as many of its blocks at a time as its memory allows.

Zhang et al.: Memory-adaptive depth-wise heterogeneous federated learning, arXiv 2303.04887, 2023. All tiers hold
everything, so the sum is that of FedAvg; a tier's depth says how many blocks it trains at once. It saves memory, and
neither bytes on the wire nor the forward pass through the blocks before. The paper's further variant for devices with
memory to spare (two models that teach each other) is not here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from mhfl_mq.families.base import About, Averaging, Family, Weighting
from mhfl_mq.families.numbers import Number
from mhfl_mq.families.plan import Cut, Plan
from mhfl_mq.families.sharing.heterofl import SERVER_RATE

__all__ = ["FeDepth", "group_of"]


def group_of(step: int, steps: int, groups: int, round_number: int) -> int:
    """Which group of blocks step 0, 1, ... of a round's `steps` trains: each group in turn, the first one first.

    With fewer steps than groups a round skips some, and they come in one of the rounds after it.
    """
    turns = -(-groups // steps)
    return (step * groups // steps + (round_number - 1) % turns) % groups


@dataclass(frozen=True, slots=True)
class FeDepth(Averaging):
    """The mean of full models, weighted by samples."""

    ABOUT: ClassVar[About] = About(
        name="fedepth",
        title="FeDepth: the full model on every device, trained a few blocks at a time",
        family=Family.SHARING,
        travels="the full model's parameters",
        paper="Zhang, Dai, Wang, Xing, Chen, Sun: Memory-adaptive depth-wise heterogeneous federated learning, "
        "arXiv 2303.04887, 2023",
    )
    PLAN: ClassVar[Plan] = Plan(cut=Cut.WHOLE, blocks=True)
    NUMBERS: ClassVar[Mapping[str, Number]] = {"server_rate": SERVER_RATE}
    WEIGHTING: ClassVar[Weighting] = Weighting.SAMPLES
