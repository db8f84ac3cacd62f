"""What the aggregator makes durable: changes of its state, ledger entries, and the state that a restart gets back.

A `Persist` effect carries changes and entries together; the store makes them durable in ONE transaction, so the
state and the ledger never disagree.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from mhfl_mq.wire.messages import ProbeResult

__all__ = [
    "DAY_S",
    "Change",
    "DeviceSaved",
    "Entry",
    "EpochStarted",
    "Fact",
    "OpenRound",
    "PastSaved",
    "RoundClosed",
    "RoundOpened",
    "SavedState",
    "UpdateCounted",
    "UploadSaved",
    "VersionAdded",
]

QUARTER_S: Final = 900.0
"""Seconds within which uploads are one sum."""
DAY_S: Final = 26 * 3600.0
"""Seconds for which uploads are remembered: the longest day has 25 hours."""

Fact = str | int | float | bool | None | list["Fact"] | dict[str, "Fact"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One ledger line: what happened (a dotted kind such as `round.open`) and its facts."""

    kind: str
    facts: Mapping[str, Fact] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EpochStarted:
    """The aggregator process started; epochs only grow."""

    epoch: int


@dataclass(frozen=True, slots=True)
class DeviceSaved:
    """A device as the aggregator knows it (inserted or replaced). `tier` is None until one fits."""

    device: str
    session: int
    tier: int | None
    reason: str
    layout: str
    examples: int
    link_bytes_s: float
    probes: tuple[ProbeResult, ...]


@dataclass(frozen=True, slots=True)
class RoundOpened:
    """A round and whom it invites; `cohort` pairs a device with its tier. The number is used up from here on."""

    round: int
    base: int
    policy: str
    needed: int
    cohort: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class UpdateCounted:
    """An update that is durable, valid and will be in the sum. Unique per (round, device)."""

    round: int
    device: str
    tier: int
    blob_id: str
    size: int
    weight: float
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class RoundClosed:
    """A round ended: `committed` (then `version` is the new head) or `aborted`.

    `turns` are the devices that had their turn in it, by name: counted, refused, declined, or silent to the deadline.
    Who was invited and is none of these was not waited for.
    """

    round: int
    outcome: str
    reason: str
    version: int | None
    turns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class VersionAdded:
    """A new version; the newest one is the head. `model` is the SHA-256 of the model file.

    `origin` is `initial`, `round` or `rollback`; a rollback points at the weights of an older version.
    `metrics` holds the evaluation, e.g. `accuracy/<tier>`.
    """

    version: int
    parent: int | None
    model: str
    layout: str
    origin: str
    round: int | None
    metrics: Mapping[str, float]
    reason: str


Change = EpochStarted | DeviceSaved | RoundOpened | UpdateCounted | RoundClosed | VersionAdded


@dataclass(frozen=True, slots=True)
class OpenRound:
    """A round that was open when the process died, with the updates that it had counted.

    `opened_at` is when it was opened, by the wall clock: seconds since 1970, UTC.
    """

    opened: RoundOpened
    counted: tuple[UpdateCounted, ...]
    opened_at: float


@dataclass(frozen=True, slots=True)
class UploadSaved:
    """Updates that were counted within a quarter of an hour: since when (seconds since 1970, UTC), their bytes, the
    seconds that their trainings took."""

    at: float
    size: int
    seconds: float


@dataclass(frozen=True, slots=True)
class PastSaved:
    """What a device did. `turned_at` is when the last round began in which it had its turn, `missed` its turns since
    its last counted update, `uploads` its updates of `DAY_S` at least, oldest first, `last_s` its newest training.
    """

    turned_at: float | None = None
    missed: int = 0
    uploads: tuple[UploadSaved, ...] = ()
    last_s: float = 0.0

    def uploaded(self, at: float, size: int, seconds: float) -> "PastSaved":
        """The same after another update was counted then: a day begins at a quarter of an hour in every time zone, so
        what lies within one is one sum, and a device has a hundred of them at most."""
        begin = at // QUARTER_S * QUARTER_S
        kept = tuple(one for one in self.uploads if one.at > at - DAY_S)
        if kept and kept[-1].at == begin:
            size, seconds_in_all = size + kept[-1].size, seconds + kept[-1].seconds
            kept = kept[:-1]
        else:
            seconds_in_all = seconds
        new = UploadSaved(begin, size, seconds_in_all)
        return replace(self, uploads=(*kept, new), last_s=seconds)


@dataclass(frozen=True, slots=True)
class SavedState:
    """What a restarted aggregator continues from; an empty store gives the defaults."""

    epoch: int = 0
    last_round: int = 0
    rounds_opened: int = 0  # how many there are, the open one among them: numbers may have gaps
    head: VersionAdded | None = None
    devices: tuple[DeviceSaved, ...] = ()
    open_round: OpenRound | None = None
    last_closed: RoundClosed | None = None  # how the last round ended, unless it is open
    rounds_counted: Mapping[str, int] = field(default_factory=dict)  # device -> rounds it was counted in
    latest: tuple[UpdateCounted, ...] = ()  # each device's newest counted update, by name
    committed_at: float | None = None  # when the last round that made a version began; seconds since 1970, UTC
    pasts: Mapping[str, PastSaved] = field(default_factory=dict)
    turns: Mapping[str, int] = field(default_factory=dict)  # device -> rounds that ended and in which it had its turn
