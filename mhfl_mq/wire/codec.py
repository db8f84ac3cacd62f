"""Frames: bytes <-> typed messages. The only file that speaks msgpack.

    frame = tag (8 bytes) + msgpack [version, kind, body]

The tag is the BLAKE2b of all that follows it: a plain digest against corruption (a flipped round number is still
valid msgpack), or, with a key, one that only its holders can make. The body is a map with exactly the fields of
the message's class, in their order.

**Whatever the bytes are, `decode` returns a valid message or raises `PeerFault`, in bounded time and memory; and
what it returns, `encode` turns into the same bytes again.**
"""

import hashlib
from typing import Any, Final, get_args

import msgpack

from mhfl_mq.errors import LocalMisuse, PeerFault, VersionSkew
from mhfl_mq.wire.bounds import CONTROL_LIMIT, FRAME_LIMIT, MAX_CHUNKS, MAX_INT, MAX_NUMBERS, MAX_RANGES
from mhfl_mq.wire.messages import ManifestNote, Message, UpdateReady
from mhfl_mq.wire.schema import Shape, Wrong, shape_of

__all__ = ["PLAIN_DEPTH", "PLAIN_LIMIT", "TAG_BYTES", "VERSION", "decode", "encode", "frame_limit", "pack", "unpack"]

VERSION: Final = 1
"""Of the frames. It grows when a frame that was valid is no longer, or means something else."""
TAG_BYTES: Final = 8
"""64 bits: a corrupted frame passes once in 2^64."""
PLAIN_LIMIT: Final = 16 * 1024 * 1024
"""Bytes that `unpack` takes unless told otherwise: no small file of ours comes near."""
PLAIN_DEPTH: Final = 16
"""Levels of lists and dicts that `pack` and `unpack` allow: ours have at most five."""
_PLAIN_ITEMS: Final = 4096  # msgpack makes room for a list before it reads it: 1,024 levels x 4,096 x 8 B = 32 MiB
_PERSON: Final = b"mhfl-mq frame"
_BULK: Final = frozenset({UpdateReady.kind, ManifestNote.kind})
_SHAPES: Final[dict[str, Shape]] = {cls.kind: shape_of(cls) for cls in get_args(Message)}
_ITEMS: Final = max(MAX_RANGES, MAX_NUMBERS)


def frame_limit(kind: str) -> int:
    """The most bytes of a frame of this kind: more for the two that carry a manifest."""
    return FRAME_LIMIT if kind in _BULK else CONTROL_LIMIT


def encode(message: Message, *, key: bytes = b"") -> bytes:
    """The frame of a message; `key` (at most 64 bytes) makes the tag a keyed one.

    Raises `LocalMisuse`, with the path of the field, when the message breaks its own bounds.
    """
    shape = _SHAPES.get(getattr(message, "kind", ""))
    if shape is None:
        raise LocalMisuse(f"{type(message).__name__} is not a message of the wire")
    try:
        rest: bytes = msgpack.packb([VERSION, message.kind, shape.dump(message)])
    except Wrong as wrong:
        raise LocalMisuse(wrong.what, where=wrong.under(message.kind).path) from None
    return _tag(rest, key) + rest  # never over `frame_limit`: the bounds of the fields see to it


