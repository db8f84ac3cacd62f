"""FedMD: models of any kind teach each other by the mean of their logits on public examples.

Li, Wang: FedMD, 2019. Each device keeps its model, digests the mean and then revisits its private data. The paper
first trains every model to convergence, on the labelled public set and then on its private data. Here nothing is asked
of the public examples' labels, and `warmup_rounds` are on private data alone: models that have learnt nothing yet
would learn from each other to say nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

from mhfl_mq.families.base import About, Averaging, Evaluated, Family
from mhfl_mq.families.numbers import Number
from mhfl_mq.families.plan import Cut, Own, Plan, Shares
from mhfl_mq.families.rewrite import Out, mean_of, write_range
from mhfl_mq.segments import Accumulator, Layout, Source

__all__ = ["ALIGNING", "LOGITS", "FedMD"]

LOGITS: Final = Own("logits", ("public", "classes"))
ALIGNING: Final[Mapping[str, Number]] = {
    # The paper's: an epoch over 5000 examples in batches of 256.
    "align_steps": Number(20, 0, 1_000_000, "steps towards the consensus at the begin of a round", whole=True),
    "warmup_rounds": Number(0, 0, 1_000_000, "rounds of private training before the first such steps", whole=True),
}


@dataclass(frozen=True, slots=True)
class FedMD(Averaging):
    """The consensus is the mean of the devices' logits, example by example."""

    ABOUT: ClassVar[About] = About(
        name="fedmd",
        title="FedMD: devices of any architecture learn the mean logits on public examples",
        family=Family.DISTILLATION,
        travels="logits of the public examples",
        paper="Li, Wang: FedMD: Heterogenous federated learning via model distillation, NeurIPS workshop 2019",
    )
    PLAN: ClassVar[Plan] = Plan(cut=Cut.APART, shares=Shares.NOTHING, own=(LOGITS,), public=True)
    EVALUATED: ClassVar[Evaluated] = Evaluated.DEVICES
    NUMBERS: ClassVar[Mapping[str, Number]] = ALIGNING

    def finalize(self, total: Accumulator, layout: Layout, head: Source, out: Out) -> None:
        """The mean of what was sent; the head's stays where nothing was."""
        total.finalize(head, out)
        mean = mean_of(total, layout, LOGITS.array)
        if mean is not None:
            write_range(out, layout.where(LOGITS.array)[0], mean)
