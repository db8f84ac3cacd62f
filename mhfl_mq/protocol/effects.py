"""Everything that a machine can ask for. The driver performs effects in list order; after a failed `Persist` or
`SaveState` nothing later runs. Long work (fetch, train, merge, ...) is started by its effect and comes back as an
event.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mhfl_mq.protocol.records import Change, Entry
from mhfl_mq.protocol.site import Spent
from mhfl_mq.wire.messages import Close, Head, Manifest, Message, Offer, Survey

__all__ = [
    "Ack",
    "AggregatorEffect",
    "Alarm",
    "Announce",
    "CancelTimer",
    "DeviceEffect",
    "DropFetch",
    "FetchSegments",
    "FetchUpdate",
    "Fold",
    "Follow",
    "ForgetUpdate",
    "Install",
    "Merge",
    "OpenFold",
    "Persist",
    "Probe",
    "Release",
    "SaveState",
    "SavedDevice",
    "Say",
    "SetTimer",
    "ShareModel",
    "Stop",
    "StopTraining",
    "Tell",
    "Train",
]


# ---- both sides -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Send `TimerFired(name)` after so many seconds; a timer of the same name is replaced."""

    name: str
    after_s: float


@dataclass(frozen=True, slots=True)
class CancelTimer:
    """Forget this timer; it need not exist."""

    name: str


@dataclass(frozen=True, slots=True)
class Ack:
    """Acknowledge the MQTT message: everything that it caused is durable."""

    token: int


@dataclass(frozen=True, slots=True)
class Adopt:
    """The policy of this digest is the one that counts now: it is in the ledger."""

    policy: str


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that a person should see now (log and status, not the ledger)."""

    text: str


@dataclass(frozen=True, slots=True)
class Stop:
    """The machine is done: the process may end when what was said and shared before is out. `reason` is shown."""

    reason: str


# ---- aggregator -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Persist:
    """Make changes and ledger entries durable in one transaction, before anything that comes after."""

    changes: tuple[Change, ...] = ()
    entries: tuple[Entry, ...] = ()


@dataclass(frozen=True, slots=True)
class Tell:
    """Send a message to one device (`d/<device>/in/cmd`). The driver fills an offer's segments in."""

    device: str
    message: Message


@dataclass(frozen=True, slots=True)
class Announce:
    """Broadcast: `Head` retained on `srv/head`, `Close` on `srv/round`. The driver fills a head's segments in."""

    message: Head | Close


@dataclass(frozen=True, slots=True)
class ShareModel:
    """Announce the segments of this version's model file; with `broadcast`, send them once to all who follow.

    Cheap when it was done before. `broadcast` is false where nobody can be listening yet (after a start).
    """

    version: int
    model: str
    broadcast: bool = True


@dataclass(frozen=True, slots=True)
class FetchUpdate:
    """Get this update's blob (admission, pull, proof, validity) -> `UpdateStored` or `UpdateBad`."""

    round: int
    device: str
    tier: int
    manifest: Manifest
    inline: bytes = b""


@dataclass(frozen=True, slots=True)
class DropFetch:
    """Stop fetching this device's update and free its place."""

    round: int
    device: str


@dataclass(frozen=True, slots=True)
class OpenFold:
    """Start an empty sum for this round. `members` bounds how many updates can come (for the exact sum)."""

    round: int
    base_model: str
    members: int


@dataclass(frozen=True, slots=True)
class Fold:
    """Add a counted update to the round's sum."""

    round: int
    device: str
    tier: int
    blob_id: str
    weight: float


@dataclass(frozen=True, slots=True)
class Merge:
    """Finalize the round's sum into a model and evaluate it -> `Merged` or `MergeFailed`."""

    round: int


@dataclass(frozen=True, slots=True)
class Release:
    """The round is over and durable: free its sum and its updates' files."""

    round: int


AggregatorEffect = (
    SetTimer
    | CancelTimer
    | Ack
    | Alarm
    | Stop
    | Persist
    | Tell
    | Announce
    | ShareModel
    | FetchUpdate
    | DropFetch
    | Adopt
    | OpenFold
    | Fold
    | Merge
    | Release
)


# ---- device ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SavedDevice:
    """What a device keeps over a restart. `offer` is the round it is in; `update` is set once training is done.

    `layout` is the one that it derived itself, `survey` the one that its tier was assigned from (the tiers' sizes);
    `last_round` is the last round that it is done with. `link_bytes_s` is its link's speed as measured (0: not yet),
    `link_told` the one that its tier was assigned from; `step_told` are the seconds of a training step that it was
    assigned from. `counted` is the last round that its update was counted in (0: none, or that round was aborted after
    all). `spent` is what it did today, where the plant bounds that.
    """

    epoch: int = 0
    tier: int | None = None
    layout: str = ""
    last_round: int = 0
    survey: Survey | None = None
    offer: Offer | None = None
    update: Manifest | None = None
    weight: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    link_bytes_s: float = 0.0
    link_told: float = 0.0
    step_told: float = 0.0
    counted: int = 0
    spent: Spent = field(default_factory=Spent)

    @property
    def segments(self) -> tuple[int, ...]:
        """The segments that this device's tier holds; none before it has a tier."""
        if self.tier is None:
            return ()
        if self.survey is None or self.tier >= len(self.survey.tiers):
            return tuple(range(self.tier + 1))
        return self.survey.tiers[self.tier].holds(self.tier)


@dataclass(frozen=True, slots=True)
class SaveState:
    """Make the device's state durable before anything that comes after."""

    state: SavedDevice


@dataclass(frozen=True, slots=True)
class Say:
    """Send a message to the aggregator (`out/evt`)."""

    message: Message


@dataclass(frozen=True, slots=True)
class Probe:
    """Build and measure every tier in the training child -> `Probed` or `ProbeFailed`."""

    survey: Survey
    session: int


@dataclass(frozen=True, slots=True)
class Follow:
    """Subscribe to these segments (and to no others)."""

    segments: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FetchSegments:
    """Get the offer's segments onto the disk (carousel, then pull) -> `Fetched` or `FetchFailed`."""

    offer: Offer


@dataclass(frozen=True, slots=True)
class Train:
    """Train in the child, make the update's blob durable -> `Trained` or `TrainFailed`."""

    offer: Offer


@dataclass(frozen=True, slots=True)
class StopTraining:
    """End fetching and training for this round, if any is under way."""

    round: int


@dataclass(frozen=True, slots=True)
class ForgetUpdate:
    """The update of this round is receipted or void: delete its blob and stop serving it."""

    round: int


@dataclass(frozen=True, slots=True)
class Install:
    """Fetch the head's segments of our tier and put them where the plant's inference reads them -> `Installed`."""

    head: Head


DeviceEffect = (
    SetTimer
    | CancelTimer
    | Ack
    | Alarm
    | Stop
    | SaveState
    | Say
    | Probe
    | Follow
    | FetchSegments
    | Train
    | StopTraining
    | ForgetUpdate
    | Install
)
