"""Every message of the wire, as a frozen dataclass: nobody behind the codec ever sees a dict.

Direction and topic of each message stand in its docstring; `mhfl_mq.wire.topics` builds the topics. A field's
bounds stand in its annotation (`mhfl_mq.wire.bounds`) and are checked when the message is encoded (by us:
`LocalMisuse`) and when it is decoded (by a peer: `PeerFault`); a rule between fields stands in
`mhfl_mq.wire.schema`. Fields that a class names as `added` came later: they are left out of a frame when they have
their default, so that older frames keep their meaning and every message has one form. Times are seconds, sizes are
bytes, digests are lower-case hexadecimal SHA-256 unless said.
"""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from mhfl_mq.wire.bounds import (
    MAX_NUMBERS,
    MAX_RANGES,
    MAX_SEGMENTS,
    MAX_TEXTS,
    MAX_TIERS,
    Blob,
    ChunkIndex,
    ChunkSize,
    Count,
    Digest,
    Digests,
    Floats,
    Id,
    Inline,
    Items,
    Label,
    MaybeDigest,
    MaybeName,
    Name,
    NonNegative,
    Number,
    OneOf,
    Positive,
    SegmentIndex,
    SegmentIndices,
    Text,
    TierIndex,
)

__all__ = [
    "Accept",
    "Assign",
    "Capability",
    "Close",
    "Decline",
    "Facts",
    "Head",
    "Hello",
    "Manifest",
    "ManifestNote",
    "Message",
    "Offer",
    "Presence",
    "ProbeResult",
    "Pull",
    "Receipt",
    "Refuse",
    "Survey",
    "TierSpec",
    "UpdateReady",
    "Verdict",
    "Withdraw",
]


Numbers = Annotated[dict[Name, Annotated[float, Floats()]], Items(0, MAX_NUMBERS)]


# ---- parts ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a blob is made of. Its `blob_id` is the SHA-256 of the manifest's own content, so it proves itself.

    Chunk i holds bytes [i * chunk, min((i + 1) * chunk, size)); `digests` are the first 16 bytes of each
    chunk's SHA-256, one after the other.
    """

    blob_id: Blob
    size: Count
    chunk: ChunkSize
    digests: Digests

    @property
    def chunks(self) -> int:
        """How many chunks the blob has."""
        return len(self.digests) // 16


@dataclass(frozen=True, slots=True)
class TierSpec:
    """One tier of the federation, as a device needs it to build its model and to be measured.

    `architecture` names a model of its own; empty: the task's model. `segments` are the numbers of those that the tier
    holds, ascending; empty: it is a prefix, of the segments 0 to its own index.
    """

    added: ClassVar[tuple[str, ...]] = ("architecture", "segments")
    name: Id
    width: Positive
    depth: Count  # 0: all blocks
    length: Number  # coordinates that the tier holds
    architecture: MaybeName = ""
    segments: SegmentIndices = ()

    def holds(self, index: int) -> tuple[int, ...]:
        """The segments of this tier, which is that of this index."""
        return self.segments or tuple(range(index + 1))


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What one tier costs on this device, measured: seconds per training step, peak bytes while training."""

    tier: Id
    step_s: NonNegative
    peak_bytes: Count


# ---- device -> aggregator -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Presence:
    """Retained on the device's `status` topic: its birth, and (`online` false) its last will.

    `session` grows with every connection of the device, so that a late will of an old session is known as old.
    The aggregator speaks the same message on `srv/state`; there `session` is its epoch.
    """

    kind: ClassVar[str] = "presence"
    session: Count
    online: bool
    agent: Text


@dataclass(frozen=True, slots=True)
class Hello:
    """Device wants in. Said again with growing pauses until a `Survey`, an `Assign` or a `Refuse` comes.

    `layout` is the layout that it derived when last surveyed; empty: survey it, because it never was, it lost its
    folder, or its link is not as fast as it said.
    `last_round` is the last round that it was in, so that an aggregator which lost its state reuses no number.
    """

    kind: ClassVar[str] = "hello"
    session: Count
    task: Name
    agent: Text
    layout: MaybeDigest = ""
    last_round: Count = 0


@dataclass(frozen=True, slots=True)
class Facts:
    """What the device says of itself, for the policy's rules: after each `Hello`, and when it changes.

    Yes and no are the numbers 1 and 0. The aggregator knows which names it can use; others are passed over.
    """

    kind: ClassVar[str] = "facts"
    numbers: Numbers = field(default_factory=dict)
    texts: Annotated[dict[Name, Annotated[tuple[Name, ...], Items(0, MAX_TEXTS)]], Items(0, MAX_NUMBERS)] = field(
        default_factory=dict
    )


@dataclass(frozen=True, slots=True)
class Capability:
    """The device's answer to a `Survey`: the layout that it derived itself, and what each tier costs here.

    Said again unasked when its link turned out to be of another speed.
    A tier that does not run on this device at all is left out. `link_bytes_s` is 0 when not yet measured.
    """

    kind: ClassVar[str] = "capability"
    session: Count
    layout: Digest
    examples: Count
    link_bytes_s: NonNegative
    probes: Annotated[tuple[ProbeResult, ...], Items(0, MAX_TIERS)]


@dataclass(frozen=True, slots=True)
class Accept:
    """The device will train in this round."""

    kind: ClassVar[str] = "accept"
    round: Count


@dataclass(frozen=True, slots=True)
class Decline:
    """The device will not (or, after an `Accept`, cannot any more) train in this round, and why."""

    kind: ClassVar[str] = "decline"
    round: Count
    code: Name
    reason: Text


