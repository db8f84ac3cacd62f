"""The states of every machine and the tables of their transitions: whatever changes a state stands in this file.

A table knows steps, not messages: which message causes which step is the machine's affair. A step that a state does
not have raises `LocalMisuse` and the state stays as it was. docs/state-machines.md is drawn from these tables.

A device has two machines side by side, for a lost connection or a restarted aggregator does not stop a training:
its *standing* with the aggregator, and its *work* in a round.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, Generic, TypeVar

from mhfl_mq.errors import LocalMisuse

__all__ = [
    "FEDERATION",
    "ROUND",
    "STANDING",
    "TABLES",
    "WORK",
    "FederationState",
    "FederationStep",
    "RoundState",
    "RoundStep",
    "Standing",
    "StandingStep",
    "Table",
    "WorkState",
    "WorkStep",
]

StateT = TypeVar("StateT", bound=Enum)
StepT = TypeVar("StepT", bound=Enum)


@dataclass(frozen=True, slots=True)
class Table(Generic[StateT, StepT]):
    """The transitions of one machine; `start` is its first state. A state without rows is final."""

    name: str
    start: StateT
    rows: Mapping[StateT, Mapping[StepT, StateT]]

    def may(self, state: StateT, step: StepT) -> bool:
        """Whether this state has this step."""
        return step in self.rows[state]

    def step(self, state: StateT, step: StepT) -> StateT:
        """The state after the step; raises `LocalMisuse` when there is no such transition."""
        after = self.rows[state].get(step)
        if after is None:
            raise LocalMisuse(
                f"no step {step.value!r} from state {state.value!r}",
                where=f"{self.name} machine",
                remedy="its steps are in mhfl_mq/protocol/states.py",
            )
        return after


# ---- device: its standing with the aggregator -----------------------------------------------------------------


class Standing(Enum):
    """Where a device stands with its aggregator."""

    NEW = "new"  # saved state given, nothing begun
    OFFLINE = "offline"  # no connection to the broker
    JOINING = "joining"  # said hello, waits for an answer
    PROBING = "probing"  # measures what each tier costs here
    REPORTING = "reporting"  # said what it can, waits for a tier
    READY = "ready"  # has a tier: takes offers
    REFUSED = "refused"  # told why not: tries again, rarely
    STOPPED = "stopped"


class StandingStep(Enum):
    """What moves a device's standing."""

    START = "start"
    CONNECT = "connect"
    DISCONNECT = "disconnect"
    GREET = "greet"  # say hello again: the aggregator is new or back, or a refused device's pause is over
    SURVEY = "survey"
    PROBED = "probed"
    UNFIT = "unfit"  # the probe failed
    ASSIGN = "assign"
    REFUSE = "refuse"
    STOP = "stop"


_S, _T = Standing, StandingStep
_CONNECTED: Final = {
    _T.CONNECT: _S.JOINING,  # a new session, before the end of the old one was noticed
    _T.DISCONNECT: _S.OFFLINE,
    _T.GREET: _S.JOINING,
    _T.SURVEY: _S.PROBING,
    _T.ASSIGN: _S.READY,
    _T.REFUSE: _S.REFUSED,
    _T.STOP: _S.STOPPED,
}
STANDING: Final = Table(
    "standing",
    _S.NEW,
    {
        _S.NEW: {_T.START: _S.OFFLINE},
        # What was on its way when the connection broke still counts, but only a new hello makes it ready.
        _S.OFFLINE: {
            _T.CONNECT: _S.JOINING,
            _T.DISCONNECT: _S.OFFLINE,
            _T.ASSIGN: _S.OFFLINE,
            _T.PROBED: _S.OFFLINE,
            _T.UNFIT: _S.OFFLINE,
            _T.STOP: _S.STOPPED,
        },
        # A probe goes on over a new hello; its result is kept for the next survey.
        _S.JOINING: {**_CONNECTED, _T.PROBED: _S.JOINING, _T.UNFIT: _S.JOINING},
        _S.PROBING: {**_CONNECTED, _T.GREET: _S.PROBING, _T.PROBED: _S.REPORTING, _T.UNFIT: _S.REFUSED},
        _S.REPORTING: {**_CONNECTED},
        _S.READY: {**_CONNECTED, _T.PROBED: _S.READY, _T.UNFIT: _S.READY},
        _S.REFUSED: {**_CONNECTED, _T.PROBED: _S.REFUSED, _T.UNFIT: _S.REFUSED},
        _S.STOPPED: {},
    },
)


