"""Rows of classes: devices that lack classes send only those rows of the head that they learnt, and say which by a sum.

HeteroFL (Diao et al., ICLR 2021) masks the scores of the classes that a device lacks, and counts a row of the head only
for devices that have its class; its released code tells the aggregator each device's labels for that. Here a device
sends, beside its deltas, one number for each class: 1 for those that it has. They are weighed and summed like all else,
and the sum divides the sum of the row's deltas. So the aggregator needs no device's set of labels, only sums.

A wider tier has more columns of the head, and these are averaged over fewer devices: so there is one such array in each
segment that has columns of the head, `~rows<k>:<the head's name>`, and whoever holds the columns holds its numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Final

import numpy as np

from mhfl_mq.families.base import Averaging
from mhfl_mq.families.numbers import SERVER_RATE, Number
from mhfl_mq.families.plan import OWN, Plan
from mhfl_mq.families.rewrite import Out, read_range, write_range
from mhfl_mq.segments import Accumulator, Layout, Parameter, Source

__all__ = ["MASKED", "ROWS", "ClassRows", "finish_rows", "head_arrays"]

ROWS: Final = OWN + "rows"
MASKED: Final = Number(
    0, 0, 1, "1: devices train and send the head's rows only for the classes that they have", whole=True
)
_FEWEST: Final = 0.5  # no update weighs less than 1, so a smaller sum is nobody's


@dataclass(frozen=True, slots=True)
class ClassRows(Averaging):
    """The mean per coordinate, with the option that rows of the head are averaged over those who have the class."""

    NUMBERS: ClassVar[Mapping[str, Number]] = {"server_rate": SERVER_RATE, "masked": MASKED}

    @property
    def plan(self) -> Plan:
        """With `masked` the layout has the arrays of rows."""
        return replace(self.PLAN, rows=bool(self.numbers.get("masked", 0.0)))

    def finalize(self, total: Accumulator, layout: Layout, head: Source, out: Out) -> None:
        """The mean; of the head's rows, that over the devices that have the class."""
        Averaging.finalize(self, total, layout, head, out)
        finish_rows(total, layout, head, out, self.numbers.get("server_rate", 1.0))


def head_arrays(layout: Layout) -> dict[int, Parameter]:
    """The arrays that have a row for each class, by their index in the layout; none where there are no `~rows`."""
    heads = {p.name.partition(":")[2] for p in layout.parameters if p.name.startswith(ROWS)}
    found = enumerate(layout.parameters)
    return {i: p for i, p in found if not p.name.startswith(OWN) and p.name.rpartition(".")[0] in heads}


def finish_rows(total: Accumulator, layout: Layout, head: Source, out: Out, rate: float = 1.0) -> None:
    """Make the head's rows in `out` anew, each divided by its own weight; one that nobody has keeps the head's values.

    The arrays of rows themselves become 0: how many devices have a class is nobody's business. Memory: that of the
    head's arrays.
    """
    arrays = head_arrays(layout)
    counts = {box.segment: box for box in layout.boxes if layout.parameters[box.parameter].name.startswith(ROWS)}
    for box in layout.boxes:
        if box.parameter not in arrays:
            continue
        rows = counts[box.segment]
        weights = total.sums(rows.start, rows.stop)
        had = weights > _FEWEST
        sums = total.sums(box.start, box.stop).reshape(weights.size, -1)
        new = read_range(head, box.start, box.stop).reshape(weights.size, -1)
        new[had] += rate * sums[had] / weights[had, None]
        write_range(out, box.start, new.reshape(-1))
    for rows in counts.values():
        write_range(out, rows.start, np.zeros(rows.stop - rows.start, np.float32))
