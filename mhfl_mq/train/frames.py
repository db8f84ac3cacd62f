"""Frames on the pipes between an agent and its training child: four bytes of length, then packed plain values.

Imports neither torch nor asyncio. Jobs and answers are small; arrays travel as files, by their paths.
"""

from typing import Any, BinaryIO, Final

from mhfl_mq.errors import PeerFault
from mhfl_mq.wire.codec import pack, unpack

__all__ = ["HEADER", "MAX_FRAME", "check_length", "read_frame", "to_frame", "write_frame"]

HEADER: Final = 4
"""Bytes of the length, big-endian."""
MAX_FRAME: Final = 16 * 1024 * 1024
"""Bytes: the layout document of a model with 100,000 named arrays fits; a length beyond it is garbage."""


def to_frame(value: object) -> bytes:
    """The value as a frame."""
    body = pack(value)
    return len(body).to_bytes(HEADER, "big") + body


def check_length(header: bytes) -> int:
    """The length that a header announces; raises `PeerFault` when no frame is that long."""
    length = int.from_bytes(header, "big")
    if not 0 < length <= MAX_FRAME:
        raise PeerFault(f"a frame of {length} bytes, at most {MAX_FRAME} are allowed", where="training pipe")
    return length


def write_frame(pipe: BinaryIO, value: object) -> None:
    """Write one frame and flush."""
    pipe.write(to_frame(value))
    pipe.flush()


def read_frame(pipe: BinaryIO) -> Any | None:
    """The next value, or None at the pipe's end (also in the middle of a frame: the other side is gone)."""
    header = pipe.read(HEADER)
    if len(header) < HEADER:
        return None
    length = check_length(header)
    body = pipe.read(length)
    return unpack(body, max_bytes=MAX_FRAME) if len(body) == length else None
