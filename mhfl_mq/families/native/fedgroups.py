"""FedGroups: FedAvg inside each group of devices of one architecture, and distillation between the groups.

One federation carries several global models at once: the parameters of each architecture are averaged over the devices
that have it, and over no others. What crosses is what all devices say of public examples: each learns its examples and,
beside them, the consensus of everybody (as in FedDF, Lin et al., NeurIPS 2020, whose student learns the mean of unlike
teachers; here devices ask their own model, so a sum of softmax outputs is all that the aggregator needs). With
`distil: 0` nothing crosses, and no public data are needed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

from mhfl_mq.families.base import About, Averaging, Family, Weighting
from mhfl_mq.families.numbers import Number
from mhfl_mq.families.plan import Cut, Own, Plan
from mhfl_mq.families.rewrite import Out, mean_of, write_range
from mhfl_mq.segments import Accumulator, Layout, Source

__all__ = ["GROUP_NUMBERS", "LOGITS", "FedGroups"]

LOGITS: Final = Own("logits", ("public", "classes"))
GROUP_NUMBERS: Final[Mapping[str, Number]] = {
    "distil": Number(1.0, 0.0, 1000.0, "what learning the consensus counts beside the device's examples; 0: nothing"),
    "temperature": Number(2.0, 0.1, 100.0, "softens the consensus and the model's scores before they are compared"),
}
_ALONE: Final = Plan(cut=Cut.APART)


@dataclass(frozen=True, slots=True)
class FedGroups(Averaging):
    """In the version: every tier's model, and the mean of all devices' softmax outputs on the public examples."""

    ABOUT: ClassVar[About] = About(
        name="fedgroups",
        title="FedGroups: FedAvg per architecture, and distillation between the groups",
        family=Family.NATIVE,
        travels="the tier's parameters, and softmax outputs of the public examples",
        paper="McMahan et al.: FedAvg, AISTATS 2017, in groups; after Lin et al.: Ensemble distillation for robust "
        "model fusion in FL (FedDF), NeurIPS 2020",
    )
    PLAN: ClassVar[Plan] = Plan(cut=Cut.APART, own=(LOGITS,), public=True)
    NUMBERS: ClassVar[Mapping[str, Number]] = GROUP_NUMBERS
    WEIGHTING: ClassVar[Weighting] = Weighting.SAMPLES

    @property
    def plan(self) -> Plan:
        """Models apart; and the table of outputs, where something crosses."""
        return self.PLAN if self.numbers.get("distil", GROUP_NUMBERS["distil"].default) else _ALONE

    def finalize(self, total: Accumulator, layout: Layout, head: Source, out: Out) -> None:
        """The mean of each group's deltas over its devices, and the mean of what all devices said."""
        total.finalize(head, out)
        if self.plan.own:
            mean = mean_of(total, layout, LOGITS.array)
            if mean is not None:
                write_range(out, layout.where(LOGITS.array)[0], mean)
