"""The contract between us and a broker: MQTT 3.1.1 features, QoS at most 1, and nothing of any client library."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Inbound", "Limits", "Session", "Transport", "Will"]


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker says for us when our connection dies: retained, QoS 1."""

    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Session:
    """Who we are to the broker. `client_id` is stable over restarts, so the broker keeps our queue for us."""

    client_id: str
    will: Will | None = None
    clean: bool = False  # true: forget what the broker kept for this client id
    keepalive_s: int = 60
    expiry_s: int = 7 * 24 * 3600  # MQTT 5: how long the broker keeps the session


@dataclass(frozen=True, slots=True)
class Limits:
    """What the broker said (MQTT 5) or what its profile says about itself."""

    protocol: int  # 4: MQTT 3.1.1, 5: MQTT 5
    max_packet: int  # largest packet in bytes that the broker takes
    receive_max: int  # most QoS 1 messages in flight towards the broker
    session_present: bool  # the broker still had our session


@dataclass(frozen=True, slots=True)
class Inbound:
    """One message from the broker; `token` acknowledges it. The payload is read-only and ours to keep."""

    topic: str
    payload: bytes | memoryview
    qos: int
    retained: bool
    token: int  # 0 for QoS 0: nothing to acknowledge


class Transport(Protocol):
    """One connection to a broker, kept up by the transport itself (jittered reconnects) until `close`.

    Subscriptions are remembered and made again when the broker lost the session. Messages that were received
    and not acknowledged when the connection broke come again (at least once), so a token may be stale: to
    acknowledge a stale token is not an error.
    """

    @property
    def limits(self) -> Limits:
        """Of the present (or the last) connection."""
        ...

    @property
    def connected(self) -> bool: ...

    async def connect(self, session: Session) -> None:
        """Connect for the first time; raises `BrokerUnreachable` or `BrokerRefused`, with what to do."""
        ...

    async def subscribe(self, filters: Sequence[tuple[str, int]]) -> None:
        """Subscribe to (filter, QoS) pairs; returns when the broker has granted them."""
        ...

    async def unsubscribe(self, filters: Sequence[str]) -> None: ...

    async def publish(
        self,
        topic: str,
        payload: bytes | memoryview,
        *,
        qos: int = 1,
        retain: bool = False,
        expiry_s: int | None = None,
    ) -> None:
        """QoS 1: returns when the broker has acknowledged (over reconnects if it must); QoS 0: when handed over.

        At most `limits.receive_max` publishes are in flight; more callers wait, and the broker sees messages in
        the order of the calls. The payload must not change before the return. `expiry_s` is MQTT 5's message
        expiry: the broker forgets the message after so many seconds (on MQTT 3.1.1 it is not sent). Raises
        `PacketTooLarge` before anything is sent when the broker would refuse the packet, `BrokerRefused` when
        the broker says that we may not publish there: MQTT 5 only, on 3.1.1 a denied publish looks like success.
        """
        ...

    def inbox(self) -> AsyncIterator[Inbound]:
        """Messages in the broker's order; bounded: what is not taken out stays with the broker.

        One consumer. Ends when the transport is closed; raises `BrokerRefused` when the broker does not let us
        in any more (credentials withdrawn, or another client took our client id).
        """
        ...

    def ack(self, token: int) -> None:
        """Tell the broker that this message is durable on our side."""
        ...

    def connections(self) -> AsyncIterator[Limits | None]:
        """One item per (re)connection, the present one included, and None for every loss; ends as `inbox` does."""
        ...

    async def close(self) -> None:
        """Disconnect cleanly: the broker does not send the will."""
        ...
