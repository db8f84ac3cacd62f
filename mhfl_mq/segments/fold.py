"""The fold: weighted vectors of tiers summed as they come, in place, with one result whatever their order.

Floating-point addition is not associative, so every product `weight * value` is first rounded to a grid of powers of
two that follows from bounds known to all before the round. On the grid the sum is a sum of integers: exact, so it does
not depend on the order, on who is absent, or on how the vector is cut into ranges.

The rounding is free of branches: adding the number `1.5 * 2**52 * grid` to a product puts it into a binade whose
spacing is the grid, so the sum's bit pattern, read as an int64, IS the rounded product in units of the grid plus a
constant, which is taken off once at the end.
"""

import errno
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mhfl_mq.errors import LocalMisuse, StoreError, StoreFull
from mhfl_mq.segments.blocks import BLOCK, Source, Span, read_blocks, source_length
from mhfl_mq.segments.check import within
from mhfl_mq.segments.holdings import Holdings
from mhfl_mq.segments.vectors import Vector

__all__ = ["Accumulator", "Bounds"]

_MANTISSA = 52  # bits of a float64's fraction
_EXACT_SUMMANDS_LOG2 = 11  # products of up to 2**51 units each: 2**11 of them fit an int64 with a bit to spare

_LARGEST = np.finfo(np.float32).max

_REMEDY = "make a new accumulator and fold again from the stored updates"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What is known of a round's updates before they come: how many at most, and how large.

    `value` bounds every coordinate's magnitude, `weight` every update's weight.
    """

    cohort: int
    weight: float
    value: float

    def __post_init__(self) -> None:
        if self.cohort < 1:
            raise LocalMisuse(f"a cohort of {self.cohort}")
        for name in ("weight", "value"):
            number = getattr(self, name)
            if not 1e-30 <= number <= 1e30:  # beyond that, float32 and its products are no longer safe
                raise LocalMisuse(f"a bound of {number} on each {name}", remedy="give one from 1e-30 to 1e30")

    @property
    def grid(self) -> float:
        """The spacing (a power of two) that each `weight * value` is rounded to.

        A sum of n updates is off by at most n * grid: half for the rounding to the grid, less for the product.
        """
        _, exponent = math.frexp(self.weight * self.value)  # the product is below 2**exponent
        spare = max(0, math.ceil(math.log2(self.cohort)) - _EXACT_SUMMANDS_LOG2)
        return math.ldexp(1.0, exponent - (_MANTISSA - 1) + spare)


@dataclass(frozen=True, slots=True)
class _Move:
    """How one segment's sum becomes its step: the patterns to take off, the weight to divide by, the rate."""

    start: int
    stop: int
    patterns: np.int64
    weight: float
    rate: float


