"""Slimmable HeteroFL: a device trains its tier's model and every smaller one inside it, all at once.

Named in Hong et al. (Split-Mix, ICLR 2022) as HeteroFL whose devices train slimmable networks. It travels as HeteroFL
does; what differs is the loss on the device (see `mhfl_mq.train.steps.slimmable`) and that updates count by samples.
"""

from dataclasses import dataclass
from typing import ClassVar

from mhfl_mq.families.base import About, Family, Weighting
from mhfl_mq.families.sharing.rows import ClassRows

__all__ = ["Slimmable"]


@dataclass(frozen=True, slots=True)
class Slimmable(ClassRows):
    """Nested tiers, all trained on each device up to its own; the mean per coordinate, weighted by samples."""

    ABOUT: ClassVar[About] = About(
        name="slimmable",
        title="Slimmable HeteroFL: a device trains every smaller model inside its own as well",
        family=Family.SHARING,
        travels="the tier's parameters",
        paper="Hong, Wang, Wang, Zhou: Efficient split-mix federated learning for on-demand and in-situ customization, "
        "ICLR 2022 (as SHeteroFL)",
    )
    WEIGHTING: ClassVar[Weighting] = Weighting.SAMPLES
