"""FedDF: the aggregator trains models towards what the devices' models say together of public examples.

Lin, Kong, Stich, Jaggi: Ensemble distillation for robust model fusion in federated learning, NeurIPS 2020. Devices of
one tier are averaged, and every tier's model, and one that is the aggregator's own, learn the ensemble. What a device's
model says is a table that the device itself computes, so the ensemble is a sum and the aggregator needs no single
model. (It is the mean of probabilities, which the authors' code has as avg_probs, weighted like the parameters. The
paper's headline is softmax of the plain mean of logits.)

`feddf-weights` is the published way round: the aggregator runs every single model. It gives the same, needs less of
the link, and must see each update.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

from mhfl_mq.families.base import About, Averaging, Family, Weighting
from mhfl_mq.families.distillation.fedmd import LOGITS
from mhfl_mq.families.numbers import Number
from mhfl_mq.families.plan import Cut, Plan
from mhfl_mq.families.rewrite import Out, mean_of, write_range
from mhfl_mq.families.sharing.heterofl import SERVER_RATE
from mhfl_mq.segments import Accumulator, Layout, Source

__all__ = ["TEACHING", "FedDF", "FedDFWeights"]

TEACHING: Final[Mapping[str, Number]] = {
    "server_rate": SERVER_RATE,
    "distill_steps": Number(200, 0, 1_000_000, "steps of each model that the aggregator trains in a round", whole=True),
    "distill_rate": Number(1e-3, 1e-9, 1.0, "learning rate of these steps at their begin; it falls to 0 (cosine)"),
    "distill_batch": Number(128, 1, 1 << 20, "public examples of one of these steps", whole=True),
}
_PAPER: Final = "Lin et al.: Ensemble distillation for robust model fusion in federated learning, NeurIPS 2020"


@dataclass(frozen=True, slots=True)
class FedDF(Averaging):
    """The mean of each tier's parameters, and of what all devices say of the public examples."""

    ABOUT: ClassVar[About] = About(
        name="feddf",
        title="FedDF: the aggregator's models learn from the ensemble of the devices' (tables)",
        family=Family.DISTILLATION,
        travels="the tier's parameters, and softmax outputs of the public examples",
        paper=_PAPER,
    )
    PLAN: ClassVar[Plan] = Plan(cut=Cut.APART, own=(LOGITS,), public=True, server=True)
    WEIGHTING: ClassVar[Weighting] = Weighting.SAMPLES
    NUMBERS: ClassVar[Mapping[str, Number]] = TEACHING
    CONCLUDES: ClassVar[bool] = True

    def finalize(self, total: Accumulator, layout: Layout, head: Source, out: Out) -> None:
        """The mean of parameters as in HeteroFL; the table becomes the mean of what was sent."""
        Averaging.finalize(self, total, layout, head, out)
        mean = mean_of(total, layout, LOGITS.array)
        if mean is not None:
            write_range(out, layout.where(LOGITS.array)[0], mean)


@dataclass(frozen=True, slots=True)
class FedDFWeights(Averaging):
    """The mean of each tier's parameters; the ensemble is made of the single updates."""

    ABOUT: ClassVar[About] = About(
        name="feddf-weights",
        title="FedDF: the aggregator's models learn from the ensemble of the devices' (single updates)",
        family=Family.DISTILLATION,
        travels="the tier's parameters",
        paper=_PAPER,
        linear=False,
    )
    PLAN: ClassVar[Plan] = Plan(cut=Cut.APART, public=True, server=True)
    WEIGHTING: ClassVar[Weighting] = Weighting.SAMPLES
    NUMBERS: ClassVar[Mapping[str, Number]] = TEACHING
    CONCLUDES: ClassVar[bool] = True
