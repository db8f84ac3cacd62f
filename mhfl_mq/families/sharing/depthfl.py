"""DepthFL: tiers differ in depth, every block has an exit of its own, and the exits teach each other.

Kim et al.: DepthFL, ICLR 2023. A tier has the first blocks and their exits, so tiers are nested and an array becomes
the plain mean over who has it. The paper's better numbers are with FedDyn on top, which keeps a vector per device and
one at the aggregator; this is the published variant by plain averaging, which keeps nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp
from typing import ClassVar, Final

from mhfl_mq.families.base import About, Averaging, Family
from mhfl_mq.families.numbers import Number
from mhfl_mq.families.plan import Plan
from mhfl_mq.families.sharing.heterofl import SERVER_RATE

__all__ = ["MAX_ROUNDS", "RAMP", "DepthFL", "mutual_weight"]

MAX_ROUNDS: Final = 1e6
"""More rounds than a federation has in a decade at one every five minutes."""
RAMP: Final = Number(
    20,
    1,
    MAX_ROUNDS,
    "rounds over which exits begin to learn from each other: about a third of the rounds that a model takes",
    whole=True,
)
"""The paper ramps over 300 of its 1,000 rounds; a plant's model takes some dozens."""


def mutual_weight(round_number: int, ramp: float) -> float:
    """The weight of the mutual distillation in a round (1, 2, ...): rises to 1 in round `ramp` and stays there."""
    return exp(-5.0 * (1.0 - min(float(round_number), ramp) / ramp) ** 2)


@dataclass(frozen=True, slots=True)
class DepthFL(Averaging):
    """Nested depths with an exit per block. `ramp`: see `mutual_weight`."""

    ABOUT: ClassVar[About] = About(
        name="depthfl",
        title="DepthFL: nested depths whose exits teach each other, and answer together",
        family=Family.SHARING,
        travels="the tier's blocks and their exits",
        paper="Kim, Yu, Kim, Moon: DepthFL, depthwise federated learning for heterogeneous clients, ICLR 2023",
    )
    PLAN: ClassVar[Plan] = Plan(exits=True)
    NUMBERS: ClassVar[Mapping[str, Number]] = {"ramp": RAMP, "server_rate": SERVER_RATE}
