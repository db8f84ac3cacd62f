"""Changing a version after the mean, whether it is an array or a raw file of little-endian float32."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from mhfl_mq.errors import LocalMisuse, StoreError, StoreFull
from mhfl_mq.segments import Source, Span, Vector
from mhfl_mq.segments.blocks import Blockwise

__all__ = ["Out", "read_range", "read_whole", "write_range", "write_whole"]

Out = Vector | str | os.PathLike[str]
ITEM = 4  # bytes of a float32


def read_range(source: Source, start: int, stop: int) -> Vector:
    """The coordinates [start, stop), in memory of their own."""
    if isinstance(source, np.ndarray):
        return source[start:stop].copy()
    if isinstance(source, Blockwise):
        raise LocalMisuse("a version is an array or a file, and this is a compacted update")
    path, begin = (source.path, source.start) if isinstance(source, Span) else (source, 0)
    with _told(path, "read"):
        found = np.fromfile(path, "<f4", count=stop - start, offset=begin + ITEM * start)
    if found.size != stop - start:
        raise StoreError(f"ends before coordinate {stop}", where=os.fspath(path))
    return found.astype(np.float32, copy=False)


def read_whole(source: Source, length: int) -> Vector:
    """All of a version: the array itself, or the file in memory."""
    return source if isinstance(source, np.ndarray) else read_range(source, 0, length)


def write_range(out: Out, start: int, values: Vector) -> None:
    """Put values into a version from a coordinate on; the rest stays."""
    if isinstance(out, np.ndarray):
        out[start : start + values.size] = values
        return
    with _told(out, "written"), open(out, "r+b") as file:
        file.seek(ITEM * start)
        file.write(values.astype("<f4", copy=False).data)


def write_whole(out: Out, vector: Vector) -> None:
    """Make this the version."""
    if isinstance(out, np.ndarray):
        out[:] = vector
        return
    with _told(out, "written"), open(out, "wb") as file:
        file.write(vector.astype("<f4", copy=False).data)


@contextmanager
def _told(path: str | os.PathLike[str], what: str) -> Iterator[None]:
    """What the disk says, as errors of the house."""
    try:
        yield
    except OSError as error:
        where = os.fspath(path)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            told = f"no room left while writing a merged model ({error.strerror})"
            remedy = "free space on this disk and start again: what was counted is merged then"
            raise StoreFull(told, where=where, remedy=remedy) from error
        raise StoreError(f"cannot be {what}: {error.strerror}", where=where) from error
