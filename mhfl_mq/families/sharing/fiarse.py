"""FIARSE: a tier holds the most important coordinates of the full model, and importance is magnitude.

Tier k holds as many coordinates as the model of its width would have, and they are those of the largest magnitudes, so
what a tier is follows from the training and not from a position. The order is made anew after every round and is
published with the version as a bit mask (see `mhfl_mq.segments.ranking`). Coordinates are chosen one by one, so a
device runs the full model with zeros in it: it saves traffic, and no computation or memory.

A coordinate becomes the mean over the devices that hold it, which follows from their tiers: the released code counts
the devices whose update is not 0 there, and so leaves out who trained without effect.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from mhfl_mq.families.base import About, Averaging, Family
from mhfl_mq.families.numbers import SERVER_RATE, Number
from mhfl_mq.families.plan import Cut, Plan
from mhfl_mq.families.rewrite import Out, read_range, read_whole, write_whole
from mhfl_mq.segments import Accumulator, Layout, Source, Vector
from mhfl_mq.segments.ranking import Ranking

__all__ = ["Fiarse"]


@dataclass(frozen=True, slots=True)
class Fiarse(Averaging):
    """The mean per coordinate, and then a new order.

    `finalize` takes the memory of about four vectors beside the sum (the version, its coordinates in the full model's
    order, their magnitudes in part sorted, bits), one fewer where `out` is an array.
    """

    ABOUT: ClassVar[About] = About(
        name="fiarse",
        title="FIARSE: tiers hold the largest coordinates, wherever they are",
        family=Family.SHARING,
        travels="the tier's parameters and, downwards, a bit for each of the full model's",
        paper="Wu et al.: FIARSE: Model-heterogeneous federated learning via importance-aware submodel "
        "extraction, NeurIPS 2024",
    )
    PLAN: ClassVar[Plan] = Plan(cut=Cut.RANKED)
    NUMBERS: ClassVar[Mapping[str, Number]] = {"server_rate": SERVER_RATE}

    def begin(self, layout: Layout, flat: Vector) -> None:
        """Rank the first weights."""
        _rank(layout, flat)

    def finalize(self, total: Accumulator, layout: Layout, head: Source, out: Out) -> None:
        """The mean in the head's order, ranked anew."""
        Averaging.finalize(self, total, layout, head, out)
        version = read_whole(out, layout.total)
        for start, stop in Ranking.of(layout).masks:  # the head's, whatever was added to them
            version[start:stop] = read_range(head, start, stop)
        _rank(layout, version)
        if version is not out:
            write_whole(out, version)


def _rank(layout: Layout, flat: Vector) -> None:
    ranking = Ranking.of(layout)
    ranking.publish(ranking.values(flat), flat)
