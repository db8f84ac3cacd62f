"""HeteroFL by the static prefix: each coordinate becomes the mean over the devices whose tier holds it.

Diao, Ding, Tarokh: HeteroFL, ICLR 2021, equation 3 (static cut, per-coordinate mean), with its masked cross-entropy for
devices that lack classes as an option. Its scaler is not needed here: devices deploy their own tier, and norms nest
(see the notes on GroupNorm).
"""

from dataclasses import dataclass
from typing import ClassVar

from mhfl_mq.families.base import About, Family
from mhfl_mq.families.numbers import SERVER_RATE
from mhfl_mq.families.sharing.rows import ClassRows

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
