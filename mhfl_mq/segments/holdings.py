"""Who holds what: the segments of a flat vector, and which of them the vector of each tier is made of."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from mhfl_mq.errors import LocalMisuse
from mhfl_mq.segments.vectors import Vector

__all__ = ["Holdings"]


@dataclass(frozen=True, slots=True)
class Holdings:
    """`bounds` are [start, stop) of every segment in the flat vector, `holds[k]` the segments of tier k, ascending.

    A tier's vector is its segments, one after the other. Of nested tiers it is a prefix of the flat vector; of others
    it may have gaps there: `runs[k]` are the ranges of the flat vector that it is made of, as few as there can be.
    """

    bounds: tuple[tuple[int, int], ...]
    holds: tuple[tuple[int, ...], ...]
    lengths: tuple[int, ...] = field(init=False, compare=False)
    runs: tuple[tuple[tuple[int, int], ...], ...] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        before = (0, *(stop for _, stop in self.bounds[:-1]))
        pairs = zip(before, self.bounds, strict=True) if self.bounds else [(0, (0, 0))]
        if any(start != end or stop <= start for end, (start, stop) in pairs):
            raise LocalMisuse(f"segments at {self.bounds} are not non-empty ranges, one after the other")
        last = len(self.bounds) - 1
        for held in self.holds:
            if not held or any(a >= b for a, b in itertools.pairwise((-1, *held, last + 1))):
                raise LocalMisuse(f"a tier that holds the segments {held} of 0 to {last}, ascending")
        object.__setattr__(self, "runs", tuple(_merged(self.bounds[s] for s in held) for held in self.holds))
        object.__setattr__(self, "lengths", tuple(sum(stop - start for start, stop in runs) for runs in self.runs))

    @classmethod
    def nested(cls, lengths: Sequence[int]) -> Self:
        """Those of nested tiers: every tier is a prefix, and adds one segment to the tier before."""
        return cls(tuple(itertools.pairwise((0, *lengths))), tuple(tuple(range(k + 1)) for k in range(len(lengths))))

    @property
    def total(self) -> int:
        """Coordinates of the flat vector."""
        return self.bounds[-1][1]

    @property
    def segments(self) -> int:
        """How many segments there are."""
        return len(self.bounds)

    def take(self, flat: Vector, tier: int) -> Vector:
        """A tier's vector out of the flat one: a view where it is one run of it, else a copy."""
        parts = [flat[start:stop] for start, stop in self.runs[tier]]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def put(self, vector: Vector, tier: int, flat: Vector) -> None:
        """Write a tier's vector to where it belongs in the flat one."""
        for low, high, start in self.pieces(tier, 0, self.lengths[tier]):
            flat[start : start + high - low] = vector[low:high]

    def pieces(self, tier: int, first: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """The coordinates [first, stop) of a tier's vector as (low, high, start): [low, high) lie at `start` on."""
        at = 0  # where the run begins in the tier's vector
        for begin, end in self.runs[tier]:
            low, high = max(first, at), min(stop, at + end - begin)
            if low < high:
                yield low, high, begin + low - at
            at += end - begin

    def place(self, segment: int, tier: int) -> int:
        """Where a segment begins in the vector of a tier that holds it."""
        held = self.holds[tier]
        if segment not in held:
            raise LocalMisuse(f"tier {tier} does not hold segment {segment}")
        return sum(self.bounds[s][1] - self.bounds[s][0] for s in held[: held.index(segment)])


def _merged(bounds: Iterator[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Ascending ranges, with those that touch made one."""
    runs: list[tuple[int, int]] = []
    for start, stop in bounds:
        if runs and runs[-1][1] == start:
            runs[-1] = (runs[-1][0], stop)
        else:
            runs.append((start, stop))
    return tuple(runs)
