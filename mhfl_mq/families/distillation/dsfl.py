"""DS-FL: like FedMD by probabilities, whose mean is made sharper before devices learn it.

Itahara, Nishio, Koda, Morikura, Yamamoto: Distillation-based semi-supervised federated learning, IEEE TMC 2021. The
mean of many opinions is vaguer than each of them; entropy reduction (ERA) is a softmax of the mean at a temperature
below 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from mhfl_mq.families.base import About, Averaging, Evaluated, Family
from mhfl_mq.families.distillation.fedmd import ALIGNING, LOGITS
from mhfl_mq.families.numbers import Number
from mhfl_mq.families.plan import Cut, Plan, Shares
from mhfl_mq.families.rewrite import Out, mean_of, write_range
from mhfl_mq.segments import Accumulator, Layout, Source

__all__ = ["DSFL", "sharpened"]


@dataclass(frozen=True, slots=True)
class DSFL(Averaging):
    """The consensus is the sharpened mean of the devices' softmax outputs, example by example."""

    ABOUT: ClassVar[About] = About(
        name="dsfl",
        title="DS-FL: devices of any architecture learn the sharpened mean of softmax outputs on public examples",
        family=Family.DISTILLATION,
        travels="softmax outputs of the public examples",
        paper="Itahara et al.: Distillation-based semi-supervised federated learning, IEEE TMC 2021",
    )
    PLAN: ClassVar[Plan] = Plan(cut=Cut.APART, shares=Shares.NOTHING, own=(LOGITS,), public=True)
    EVALUATED: ClassVar[Evaluated] = Evaluated.DEVICES
    NUMBERS: ClassVar[Mapping[str, Number]] = {
        **ALIGNING,
        "temperature": Number(0.1, 0.01, 10.0, "of the softmax that sharpens the mean: below 1 it gets surer"),
    }

    def finalize(self, total: Accumulator, layout: Layout, head: Source, out: Out) -> None:
        """The sharpened mean of what was sent; the head's stays where nothing was."""
        total.finalize(head, out)
        mean = mean_of(total, layout, LOGITS.array)
        if mean is not None:
            temperature = self.numbers.get("temperature", self.NUMBERS["temperature"].default)
            write_range(out, layout.where(LOGITS.array)[0], sharpened(mean, temperature))


def sharpened(mean: npt.NDArray[np.float64], temperature: float) -> npt.NDArray[np.float64]:
    """softmax(mean / temperature) of each row."""
    raised = np.exp((mean - mean.max(axis=1, keepdims=True)) / temperature)
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))
