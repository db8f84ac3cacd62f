"""HeteroFL by the static prefix: each coordinate becomes the mean over the devices whose tier holds it.

Diao, Ding, Tarokh: HeteroFL, ICLR 2021, equation 3 (static cut, per-coordinate mean). Options are its masked
cross-entropy for devices that lack classes, and its scaler, which is not needed where devices deploy their own tier
and norms nest: asked for, it is a part of the model, in evaluation and on the plant as in training.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from mhfl_mq.families.base import About, Family
from mhfl_mq.families.numbers import SERVER_RATE, Number
from mhfl_mq.families.plan import Plan
from mhfl_mq.families.sharing.rows import MASKED, ClassRows

__all__ = ["SERVER_RATE", "HeteroFL"]


@dataclass(frozen=True, slots=True)
class HeteroFL(ClassRows):
    """Nested widths and depths, averaged per coordinate. `server_rate` scales the mean step.

    With `masked`, a row of the head is averaged over the devices that have its class (see `rows`).
    """

    ABOUT: ClassVar[About] = About(
        name="heterofl",
        title="HeteroFL: static prefixes of one model, averaged per coordinate",
        family=Family.SHARING,
        travels="the tier's parameters",
        paper="Diao, Ding, Tarokh: HeteroFL, ICLR 2021",
    )
    NUMBERS: ClassVar[Mapping[str, Number]] = {
        "server_rate": SERVER_RATE,
        "masked": MASKED,
        "scaler": Number(0, 0, 1, "1: a narrower layer's outputs count as much more as it is narrower", whole=True),
    }

    @property
    def plan(self) -> Plan:
        """As that of all with rows; and the scaler."""
        return replace(super(HeteroFL, self).plan, scaler=bool(self.numbers.get("scaler", 0.0)))
