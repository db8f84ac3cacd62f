"""FedRolex: HeteroFL whose versions are rolled, so that each round trains another window of every layer.

The rule is one window for all devices of a round, moved on by one channel (here: by `roll_step` times what a group may
be rolled by) from version to version. The channels of the full model are renumbered instead, which changes nothing of
what it computes (see `mhfl_mq.segments.roll`): the prefix of a tier then is the next window, devices train and send as
in HeteroFL, and no offset is ever sent. Inside an attention every head rolls by itself, so a window never crosses heads
(the released code rolls the flattened axis, and its windows do).

Groups of which the model reads the order cannot be rolled: they keep their static prefix, as in HeteroFL. A model of
which no group can be rolled is refused when the layout is made.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mhfl_mq.families.base import About, Family
from mhfl_mq.families.numbers import Number
from mhfl_mq.families.plan import Plan
from mhfl_mq.families.rewrite import Out, read_whole, write_whole
from mhfl_mq.families.sharing.rows import ClassRows
from mhfl_mq.segments import Accumulator, Layout, Source
from mhfl_mq.segments.roll import next_steps, rolled

__all__ = ["FedRolex"]


@dataclass(frozen=True, slots=True)
class FedRolex(ClassRows):
    """The mean per coordinate, in the version's own order of channels; then every group moves on by `roll_step` units.

    `finalize` takes the memory of two vectors beside the sum, one where `out` is an array.
    """

    ABOUT: ClassVar[About] = About(
        name="fedrolex",
        title="FedRolex: the window that tiers hold moves on every round",
        family=Family.SHARING,
        travels="the tier's parameters",
        paper="Alam, Liu, Yan, Zhang: FedRolex: Model-heterogeneous federated learning with rolling sub-model "
        "extraction, NeurIPS 2022",
    )
    PLAN: ClassVar[Plan] = Plan(rolls=True)
    NUMBERS: ClassVar[Mapping[str, Number]] = {
        **ClassRows.NUMBERS,
        "roll_step": Number(1, 1, 1 << 20, "units by which each group's window moves on every round", whole=True),
    }

    def finalize(self, total: Accumulator, layout: Layout, head: Source, out: Out) -> None:
        """HeteroFL's mean, rolled. What nobody held keeps its value, and moves with its channel."""
        mean: Out = np.empty(layout.total, np.float32) if isinstance(out, np.ndarray) else out
        ClassRows.finalize(self, total, layout, head, mean)
        step = int(self.numbers.get("roll_step", 1))
        into = out if isinstance(out, np.ndarray) else None
        new = rolled(layout, read_whole(mean, layout.total), next_steps(layout, step), into)
        if into is None:
            write_whole(out, new)
