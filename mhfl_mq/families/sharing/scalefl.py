"""ScaleFL: tiers differ in width and in depth together; the last exit of a tier teaches its earlier ones.

Ilhan, Su, Liu: ScaleFL, CVPR 2023. Tiers are nested in both, and a coordinate becomes the plain mean over who has it.
Two things are as the paper means them and not as its released code has them: the divergence is the mean over the
examples (the code divides by the number of classes as well), and no gradient goes back into the exit that teaches.
Running statistics, which the code averages over unlike widths, are refused when the layout is made.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

from mhfl_mq.families.base import About, Averaging, Family
from mhfl_mq.families.numbers import Number
from mhfl_mq.families.plan import Plan
from mhfl_mq.families.sharing.depthfl import MAX_ROUNDS
from mhfl_mq.families.sharing.heterofl import SERVER_RATE

__all__ = ["DISTIL", "DISTIL_AFTER", "TEMPERATURE", "ScaleFL"]

DISTIL_AFTER: Final = Number(
    10,
    0,
    MAX_ROUNDS,
    "rounds before exits begin to learn from the last one: a quarter of the rounds that a model takes",
    whole=True,
)
"""The paper waits for a quarter of the rounds; how many there will be is not known here, and a plant's model takes
some dozens."""
DISTIL: Final = Number(0.05, 0.0, 100.0, "how much an exit learns from the last one, next to its labels (0: nothing)")
"""The released code's example for text; its default for images is 0."""
TEMPERATURE: Final = Number(3.0, 0.1, 100.0, "what scores are divided by before the last exit teaches")


@dataclass(frozen=True, slots=True)
class ScaleFL(Averaging):
    """Nested widths and depths with an exit per block. A tier answers with its last exit."""

    ABOUT: ClassVar[About] = About(
        name="scalefl",
        title="ScaleFL: width and depth cut together, and the last exit teaches the earlier ones",
        family=Family.SHARING,
        travels="the tier's part of its blocks and their exits",
        paper="Ilhan, Su, Liu: ScaleFL, resource-adaptive federated learning with heterogeneous clients, CVPR 2023",
    )
    PLAN: ClassVar[Plan] = Plan(exits=True)
    NUMBERS: ClassVar[Mapping[str, Number]] = {
        "distil": DISTIL,
        "distil_after": DISTIL_AFTER,
        "temperature": TEMPERATURE,
        "server_rate": SERVER_RATE,
    }
