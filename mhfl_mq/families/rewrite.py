"""Ranges of a version that an algorithm makes by itself: read out of the head, written over the mean of all.

Own arrays lie first in the vector and are small beside models, so a range is held in memory whole.
"""

import os

import numpy as np
import numpy.typing as npt

from mhfl_mq.errors import LocalMisuse, StoreError
from mhfl_mq.segments import Accumulator, Layout, Source, Vector
from mhfl_mq.segments.blocks import ITEM, read_blocks

__all__ = ["Out", "mean_of", "read_range", "rewrite", "sum_of"]

Out = Vector | str | os.PathLike[str]
"""Where a new version is written: an array, or a raw little-endian float32 file."""


def read_range(source: Source, start: int, stop: int) -> Vector:
    """The coordinates [start, stop) of a vector, in memory of their own."""
    found = np.empty(stop - start, np.float32)
    for at, block in read_blocks(source, stop):
        low = max(at, start)
        if low < at + block.size:
            found[low - start : at + block.size - start] = block[low - at :]
    return found


def rewrite(out: Out, start: int, values: npt.NDArray[np.floating]) -> None:
    """Write these values, rounded to float32, over a new version that is there already, from `start` on."""
    flat = np.ascontiguousarray(values, "<f4").reshape(-1)
    if not np.isfinite(flat).all():
        raise LocalMisuse("values that are not finite would be written into a version", where=f"coordinate {start} on")
    if isinstance(out, np.ndarray):
        out[start : start + flat.size] = flat
        return
    try:
        with open(out, "r+b") as file:
            file.seek(ITEM * start)
            file.write(flat.data)
    except OSError as error:
        raise StoreError(f"cannot be written: {error.strerror}", where=os.fspath(out)) from error


def sum_of(total: Accumulator, layout: Layout, name: str) -> npt.NDArray[np.float64]:
    """The weighted sum of an own array over the round's updates, in the array's shape; zeros where nobody sent any."""
    start, stop = layout.where(name)
    axes = next(parameter.axes for parameter in layout.parameters if parameter.name == name)
    return total.sums(start, stop).reshape([axis.size for axis in axes])


def mean_of(total: Accumulator, layout: Layout, name: str) -> npt.NDArray[np.float64] | None:
    """The weighted mean of an own array over the updates that have it; None when there was none."""
    start, _ = layout.where(name)
    segment = next(s for s, (_, stop) in enumerate(layout.segment_bounds) if start < stop)
    weight = total.weights[segment]
    return np.asarray(sum_of(total, layout, name) / weight) if weight else None
