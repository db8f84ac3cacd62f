"""Changing a version after the mean, whether it is an array or a raw file of little-endian float32.

Own arrays are small beside models, so a range is held in memory whole.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from mhfl_mq.errors import LocalMisuse, StoreError, StoreFull
from mhfl_mq.segments import Accumulator, Layout, Source, Vector
from mhfl_mq.segments.blocks import ITEM, read_blocks

__all__ = ["Out", "mean_of", "read_range", "read_whole", "sum_of", "write_range", "write_whole"]

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


def read_whole(source: Source, length: int) -> Vector:
    """All of a version: the array itself, or the file in memory."""
    return source if isinstance(source, np.ndarray) else read_range(source, 0, length)


def write_range(out: Out, start: int, values: npt.NDArray[np.floating]) -> None:
    """Write these values, rounded to float32, over a version that is there already, from `start` on."""
    flat = _finite(values)
    if isinstance(out, np.ndarray):
        out[start : start + flat.size] = flat
        return
    with _told(out), open(out, "r+b") as file:
        file.seek(ITEM * start)
        file.write(flat.data)


def write_whole(out: Out, vector: Vector) -> None:
    """Make this the version."""
    flat = _finite(vector)
    if isinstance(out, np.ndarray):
        out[:] = flat
        return
    with _told(out), open(out, "wb") as file:
        file.write(flat.data)


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


def _finite(values: npt.NDArray[np.floating]) -> Vector:
    flat = np.ascontiguousarray(values, "<f4").reshape(-1)
    if not np.isfinite(flat).all():
        raise LocalMisuse("values that are not finite would be written into a version")
    return flat


@contextmanager
def _told(path: str | os.PathLike[str]) -> Iterator[None]:
    """What the disk says, as errors of the house."""
    try:
        yield
    except OSError as error:
        where = os.fspath(path)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            told = f"no room left while writing a merged model ({error.strerror})"
            remedy = "free space on this disk and start again: what was counted is merged then"
            raise StoreFull(told, where=where, remedy=remedy) from error
        raise StoreError(f"cannot be written: {error.strerror}", where=where) from error
