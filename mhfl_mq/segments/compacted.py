"""A compacted update, read: float32, float16 or int8 values, of all coordinates or of the largest alone.

    magic 4, version 1, precision 1 (32, 16, 8), index 1 (0 all, 1 mask, 2 gaps), 0 1, block 4,
    coordinates 8, kept 8, index bytes 8          the header; all numbers little-endian
    index                                         which coordinates are kept
    scales, float32 each                          one per `block` kept values; none at float32
    values                                        value i is `scale[i // block] * number[i]`

Nothing follows the values. A mask has one bit per coordinate, bit i % 8 of byte i // 8. Gaps are one byte per kept
coordinate: how many were passed over since the one before, and 255 for "255 more": ascending whatever the bytes are.
The magic is a NaN to whoever reads float32, so a raw update, which has no header, can never begin with it.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mhfl_mq.errors import PeerFault, StoreError
from mhfl_mq.segments.blocks import BLOCK, Blockwise, Source
from mhfl_mq.segments.pack import Vector

__all__ = ["HEADER", "MAGIC", "MORE", "TYPES", "Compacted", "Index", "header", "stored_update"]

MAGIC: Final = b"MQ\xff\x7f"
VERSION: Final = 1
_HEADER: Final = struct.Struct("<4sBBBBIQQQ")
HEADER: Final = _HEADER.size
"""Bytes before the index."""
MOST_SCALED: Final = 1 << 20
"""Of a peer's update: more values than this share no scale."""
TYPES: Final[dict[int, np.dtype[Any]]] = {32: np.dtype("<f4"), 16: np.dtype("<f2"), 8: np.dtype("i1")}
"""By the bits of a value."""
MORE: Final = 255
"""A gap that is longer than its byte can say."""
_FLOAT: Final = 4  # bytes
_PIECE: Final = 1 << 16  # bytes of gaps that are read at a time


class Index(IntEnum):
    """How the kept coordinates are named."""

    ALL = 0
    MASK = 1
    GAPS = 2


def header(precision: int, index: Index, block: int, length: int, kept: int, names: int) -> bytes:
    """The bytes before the index; see `Compacted`."""
    return _HEADER.pack(MAGIC, VERSION, precision, index, 0, block, length, kept, names)


def stored_update(path: Path) -> Source:
    """An update's file as a source: compacted if it begins with the magic, raw otherwise.

    Raises `PeerFault` for a compacted one that cannot be read.
    """
    try:
        with path.open("rb") as file:
            first = file.read(len(MAGIC))
    except OSError as error:
        raise StoreError(f"cannot be read: {error.strerror}", where=str(path)) from error
    return Compacted.open(path) if first == MAGIC else path


