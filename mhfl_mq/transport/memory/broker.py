"""An MQTT broker in this process: the semantics that we use of a real one, under anybody's clock and faults.

It holds retained messages, wills, and sessions that outlive connections: queues for who is away, what is in
flight and comes again. Time is the running loop's, luck is the `Faults`' that it asks, and every iteration goes
over insertion-ordered dicts: the same inputs give the same run under any hash seed.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from mhfl_mq.transport.base import Limits, Session, Will
from mhfl_mq.transport.filters import matches
from mhfl_mq.transport.link import Message
from mhfl_mq.transport.memory.faults import NO_FAULTS, Faults

__all__ = ["Access", "Client", "MemoryBroker"]

_MAX_PACKET = 2_000_000  # bytes, as mosquitto 2.1
_RECEIVE_MAX = 16
_MAX_QUEUED = 1000  # messages for a client that is away or slow, as mosquitto; the rest is dropped silently
_LAST_ID = 0xFFFF
_MOST_TOPICS = 10_000  # of which the broker remembers who wants them

# (client id, "connect" | "publish" | "subscribe", topic or filter) -> whether it may
Access = Callable[[str, str, str], bool]


class Client(Protocol):
    """The broker's end of a connection."""

    def deliver(self, message: Message, retained: bool, packet_id: int) -> None: ...

    def break_off(self, why: str, taken_over: bool) -> None:
        """The broker ends the connection."""
        ...


@dataclass(slots=True)
class _Kept:
    """What the broker keeps for a client id, connected or not."""

    client_id: str
    client: Client | None = None
    will: Will | None = None
    expiry_s: int = 0
    receive_max: int = _RECEIVE_MAX
    filters: dict[str, int] = field(default_factory=dict)
    wild: dict[str, int] = field(default_factory=dict)  # those of the filters that hold a wildcard
    queue: deque[tuple[Message, bool, float]] = field(default_factory=deque)  # message, retained, until when
    flying: dict[int, tuple[Message, bool]] = field(default_factory=dict)
    last_id: int = 0
    expiry: asyncio.TimerHandle | None = None


