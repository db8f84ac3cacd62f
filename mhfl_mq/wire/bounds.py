"""What a field of a message may hold: the bounds, as type annotations, and the limits with their reasons.

A message says `round: Count`; mypy reads `int`, `mhfl_mq.wire.schema` reads the bound. Nothing else in the
package knows how a field is checked, and docs/wire.md is made from the same annotations.
"""

import re
from dataclasses import dataclass, field
from typing import Annotated, Final

__all__ = [
    "CONTROL_LIMIT",
    "FRAME_LIMIT",
    "INLINE_LIMIT",
    "MAX_CHUNK",
    "MAX_CHUNKS",
    "MAX_INT",
    "MAX_NUMBERS",
    "MAX_RANGES",
    "MAX_SEGMENTS",
    "MAX_TEXTS",
    "MAX_TIERS",
    "MIN_CHUNK",
    "Blob",
    "ChunkIndex",
    "ChunkSize",
    "Count",
    "Digest",
    "Digests",
    "Floats",
    "Id",
    "Inline",
    "Ints",
    "Items",
    "Label",
    "Length",
    "MaybeDigest",
    "MaybeName",
    "Name",
    "NonNegative",
    "Number",
    "OneOf",
    "Pattern",
    "Positive",
    "SegmentIndex",
    "SegmentIndices",
    "Text",
    "TierIndex",
    "Words",
]

# ---- limits ---------------------------------------------------------------------------------------------------

CONTROL_LIMIT: Final = 64 * 1024
"""Bytes of a frame without bulk. The largest that the other limits allow is about 15 KiB; Azure retains 64 KB."""
FRAME_LIMIT: Final = 96 * 1024
"""Bytes of a frame with a manifest: as a chunk of the smallest profile, so it passes where chunks do (AWS: 128 KB)."""
INLINE_LIMIT: Final = 32 * 1024
"""Bytes of a blob inside a frame: nobody admits it first, so 1,000 devices at once put 32 MB into the broker."""
MAX_CHUNKS: Final = 5 * 1024
"""Chunks of a blob: 80 KiB of digests, so the manifest fits in a frame. 1.25 GiB at 256 KiB, 480 MiB at 96 KiB."""
MIN_CHUNK: Final = 64
"""Bytes: below it a chunk's header would be half of its packet."""
MAX_CHUNK: Final = 4 * 1024 * 1024
"""Bytes: above it brokers store and forward without pipelining and keep-alives are late (measured)."""
MAX_INT: Final = 2**63 - 1
"""Of every counter: what SQLite keeps."""
MAX_TIERS: Final = 32
"""Tiers of a federation: a tier halves or so the one above, and 32 halvings leave nothing."""
MAX_SEGMENTS: Final = 32
"""Segments of a version: one for each of the most tiers, or two for each of 16."""
MAX_RANGES: Final = 64
"""Ranges of one `Pull`: eight windows of eight single chunks."""
MAX_NUMBERS: Final = 64
"""Named numbers of one message (metrics, options)."""

MAX_TEXTS: Final = 16
"""Texts of one fact that a device says of itself: labels of a person's choice."""


# ---- what an annotation says ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ints:
    """An integer of `low` to `high`; never a bool."""

    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Floats:
    """A finite float from `low` on; `above` leaves `low` itself out."""

    low: float = float("-inf")
    above: bool = False


@dataclass(frozen=True, slots=True)
class Pattern:
    """A string that `regex` matches whole; `says` is the pattern in words."""

    regex: str
    says: str
    matches: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "matches", re.compile(self.regex))


@dataclass(frozen=True, slots=True)
class Words:
    """Free text for people: at most `limit` characters, printable only, so that it cannot forge log lines."""

    limit: int


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of a few strings."""

    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Length:
    """At most `limit` bytes, a multiple of `step`."""

    limit: int
    step: int = 1


@dataclass(frozen=True, slots=True)
class Items:
    """`low` to `high` items of a tuple or a dict."""

    low: int
    high: int


# ---- the words that messages use ------------------------------------------------------------------------------

_SHA256 = "lower-case hexadecimal SHA-256"
_NAME = r"[A-Za-z0-9_.:/+-]"

Count = Annotated[int, Ints(0, MAX_INT)]
Number = Annotated[int, Ints(1, MAX_INT)]
TierIndex = Annotated[int, Ints(0, MAX_TIERS - 1)]
SegmentIndex = Annotated[int, Ints(0, MAX_SEGMENTS - 1)]
SegmentIndices = Annotated[tuple[SegmentIndex, ...], Items(0, MAX_SEGMENTS)]
ChunkSize = Annotated[int, Ints(MIN_CHUNK, MAX_CHUNK)]
ChunkIndex = Annotated[int, Ints(0, MAX_CHUNKS)]
NonNegative = Annotated[float, Floats(0.0)]
Positive = Annotated[float, Floats(0.0, above=True)]
Id = Annotated[str, Pattern(r"[A-Za-z0-9_-]{1,64}", "1 to 64 of A-Z a-z 0-9 _ -")]
Name = Annotated[str, Pattern(_NAME + "{1,64}", "1 to 64 of A-Z a-z 0-9 _ . : / + -")]
MaybeName = Annotated[str, Pattern(_NAME + "{0,64}", "0 to 64 of A-Z a-z 0-9 _ . : / + -")]
Label = Annotated[str, Pattern(_NAME + "{0,128}", "0 to 128 of A-Z a-z 0-9 _ . : / + -")]
Digest = Annotated[str, Pattern(r"[0-9a-f]{64}", _SHA256)]
MaybeDigest = Annotated[str, Pattern(r"(?:[0-9a-f]{64})?", f"{_SHA256}, or empty")]
Blob = Annotated[str, Pattern(r"[0-9a-f]{64}", f"blob id, {_SHA256}")]
Text = Annotated[str, Words(512)]
Digests = Annotated[bytes, Length(MAX_CHUNKS * 16, 16)]
Inline = Annotated[bytes, Length(INLINE_LIMIT)]