def decode(frame: bytes | memoryview, *, key: bytes = b"") -> Message:
    """The message of a frame, whole and valid: manifests prove themselves, inline blobs are their manifest's.

    Raises `PeerFault` for anything else, `VersionSkew` (a `PeerFault`) when the frame is intact and of another
    protocol version.
    """
    if not TAG_BYTES < len(frame) <= FRAME_LIMIT:
        raise PeerFault(f"{len(frame)} bytes, a frame has {TAG_BYTES + 1} to {FRAME_LIMIT}", where="frame")
    whole = bytes(frame)  # a view compares byte by byte in Python's slow way; a frame is small enough to copy
    rest = whole[TAG_BYTES:]
    if whole[:TAG_BYTES] != _tag(rest, key):
        raise PeerFault("corrupted or made with another key: the tag does not match", where="frame")
    plain = _parse(rest)
    if type(plain) is not list or not plain or type(plain[0]) is not int:
        raise PeerFault("is not [version, kind, body]", where="frame")
    if plain[0] != VERSION:
        raise VersionSkew(
            f"protocol version {plain[0]}, this side speaks {VERSION}",
            where="frame",
            remedy="run releases of mhfl-mq with the same protocol version on both sides",
        )
    if len(plain) != 3:
        raise PeerFault("is not [version, kind, body]", where="frame")
    kind = plain[1]
    shape = _SHAPES.get(kind) if type(kind) is str else None
    if shape is None:
        raise PeerFault(f"unknown kind of message {ascii(kind)[:40]}", where="frame")
    if len(frame) > frame_limit(kind):
        raise PeerFault(f"{len(frame)} bytes, at most {frame_limit(kind)} are allowed", where=kind)
    try:
        message: Message = shape.load(plain[2])
    except Wrong as wrong:
        raise PeerFault(wrong.what, where=wrong.under(kind).path) from None
    if msgpack.packb(plain) != rest:
        raise PeerFault("is not in the one form that a frame has (long integers, float32, doubled keys)", where=kind)
    return message


def _tag(rest: bytes, key: bytes) -> bytes:
    return hashlib.blake2b(rest, digest_size=TAG_BYTES, key=key, person=_PERSON).digest()


def _parse(rest: bytes) -> Any:
    try:
        return msgpack.unpackb(
            rest,
            strict_map_key=True,
            max_str_len=4096,
            max_bin_len=MAX_CHUNKS * 16,
            max_array_len=_ITEMS,
            max_map_len=_ITEMS,
            max_ext_len=0,
        )
    except (ValueError, msgpack.UnpackException):
        raise PeerFault("is not msgpack within the limits of a frame", where="frame") from None


# ---- the plain door, for files of our own ---------------------------------------------------------------------


def pack(value: object) -> bytes:
    """msgpack of None, bool, int, finite float, str, bytes, list or tuple, dict with str keys; else `LocalMisuse`."""
    try:
        _check_plain(value, PLAIN_DEPTH)
        packed: bytes = msgpack.packb(value)
    except (Wrong, UnicodeEncodeError) as error:
        raise LocalMisuse(f"cannot be packed: {error}") from None
    return packed


def unpack(data: bytes | memoryview, *, max_bytes: int = PLAIN_LIMIT, max_items: int = _PLAIN_ITEMS) -> Any:
    """What `pack` packed (tuples come back as lists); raises `PeerFault` for anything else.

    `max_items` bounds each list and each dict, `PLAIN_DEPTH` their nesting.
    """
    if len(data) > max_bytes:
        raise PeerFault(f"{len(data)} bytes, at most {max_bytes} are allowed", where="packed data")
    try:
        value = msgpack.unpackb(data, strict_map_key=True, max_array_len=max_items, max_map_len=max_items)
        _check_plain(value, PLAIN_DEPTH)
    except (ValueError, msgpack.UnpackException, Wrong) as error:
        raise PeerFault(f"is not what pack() writes: {error}", where="packed data") from None
    return value


def _check_plain(value: Any, depth: int) -> None:
    """Raise `Wrong` unless `pack` may write this value; recursion ends at `PLAIN_DEPTH`."""
    if type(value) in (list, tuple, dict):  # exactly: msgpack's ExtType is a tuple too
        if depth == 0:
            raise Wrong(f"nested deeper than {PLAIN_DEPTH}")
        if isinstance(value, dict) and not all(type(name) is str for name in value):
            raise Wrong("a key that is not str")
        for one in value.values() if isinstance(value, dict) else value:
            _check_plain(one, depth - 1)
    elif isinstance(value, float):
        if value - value != 0.0:
            raise Wrong("a float that is not finite")
    elif type(value) is int:
        if not -MAX_INT - 1 <= value <= MAX_INT:
            raise Wrong("an int of more than 64 bits")
    elif value is not None and type(value) not in (bool, str, bytes):
        raise Wrong(f"a {type(value).__name__}")
