"""One MQTT connection through paho, driven by the event loop's readers and writers: no thread, no task."""

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from mhfl_mq.errors import BrokerRefused, LocalMisuse, TransportError
from mhfl_mq.transport.address import BrokerAddress
from mhfl_mq.transport.base import Limits, Session
from mhfl_mq.transport.dial import dial, tls_refusal
from mhfl_mq.transport.link import LinkEvents, Message
from mhfl_mq.transport.mqtt.answers import (
    OtherProtocol,
    closed_early,
    connect_refusal,
    publish_problem,
    unusable,
)
from mhfl_mq.transport.mqtt.fast import MAX_INBOUND, FastClient
from mhfl_mq.transport.mqtt.stock import StockClient
from mhfl_mq.transport.steady import WINDOW

__all__ = ["PahoLink", "SpokenProtocol"]

_CONNACK_S = 15.0  # a broker under a reconnect storm of 10,000 devices answers within 12 s
_GOODBYE_S = 2.0
_TICK_S = 5.0  # how often the keep-alive is looked at; late by this much is within the broker's 1.5 x
# What we assume of a broker that cannot tell (MQTT 3.1.1): NATS and EMQX take 1 MiB by default, AWS IoT less.
_UNTOLD_MAX_PACKET = 1_000_000
_NO_LIMIT = 268_435_460
_TAKEN_OVER = "Session taken over"

Client = FastClient | StockClient


@dataclass(slots=True)
class SpokenProtocol:
    """Which MQTT version the broker turned out to speak; remembered over connections. 0: not known yet."""

    asked: int
    known: int = 0

    def candidates(self) -> list[int]:
        """Versions to try, in order."""
        if self.asked:
            return [self.asked]
        return [self.known, 9 - self.known] if self.known else [5, 4]


