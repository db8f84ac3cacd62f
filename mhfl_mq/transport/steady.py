"""The promises of `Transport`, kept over links that break: reconnect, resend, resubscribe, bounded both ways.

Everything runs on one event loop and nothing here takes a lock. Luck (for the reconnect's jitter) comes in;
time is the loop's.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from mhfl_mq.errors import (
    BrokerRefused,
    BrokerUnreachable,
    LocalMisuse,
    MhflError,
    PacketTooLarge,
    TransportError,
)
from mhfl_mq.transport.absence import Absence
from mhfl_mq.transport.backoff import Backoff
from mhfl_mq.transport.base import Inbound, Limits, Session
from mhfl_mq.transport.inbox import Feed, Inbox
from mhfl_mq.transport.link import Link, LinkEvents, Message, packet_size
from mhfl_mq.transport.outbox import Outbox, Outgoing

__all__ = ["WINDOW", "SteadyTransport"]

log = logging.getLogger(__name__)

WINDOW = 16  # QoS 1 packets in flight, either way: 4 MiB of chunks fill 100 Mbit/s at 100 ms (notes on windows)
_FILTERS_AT_ONCE = 8  # AWS IoT takes no more in one SUBSCRIBE
_STEADY_S = 10.0  # a connection that held so long was a good one: the next failure is a first failure
_SHORT_LIVES = 5  # in a row: worth a warning
_REFUSALS = 3  # a broker that reloads its passwords may refuse once or twice
_GRANT_S = 20.0  # a broker that does not answer a SUBSCRIBE in this time will not
# No broker that we know takes less than 64 KiB, so only larger packets are suspected of breaking connections.
_SUSPECT_BYTES = 60 * 1024
_SUSPECT_CONNECTIONS = 5

_ID_BITS = 16


class _LinkLost(Exception):
    """The connection went while its answer was awaited: ask again on the next one."""


class SteadyTransport(LinkEvents):
    """`Transport` over links that `make_link` makes, one for each connection."""

    def __init__(
        self,
        make_link: Callable[[LinkEvents], Link],
        *,
        address: str,
        backoff: Backoff | None = None,
    ) -> None:
        self._make_link = make_link
        self._address = address
        self._backoff = backoff or Backoff(random.SystemRandom().random)
        self._session = Session("")
        self._link: Link | None = None  # the present connection; None: there is none
        self._opening: Link | None = None
        self._limits = Limits(protocol=0, max_packet=0, receive_max=0, session_present=False)
        self._absence = Absence(address)
        self._epoch = 0  # counts connections: the upper bits of a token
        self._opened_at = 0.0
        self._short_lives = 0  # connections in a row that did not hold
        self._ready = False  # subscriptions are in place on the present connection
        self._in_place = False  # the broker's session has our subscriptions
        self._answered = False  # the broker acknowledged something on it
        self._filters: dict[str, int] = {}
        self._grants: dict[int, asyncio.Future[Sequence[bool]]] = {}
        self._unacknowledged: set[int] = set()
        self._outbox = Outbox()
        self._inbox = Inbox(self._steer_reading)
        self._feeds: list[Feed[Limits | None]] = []
        self._waiters: list[asyncio.Future[None]] = []  # of those who need a connection
        self._down: asyncio.Event | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._over: TransportError | None = None  # set once: nothing works any more

    # ---- Transport ----------------------------------------------------------------------------------------

    @property
    def limits(self) -> Limits:
        """Of the present (or the last) connection."""
        return self._limits

    @property
    def connected(self) -> bool:
        """Whether messages can flow now."""
        return self._ready

    async def connect(self, session: Session) -> None:
        """Connect for the first time; raises `BrokerUnreachable` or `BrokerRefused`, with what to do."""
        if self._keeper is not None or self._over is not None:
            raise LocalMisuse("this transport was connected before", where="connect", remedy="make a new one")
        self._session = session
        self._down = asyncio.Event()
        await self._establish(clean=session.clean)
        self._keeper = asyncio.get_running_loop().create_task(self._keep(self._down))

    async def subscribe(self, filters: Sequence[tuple[str, int]]) -> None:
        """Subscribe to (filter, QoS) pairs; returns when the broker has granted them."""
        self._filters.update(filters)
        try:
            await self._until_answered(lambda link: self._request(link, list(filters), known=False))
        except (BrokerRefused, asyncio.CancelledError):
            for name, _ in filters:
                self._filters.pop(name, None)
            raise

    async def unsubscribe(self, filters: Sequence[str]) -> None:
        """Returns when the broker has taken the filters away."""
        for name in filters:
            self._filters.pop(name, None)
        await self._until_answered(lambda link: self._answer(link.unsubscribe(list(filters))))

    async def publish(
        self,
        topic: str,
        payload: bytes | memoryview,
        *,
        qos: int = 1,
        retain: bool = False,
        expiry_s: int | None = None,
    ) -> None:
        """See `Transport.publish`."""
        self._check_alive()
        if qos not in (0, 1):
            raise LocalMisuse(f"QoS {qos} is not used here", where=topic, remedy="use 0 or 1")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._outbox.add(Outgoing(Message(topic, payload, qos, retain, expiry_s), done))
        self._pump()
        try:
            await done
        finally:
            self._steer_reading()

    def inbox(self) -> AsyncIterator[Inbound]:
        """Messages in the broker's order; bounded: what is not taken out stays with the broker."""
        return self._inbox

    def ack(self, token: int) -> None:
        """Tell the broker that this message is durable on our side."""
        epoch, packet_id = token >> _ID_BITS, token & 0xFFFF
        if self._link is not None and epoch == self._epoch and packet_id in self._unacknowledged:
            self._unacknowledged.remove(packet_id)
            self._link.ack(packet_id)

    def connections(self) -> AsyncIterator[Limits | None]:
        """The present connection, every loss (None) and every reconnection; ends and raises as `inbox` does."""
        feed: Feed[Limits | None] = Feed()
        if self._ready:
            feed.put(self._limits)
        if self._over is not None:
            feed.end(self._over)
        self._feeds.append(feed)
        return feed

    async def close(self) -> None:
        """Disconnect cleanly: the broker does not send the will."""
        link, opening = self._link, self._opening
        self._finish(None)
        if opening is not None:
            opening.abort()
        if link is not None:
            await link.close()
        if self._keeper is not None:
            await asyncio.gather(self._keeper, return_exceptions=True)

    def kill(self) -> None:
        """End as `kill -9` of this process would: no goodbye, no return."""
        link = self._link or self._opening
        self._finish(None)
        if link is not None:
            link.abort()

    def cut(self) -> None:
        """Break the connection as a network fault would; the transport then reconnects."""
        if self._link is not None:
            self._link.abort()
            self.lost("cut", None)

    # ---- LinkEvents ---------------------------------------------------------------------------------------

    def opened(self, limits: Limits) -> None:
        self._epoch += 1
        self._limits = limits
        self._answered = False
        self._unacknowledged.clear()
        self._opened_at = asyncio.get_running_loop().time()
        if limits.session_present:
            self._inbox.forget_unacknowledged()
        self._link, self._opening = self._opening, None

    def received(self, topic: str, payload: bytes | memoryview, qos: int, retained: bool, packet_id: int) -> None:
        token = 0
        if qos:
            self._unacknowledged.add(packet_id)
            token = self._epoch << _ID_BITS | packet_id
        self._inbox.put(Inbound(topic, payload, qos, retained, token))

    def acknowledged(self, packet_id: int, problem: TransportError | None) -> None:
        outgoing = self._outbox.land(packet_id)
        if outgoing is not None:
            self._answered = True
            if not outgoing.done.done():
                if problem is None:
                    outgoing.done.set_result(None)
                else:
                    outgoing.done.set_exception(problem)
        self._pump()

    def granted(self, packet_id: int, refused: Sequence[bool]) -> None:
        grant = self._grants.pop(packet_id, None)
        if grant is not None and not grant.done():
            grant.set_result(refused)

    def room(self) -> None:
        self._pump()

    def lost(self, why: str, fatal: TransportError | None) -> None:
        log.info("%s: connection to %s lost: %s", self._session.client_id, self._address, why)
        self._link = self._opening = None
        if self._ready:
            self._absence.begins(self._session.client_id, why)
            for feed in self._feeds:
                feed.put(None)
        self._ready = False
        for grant in self._grants.values():
            if not grant.done():
                grant.set_exception(_LinkLost())
        self._grants.clear()
        self._suspect_oversize(self._outbox.ground())
        if asyncio.get_running_loop().time() - self._opened_at >= _STEADY_S:
            self._backoff.reset()
            self._short_lives = 0
        else:
            self._short_lives += 1
            if self._short_lives % _SHORT_LIVES == 0:
                log.warning(
                    "%s: %d connections to %s in a row broke within %.0f s: does another client use this id?",
                    self._session.client_id,
                    self._short_lives,
                    self._address,
                    _STEADY_S,
                )
        if fatal is not None:
            self._finish(fatal)
        elif self._down is not None:
            self._down.set()

    # ---- connecting ---------------------------------------------------------------------------------------

    async def _establish(self, *, clean: bool) -> None:
        """One attempt, to the point where messages can flow."""
        link = self._opening = self._make_link(self)
        try:
            # 3.1.1 would send every retained message again, so there we trust the session that is present. But it
            # can be empty: begun by an attempt that broke before we heard of it, or before its SUBSCRIBE was granted.
            before, self._in_place = self._in_place, False
            await link.open(self._session, clean=clean)
            self._in_place = before and self._limits.session_present
            if not self._in_place or self._limits.protocol == 5:
                async with asyncio.timeout(_GRANT_S):
                    await self._request(link, list(self._filters.items()), known=self._in_place)
                self._in_place = True
        except BaseException as error:
            link.abort()
            self._opening = self._link = None
            if isinstance(error, TimeoutError | _LinkLost):
                raise BrokerUnreachable(
                    "the broker let us in but did not restore the subscriptions",
                    where=self._address,
                    remedy="see the broker's log",
                ) from error
            raise
        if self._link is not link:  # it went away again while we looked elsewhere
            raise BrokerUnreachable("the connection was lost at once", where=self._address)
        self._ready = True
        self._absence.ends(self._session.client_id)
        log.info("%s: connected to %s: %s", self._session.client_id, self._address, self._limits)
        for feed in self._feeds:
            feed.put(self._limits)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()
        self._pump()

    async def _keep(self, down: asyncio.Event) -> None:
        """Come back whenever the connection is lost, until closed or refused for good."""
        refusals = 0
        while self._over is None:
            await down.wait()
            down.clear()
            while not self._ready and self._over is None:
                await asyncio.sleep(self._backoff.next_s())
                try:
                    await self._establish(clean=False)
                    refusals = 0
                except BrokerRefused as error:
                    refusals += 1
                    if refusals >= _REFUSALS:
                        self._finish(error)
                except TransportError as error:
                    log.debug("%s: %s", self._session.client_id, error)
                except MhflError as error:  # e.g. the CA file went away: nothing that waiting mends
                    self._finish(TransportError(str(error), where=self._address))

    def _finish(self, error: TransportError | None) -> None:
        """Nothing works from here on; everybody who waits is told why."""
        if self._over is not None:
            return
        self._over = error or TransportError("the transport was closed", where=self._address)
        self._absence.over()
        self._link = self._opening = None
        self._ready = False
        if self._keeper is not None and self._keeper is not asyncio.current_task():
            self._keeper.cancel()
        for grant in self._grants.values():
            if not grant.done():
                grant.set_exception(self._over)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(self._over)
        self._grants.clear()
        self._waiters.clear()
        self._outbox.fail(self._over)
        self._inbox.end(error)
        for feed in self._feeds:
            feed.end(error)

    def _check_alive(self) -> None:
        if self._over is not None:
            raise self._over
        if self._down is None:
            raise LocalMisuse("not connected yet", where="transport", remedy="await connect() first")

    # ---- subscribing --------------------------------------------------------------------------------------

    async def _until_answered(self, ask: Callable[[Link], Awaitable[object]]) -> None:
        """Ask on the present connection, and on the next one when this one breaks."""
        while True:
            self._check_alive()
            if not self._ready or self._link is None:
                waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._waiters.append(waiter)
                await waiter
                continue
            try:
                await ask(self._link)
            except _LinkLost:
                continue
            return

    async def _request(self, link: Link, filters: Sequence[tuple[str, int]], *, known: bool) -> None:
        """Subscribe, a few at a time; raises `BrokerRefused` with the filters that were not granted."""
        refused: list[str] = []
        for start in range(0, len(filters), _FILTERS_AT_ONCE):
            batch = filters[start : start + _FILTERS_AT_ONCE]
            answers = await self._answer(link.subscribe(batch, known=known))
            refused += [name for (name, _), no in zip(batch, answers, strict=False) if no]
        if refused:
            raise BrokerRefused(
                f"the broker does not let {self._session.client_id} subscribe to {', '.join(refused)}",
                where=self._address,
                remedy="see the broker's access list: a device reads its own `in` branch under its own id",
            )

    async def _answer(self, packet_id: int) -> Sequence[bool]:
        grant: asyncio.Future[Sequence[bool]] = asyncio.get_running_loop().create_future()
        self._grants[packet_id] = grant
        self._steer_reading()
        try:
            return await grant
        finally:
            self._grants.pop(packet_id, None)
            self._steer_reading()

    # ---- sending ------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Send what may go: QoS 1 inside the window, QoS 0 while the link takes it."""
        window = min(self._limits.receive_max, WINDOW)
        while self._ready and (link := self._link) and (head := self._outbox.head()):
            size = packet_size(head.message, self._limits.protocol)
            if size > self._limits.max_packet:
                self._outbox.drop().done.set_exception(self._too_large(head.message, size))
                continue
            if self._outbox.flying >= window if head.message.qos else not link.has_room:
                break
            outgoing = self._outbox.fly()
            link.publish(outgoing.packet_id, outgoing.message, again=outgoing.sent > 1)
            if not outgoing.message.qos:
                outgoing.done.set_result(None)
        self._steer_reading()

    def _too_large(self, message: Message, size: int) -> PacketTooLarge:
        return PacketTooLarge(
            f"a packet of {size} bytes for {message.topic} is larger than the broker takes "
            f"({self._limits.max_packet} bytes)",
            where=self._address,
            remedy="raise the broker's packet limit, or use smaller chunks",
        )

    def _suspect_oversize(self, grounded: list[Outgoing]) -> None:
        """A broker that breaks the connection over a packet would break every later one: give that packet up."""
        if self._answered or not grounded:
            return
        largest = max(grounded, key=lambda outgoing: len(outgoing.message.payload))
        size = packet_size(largest.message, self._limits.protocol)
        if size > _SUSPECT_BYTES and largest.sent >= _SUSPECT_CONNECTIONS and not largest.done.done():
            largest.done.set_exception(
                PacketTooLarge(
                    f"{largest.sent} connections broke while a packet of {size} bytes for "
                    f"{largest.message.topic} was sent: the broker seems not to take it",
                    where=self._address,
                    remedy="write `chunk_bytes: small-packets` in the policy, say the broker's limit in its URL "
                    "(?max_packet=BYTES), or raise it at the broker",
                )
            )

    # ---- receiving ----------------------------------------------------------------------------------------

    def _steer_reading(self) -> None:
        """Stop reading while the inbox is full, unless somebody waits for an answer that stands behind it."""
        if self._link is not None:
            self._link.read(not self._inbox.full or self._outbox.flying > 0 or bool(self._grants))
