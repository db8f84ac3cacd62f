"""Tiers by importance: each holds the coordinates of the full model with the largest magnitudes, wherever they are.

The order changes with every version, so a version says it. Class k are the coordinates that tier k adds to the tier
before. Its values stand in the segment that tier k adds (`~rank<k>`), in the full model's order, and before them which
they are: one bit for each coordinate that is in no class before (`~mask<k>`), 24 bits to a float32, which is as many as
it counts exactly. The last class is all that is left and needs no bits. So a tier downloads its values, and one to a
few bits for every coordinate of the full model. (FIARSE, Wu et al., NeurIPS 2024.)
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from mhfl_mq.errors import LayoutError, LocalMisuse
from mhfl_mq.segments.axis import Axis
from mhfl_mq.segments.layout import Layout
from mhfl_mq.segments.parts import Parameter
from mhfl_mq.segments.vectors import Vector

__all__ = ["MASK", "RANK", "Ranking", "by_class", "chosen", "classes_of", "ranked_parameters", "spread"]

RANK: Final = "~rank"
MASK: Final = "~mask"
BITS: Final = 24
"""Bits of one float32 of a mask: whole numbers below 2**24 are exact."""

Bits = npt.NDArray[np.bool_]
_Range = tuple[int, int]


def ranked_parameters(sizes: Sequence[int], mark: str) -> tuple[Parameter, ...]:
    """The arrays of a ranking for a layout. `sizes[k]` coordinates are in class k.

    `mark` tells full models apart (a digest of their arrays' names and shapes), so that layouts whose coordinates mean
    other things have other digests.
    """
    left, found = sum(sizes), []
    for k, size in enumerate(sizes):
        if k + 1 < len(sizes):
            found.append(Parameter(f"{MASK}{k}", (Axis(-(-left // BITS)),), since=k))
        found.append(Parameter(f"{RANK}{k}:{mark}", (Axis(size),), since=k))
        left -= size
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Ranking:
    """Where a layout's classes and their masks lie in the flat vector."""

    ranks: tuple[_Range, ...]
    masks: tuple[_Range, ...]

    @classmethod
    def of(cls, layout: Layout) -> Self:
        """The ranking of a layout; `LocalMisuse` for one that is not ranked."""
        boxes = {layout.parameters[box.parameter].name.partition(":")[0]: box for box in layout.boxes}
        try:
            ranks = tuple((b.start, b.stop) for b in (boxes[f"{RANK}{k}"] for k in range(len(layout.tiers))))
            masks = tuple((b.start, b.stop) for b in (boxes[f"{MASK}{k}"] for k in range(len(layout.tiers) - 1)))
        except KeyError as error:
            raise LocalMisuse(f"the layout has no {error.args[0]}: it is not ranked") from None
        return cls(ranks, masks)

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many coordinates are in each class."""
        return tuple(stop - start for start, stop in self.ranks)

    def values(self, flat: Vector) -> Vector:
        """The ranked coordinates of a version in the full model's own order; `LayoutError` for masks that are none."""
        ranks, masks = ([flat[a:b] for a, b in ranges] for ranges in (self.ranks, self.masks))
        return spread(ranks, masks, sum(self.sizes))[0]

    def publish(self, values: Vector, flat: Vector) -> None:
        """Rank these coordinates (in the full model's order) by magnitude, and write classes and masks into `flat`."""
        classes = classes_of(values, self.sizes)
        left = np.ones(values.size, np.bool_)
        for k, (start, stop) in enumerate(self.ranks):
            here = classes == k
            flat[start:stop] = values[here]
            if k < len(self.masks):
                low, high = self.masks[k]
                flat[low:high] = _packed(here[left])
                left &= ~here


def classes_of(values: Vector, sizes: Sequence[int]) -> npt.NDArray[np.uint8]:
    """The class of each coordinate: the `sizes[0]` largest magnitudes are class 0, and so on; of equals the first."""
    if values.size != sum(sizes):
        raise LocalMisuse(f"{values.size} coordinates to rank into classes of {list(sizes)}")
    size = np.abs(values)
    last = len(sizes) - 1
    classes = np.full(values.size, last, np.uint8)
    bounds = np.cumsum(sizes)[:-1]
    ordered = np.partition(size, values.size - bounds) if last else size
    for k in range(last - 1, -1, -1):
        edge = ordered[values.size - bounds[k]]
        larger = size > edge
        classes[larger] = k
        missing = int(bounds[k]) - int(np.count_nonzero(larger))
        classes[np.flatnonzero(size == edge)[:missing]] = k
    return classes


def chosen(masks: Sequence[Vector], sizes: Sequence[int], total: int) -> Iterator[Bits]:
    """For each of the first classes, of `sizes`, which of the full model's `total` coordinates are in it.

    `masks` are those of these classes; one fewer when the last class is among them.
    """
    left = np.ones(total, np.bool_)
    for k, size in enumerate(sizes):
        here = left.copy()
        if k < len(masks):
            here[left] = _unpacked(masks[k], int(np.count_nonzero(left)))
        found = int(np.count_nonzero(here))
        if found != size:
            raise LayoutError(
                f"the mask of class {k} has {found} coordinates instead of {size}",
                where=f"{MASK}{k}",
                remedy="fetch the version again; if it stays so, go back to an older one",
            )
        yield here
        left &= ~here


def spread(ranks: Sequence[Vector], masks: Sequence[Vector], total: int) -> tuple[Vector, Bits]:
    """The full model's coordinates of which the first classes are given, 0 elsewhere; and which they are."""
    values, held = np.zeros(total, np.float32), np.zeros(total, np.bool_)
    for here, of_class in zip(chosen(masks, [r.size for r in ranks], total), ranks, strict=True):
        values[here] = of_class
        held |= here
    return values, held


def by_class(own: Mapping[str, Vector], prefix: str) -> list[Vector]:
    """The arrays of a tier that are ranks, or masks, by class; the names are without the mark of own arrays."""
    found = {name.partition(":")[0]: array for name, array in own.items()}
    prefix = prefix[1:]
    return [found[f"{prefix}{k}"] for k in range(len(own)) if f"{prefix}{k}" in found]


def _packed(bits: Bits) -> Vector:
    """Bits as whole numbers below 2**24, the first bit the highest; what is left of the last number is 0."""
    octets = np.packbits(bits)
    high, middle, low = np.pad(octets, (0, -octets.size % 3)).astype(np.uint32).reshape(-1, 3).T
    packed: Vector = (high << 16 | middle << 8 | low).astype(np.float32)
    return packed


def _unpacked(numbers: Vector, count: int) -> Bits:
    """The first `count` bits."""
    with np.errstate(invalid="ignore"):
        whole = numbers.astype(np.int64)
    if -(-count // BITS) != numbers.size or not ((whole >= 0) & (whole < 1 << BITS) & (whole == numbers)).all():
        raise LayoutError("a mask is not whole numbers below 2**24", remedy="fetch the version again")
    octets = np.stack([whole >> 16, whole >> 8 & 255, whole & 255], axis=1).astype(np.uint8)
    return np.unpackbits(octets.reshape(-1), count=count).view(np.bool_)