class MemoryBroker:
    """The broker. `protocol` 4 behaves as MQTT 3.1.1 (a denied publish looks like success), 5 as MQTT 5."""

    def __init__(
        self,
        *,
        faults: Faults = NO_FAULTS,
        protocol: int = 5,
        max_packet: int = _MAX_PACKET,
        receive_max: int = _RECEIVE_MAX,
        max_queued: int = _MAX_QUEUED,
        access: Access | None = None,
        told_max_packet: int | None = None,  # what it says its limit is, where that is not the truth
    ) -> None:
        self.told_max_packet = told_max_packet
        self.faults = faults
        self.protocol = protocol
        self.max_packet = max_packet
        self.receive_max = receive_max
        self.max_queued = max_queued
        self.access: Access = access or (lambda client_id, action, topic: True)
        self.dropped = 0  # messages that found their queue full
        self._kept: dict[str, _Kept] = {}
        self._retained: dict[str, Message] = {}
        self._wanted: dict[str, list[tuple[_Kept, int]]] = {}  # by topic: who gets it; forgotten when filters change
        self._up = True

    # ---- for whoever plays fate ---------------------------------------------------------------------------

    @property
    def up(self) -> bool:
        """Whether it answers."""
        return self._up

    @property
    def retained(self) -> dict[str, bytes]:
        """Retained payloads by topic: a copy, to look at."""
        return {topic: bytes(message.payload) for topic, message in self._retained.items()}

    @property
    def connected(self) -> tuple[str, ...]:
        """Ids of connected clients, in the order in which the broker first saw them."""
        return tuple(kept.client_id for kept in self._kept.values() if kept.client is not None)

    @property
    def waiting(self) -> dict[str, int]:
        """Messages that wait for each client, or were sent to it and not acknowledged."""
        return {kept.client_id: len(kept.queue) + len(kept.flying) for kept in self._kept.values()}

    def kill(self, client_id: str) -> None:
        """Break a client's connection without its goodbye: its will is sent. Nothing happens if it is away."""
        kept = self._kept.get(client_id)
        if kept is not None and kept.client is not None:
            client = kept.client
            self.gone(kept.client_id, client, goodbye=False)
            client.break_off("the connection was killed", False)

    def stop(self) -> None:
        """Go down as `kill -9` would: every connection breaks, and no will is sent."""
        self._up = False
        clients = [kept.client for kept in self._kept.values() if kept.client is not None]
        for kept in list(self._kept.values()):
            kept.client = None
            kept.will = None
            self._expire_later(kept)
        for client in clients:
            client.break_off("the broker went down", False)

    def start(self, *, keep_retained: bool = True, keep_sessions: bool = True) -> None:
        """Come up again, with or without what was kept."""
        if not keep_retained:
            self._retained.clear()
        if not keep_sessions:
            for client_id in [kept.client_id for kept in self._kept.values() if kept.client is None]:
                self._forget(client_id)
        self._up = True

    # ---- for the link -------------------------------------------------------------------------------------

    def enter(self, client: Client, session: Session, *, clean: bool) -> Limits:
        """A client was let in; another one with its id is thrown out."""
        before = self._kept.get(session.client_id)
        if before is not None and before.client is not None:
            other = before.client
            self.gone(session.client_id, other, goodbye=False)
            other.break_off("another client took its id", True)
            before = self._kept.get(session.client_id)
        if before is not None and (clean or before.expiry_s == 0):
            self._forget(session.client_id)
            before = None
        kept = before or self._kept.setdefault(session.client_id, _Kept(session.client_id))
        if kept.expiry is not None:
            kept.expiry.cancel()
        kept.client, kept.will = client, session.will
        kept.expiry_s, kept.receive_max = session.expiry_s, self.receive_max
        return Limits(
            protocol=self.protocol,
            max_packet=self.told_max_packet or self.max_packet,
            receive_max=self.receive_max,
            session_present=before is not None,
        )

    def resume(self, client_id: str) -> None:
        """Send again what was in flight, then what waited."""
        kept = self._kept[client_id]
        if kept.client is not None:
            for packet_id, (message, retained) in list(kept.flying.items()):
                kept.client.deliver(message, retained, packet_id)
            self._feed(kept)

    def gone(self, client_id: str, client: Client, *, goodbye: bool) -> None:
        """A connection is over; without a goodbye its will is sent."""
        kept = self._kept.get(client_id)
        if kept is None or kept.client is not client:
            return
        will, kept.client, kept.will = kept.will, None, None
        kept.queue = deque(item for item in kept.queue if item[0].qos)
        self._expire_later(kept)
        if will is not None and not goodbye:
            self.take(Message(will.topic, will.payload, 1, True))

    def grant(self, client_id: str, topic_filter: str, qos: int) -> bool | None:
        """Subscribe to one filter. False: there already, None: refused."""
        kept = self._kept[client_id]
        if not self.access(client_id, "subscribe", topic_filter):
            return None
        fresh = topic_filter not in kept.filters
        kept.filters[topic_filter] = qos
        if "+" in topic_filter or "#" in topic_filter:
            kept.wild[topic_filter] = qos
        self._wanted.clear()
        return fresh

    def replay(self, client_id: str, topic_filter: str, qos: int) -> None:
        """Hand out what is retained under a filter."""
        for topic, message in list(self._retained.items()):
            if matches(topic_filter, topic):
                self._hand(self._kept[client_id], message, min(qos, message.qos), retained=True)

    def revoke(self, client_id: str, filters: list[str]) -> None:
        for name in filters:
            self._kept[client_id].filters.pop(name, None)
            self._kept[client_id].wild.pop(name, None)
        self._wanted.clear()

    def take(self, message: Message) -> None:
        """A message was published: keep it if it is to be retained, and hand it to all who want it."""
        if message.retain:
            if len(message.payload):
                self._retained[message.topic] = message
            else:
                self._retained.pop(message.topic, None)
        wanted = self._wanted.get(message.topic)
        if wanted is None:
            if len(self._wanted) >= _MOST_TOPICS:
                self._wanted.clear()
            wanted = self._wanted[message.topic] = self._who_wants(message.topic)
        for kept, granted in wanted:
            self._hand(kept, message, min(granted, message.qos), retained=False)

    def acknowledge(self, client_id: str, packet_id: int) -> None:
        """A client has made a message its own."""
        kept = self._kept[client_id]
        kept.flying.pop(packet_id, None)
        self._feed(kept)

    # ---- inside -------------------------------------------------------------------------------------------

    def _who_wants(self, topic: str) -> list[tuple[_Kept, int]]:
        """Everyone with a filter for this topic, and the best QoS that was granted."""
        found = []
        for kept in self._kept.values():
            granted = [qos for name, qos in kept.wild.items() if matches(name, topic)]
            if topic in kept.filters and topic not in kept.wild:
                granted.append(kept.filters[topic])
            if granted:
                found.append((kept, max(granted)))
        return found

    def _hand(self, kept: _Kept, message: Message, qos: int, *, retained: bool) -> None:
        copy = Message(message.topic, message.payload, qos, retained)
        if qos == 0:
            if kept.client is not None:
                kept.client.deliver(copy, retained, 0)
            return
        if len(kept.queue) >= self.max_queued:
            self.dropped += 1
            return
        kept.queue.append((copy, retained, self._until(message)))
        self._feed(kept)

    def _until(self, message: Message) -> float:
        """When a message that waits is forgotten (MQTT 5)."""
        if self.protocol != 5 or message.expiry_s is None:
            return math.inf
        return asyncio.get_running_loop().time() + message.expiry_s

    def _feed(self, kept: _Kept) -> None:
        while kept.client is not None and kept.queue and len(kept.flying) < kept.receive_max:
            message, retained, until = kept.queue.popleft()
            if until <= asyncio.get_running_loop().time():
                continue
            kept.last_id = kept.last_id % _LAST_ID + 1
            while kept.last_id in kept.flying:
                kept.last_id = kept.last_id % _LAST_ID + 1
            kept.flying[kept.last_id] = (message, retained)
            kept.client.deliver(message, retained, kept.last_id)

    def _expire_later(self, kept: _Kept) -> None:
        if kept.expiry is not None:
            kept.expiry.cancel()
        if kept.expiry_s == 0:
            self._kept.pop(kept.client_id, None)
            self._wanted.clear()
        else:
            loop = asyncio.get_running_loop()
            kept.expiry = loop.call_later(kept.expiry_s, self._expired, kept.client_id)

    def _expired(self, client_id: str) -> None:
        kept = self._kept.get(client_id)
        if kept is not None and kept.client is None:
            self._forget(client_id)

    def _forget(self, client_id: str) -> None:
        kept = self._kept.pop(client_id, None)
        self._wanted.clear()
        if kept is not None and kept.expiry is not None:
            kept.expiry.cancel()