class Accumulator:
    """The sum of one round's updates: an integer vector as long as the model, and the weights of each segment.

    `holdings` are the layout's; the lengths of nested tiers, which are prefixes of each other, say the same. Memory: 8
    bytes per coordinate and a few blocks, however many devices there are.
    """

    def __init__(
        self, holdings: Holdings | Sequence[int], bounds: Bounds, storage: npt.NDArray[np.int64] | None = None
    ) -> None:
        """An empty sum. `storage` is that of a sum which is not needed any more, to be used again."""
        self._holdings = holdings if isinstance(holdings, Holdings) else Holdings.nested(holdings)
        self._lengths, self._total = self._holdings.lengths, self._holdings.total
        self._bounds = bounds
        self._limit = np.float32(bounds.value)
        if storage is not None and storage.shape != (self._total,):
            raise LocalMisuse(f"a storage of {storage.shape} for a sum of {self._total} coordinates")
        # Filled here rather than by np.zeros, whose pages come one by one, as they are touched: 20x slower.
        self._units = np.empty(self._total, np.int64) if storage is None else storage
        self._units.fill(0)
        self._weights: list[list[float]] = [[] for _ in self._lengths]  # of each tier's updates
        self._scratch = np.empty(min(BLOCK, self._total), np.float64)
        self._integers = np.empty_like(self._scratch, np.int64)
        self._magic = np.float64(1.5 * 2.0**_MANTISSA * bounds.grid)
        self._broken = ""

    @property
    def bounds(self) -> Bounds:
        """The bounds that the grid follows from."""
        return self._bounds

    @property
    def storage(self) -> npt.NDArray[np.int64]:
        """The sum's memory, for the next sum: this one is not usable after that."""
        self._broken = "its storage was given away"
        return self._units

    def emptied(self, bounds: Bounds) -> "Accumulator":
        """An empty sum with other bounds, in this one's memory: this one is not usable after that."""
        return Accumulator(self._holdings, bounds, self.storage)

    @property
    def updates(self) -> int:
        """How many updates are in the sum."""
        return sum(len(of_tier) for of_tier in self._weights)

    @property
    def weights(self) -> tuple[float, ...]:
        """The weight of each segment: that of all updates of the tiers that hold it, rounded once."""
        return tuple(map(math.fsum, self._of_segments()))

    def fold(self, source: Source, tier: int, weight: float, *, checked: bool = False) -> None:
        """Add `weight` times an update of `tier` (float32 array, or path of a raw little-endian float32 file).

        An update that is all zeros counts like any other. Raises `LocalMisuse` for an update that `check_update`
        refuses, for a weight beyond the bounds or for one update too many: the sum is then as it was before.
        With `checked` the caller vouches that `within` said yes to all of it; a wrong voucher spoils the sum.
        """
        self._check_call(source, tier, weight)
        done = 0
        try:
            for start, block in read_blocks(source, self._lengths[tier]):
                if not (checked or within(block, self._limit)):
                    raise LocalMisuse(
                        "an update with a number that is not finite or beyond the round's bound came to the fold",
                        remedy="refuse it with check_update when it arrives",
                    )
                for part, into in self._parts(tier, start, block):
                    np.add(into, self._rounded(part, weight), out=into)
                    done += part.size
        except BaseException:
            self._undo(source, tier, done, weight)
            raise
        self._weights[tier].append(float(weight))

    def sums(self, start: int, stop: int) -> npt.NDArray[np.float64]:
        """The weighted sums of the coordinates [start, stop), exact on the grid and rounded once; 0.0 if nobody held.

        They may be asked for again, like the new model.
        """
        if self._broken:
            raise LocalMisuse(self._broken, remedy=_REMEDY)
        if not 0 <= start <= stop <= self._total:
            raise LocalMisuse(f"the sums of {start} to {stop}: there are {self._total} coordinates")
        out = np.zeros(stop - start, np.float64)
        for move in self._moves(1.0):
            low, high = max(move.start, start), min(move.stop, stop)
            if low < high:
                part = out[low - start : high - start]
                np.copyto(part, self._units[low:high] - move.patterns)
                np.multiply(part, self._bounds.grid, out=part)
        return out

    def finalize(self, head: Source, out: Vector | str | os.PathLike[str], server_rate: float = 1.0) -> None:
        """Write the new model: `head + server_rate * sum / weight`, segment by segment, rounded to float32 once.

        `head` and `out` are arrays or raw files of the full model's length (not one and the same file). Segments
        that nobody held keep the head's value, bit for bit. The sum stays: this may be called again.
        """
        total = self._total
        if self._broken:
            raise LocalMisuse(self._broken, remedy=_REMEDY)
        if source_length(head) != total:
            raise LocalMisuse(f"the head has {source_length(head)} coordinates, the layout {total}")
        moves = self._moves(server_rate)
        if isinstance(out, np.ndarray):
            if source_length(out) != total:
                raise LocalMisuse(f"an array of {out.shape} to finalize into, instead of ({total},)")
            for start, block in read_blocks(head, total):
                out[start : start + block.size] = self._moved(start, block, moves)
            return
        path = head.path if isinstance(head, Span) else head
        if isinstance(path, str | os.PathLike) and os.path.exists(out) and os.path.samefile(path, out):
            raise LocalMisuse("the new model would overwrite the head while reading it", where=os.fspath(out))
        try:
            with open(out, "wb", buffering=0) as file:
                for start, block in read_blocks(head, total):
                    raw = self._moved(start, block, moves).data.cast("B")
                    while raw:
                        raw = raw[file.write(raw) :]
        except OSError as error:
            where = os.fspath(out)
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                what = f"no room left while writing a merged model ({error.strerror})"
                remedy = "free space on this disk and start again: what was counted is merged then"
                raise StoreFull(what, where=where, remedy=remedy) from error
            raise StoreError(f"cannot be written: {error.strerror}", where=where) from error

    # ---- inside -----------------------------------------------------------------------------------------------

    def _check_call(self, source: Source, tier: int, weight: float) -> None:
        if self._broken:
            raise LocalMisuse(self._broken, remedy=_REMEDY)
        if not 0 <= tier < len(self._lengths):
            raise LocalMisuse(f"an update of tier {tier}: there are {len(self._lengths)}")
        if not 0 < weight <= self._bounds.weight:
            raise LocalMisuse(f"a weight of {weight}: the round's bound is {self._bounds.weight}")
        if self.updates >= self._bounds.cohort:
            raise LocalMisuse(f"more updates than the cohort of {self._bounds.cohort}")
        if source_length(source) != self._lengths[tier]:
            raise LocalMisuse(
                f"an update of {source_length(source)} coordinates: tier {tier} has {self._lengths[tier]}",
                remedy="refuse it with check_update when it arrives",
            )

    def _parts(self, tier: int, start: int, block: Vector) -> Iterator[tuple[Vector, npt.NDArray[np.int64]]]:
        """A block of a tier's vector and the sums that it belongs to: one pair for each run that it reaches into."""
        for low, high, at in self._holdings.pieces(tier, start, start + block.size):
            yield block[low - start : high - start], self._units[at : at + high - low]

    def _of_segments(self) -> list[list[float]]:
        """The weights of the updates that hold each segment."""
        found: list[list[float]] = [[] for _ in self._holdings.bounds]
        for held, of_tier in zip(self._holdings.holds, self._weights, strict=True):
            for segment in held:
                found[segment] += of_tier
        return found

    def _rounded(self, block: Vector, weight: float) -> npt.NDArray[np.int64]:
        """`weight * block` in units of the grid, plus the magic number's pattern."""
        product = self._scratch[: block.size]
        np.copyto(product, block)
        if weight != 1.0:
            np.multiply(product, weight, out=product)
        np.add(product, self._magic, out=product)
        return product.view(np.int64)

    def _undo(self, source: Source, tier: int, done: int, weight: float) -> None:
        """Take back the blocks of an update that turned out bad: integers subtract exactly."""
        try:
            for start, block in read_blocks(source, done):
                for part, into in self._parts(tier, start, block):
                    np.subtract(into, self._rounded(part, weight), out=into)
        except BaseException:
            self._broken = "an update could be neither folded nor taken back: the sum is not usable"
            raise

    def _moves(self, server_rate: float) -> tuple[_Move, ...]:
        """What finalize does to each segment that somebody held."""
        pattern = int(self._magic.view(np.int64))
        return tuple(
            _Move(start, stop, _wrapped(pattern * len(weights)), math.fsum(weights), server_rate)
            for (start, stop), weights in zip(self._holdings.bounds, self._of_segments(), strict=True)
            if weights
        )

    def _moved(self, start: int, head: Vector, moves: tuple[_Move, ...]) -> Vector:
        """The block of the new model that starts at `start`."""
        new = np.array(head, np.float32)
        for move in moves:
            low, high = max(move.start, start), min(move.stop, start + head.size)
            if low >= high:
                continue
            units, mean = self._integers[: high - low], self._scratch[: high - low]
            np.subtract(self._units[low:high], move.patterns, out=units)
            np.multiply(units, self._bounds.grid, out=mean)
            np.divide(mean, move.weight, out=mean)
            if move.rate != 1.0:
                np.multiply(mean, move.rate, out=mean)
            part = new[low - start : high - start]
            np.add(mean, part, out=mean)
            with np.errstate(over="ignore", invalid="ignore"):
                np.copyto(part, mean, casting="same_kind")
            if not within(part, _LARGEST):
                raise LocalMisuse("the new model is not finite: the head or the server's rate is wrong")
        return new


def _wrapped(number: int) -> np.int64:
    """A whole number modulo 2**64, as int64: sums of patterns wrap in the same way, so nothing is lost."""
    return np.int64((number + (1 << 63)) % (1 << 64) - (1 << 63))