@dataclass(frozen=True, slots=True)
class Compacted(Blockwise):
    """A compacted update in a file, of `length` coordinates, of which `kept` values are there.

    It is read block by block: memory is two blocks, whatever the header claims. Made by `open`, which proves the
    header against the file's size; what the header cannot show is found while reading. Both raise `PeerFault`.
    """

    path: str | os.PathLike[str]
    precision: int
    index: int
    block: int
    length: int
    kept: int
    names: int  # bytes of the index

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "Compacted":
        """Look at the header."""
        try:
            with open(path, "rb", buffering=0) as file:
                head, size = file.read(HEADER), os.fstat(file.fileno()).st_size
        except OSError as error:
            raise StoreError(f"cannot be read: {error.strerror}", where=os.fspath(path)) from error
        if len(head) < HEADER:
            raise _fault(f"it has {len(head)} bytes, its header alone is {HEADER}")
        magic, version, precision, index, zero, block, length, kept, names = _HEADER.unpack(head)
        if magic != MAGIC or version != VERSION or zero:
            raise _fault(f"it is of form {version}, this release reads {VERSION}")
        made = cls(path, precision, index, block, length, kept, names)
        made._prove(size)
        return made

    def blocks(self, stop: int) -> Iterator[tuple[int, Vector]]:
        """See `Blockwise`."""
        buffer = np.empty(min(BLOCK, stop), np.float32)
        try:
            with open(self.path, "rb", buffering=0) as file:
                marks, values = self._marks(file.fileno()), _Values(self, file.fileno())
                for start in range(0, stop, BLOCK):
                    block = buffer[: min(BLOCK, stop - start)]
                    if self.index == Index.ALL:
                        block[:] = values.take(block.size)
                    else:
                        at = marks.upto(start, start + block.size)
                        block.fill(0)
                        block[at - start] = values.take(at.size)
                    if start + block.size == self.length:
                        marks.end()
                        values.end()
                    yield start, block
        except OSError as error:
            raise StoreError(f"cannot be read: {error.strerror}", where=os.fspath(self.path)) from error

    def _prove(self, size: int) -> None:
        whole = self.kept == self.length
        if self.precision not in TYPES or self.index not in tuple(Index):
            raise _fault(f"precision {self.precision} with index {self.index} is not known")
        if not 0 <= self.kept <= self.length or not self.length:
            raise _fault(f"it keeps {self.kept} of {self.length} coordinates")
        if (self.index == Index.ALL) and (not whole or self.names or self.precision == 32):
            raise _fault("all coordinates are kept, and it says otherwise or is raw float32")
        if self.index == Index.MASK and self.names != (self.length + 7) // 8:
            raise _fault(f"a mask of {self.names} bytes for {self.length} coordinates")
        if self.index == Index.GAPS and not self.kept <= self.names <= self.kept + self.length // MORE:
            raise _fault(f"gaps of {self.names} bytes for {self.kept} of {self.length} coordinates")
        if (self.block > 0) != (self.precision != 32 and self.kept > 0) or self.block > MOST_SCALED:
            raise _fault(f"{self.block} values share a scale")
        if size != self._values_at + self.kept * TYPES[self.precision].itemsize:
            raise _fault(f"its header speaks of another size than its {size} bytes")

    @property
    def _scales(self) -> int:
        """How many scales there are."""
        return -(-self.kept // self.block) if self.block else 0

    @property
    def _scales_at(self) -> int:
        return HEADER + self.names

    @property
    def _values_at(self) -> int:
        return self._scales_at + _FLOAT * self._scales

    def _marks(self, fd: int) -> "_Mask | _Gaps | _All":
        match self.index:
            case Index.MASK:
                return _Mask(self, fd)
            case Index.GAPS:
                return _Gaps(self, fd)
            case _:
                return _All()


class _Values:
    """The kept values, one after the other."""

    def __init__(self, of: Compacted, fd: int) -> None:
        self._of = of
        self._fd = fd
        self._type = TYPES[of.precision]
        self._done = 0

    def take(self, count: int) -> Vector:
        """The next values, unscaled and scaled."""
        of, start, stop = self._of, self._done, self._done + count
        if stop > of.kept:
            raise _fault(f"its index names more than the {of.kept} coordinates that it keeps")
        self._done = stop
        if not count:
            return np.empty(0, np.float32)
        item = self._type.itemsize
        numbers = np.frombuffer(_bytes(self._fd, of._values_at + item * start, item * count), self._type)
        if of.precision == 32:
            return numbers.astype(np.float32, copy=False)
        first, last = start // of.block, -(-stop // of.block)
        scales = np.frombuffer(_bytes(self._fd, of._scales_at + _FLOAT * first, _FLOAT * (last - first)), "<f4")
        wrong = np.flatnonzero(~((scales >= 0) & np.isfinite(scales)))
        if wrong.size:
            raise _fault(f"scale {first + int(wrong[0])} is {scales[wrong[0]]}")
        each = np.repeat(scales, of.block)[start - first * of.block :][:count]
        with np.errstate(over="ignore", invalid="ignore"):  # whoever reads bounds the values
            scaled: Vector = np.multiply(numbers, each, dtype=np.float32)
        return scaled

    def end(self) -> None:
        """Every coordinate was read."""
        if self._done != self._of.kept:
            raise _fault(f"its index names {self._done} coordinates, it keeps {self._of.kept}")


class _All:
    """No index: every coordinate is there."""

    def upto(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Every coordinate."""
        return np.arange(start, stop)

    def end(self) -> None:
        """Nothing can be left over."""


class _Mask:
    """Kept coordinates as bits. Blocks are whole bytes but for the last one, whose spare bits are 0."""

    def __init__(self, of: Compacted, fd: int) -> None:
        self._length = of.length
        self._fd = fd

    def upto(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """The kept coordinates from `start` (a block's) to `stop`."""
        raw = np.frombuffer(_bytes(self._fd, HEADER + start // 8, (stop - start + 7) // 8), np.uint8)
        bits = np.unpackbits(raw, bitorder="little")
        if stop == self._length and bits[stop - start :].any():
            raise _fault("its mask names coordinates that there are not")
        return np.flatnonzero(bits[: stop - start]) + start

    def end(self) -> None:
        """Nothing can be left over."""


class _Gaps:
    """Kept coordinates as gaps, read piece by piece."""

    def __init__(self, of: Compacted, fd: int) -> None:
        self._of = of
        self._fd = fd
        self._read = 0  # bytes
        self._next = 0  # the coordinate after the last byte that was read
        self._found = np.empty(0, np.int64)

    def upto(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """The next kept coordinates that are below `stop`; those before `start` were taken."""
        parts = []
        while True:
            split = int(np.searchsorted(self._found, stop))
            parts.append(self._found[:split])
            self._found = self._found[split:]
            if self._found.size or self._next >= stop or self._read == self._of.names:
                return np.concatenate(parts)
            self._more()

    def end(self) -> None:
        """Every coordinate was read."""
        if self._found.size or self._read < self._of.names:
            raise _fault(f"its gaps go beyond coordinate {self._of.length}")

    def _more(self) -> None:
        count = min(_PIECE, self._of.names - self._read)
        coded = np.frombuffer(_bytes(self._fd, HEADER + self._read, count), np.uint8)
        self._read += count
        ends = coded != MORE
        passed = self._next + np.cumsum(coded.astype(np.int64) + ends)
        self._next = int(passed[-1])
        self._found = passed[ends] - 1
        if self._read == self._of.names and not ends[-1]:
            raise _fault("its gaps end in the middle of one")


def _bytes(fd: int, at: int, count: int) -> bytes:
    data = os.pread(fd, count, at)
    while len(data) < count:
        more = os.pread(fd, count - len(data), at + len(data))
        if not more:
            raise _fault("its file became shorter while it was read")
        data += more
    return data


def _fault(what: str) -> PeerFault:
    return PeerFault(f"a compacted update that cannot be read: {what}")
