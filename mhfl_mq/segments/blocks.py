"""A vector of float32, in memory, in a raw little-endian file or in a form of its own, read block by block."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mhfl_mq.errors import LocalMisuse, StoreError
from mhfl_mq.segments.vectors import Vector

__all__ = ["BLOCK", "Blockwise", "Source", "Span", "read_blocks", "source_length"]


@dataclass(frozen=True, slots=True)
class Span:
    """`length` float32 values of a file from byte `start` on: the vector inside a model's file, say."""

    path: str | os.PathLike[str]
    start: int
    length: int


class Blockwise(ABC):
    """A vector that makes its blocks itself, such as a compacted update."""

    __slots__ = ()
    length: int
    """Coordinates."""

    @abstractmethod
    def blocks(self, stop: int) -> Iterator[tuple[int, Vector]]:
        """As `read_blocks`."""


Source = str | os.PathLike[str] | Span | Vector | Blockwise

# Coordinates of one block. Small enough that the block and its scratch stay in the processor's cache (1.5 MiB in all),
# large enough that numpy's cost per call vanishes: measured as fast as 256 Ki, and faster than 4 to 64 Ki.
BLOCK = 1 << 17
ITEM = 4  # bytes of a float32


def source_length(source: Source) -> int | None:
    """How many coordinates the source holds; None for a file that is no whole number of them."""
    if isinstance(source, np.ndarray):
        if source.dtype != np.float32 or source.ndim != 1 or not source.flags.c_contiguous:
            raise LocalMisuse(f"an array of {source.dtype} {source.shape} is not a contiguous vector of float32")
        return source.size
    if isinstance(source, Span | Blockwise):
        return source.length
    try:
        size = os.stat(source).st_size
    except OSError as error:
        raise StoreError(f"cannot be read: {error.strerror}", where=os.fspath(source)) from error
    return None if size % ITEM else size // ITEM


def read_blocks(source: Source, stop: int) -> Iterator[tuple[int, Vector]]:
    """(index of its first coordinate, block) until `stop`; a block is valid until the next one is asked for."""
    if isinstance(source, np.ndarray):
        for start in range(0, stop, BLOCK):
            yield start, source[start : min(start + BLOCK, stop)]
        return
    if isinstance(source, Blockwise):
        yield from source.blocks(stop)
        return
    path, offset = (source.path, source.start) if isinstance(source, Span) else (source, 0)
    buffer = np.empty(min(BLOCK, stop), "<f4")
    raw = buffer.data.cast("B") if stop else memoryview(b"")
    try:
        with open(path, "rb", buffering=0) as file:
            file.seek(offset)
            for start in range(0, stop, BLOCK):
                count = min(BLOCK, stop - start)
                filled = 0
                while filled < count * ITEM:
                    got = file.readinto(raw[filled : count * ITEM])
                    if not got:
                        raise StoreError(f"ends before coordinate {stop}", where=os.fspath(path))
                    filled += got
                yield start, buffer[:count]
    except OSError as error:
        raise StoreError(f"cannot be read: {error.strerror}", where=os.fspath(path)) from error
