"""What one device adds to a round: vectors that add, and weights that add, whatever the algorithm.

Parameters, logits on a public set and class prototypes with counts are all of this kind, so one sum, one chain of
privacy stages and one finish serve every algorithm.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from mhfl_mq.errors import LocalMisuse

__all__ = ["Contribution", "Domain", "Numbers"]

Numbers = npt.NDArray[np.float32] | npt.NDArray[np.float64] | npt.NDArray[np.uint32] | npt.NDArray[np.uint64]


class Domain(Enum):
    """What the numbers of a contribution are, and so how they add."""

    REAL = "real"  # floating point
    MODULAR = "modular"  # unsigned integers that wrap: the ring of integers modulo 2**32 or 2**64


_KINDS = {Domain.REAL: "f", Domain.MODULAR: "u"}


@dataclass(frozen=True, slots=True)
class Contribution:
    """Named vectors that add, each a prefix, and the weights that they were multiplied with (a prefix as well).

    `exchange` names what adds up with what ("parameters", "logits", ...). `sums` hold values already multiplied by
    their weight. `weights` has one number per segment (family 1), per class or per sample: of tier k it has the
    segments 0..k. A shorter prefix adds to the front of a longer one: that is the whole treatment of mixed tiers.
    """

    exchange: str
    domain: Domain
    sums: Mapping[str, Numbers]
    weights: Numbers

    def __post_init__(self) -> None:
        for name, vector in (*self.sums.items(), ("weights", self.weights)):
            if vector.ndim != 1 or vector.dtype.kind != _KINDS[self.domain]:
                raise LocalMisuse(
                    f"{vector.dtype} {vector.shape} is not a vector of {self.domain.value} numbers",
                    where=f"{self.exchange}.{name}",
                )

    def __add__(self, other: "Contribution") -> "Contribution":
        """The contribution of both together."""
        if (self.exchange, self.domain, self.sums.keys()) != (other.exchange, other.domain, other.sums.keys()):
            raise LocalMisuse(
                f"{self.exchange!r} in {self.domain.value} numbers and {other.exchange!r} in "
                f"{other.domain.value} numbers do not add up"
            )
        sums = {name: _add(vector, other.sums[name]) for name, vector in self.sums.items()}
        return Contribution(self.exchange, self.domain, sums, _add(self.weights, other.weights))


def _add(a: Numbers, b: Numbers) -> Numbers:
    """The sum of two prefixes: as long as the longer one."""
    if a.dtype != b.dtype:
        raise LocalMisuse(f"vectors of {a.dtype} and {b.dtype} do not add up")
    longer, shorter = (a, b) if a.size >= b.size else (b, a)
    total = longer.copy()
    total[: shorter.size] += shorter
    return total
