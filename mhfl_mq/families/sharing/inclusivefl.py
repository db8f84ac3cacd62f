"""InclusiveFL: depths whose last block is their own, and learns from the layers that a deeper tier has after it.

Liu et al.: No one left behind, KDD 2022. Tier i has L_i blocks. Its last block and its head serve only it, for they do
another work than the same block in the middle of a deeper model; what lies below is shared with all tiers that have it
below their own last block. Momentum distillation: the last block of tier i takes the step

    beta * mean over j of d_j + (1 - beta) * own,        j from L_i - 1 to L_{i+1} - 1, counted from 0

in which own is the mean delta of its own devices (weighted by samples), and d_j that of layer j of tier i + 1: what the
deeper model does with several layers, the shallower one has to do with its last.

What is exact, and what is not the paper's. `own` and the delta of the last layer of tier i + 1 are exact: they are
sums over one tier alone. The layers before it are shared, so their sums are over all tiers deeper than i, and d_j is
the mean over these instead of over tier i + 1 alone. The two are the same where tier i + 1 is the deepest one, or where
no deeper one took part. It is the step that the shared layer itself takes, so nothing more has to be sent, and with a
sum per tier the layers would be split into as many segments. Further, the paper's server feeds the mixed gradients to
an Adam of each tier; here devices train and deltas are averaged, as in all of this family. (The released code
assigns where it should add over j, and then mixes only while its memory is still the number 0.)

It is linear: every term is a sum divided by a weight that everybody knows, so secure aggregation can serve it. Layers
that no device trained in a round are left out of the mean, with none of them left `own` is taken whole, and a tier that
nobody of was there keeps its last block bit for bit. Running statistics are no gradients and are not mixed.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import numpy.typing as npt

from mhfl_mq.families.base import About, Averaging, Family, Weighting
from mhfl_mq.families.numbers import Number
from mhfl_mq.families.plan import Plan
from mhfl_mq.families.rewrite import read_range, write_range
from mhfl_mq.families.sharing.heterofl import SERVER_RATE
from mhfl_mq.segments import Accumulator, Layout, Source, Vector

__all__ = ["BETA", "InclusiveFL"]

BETA: Final = Number(0.2, 0.0, 1.0, "how much of the deeper tier's layers a tier's last block learns (0: nothing)")
_BLOCKS: Final = "blocks."
_MEASURED: Final = ("running_mean", "running_var")  # of torch's norms

Deltas = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class InclusiveFL(Averaging):
    """Nested depths with a last block and a head of each tier's own. `beta`: see above."""

    ABOUT: ClassVar[About] = About(
        name="inclusivefl",
        title="InclusiveFL: depths with a last block of their own, which learns from a deeper tier's layers",
        family=Family.SHARING,
        travels="the tier's parameters",
        paper="Liu, Wu, Wu, Wang, Lyu, Chen, Xie: No one left behind, inclusive federated learning over heterogeneous "
        "devices, KDD 2022",
    )
    PLAN: ClassVar[Plan] = Plan(private_last=True)
    NUMBERS: ClassVar[Mapping[str, Number]] = {"beta": BETA, "server_rate": SERVER_RATE}
    WEIGHTING: ClassVar[Weighting] = Weighting.SAMPLES

    def finalize(self, total: Accumulator, layout: Layout, head: Source, out: Vector | str | os.PathLike[str]) -> None:
        """The weighted mean of all, and then the last blocks of all tiers but the deepest anew."""
        rate, beta = self.numbers.get("server_rate", 1.0), self.numbers.get("beta", BETA.default)
        total.finalize(head, out, rate)
        if not beta:
            return
        of_sum = _Sum(total, layout)
        for tier in range(len(layout.tiers) - 1):
            steps = of_sum.last_block(tier, beta)
            if not steps:
                continue
            low, high = min(start for start, _ in steps), max(start + step.size for start, step in steps)
            before = read_range(head, low, high)
            for start, step in steps:
                values = before[start - low : start - low + step.size] + rate * step
                write_range(out, start, values.astype(np.float32))


class _Sum:
    """A round's sum, array by array."""

    def __init__(self, total: Accumulator, layout: Layout) -> None:
        self.total, self.layout, self.weights = total, layout, total.weights
        self.names = [parameter.name for parameter in layout.parameters]

    def last_block(self, tier: int, beta: float) -> list[tuple[int, Deltas]]:
        """Where each array of a tier's last block begins in the version, and the step that it takes."""
        here, deeper = self._last(tier), self._last(tier + 1)
        prefix, found = f"{self.layout.tiers[tier].name}:{_BLOCKS}{here}.", []
        for name in self.names:
            if not name.startswith(prefix) or name.endswith(_MEASURED):
                continue
            own, local = self._mean(name), name.removeprefix(prefix)
            layers = [f"{_BLOCKS}{j}.{local}" for j in range(here, deeper)]
            layers.append(f"{self.layout.tiers[tier + 1].name}:{_BLOCKS}{deeper}.{local}")
            taught = [mean for mean in map(self._mean, layers) if mean is not None]
            if own is not None and taught:
                step = beta * np.mean(taught, axis=0) + (1.0 - beta) * own
                found.append((self.layout.where(name)[0], step))
        return found

    def _mean(self, name: str) -> Deltas | None:
        """The mean delta of an array over all devices that have it; None when there was none."""
        start, stop = self.layout.where(name)
        segment = next(s for s, (_, end) in enumerate(self.layout.segment_bounds) if start < end)
        weight = self.weights[segment]
        return self.total.sums(start, stop) / weight if weight else None

    def _last(self, tier: int) -> int:
        """The number of a tier's last block, from 0."""
        prefix = f"{self.layout.tiers[tier].name}:{_BLOCKS}"
        return next(int(name.removeprefix(prefix).partition(".")[0]) for name in self.names if name.startswith(prefix))
