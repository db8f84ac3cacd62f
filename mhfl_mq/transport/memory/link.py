"""A connection to the broker in memory, packet by packet over a `Wire`."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from mhfl_mq.errors import BrokerRefused, BrokerUnreachable, TransportError
from mhfl_mq.transport.base import Limits, Session
from mhfl_mq.transport.link import LinkEvents, Message, packet_size
from mhfl_mq.transport.memory.broker import MemoryBroker
from mhfl_mq.transport.memory.faults import Fate, Hop, Kind
from mhfl_mq.transport.memory.wire import Wire

__all__ = ["MemoryLink"]

_NAME = "memory"
_GOODBYE_S = 2.0
_CONNECT_S = 10.0  # a CONNECT that was cut is noticed at once; one that is delayed longer has failed


class MemoryLink:
    """Both ends of one connection: `Link` for the client, `Client` for the broker."""

    has_room = True

    def __init__(self, broker: MemoryBroker, events: LinkEvents) -> None:
        self._broker = broker
        self._events = events
        self._wire = Wire(broker.faults, self._cut)
        self._client_id = ""
        self._entered = False  # the broker counts us as connected
        self._silent = True
        self._limits: Limits | None = None
        self._opened: asyncio.Future[Limits] | None = None
        self._bye: asyncio.Future[None] | None = None
        self._last_id = 0x7FFF
        self._reading = True
        self._unread: deque[Callable[[], None]] = deque()  # arrived while nobody read

    # ---- Link ---------------------------------------------------------------------------------------------

    async def open(self, session: Session, *, clean: bool) -> Limits:
        """Connect: one packet up, one down."""
        self._client_id = session.client_id
        self._opened = asyncio.get_running_loop().create_future()
        self._send(Kind.CONNECT, lambda fate: self._enter(session, clean))
        try:
            async with asyncio.timeout(_CONNECT_S):
                return await self._opened
        except TimeoutError as error:
            raise _unreachable("it does not answer") from error

    def publish(self, packet_id: int, message: Message, *, again: bool) -> None:
        if isinstance(message.payload, memoryview):  # the caller's buffer is its own again once we returned
            message = Message(message.topic, bytes(message.payload), message.qos, message.retain)
        self._send(Kind.PUBLISH, lambda fate: self._published(packet_id, message, fate), message)

    def subscribe(self, filters: Sequence[tuple[str, int]], *, known: bool) -> int:
        packet_id = self._next_id()
        wanted = list(filters)
        # MQTT 3.1.1 knows no retain handling: what is retained comes with every SUBSCRIBE.
        quiet = known and self._broker.protocol == 5
        self._send(Kind.SUBSCRIBE, lambda fate: self._subscribed(packet_id, wanted, quiet))
        return packet_id

    def unsubscribe(self, filters: Sequence[str]) -> int:
        packet_id = self._next_id()
        wanted = list(filters)
        self._send(Kind.SUBSCRIBE, lambda fate: self._unsubscribed(packet_id, wanted))
        return packet_id

    def ack(self, packet_id: int) -> None:
        self._send(Kind.ACK, lambda fate: self._broker.acknowledge(self._client_id, packet_id))

    def read(self, on: bool) -> None:
        self._reading = on
        if on and self._unread:
            asyncio.get_running_loop().call_soon(self._read_on)

    async def close(self) -> None:
        self._silent = True
        if self._entered:
            self._bye = asyncio.get_running_loop().create_future()
            self._send(Kind.GOODBYE, lambda fate: self._leave(goodbye=True))
            await asyncio.wait([self._bye], timeout=_GOODBYE_S)
        self._leave(goodbye=False)

    def abort(self) -> None:
        self._silent = True
        self._leave(goodbye=False)

    # ---- Client: what the broker does ---------------------------------------------------------------------

    def deliver(self, message: Message, retained: bool, packet_id: int) -> None:
        def arrive(fate: Fate) -> None:
            payload = message.payload if fate.payload is None else fate.payload
            for _ in range(max(1, fate.copies) if message.qos else 1):
                self._hear(lambda: self._events.received(message.topic, payload, message.qos, retained, packet_id))

        self._send(Kind.PUBLISH, arrive, message, up=False)

    def break_off(self, why: str, taken_over: bool) -> None:
        self._entered = False
        self._leave(goodbye=False)
        fatal = None
        if taken_over and self._broker.protocol == 5:
            fatal = BrokerRefused(
                "another client connected with our client id",
                where=_NAME,
                remedy="give each device and each aggregator an id of its own",
            )
        self._end(why, fatal)

    # ---- at the broker ------------------------------------------------------------------------------------

    def _enter(self, session: Session, clean: bool) -> None:
        if not self._broker.up:
            self._refuse(_unreachable("nobody answers"))
        elif not self._broker.access(session.client_id, "connect", ""):
            refusal = BrokerRefused(
                f"the broker does not let {session.client_id!r} in: Not authorized",
                where=_NAME,
                remedy="check user name, password, certificate and client id",
            )
            self._send(Kind.CONNECT, lambda fate: self._refuse(refusal), up=False)
        else:
            limits = self._broker.enter(self, session, clean=clean)
            self._entered = True
            self._send(Kind.CONNECT, lambda fate: self._let_in(limits), up=False)
            self._broker.resume(session.client_id)

    def _published(self, packet_id: int, message: Message, fate: Fate) -> None:
        if packet_size(message, self._broker.protocol) > self._broker.max_packet:
            self._cut()  # as every broker does with a packet above its limit
            return
        allowed = self._broker.access(self._client_id, "publish", message.topic)
        if fate.payload is not None:
            message = replace(message, payload=fate.payload)
        for _ in range((max(1, fate.copies) if message.qos else 1) if allowed else 0):
            self._broker.take(message)
        if message.qos and self._entered:
            problem: TransportError | None = None
            if not allowed and self._broker.protocol == 5:
                problem = BrokerRefused(
                    "the broker did not take a message: Not authorized",
                    where=_NAME,
                    remedy="see the broker's access list and limits",
                )
            self._send(
                Kind.ACK,
                lambda fate: self._hear(lambda: self._events.acknowledged(packet_id, problem)),
                up=False,
            )

    def _subscribed(self, packet_id: int, filters: list[tuple[str, int]], known: bool) -> None:
        fresh = [self._broker.grant(self._client_id, name, qos) for name, qos in filters]
        self._answer(packet_id, [new is None for new in fresh])
        for (name, qos), new in zip(filters, fresh, strict=True):
            if new or (new is False and not known):
                self._broker.replay(self._client_id, name, qos)

    def _unsubscribed(self, packet_id: int, filters: list[str]) -> None:
        self._broker.revoke(self._client_id, filters)
        self._answer(packet_id, [])

    def _answer(self, packet_id: int, refused: list[bool]) -> None:
        self._send(
            Kind.SUBSCRIBE,
            lambda fate: self._hear(lambda: self._events.granted(packet_id, refused)),
            up=False,
        )

    # ---- at the client ------------------------------------------------------------------------------------

    def _let_in(self, limits: Limits) -> None:
        if self._opened is not None and not self._opened.done():
            self._silent = False
            self._events.opened(limits)
            self._opened.set_result(limits)

    def _refuse(self, error: TransportError) -> None:
        self._wire.close()
        if self._opened is not None and not self._opened.done():
            self._opened.set_exception(error)

    def _hear(self, tell: Callable[[], None]) -> None:
        if self._reading and not self._unread:
            if not self._silent:
                tell()
        else:
            self._unread.append(tell)

    def _read_on(self) -> None:
        while self._reading and self._unread:
            tell = self._unread.popleft()
            if not self._silent:
                tell()

    # ---- the end ------------------------------------------------------------------------------------------

    def _cut(self) -> None:
        self._leave(goodbye=False)
        self._end("the network broke", None)

    def _leave(self, *, goodbye: bool) -> None:
        self._wire.close()
        if self._bye is not None and not self._bye.done():
            self._bye.set_result(None)
        if self._entered:
            self._entered = False
            self._broker.gone(self._client_id, self, goodbye=goodbye)

    def _end(self, why: str, fatal: TransportError | None) -> None:
        self._wire.close()
        self._refuse(fatal or _unreachable(why))
        if not self._silent:
            self._silent = True
            self._events.lost(why, fatal)

    def _send(
        self, kind: Kind, arrive: Callable[[Fate], None], message: Message | None = None, *, up: bool = True
    ) -> None:
        hop = Hop(kind, up, self._client_id)
        if message is not None:
            hop = Hop(kind, up, self._client_id, message.topic, bytes(message.payload), message.qos)
        self._wire.send(hop, arrive)

    def _next_id(self) -> int:
        self._last_id = self._last_id + 1 if self._last_id < 0xFFFF else 0x8000
        return self._last_id


def _unreachable(what: str) -> BrokerUnreachable:
    return BrokerUnreachable(f"the broker cannot be used: {what}", where=_NAME, remedy="start it")
