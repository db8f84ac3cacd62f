"""Compacting an update: float32, float16 or int8 values, of all coordinates or of the largest alone.

The bytes are those of `mhfl_mq.segments.compacted`. Error feedback (Seide et al., Interspeech 2014; Karimireddy et
al., ICML 2019): what an update lost is added to the next one. Top-k: Stich, Cordonnier, Jaggi, NeurIPS 2018.
"""

import errno
import math
import os
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mhfl_mq.errors import LocalMisuse, StoreError, StoreFull
from mhfl_mq.segments.blocks import Source, read_blocks
from mhfl_mq.segments.check import within
from mhfl_mq.segments.compacted import MORE, TYPES, Compacted, Index, header
from mhfl_mq.segments.pack import Vector

__all__ = ["SCALED", "Feedback", "Form", "Packed", "norm", "pack"]

SCALED: Final = 1024
"""Values that share a scale: 4 bytes of it are 0.4 % of them as int8, and one outlier coarsens few others."""
_FLOAT: Final = 4  # bytes
_STEPS: Final = 127.0  # of an int8, to either side
_LARGEST: Final = np.finfo(np.float32).max


@dataclass(frozen=True, slots=True)
class Form:
    """How an update is written: bits of a value, and the share of coordinates that are kept, the largest first.

    The largest error of one kept value, with `peak` the largest magnitude among those that share its scale: nothing at
    32 bits, `value / 2040 + peak / 2**24` at 16, `peak / 250` at 8.
    """

    precision: int = 32
    top_k: float = 1.0

    def __post_init__(self) -> None:
        if self.precision not in TYPES:
            raise LocalMisuse(f"a precision of {self.precision} bits", remedy="give 32, 16 or 8")
        if not 0.0 < self.top_k <= 1.0:
            raise LocalMisuse(f"a share of {self.top_k} of an update", remedy="give more than 0, at most 1")

    @property
    def plain(self) -> bool:
        """Whether it loses nothing: raw float32."""
        return self.precision == 32 and self.top_k == 1.0


@dataclass(frozen=True, slots=True)
class Packed:
    """What came of packing: the file's bytes, the relative error (L2; 0 for a zero update), and what was lost."""

    size: int
    error: float
    residual: Vector | None  # None: nothing


@dataclass(frozen=True, slots=True)
class Feedback:
    """What a device's updates lost so far, of one tier of one layout: the next update is to make up for it."""

    residual: Vector | None = None

    def corrected(self, update: Vector) -> Vector:
        """The update with what the earlier ones lost."""
        return update if self.residual is None else update + self.residual

    def after(self, packed: Packed) -> "Feedback":
        """What is lost once the packed, corrected update is used: the old residual went into it."""
        return Feedback(packed.residual)


def pack(vector: Vector, form: Form, out: str | os.PathLike[str]) -> Packed:
    """Write an update in this form, or as raw float32 where that is no larger.

    Rounds to nearest, so the same vector always gives the same bytes; of equal magnitudes the first are kept. Raises
    `LocalMisuse` for a vector with a number that is not finite.
    """
    if vector.size and not within(vector, _LARGEST):
        worst = int(np.flatnonzero(~np.isfinite(vector))[0])
        raise LocalMisuse(f"coordinate {worst} of the update is {vector[worst]}", remedy="the training diverged")
    parts = [] if form.plain or not vector.size else _parts(vector, form)
    size = sum(len(part) for part in parts)
    if not parts or size >= _FLOAT * vector.size:
        _write(out, [vector.astype("<f4", copy=False).data.cast("B")])
        return Packed(_FLOAT * vector.size, 0.0, None)
    _write(out, parts)
    residual = vector.copy()
    for start, block in read_blocks(Compacted.open(out), vector.size):
        residual[start : start + block.size] -= block
    whole, lost = norm(vector, vector.size), norm(residual, vector.size)
    return Packed(size, lost / whole if whole else 0.0, residual if lost else None)


def norm(source: Source, length: int) -> float:
    """The L2 norm of a vector of so many coordinates, summed in float64."""
    squares = []
    for _, block in read_blocks(source, length):
        wide = block.astype(np.float64)
        squares.append(float(np.dot(wide, wide)))
    return math.sqrt(math.fsum(squares))


def _parts(vector: Vector, form: Form) -> list[memoryview]:
    """Header, index, scales and values."""
    kept = _largest(vector, form.top_k)
    index, names = (Index.ALL, b"") if kept is None else _named(kept, vector.size)
    values = vector if kept is None else vector[kept]
    scales, numbers = _scaled(values, form.precision)
    block = SCALED if scales.size else 0
    head = header(form.precision, index, block, vector.size, values.size, len(names))
    return [memoryview(part) for part in (head, names, scales.tobytes(), numbers.tobytes())]


def _largest(vector: Vector, share: float) -> npt.NDArray[np.intp] | None:
    """The indices of the largest values, ascending, zeros left out; None: all are kept."""
    if share == 1.0:
        return None
    size = np.abs(vector)
    count = min(math.ceil(round(share * vector.size, 9)), int(np.count_nonzero(size)))
    if not count:
        return np.empty(0, np.intp)
    least = np.partition(size, vector.size - count)[vector.size - count]
    mask = size > least
    equal = np.flatnonzero(size == least)
    mask[equal[: count - int(np.count_nonzero(mask))]] = True
    return np.flatnonzero(mask)


def _named(kept: npt.NDArray[np.intp], length: int) -> tuple[Index, bytes]:
    """The indices as a mask or as gaps, whichever is smaller."""
    gaps = np.diff(kept, prepend=-1) - 1
    ends = np.cumsum(gaps // MORE + 1)
    if kept.size and ends[-1] >= (length + 7) // 8:
        mask = np.zeros(length, np.bool_)
        mask[kept] = True
        return Index.MASK, np.packbits(mask, bitorder="little").tobytes()
    coded = np.full(int(ends[-1]) if kept.size else 0, MORE, np.uint8)
    coded[ends - 1] = gaps % MORE
    return Index.GAPS, coded.tobytes()


def _scaled(values: Vector, precision: int) -> tuple[Vector, npt.NDArray[Any]]:
    """The scales, and the numbers that times their scales are nearest to the values."""
    if precision == 32 or not values.size:
        return np.empty(0, "<f4"), values.astype(TYPES[precision])
    starts = np.arange(0, values.size, SCALED)
    peaks = np.maximum.reduceat(np.abs(values), starts)
    if precision == 16:  # every quotient is within 1: no value overflows a float16, or becomes larger than the peak
        scales = peaks.astype("<f4")
    else:
        scales = (peaks / np.float32(_STEPS)).astype("<f4")
        over = scales.astype(np.float64) * _STEPS > peaks  # a bound that the update keeps is kept by what it becomes
        scales = np.where(over, np.nextafter(scales, np.float32(0)), scales).astype("<f4")
    divisors = np.repeat(np.where(scales > 0, scales, np.float32(np.inf)), SCALED)[: values.size]
    numbers = values / divisors
    if precision == 8:
        numbers = np.clip(np.rint(numbers), -_STEPS, _STEPS)
    return scales, numbers.astype(TYPES[precision])


def _write(out: str | os.PathLike[str], parts: list[memoryview]) -> None:
    try:
        with open(out, "wb") as file:
            for part in parts:
                file.write(part)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            what = f"no room left while writing an update ({error.strerror})"
            raise StoreFull(what, where=os.fspath(out), remedy="free space on this disk") from error
        raise StoreError(f"cannot be written: {error.strerror}", where=os.fspath(out)) from error
