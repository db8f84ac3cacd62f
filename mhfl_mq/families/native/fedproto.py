"""FedProto: devices of any architecture share the mean feature of each class, and nothing of their models.

Tan, Long, Liu, Zhou, Lu, Jiang, Zhang: FedProto, AAAI 2022. A device sends, for every class, its mean feature times
the class's share of its examples, and the shares; with `weighting: samples` (the paper's) their sums are the sums of
features and of examples per class. The arrays always have all classes, zeros where a device has none, so that the sum
of all devices is enough for the aggregator. With `weighting: uniform` each device counts one, split over its classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from mhfl_mq.families.base import About, Averaging, Evaluated, Family, Weighting
from mhfl_mq.families.numbers import Number
from mhfl_mq.families.plan import Cut, Own, Plan, Shares
from mhfl_mq.families.rewrite import Out, read_range, sum_of, write_range
from mhfl_mq.segments import Accumulator, Layout, Source

__all__ = ["PROTOTYPES", "PROTOTYPE_NUMBERS", "PROTOTYPE_PLAN", "SHARES", "FedProto"]

PROTOTYPES: Final = Own("prototypes", ("classes", "features"))
SHARES: Final = Own("shares", ("classes",))
PROTOTYPE_PLAN: Final = Plan(cut=Cut.APART, shares=Shares.NOTHING, own=(PROTOTYPES, SHARES))
PROTOTYPE_NUMBERS: Final[Mapping[str, Number]] = {
    "lambda": Number(1.0, 0.0, 1e6, "how strongly features are pulled to the prototype of their class"),
    "inference": Number(0, 0, 1, "what a device uses: its head (0), or the nearest prototype (1)", whole=True),
    "largest_feature": Number(
        1000.0, 1e-3, 1e30, "the largest mean feature that a device sends; limits.largest_value must be as large"
    ),
}
LEAST: Final = 1e-12
"""A class with less than this share of all examples is nobody's: what a liar sent, or what rounding left."""


@dataclass(frozen=True, slots=True)
class FedProto(Averaging):
    """In the version: the prototype of every class, and the share of examples behind it (0: it never had any)."""

    ABOUT: ClassVar[About] = About(
        name="fedproto",
        title="FedProto: models of any architecture, pulled to common class prototypes",
        family=Family.NATIVE,
        travels="mean features and shares of the classes",
        paper="Tan et al.: FedProto: Federated prototype learning across heterogeneous clients, AAAI 2022",
    )
    PLAN: ClassVar[Plan] = PROTOTYPE_PLAN
    NUMBERS: ClassVar[Mapping[str, Number]] = PROTOTYPE_NUMBERS
    WEIGHTING: ClassVar[Weighting] = Weighting.SAMPLES
    EVALUATED: ClassVar[Evaluated] = Evaluated.DEVICES

    def finalize(self, total: Accumulator, layout: Layout, head: Source, out: Out) -> None:
        """The mean feature of each class over all who have it; a class that nobody has keeps its prototype."""
        total.finalize(head, out)
        sums, shares = sum_of(total, layout, PROTOTYPES.array), sum_of(total, layout, SHARES.array)
        at, share_at = layout.where(PROTOTYPES.array), layout.where(SHARES.array)
        prototypes = read_range(head, *at).astype(np.float64).reshape(sums.shape)
        known = read_range(head, *share_at).astype(np.float64)
        weight = total.weights[_segment(layout, share_at[0])]
        has = shares > LEAST * weight
        most = total.bounds.value  # no mean is larger than what was counted, unless a share was a lie
        prototypes[has] = np.clip(sums[has] / shares[has, None], -most, most)
        known[has] = shares[has] / weight
        write_range(out, at[0], prototypes)
        write_range(out, share_at[0], known)


def _segment(layout: Layout, at: int) -> int:
    """The segment of a coordinate."""
    return next(s for s, (_, stop) in enumerate(layout.segment_bounds) if at < stop)