class PahoLink:
    """`Link` over paho. `fast` chooses between `FastClient` and `StockClient`."""

    def __init__(self, address: BrokerAddress, events: LinkEvents, spoken: SpokenProtocol, *, fast: bool) -> None:
        self._address = address
        self._events = events
        self._spoken = spoken
        self._fast = fast
        self._client: Client | None = None
        self._loop = asyncio.get_running_loop()
        self._sock: Any = None
        self._reading = False  # whether the loop watches the socket for bytes
        self._wanted = True  # whether it should
        self._writing = False
        self._flush_due = False
        self._inside = False  # in paho's callbacks, where writing would wait for paho's own lock for ever
        self._crowded = False
        self._silent = True  # nothing is told before CONNACK and after the end
        self._connack: asyncio.Future[Limits] | None = None
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._ticker: asyncio.TimerHandle | None = None
        self._tick_s = _TICK_S

    # ---- Link ---------------------------------------------------------------------------------------------

    @property
    def has_room(self) -> bool:
        self._crowded = self._client is None or not self._client.has_room
        return not self._crowded

    async def open(self, session: Session, *, clean: bool) -> Limits:
        """Connect, with MQTT 5 if the broker speaks it, else with 3.1.1."""
        problem: TransportError | None = None
        for protocol in self._spoken.candidates():
            try:
                if clean and session.expiry_s:
                    # MQTT 3.1.1 cannot forget and then remember in one connection, and mosquitto 2.0.11 does
                    # not write a session to disk that began with MQTT 5's clean start.
                    wipe = Session(session.client_id, expiry_s=0)
                    await self._attempt(wipe, protocol, clean=True, announce=False)
                    await self.close()
                    self._gone = self._loop.create_future()
                    clean = False
                forget = clean or (protocol == 4 and not session.expiry_s)
                limits = await self._attempt(session, protocol, clean=forget, announce=True)
            except OtherProtocol as other:
                problem = other.error
                self._drop()
                self._gone = self._loop.create_future()
            else:
                self._spoken.known = protocol
                return limits
        assert problem is not None
        raise problem

    def publish(self, packet_id: int, message: Message, *, again: bool) -> None:
        client = self._speaking()
        client.send_publish(
            packet_id, message.topic, message.payload, message.qos, message.retain, again, message.expiry_s
        )
        self._flush_soon()

    def subscribe(self, filters: Sequence[tuple[str, int]], *, known: bool) -> int:
        client = self._speaking()
        if client.protocol == MQTTProtocolVersion.MQTTv5:
            handling = SubscribeOptions.RETAIN_SEND_IF_NEW_SUB if known else SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE
            _, packet_id = client.subscribe(
                [(name, SubscribeOptions(qos=qos, retainHandling=handling)) for name, qos in filters]
            )
        else:
            _, packet_id = client.subscribe(list(filters))
        self._flush()
        return packet_id or 0

    def unsubscribe(self, filters: Sequence[str]) -> int:
        _, packet_id = self._speaking().unsubscribe(list(filters))
        self._flush()
        return packet_id or 0

    def ack(self, packet_id: int) -> None:
        self._speaking().ack(packet_id, 1)
        self._flush_soon()

    def read(self, on: bool) -> None:
        if on != self._wanted:
            self._wanted = on
            self._watch()
            if on:  # packets may lie in the client's buffer, of which the socket knows nothing
                self._loop.call_soon(self._readable)

    async def close(self) -> None:
        client, self._silent = self._client, True
        if client is not None and not self._gone.done():
            client.say_goodbye()
            self._wanted = True
            self._watch()
            self._flush()
            await asyncio.wait([self._gone], timeout=_GOODBYE_S)
        self._drop()

    def abort(self) -> None:
        self._silent = True
        self._drop()

    # ---- connecting ---------------------------------------------------------------------------------------

    async def _attempt(self, session: Session, protocol: int, *, clean: bool, announce: bool) -> Limits:
        self._connack = self._loop.create_future()
        self._announce = announce
        version = MQTTProtocolVersion(protocol)
        if self._fast:
            stream = await dial(self._address)
            client: Client = FastClient(session.client_id, version, clean, stream)
        else:
            client = StockClient(session.client_id, version, clean, self._address)
        self._client = client
        self._prepare(client, session, clean)
        self._tick_s = min(_TICK_S, max(0.25, session.keepalive_s / 4))
        try:
            if isinstance(client, FastClient):
                client.reconnect()
            else:
                await self._dial_stock(client)
            self._sock = client.socket()
            self._watch()
            self._flush()
            self._tick()
            async with asyncio.timeout(_CONNACK_S):
                return await self._connack
        except TimeoutError as error:
            raise unusable(self._address, "no CONNACK from it") from error
        except BaseException:
            self._drop()
            raise

    async def _dial_stock(self, client: StockClient) -> None:
        try:
            await self._loop.run_in_executor(None, client.dial)
        except ssl.SSLError as error:
            raise tls_refusal(self._address, error) from error
        except OSError as error:
            raise unusable(self._address, error.strerror or str(error)) from error

    def _prepare(self, client: Client, session: Session, clean: bool) -> None:
        address = self._address
        if address.username:
            client.username_pw_set(address.username, address.password)
        if session.will is not None:
            client.will_set(session.will.topic, session.will.payload, qos=1, retain=True)
        if client.protocol == MQTTProtocolVersion.MQTTv5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = session.expiry_s
            properties.ReceiveMaximum = WINDOW
            properties.MaximumPacketSize = MAX_INBOUND
            client.connect_async(
                address.host, address.port, session.keepalive_s, clean_start=clean, properties=properties
            )
        else:
            client.connect_async(address.host, address.port, session.keepalive_s)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_unsubscribe = self._on_unsubscribe
        client.on_socket_close = self._on_socket_close
        # Its presence tells paho not to write by itself; `_flush` writes.
        client.on_socket_register_write = lambda *_: None
        client.on_fast_publish = self._on_publish
        client.on_fast_puback = self._on_puback

    def _on_connect(self, client: paho.Client, _: Any, flags: Any, reason: ReasonCode, properties: Any) -> None:
        if self._connack is None or self._connack.done():
            return
        if reason.is_failure:
            self._connack.set_exception(connect_refusal(self._address, reason.getName()))
            return
        told = client.protocol == MQTTProtocolVersion.MQTTv5
        said = getattr(properties, "MaximumPacketSize", _NO_LIMIT if told else _UNTOLD_MAX_PACKET)
        limits = Limits(
            protocol=5 if told else 4,
            max_packet=self._bounded(said, told),
            receive_max=min(getattr(properties, "ReceiveMaximum", WINDOW), WINDOW),
            session_present=bool(flags.session_present),
        )
        if self._announce:
            self._silent = False
            self._events.opened(limits)
        self._connack.set_result(limits)

    def _bounded(self, said: int, told: bool) -> int:
        asked = self._address.max_packet
        if not asked:
            return said
        return min(asked, said) if told else asked

    # ---- paho's callbacks ---------------------------------------------------------------------------------

    def _on_disconnect(self, client: paho.Client, _: Any, flags: Any, reason: ReasonCode, *__: Any) -> None:
        why = reason.getName()
        fault = client.fault if isinstance(client, FastClient) else None
        if fault is not None:
            why = fault.strerror or str(fault)
        if self._connack is not None and not self._connack.done():
            first = client.protocol == 5 and not self._spoken.known
            self._connack.set_exception(closed_early(self._address, fault, maybe_too_new=first))
        elif not self._silent:
            self._silent = True
            fatal = None
            if flags.is_disconnect_packet_from_server and reason.getName() == _TAKEN_OVER:
                fatal = BrokerRefused(
                    "another client connected with our client id",
                    where=str(self._address),
                    remedy="give each device and each aggregator an id of its own",
                )
            self._drop()
            self._events.lost(why, fatal)

    def _on_publish(self, topic: str, payload: bytes | memoryview, qos: int, retained: bool, packet_id: int) -> None:
        if not self._silent:
            self._events.received(topic, payload, qos, retained, packet_id)

    def _on_puback(self, packet_id: int, reason: int) -> None:
        if self._silent:
            return
        self._events.acknowledged(packet_id, publish_problem(self._address, reason))

    def _on_subscribe(self, _: Any, __: Any, packet_id: int, reasons: Sequence[ReasonCode], *___: Any) -> None:
        if not self._silent:
            self._events.granted(packet_id, [reason.is_failure for reason in reasons])

    def _on_unsubscribe(self, _: Any, __: Any, packet_id: int, *___: Any) -> None:
        if not self._silent:
            self._events.granted(packet_id, [])

    def _on_socket_close(self, *_: Any) -> None:
        self._unwatch()
        if not self._gone.done():
            self._gone.set_result(None)

    # ---- the event loop -----------------------------------------------------------------------------------

    def _speaking(self) -> Client:
        if self._client is None:
            raise LocalMisuse("this link is not open", where=str(self._address))
        return self._client

    def _readable(self) -> None:
        client = self._client
        if client is None or self._sock is None or not self._wanted:
            return
        self._inside = True
        try:
            client.loop_read()
        finally:
            self._inside = False
        if client.more and self._wanted:
            self._loop.call_soon(self._readable)
        self._flush()

    def _flush_soon(self) -> None:
        """Write when what runs now has run: what it says goes out in one system call, not in one each."""
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Write now what can be written; let the loop call again for the rest."""
        self._flush_due = False
        client = self._client
        if client is None or self._sock is None or self._inside:
            return
        if client.want_write():
            self._inside = True
            try:
                client.loop_write()
            finally:
                self._inside = False
        self._watch()
        if self._crowded and not self._silent and client.has_room:
            self._crowded = False
            self._events.room()

    def _watch(self) -> None:
        client, sock = self._client, self._sock
        if client is None or sock is None:
            return
        if self._wanted != self._reading:
            self._reading = self._wanted
            if self._wanted:
                self._loop.add_reader(sock, self._readable)
            else:
                self._loop.remove_reader(sock)
        if client.want_write() != self._writing:
            self._writing = not self._writing
            if self._writing:
                self._loop.add_writer(sock, self._flush)
            else:
                self._loop.remove_writer(sock)

    def _unwatch(self) -> None:
        sock, self._sock = self._sock, None
        if sock is not None and sock.fileno() >= 0:
            self._loop.remove_reader(sock)
            self._loop.remove_writer(sock)
        self._reading = self._writing = False
        if self._ticker is not None:
            self._ticker.cancel()

    def _tick(self) -> None:
        client = self._client
        if client is None or self._sock is None:
            return
        if not self._wanted:
            client.excuse_silence()
        self._inside = True
        try:
            client.loop_misc()
        finally:
            self._inside = False
        self._flush()
        if self._sock is not None:
            self._ticker = self._loop.call_later(self._tick_s, self._tick)

    def _drop(self) -> None:
        """Close the socket without a word and forget the client."""
        self._unwatch()
        client, self._client = self._client, None
        if client is not None:
            client.on_socket_close = None
            client.on_disconnect = None
            sock = client.socket()
            if sock is not None:
                sock.close()
        if not self._gone.done():
            self._gone.set_result(None)