# ---- device: its work in a round ------------------------------------------------------------------------------


class WorkState(Enum):
    """What a device does in the round that it is in."""

    IDLE = "idle"
    FETCHING = "fetching"
    TRAINING = "training"
    SENDING = "sending"  # the update is durable here and not yet receipted


class WorkStep(Enum):
    """What moves a device's work."""

    TAKE = "take"  # an offer was taken (a newer one replaces older work), or a restart goes on with it
    RESUME = "resume"  # a restart found the finished update
    FETCHED = "fetched"
    TRAINED = "trained"
    END = "end"  # receipted, withdrawn, closed, failed or out of time


_W, _X = WorkState, WorkStep
WORK: Final = Table(
    "work",
    _W.IDLE,
    {
        _W.IDLE: {_X.TAKE: _W.FETCHING, _X.RESUME: _W.SENDING},
        _W.FETCHING: {_X.TAKE: _W.FETCHING, _X.FETCHED: _W.TRAINING, _X.END: _W.IDLE},
        _W.TRAINING: {_X.TAKE: _W.FETCHING, _X.TRAINED: _W.SENDING, _X.END: _W.IDLE},
        _W.SENDING: {_X.TAKE: _W.FETCHING, _X.END: _W.IDLE},
    },
)


# ---- aggregator: one round ------------------------------------------------------------------------------------


class RoundState(Enum):
    """How far a round is. Its number is used up from `COLLECTING` on, whatever becomes of it."""

    COLLECTING = "collecting"  # offers are out, updates come in
    CLOSING = "closing"  # nothing more is taken
    MERGING = "merging"  # the sum is being finalized and evaluated
    GATING = "gating"  # is the new model good enough?
    COMMITTED = "committed"
    ABORTED = "aborted"


class RoundStep(Enum):
    """What moves a round."""

    CLOSE = "close"
    MERGE = "merge"
    MERGED = "merged"
    COMMIT = "commit"
    ABORT = "abort"  # quorum missed, merge failed, gate said no, or a rollback


_R, _Y = RoundState, RoundStep
ROUND: Final = Table(
    "round",
    _R.COLLECTING,
    {
        _R.COLLECTING: {_Y.CLOSE: _R.CLOSING, _Y.ABORT: _R.ABORTED},
        _R.CLOSING: {_Y.MERGE: _R.MERGING, _Y.ABORT: _R.ABORTED},
        _R.MERGING: {_Y.MERGED: _R.GATING, _Y.ABORT: _R.ABORTED},
        _R.GATING: {_Y.COMMIT: _R.COMMITTED, _Y.ABORT: _R.ABORTED},
        _R.COMMITTED: {},
        _R.ABORTED: {},
    },
)


# ---- aggregator: the federation -------------------------------------------------------------------------------


class FederationState(Enum):
    """What the aggregator waits for."""

    NEW = "new"  # saved state given, nothing begun
    RESTING = "resting"  # no round is due yet: the interval runs, or the schedule says later
    WAITING = "waiting"  # a round is due, too few devices are present
    IN_ROUND = "in round"
    STOPPED = "stopped"


class FederationStep(Enum):
    """What moves the federation."""

    START = "start"
    RESUME = "resume"  # a restart goes on with the round that was open
    DUE = "due"
    LAPSE = "lapse"  # too few devices came while the schedule allowed a round
    OPEN = "open"
    REST = "rest"  # a round ended
    STOP = "stop"


_F, _Z = FederationState, FederationStep
FEDERATION: Final = Table(
    "federation",
    _F.NEW,
    {
        _F.NEW: {_Z.START: _F.RESTING, _Z.RESUME: _F.IN_ROUND},
        _F.RESTING: {_Z.DUE: _F.WAITING, _Z.STOP: _F.STOPPED},
        _F.WAITING: {_Z.OPEN: _F.IN_ROUND, _Z.LAPSE: _F.RESTING, _Z.STOP: _F.STOPPED},
        _F.IN_ROUND: {_Z.REST: _F.RESTING, _Z.STOP: _F.STOPPED},
        _F.STOPPED: {},
    },
)


TABLES: Final = (STANDING, WORK, ROUND, FEDERATION)
