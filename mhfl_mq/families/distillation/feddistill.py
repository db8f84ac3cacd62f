"""Federated distillation: models of any kind teach each other by the mean logits of each class, without public data.

Jeong, Oh, Kim, Park, Bennis, Kim: Communication-efficient on-device machine learning: Federated distillation and
augmentation under non-IID private data, 2018. A device sends, for each class, the sum of its examples' logits over its
number of examples, and the class's share of them: the quotient of the two sums is the mean over all examples of the
class, and a device without the class adds nothing to either. (The paper takes a device's own part out of what it
learns from, and means over devices however many examples they have of a class.)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from mhfl_mq.families.base import About, Averaging, Evaluated, Family
from mhfl_mq.families.numbers import Number
from mhfl_mq.families.plan import Cut, Own, Plan, Shares
from mhfl_mq.families.rewrite import Out, read_range, sum_of, write_range
from mhfl_mq.segments import Accumulator, Layout, Source

__all__ = ["FedDistill"]

LOGITS: Final = Own("logits", ("classes", "classes"))
SHARES: Final = Own("shares", ("classes",))


@dataclass(frozen=True, slots=True)
class FedDistill(Averaging):
    """Row c of the table is the mean of the logits of all examples of class c; `shares` says which rows there are."""

    ABOUT: ClassVar[About] = About(
        name="feddistill",
        title="FedDistill: devices of any architecture learn the mean logits of each class",
        family=Family.DISTILLATION,
        travels="sums of logits of each class, and the classes' shares",
        paper="Jeong et al.: Communication-efficient on-device machine learning, NeurIPS workshop 2018",
    )
    PLAN: ClassVar[Plan] = Plan(cut=Cut.APART, shares=Shares.NOTHING, own=(LOGITS, SHARES))
    EVALUATED: ClassVar[Evaluated] = Evaluated.DEVICES
    NUMBERS: ClassVar[Mapping[str, Number]] = {
        "gamma": Number(1.0, 0.0, 1000.0, "how much the distance to the class's mean logits counts beside the loss"),
    }

    def finalize(self, total: Accumulator, layout: Layout, head: Source, out: Out) -> None:
        """Sums of logits over sums of shares; a class that nobody had this round keeps its row and its share."""
        total.finalize(head, out)
        sums, shares = sum_of(total, layout, LOGITS.array), sum_of(total, layout, SHARES.array)
        present = shares > 0
        rows, share = layout.where(LOGITS.array), layout.where(SHARES.array)
        old_rows, old_shares = read_range(head, *rows).reshape(sums.shape), read_range(head, *share)
        divisor = np.where(present, shares, 1.0)
        write_range(out, rows[0], np.where(present[:, None], sums / divisor[:, None], old_rows))
        everybody = shares.sum() if present.any() else 1.0  # each device's shares add to 1
        write_range(out, share[0], np.where(present, shares / everybody, old_shares))
