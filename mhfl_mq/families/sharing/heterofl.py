"""HeteroFL by the static prefix: each coordinate becomes the mean over the devices whose tier holds it.

Diao, Ding, Tarokh: HeteroFL, ICLR 2021, equation 3 (static cut, per-coordinate mean). Its scaler is not needed here:
devices deploy their own tier, and norms nest (see the notes on GroupNorm).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

from mhfl_mq.families.base import About, Averaging, Family
from mhfl_mq.families.numbers import Number

__all__ = ["SERVER_RATE", "HeteroFL"]

MAX_RATE: Final = 10.0
"""A server step of ten times the mean has diverged in every published run."""
SERVER_RATE: Final = Number(1.0, 1e-6, MAX_RATE, "how much of the mean step the new version takes")


@dataclass(frozen=True, slots=True)
class HeteroFL(Averaging):
    """Nested widths and depths, averaged per coordinate. `server_rate` scales the mean step."""

    ABOUT: ClassVar[About] = About(
        name="heterofl",
        title="HeteroFL: static prefixes of one model, averaged per coordinate",
        family=Family.SHARING,
        travels="the tier's parameters",
        paper="Diao, Ding, Tarokh: HeteroFL, ICLR 2021",
    )
    NUMBERS: ClassVar[Mapping[str, Number]] = {"server_rate": SERVER_RATE}
