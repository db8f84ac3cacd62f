"""FedTGP: as FedProto, but the aggregator trains the prototypes, to keep classes apart by a margin that adapts.

Zhang, Liu, Hua, Cao: FedTGP, AAAI 2024. The mean of unlike models' prototypes shrinks the margin between classes. Here
a small network at the aggregator makes the prototypes, trained on those of every single device; so the sum of all is
not enough, and nothing that hides single updates can be used with it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

from mhfl_mq.families.base import About, Family
from mhfl_mq.families.native.fedproto import PROTOTYPE_NUMBERS, FedProto
from mhfl_mq.families.numbers import Number

__all__ = ["SERVER_NUMBERS", "FedTGP"]

SERVER_NUMBERS: Final[Mapping[str, Number]] = {
    "server_epochs": Number(100, 1, 100_000, "passes over all devices' prototypes in a round", whole=True),
    "server_batch": Number(10, 1, 100_000, "prototypes of one of its steps", whole=True),
    "generator_rate": Number(0.01, 1e-9, 10.0, "its learning rate (SGD)"),
    "margin": Number(100.0, 0.0, 1e6, "the margin between classes is the largest gap between them, but at most this"),
}


@dataclass(frozen=True, slots=True)
class FedTGP(FedProto):
    """FedProto's means stand in the merged version until the aggregator's training child has trained better ones."""

    ABOUT: ClassVar[About] = About(
        name="fedtgp",
        title="FedTGP: class prototypes that the aggregator trains to stay apart",
        family=Family.NATIVE,
        travels="mean features and shares of the classes",
        paper="Zhang et al.: FedTGP: Trainable global prototypes with adaptive-margin-enhanced contrastive learning, "
        "AAAI 2024",
        linear=False,
    )
    NUMBERS: ClassVar[Mapping[str, Number]] = {**PROTOTYPE_NUMBERS, **SERVER_NUMBERS}
    CONCLUDES: ClassVar[bool] = True
