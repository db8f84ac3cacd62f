"""One connection to a broker, from CONNECT to its end: what `SteadyTransport` builds on.

A link knows packets, not promises: it neither reconnects nor resends. `transport.mqtt` makes links with paho,
`transport.memory` makes links to the broker in this process; all that keeps the contract of `Transport` stands
above them, once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mhfl_mq.errors import TransportError
from mhfl_mq.transport.base import Limits, Session

__all__ = ["Link", "LinkEvents", "Message", "packet_size"]


@dataclass(frozen=True, slots=True)
class Message:
    """What a PUBLISH carries."""

    topic: str
    payload: bytes | memoryview
    qos: int
    retain: bool
    expiry_s: int | None = None


class LinkEvents(Protocol):
    """What a link tells the one above it, on the event loop. After `lost`, `close` or `abort` it is silent."""

    def opened(self, limits: Limits) -> None:
        """The broker let us in. Comes before any message."""

    def received(self, topic: str, payload: bytes | memoryview, qos: int, retained: bool, packet_id: int) -> None: ...

    def acknowledged(self, packet_id: int, problem: TransportError | None) -> None:
        """The broker answered our PUBLISH; `problem` is why it did not take it (MQTT 5)."""

    def granted(self, packet_id: int, refused: Sequence[bool]) -> None:
        """The broker answered our SUBSCRIBE, filter by filter, or our UNSUBSCRIBE (empty)."""

    def room(self) -> None:
        """`has_room` is true again."""

    def lost(self, why: str, fatal: TransportError | None) -> None:
        """The connection is over, not by us. `fatal`: to connect again would be wrong."""


class Link(Protocol):
    """One connection."""

    @property
    def has_room(self) -> bool:
        """Whether bytes that were handed over have left, so that QoS 0 may follow."""
        ...

    async def open(self, session: Session, *, clean: bool) -> Limits:
        """Connect. Raises `BrokerUnreachable` or `BrokerRefused`; the link is then of no more use."""
        ...

    def publish(self, packet_id: int, message: Message, *, again: bool) -> None:
        """Send a PUBLISH; `again` marks one that went out on an earlier connection."""
        ...

    def subscribe(self, filters: Sequence[tuple[str, int]], *, known: bool) -> int:
        """Send a SUBSCRIBE, returns its packet id. `known`: retained messages need not come again (MQTT 5)."""
        ...

    def unsubscribe(self, filters: Sequence[str]) -> int: ...

    def ack(self, packet_id: int) -> None: ...

    def read(self, on: bool) -> None:
        """Stop or go on to take bytes from the broker: what is not read stays there."""
        ...

    async def close(self) -> None:
        """Say goodbye: no will."""
        ...

    def abort(self) -> None:
        """Break the connection without a goodbye."""
        ...


def packet_size(message: Message, protocol: int) -> int:
    """Bytes of the PUBLISH packet on the wire (MQTT 3.1.1 and 5, section 3.3)."""
    body = 2 + len(message.topic.encode()) + (2 if message.qos else 0) + len(message.payload)
    if protocol == 5:
        body += 1 if message.expiry_s is None else 6
    length = 1 if body < 128 else 2 if body < 16_384 else 3 if body < 2_097_152 else 4
    return 1 + length + body
