"""What may go wrong between a client and the broker in memory: decided packet by packet from outside."""

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

__all__ = ["FINE", "NO_FAULTS", "Fate", "Faults", "Hop", "Kind"]


class Kind(Enum):
    """What crosses the network."""

    CONNECT = "connect"
    SUBSCRIBE = "subscribe"
    PUBLISH = "publish"
    ACK = "ack"
    GOODBYE = "goodbye"


@dataclass(frozen=True, slots=True)
class Hop:
    """One packet about to cross, to the broker (`up`) or from it."""

    kind: Kind
    up: bool
    client_id: str
    topic: str = ""  # of a PUBLISH
    payload: bytes = b""
    qos: int = 0


@dataclass(frozen=True, slots=True)
class Fate:
    """What happens to it.

    `delay_s`: seconds on the way; later packets of the same direction queue behind. `copies`: how often the
    broker takes or hands out a QoS 1 message (a resend that we need not play). `cut`: the connection breaks
    instead, for both sides. `payload`: what arrives instead of what was sent (PUBLISH). `lost`: a QoS 0 PUBLISH
    never arrives.
    """

    delay_s: float = 0.0
    copies: int = 1
    cut: bool = False
    payload: bytes | None = None
    lost: bool = False


FINE = Fate()


class Faults(Protocol):
    """Asked once for every packet, in a deterministic order."""

    def fate(self, hop: Hop) -> Fate: ...


class _NoFaults:
    def fate(self, hop: Hop) -> Fate:
        return FINE


NO_FAULTS: Faults = _NoFaults()