@dataclass(frozen=True, slots=True)
class UpdateReady:
    """The device holds a finished update. Said again with growing pauses until a `Receipt` comes.

    `weight` is how many examples are behind it: what it counts in the mean, the round's algorithm makes of that (one
    each, say). `metrics` are the device's own (loss, seconds, energy, ...).
    `inline` is the whole blob when it fits in one frame, so that a small update needs no pull; else empty.
    """

    kind: ClassVar[str] = "update_ready"
    round: Count
    base: Count
    weight: NonNegative
    manifest: Manifest
    metrics: Numbers = field(default_factory=dict)
    inline: Inline = b""


# ---- either way -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pull:
    """The receiver of a blob asks its holder for chunks [start, stop); no ranges: for the manifest itself.

    Device to aggregator on `out/pull`, aggregator to device on `in/cmd`.
    """

    kind: ClassVar[str] = "pull"
    blob_id: Blob
    ranges: Annotated[tuple[tuple[ChunkIndex, ChunkIndex], ...], Items(0, MAX_RANGES)]


@dataclass(frozen=True, slots=True)
class ManifestNote:
    """A segment's manifest: retained on `seg/<k>/man`, or on `in/cmd` as the answer to a `Pull` of it.

    `inline` is the whole blob when it fits in one frame, else empty.
    """

    kind: ClassVar[str] = "manifest"
    segment: SegmentIndex
    manifest: Manifest
    inline: Inline = b""


# ---- aggregator -> device -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Survey:
    """Asks a device to build every tier of the task, to check the layout, and to measure what each costs.

    `algorithm` and `options` (its own and training's numbers) say what a step of training is. `public` is the SHA-256
    of the public set as the aggregator has it; empty: the algorithm uses none.
    """

    kind: ClassVar[str] = "survey"
    added: ClassVar[tuple[str, ...]] = ("algorithm", "options", "public")
    epoch: Count
    task: Name
    layout: Digest
    tiers: Annotated[tuple[TierSpec, ...], Items(1, MAX_TIERS)]
    batch: Number
    algorithm: MaybeName = ""
    options: Numbers = field(default_factory=dict)
    public: MaybeDigest = ""


@dataclass(frozen=True, slots=True)
class Assign:
    """The tier that the device carries from now on (an index into the survey's tiers), with the reason."""

    kind: ClassVar[str] = "assign"
    epoch: Count
    tier: TierIndex
    reason: Text


@dataclass(frozen=True, slots=True)
class Refuse:
    """The device cannot take part: code, what was wrong, and what to do."""

    kind: ClassVar[str] = "refuse"
    code: Name
    reason: Text


@dataclass(frozen=True, slots=True)
class Offer:
    """An invitation to one round: which segments to start from, how to train, and by when.

    `segments` are the blob ids of the tier's segments of version `base`, `holds` their numbers, ascending; empty: the
    segments 0..tier. `options` are the algorithm's numbers (steps, batch, rate, seed, ...), `deadline_s` counts from
    the offer's arrival.
    """

    kind: ClassVar[str] = "offer"
    added: ClassVar[tuple[str, ...]] = ("holds",)
    round: Count
    base: Count
    tier: TierIndex
    layout: Digest
    segments: Annotated[tuple[Blob, ...], Items(1, MAX_SEGMENTS)]
    algorithm: Name
    options: Numbers
    stages: Annotated[tuple[Name, ...], Items(0, MAX_TIERS)]
    policy: Label
    deadline_s: NonNegative
    holds: SegmentIndices = ()


class Verdict:
    """What became of an update: the values of `Receipt.verdict`."""

    COUNTED = "counted"
    DUPLICATE = "duplicate"
    LATE = "late"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Receipt:
    """End-to-end answer to `UpdateReady`: only now may the device forget the update."""

    kind: ClassVar[str] = "receipt"
    round: Count
    verdict: Annotated[str, OneOf(("counted", "duplicate", "late", "refused"))]
    reason: Text


@dataclass(frozen=True, slots=True)
class Withdraw:
    """This round is over for this device (closed, aborted, or the device was not invited): stop training it."""

    kind: ClassVar[str] = "withdraw"
    round: Count
    reason: Text


@dataclass(frozen=True, slots=True)
class Close:
    """A round ended: broadcast on `srv/round`, not retained. `outcome` is `committed` or `aborted`."""

    kind: ClassVar[str] = "close"
    round: Count
    outcome: Annotated[str, OneOf(("committed", "aborted"))]
    version: Count


@dataclass(frozen=True, slots=True)
class Head:
    """Retained on `srv/head`: the version that devices follow, and its segments' blob ids by their numbers.

    A rollback is a newer version that points at older segments. `use` says for each tier which tier's model its
    devices had better use, of those that they hold; empty: each its own.
    """

    kind: ClassVar[str] = "head"
    added: ClassVar[tuple[str, ...]] = ("use",)
    epoch: Count
    version: Count
    layout: Digest
    segments: Annotated[tuple[Blob, ...], Items(1, MAX_SEGMENTS)]
    use: Annotated[tuple[TierIndex, ...], Items(0, MAX_TIERS)] = ()


Message = (
    Presence
    | Hello
    | Capability
    | Facts
    | Accept
    | Decline
    | UpdateReady
    | Pull
    | ManifestNote
    | Survey
    | Assign
    | Refuse
    | Offer
    | Receipt
    | Withdraw
    | Close
    | Head
)
