"""Everything that can happen to a machine. `token` acknowledges the MQTT message behind an event (0: nothing to)."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mhfl_mq.protocol.records import Fact
from mhfl_mq.protocol.rules import Decider, Rules
from mhfl_mq.wire.messages import Capability, Manifest, Message

__all__ = [
    "AggregatorEvent",
    "Connected",
    "DeviceEvent",
    "Disconnected",
    "FactsRead",
    "Faulted",
    "FetchFailed",
    "Fetched",
    "Heard",
    "InstallFailed",
    "Installed",
    "LinkMeasured",
    "MergeFailed",
    "Merged",
    "PolicyAsked",
    "ProbeFailed",
    "Probed",
    "RollbackAsked",
    "Started",
    "StopAsked",
    "TimerFired",
    "TrainFailed",
    "Trained",
    "TrainingStopped",
    "UpdateBad",
    "UpdateStored",
]


# ---- both sides -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Started:
    """The process is up and its saved state was given to the machine."""


@dataclass(frozen=True, slots=True)
class Connected:
    """Connected to the broker. `max_packet` is the largest packet that it takes, in bytes."""

    session: int
    max_packet: int


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection to the broker is gone; the transport is reconnecting."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A valid message. `sender` is the device id in its topic; for a device it is `aggregator`."""

    sender: str
    message: Message
    token: int = 0


@dataclass(frozen=True, slots=True)
class Faulted:
    """A peer sent something that does not decode: what was wrong."""

    sender: str
    what: str
    token: int = 0


@dataclass(frozen=True, slots=True)
class TimerFired:
    """A timer set by `SetTimer` ran out."""

    name: str


@dataclass(frozen=True, slots=True)
class StopAsked:
    """An operator wants this process to end in good order."""


# ---- aggregator -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class UpdateStored:
    """A fetched update is durable on our disk, proven by its manifest and valid (length, finite, in bounds)."""

    round: int
    device: str
    blob_id: str


@dataclass(frozen=True, slots=True)
class UpdateBad:
    """A fetch ended without a usable update; `retry` when the device should say it again (it was our trouble).

    `blob_id` names the update, so that an old fetch's end is not taken for that of a newer one; empty: whichever.
    """

    round: int
    device: str
    reason: str
    retry: bool = False
    blob_id: str = ""


@dataclass(frozen=True, slots=True)
class Merged:
    """The sum was finalized and evaluated: the new model's file and its metrics (`accuracy/<tier>`, ...)."""

    round: int
    model: str
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MergeFailed:
    """The merge ended without a model."""

    round: int
    reason: str


@dataclass(frozen=True, slots=True)
class RollbackAsked:
    """An operator wants the head to point at the weights of an older version; `model` is that version's file."""

    version: int
    model: str
    metrics: Mapping[str, float]
    reason: str
    who: str


@dataclass(frozen=True, slots=True)
class PolicyAsked:
    """An operator wants these rules in the place of the running ones, from the next round on; the model stays.

    They have the layout and the algorithm of the running ones. `facts` are for the ledger.
    """

    rules: Rules
    decider: Decider
    facts: Mapping[str, Fact]


AggregatorEvent = (
    Started
    | Heard
    | Faulted
    | TimerFired
    | StopAsked
    | UpdateStored
    | UpdateBad
    | Merged
    | MergeFailed
    | RollbackAsked
    | PolicyAsked
)


# ---- device ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FactsRead:
    """The machine was looked at: what is said of it to the aggregator, for the policy's rules."""

    numbers: Mapping[str, float]
    texts: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Probed:
    """The probe asked for by a survey is done."""

    capability: Capability


@dataclass(frozen=True, slots=True)
class ProbeFailed:
    """The device cannot build or measure the task."""

    reason: str


@dataclass(frozen=True, slots=True)
class Fetched:
    """All segments that the offer needs lie on the disk."""

    round: int


@dataclass(frozen=True, slots=True)
class FetchFailed:
    """The offer's segments cannot be had."""

    round: int
    reason: str


@dataclass(frozen=True, slots=True)
class Trained:
    """Training is done; the update's blob is durable on the disk. `inline` is the blob when it is small."""

    round: int
    manifest: Manifest
    weight: float
    metrics: Mapping[str, float]
    inline: bytes = b""


@dataclass(frozen=True, slots=True)
class TrainFailed:
    """Training ended without an update."""

    round: int
    reason: str


@dataclass(frozen=True, slots=True)
class TrainingStopped:
    """Training was ended by `StopTraining` before it was done: each of its steps takes `step_s` seconds or more."""

    round: int
    step_s: float


@dataclass(frozen=True, slots=True)
class Installed:
    """The device now runs this version at its tier."""

    version: int


@dataclass(frozen=True, slots=True)
class InstallFailed:
    """The head's segments could not be installed."""

    version: int
    reason: str


@dataclass(frozen=True, slots=True)
class LinkMeasured:
    """Segments came in at this speed: the figure of `transfer_meter`."""

    bytes_s: float


DeviceEvent = (
    Started
    | Connected
    | Disconnected
    | Heard
    | Faulted
    | TimerFired
    | StopAsked
    | FactsRead
    | Probed
    | ProbeFailed
    | Fetched
    | FetchFailed
    | Trained
    | TrainFailed
    | TrainingStopped
    | Installed
    | InstallFailed
    | LinkMeasured
)
