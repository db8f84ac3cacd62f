"""Everything that can go wrong, as one tree.

MhflError
├── PeerFault           the other side broke the rules of the wire (the only error that garbage can cause)
│   └── VersionSkew     the other side speaks another version of the wire
├── LocalMisuse         our own caller broke the rules of an interface (a bug on this side)
├── ConfigError         a file, an option or a policy that a person wrote is wrong
│   └── PolicyError     a policy, with every finding at file:line:col
├── LayoutError         a model that cannot be cut into nested tiers
├── TaskError           a task that cannot be found, loaded or run
│   └── TrainingFailed  the training child failed, or its result cannot be used
├── TransportError      the broker: not there, refuses, drops, too small
│   ├── BrokerUnreachable
│   ├── BrokerRefused
│   └── PacketTooLarge
└── StoreError          files and databases
    ├── StoreFull       no room left: nothing after the failed write was done
    ├── StoreLocked     another process holds this state folder
    └── LedgerBroken    the hash chain does not verify

Each error says what was wrong, where, and what to do; `exit_code` is what the command line returns for it.
"""

__all__ = [
    "BrokerRefused",
    "BrokerUnreachable",
    "ConfigError",
    "LayoutError",
    "LedgerBroken",
    "LocalMisuse",
    "MhflError",
    "PacketTooLarge",
    "PeerFault",
    "PolicyError",
    "StoreError",
    "StoreFull",
    "StoreLocked",
    "TaskError",
    "TrainingFailed",
    "TransportError",
    "VersionSkew",
]


class MhflError(Exception):
    """Base of all errors of mhfl-mq: `what` was wrong, `where`, and the `remedy`."""

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}; {self.remedy}" if self.remedy else text


class PeerFault(MhflError):
    """The peer sent something that the wire protocol does not allow; `where` is the topic or the field."""

    exit_code = 10


class VersionSkew(PeerFault):
    """The peer sent an intact frame of another protocol version: one side must be upgraded."""

    exit_code = 12


class LocalMisuse(MhflError):
    """Our own side called an interface in a way that its contract does not allow."""

    exit_code = 11


class ConfigError(MhflError):
    """A file, an option or an environment variable that a person wrote is wrong."""

    exit_code = 3


class PolicyError(ConfigError):
    """A policy is not valid; the message lists every finding."""

    exit_code = 4


class LayoutError(MhflError):
    """A model cannot be cut into nested tiers; names the layer and how to annotate it."""

    exit_code = 5


class TaskError(MhflError):
    """A task cannot be found, loaded or run."""

    exit_code = 6


class TrainingFailed(TaskError):
    """The training child ended with an error, or its result cannot be used."""


class TransportError(MhflError):
    """The broker cannot be used as asked."""

    exit_code = 7


class BrokerUnreachable(TransportError):
    """Nobody answers at the broker's address."""


class BrokerRefused(TransportError):
    """The broker answered and said no: credentials, client id, protocol version or authorisation."""


class PacketTooLarge(TransportError):
    """The broker takes smaller packets than this message needs."""


class StoreError(MhflError):
    """A state folder, a database or a model file cannot be used."""

    exit_code = 8


class StoreFull(StoreError):
    """There is no room left on the disk."""


class StoreLocked(StoreError):
    """Another process uses this state folder."""


class LedgerBroken(StoreError):
    """The ledger's hash chain does not verify: `where` names the file and the first wrong line."""

    exit_code = 9
