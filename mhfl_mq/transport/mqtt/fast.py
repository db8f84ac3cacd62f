"""paho's client with its copies and its byte-wise reads taken out, and a test of whether that still fits paho.

What is overridden is private to paho (2.1 and 2.2 have it), so `fast_client_fits` tries the class on a pair of
connected sockets before it is used; where it does not fit, stock paho does the work, slower. What changes:

- a packet is read with `recv_into` into one buffer that is its payload (paho: one byte, one byte, then pieces
  that are copied together, and three more copies to decode);
- a payload is written from where it lies (paho copies the whole rest at every partial write), and all that waits is
  written at once (paho: a call, and a TCP segment, for every packet);
- any byte that arrives is a sign of life (paho closes a connection whose ping reply stands behind slow data);
- a packet larger than `MAX_INBOUND` is read past and acknowledged, not kept.
"""

import functools
import itertools
import logging
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.exception import MalformedPacket

__all__ = ["MAX_INBOUND", "FastClient", "fast_client_fits"]

log = logging.getLogger(__name__)

MAX_INBOUND = 16 * 2**20  # bytes: far above a chunk and a frame; what is larger is not ours
_BUFFER = 16 * 1024  # small packets are read many at once; of a larger one at most this much is copied
_JOIN = 8 * 1024  # up to this a copy is cheaper than a second write
_ROOM = 1 << 20  # bytes handed over and not yet taken by the socket, up to which QoS 0 may follow
_SHARE = 1 << 20  # bytes read before what was read is used: chunks are still in the processor's cache then
_AT_ONCE = 64  # pieces that one system call writes: a window of chunks with their heads, and acknowledgements
_HEAD = 2 + 0xFFFF + 2 + 4  # the longest topic with its length, packet id, property length
_PUBLISH, _PUBACK, _PINGREQ = 0x30, 0x40, 0xC0

Publish = Callable[[str, bytes | memoryview, int, bool, int], None]
Puback = Callable[[int, int], None]


class FastClient(paho.Client):
    """A paho client that gets its socket ready-made and hands PUBLISH and PUBACK straight to us."""

    def __init__(self, client_id: str, protocol: MQTTProtocolVersion, clean: bool, stream: Any) -> None:
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=None if protocol == MQTTProtocolVersion.MQTTv5 else clean,
            protocol=protocol,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        self._stream = stream
        self._buffer = bytearray(_BUFFER)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0  # unparsed bytes in the buffer
        self._big: _BigPacket | None = None
        self._read_bytes = 0
        self._last_mid = 0x7FFF
        self.fault: OSError | None = None  # why reading ended
        self.more = False  # whether packets were left when `loop_read` had read its share
        self.on_fast_publish: Publish = _nothing
        self.on_fast_puback: Puback = _nothing

    # ---- writing ------------------------------------------------------------------------------------------

    @property
    def has_room(self) -> bool:
        """Whether little enough waits to be written."""
        return sum(packet["to_process"] for packet in self._out_packet) < _ROOM

    def send_publish(
        self,
        packet_id: int,
        topic: str,
        payload: bytes | memoryview,
        qos: int,
        retain: bool,
        again: bool,
        expiry_s: int | None,
    ) -> None:
        """Queue a PUBLISH; the payload is not copied when it is large."""
        name = topic.encode()
        body = len(name).to_bytes(2, "big") + name
        if qos:
            body += packet_id.to_bytes(2, "big")
        if self._protocol == MQTTProtocolVersion.MQTTv5:
            body += b"\x00" if expiry_s is None else b"\x05\x02" + struct.pack("!I", expiry_s)
        packet = bytearray((_PUBLISH | again << 3 | qos << 1 | retain,))
        self._pack_remaining_length(packet, len(body) + len(payload))
        packet += body
        # paho counts a QoS 0 packet as published when it is written and wants an `info` for that: say QoS 1.
        if len(payload) <= _JOIN:
            packet += payload
            self._packet_queue(_PUBLISH, packet, packet_id, 1)
        else:
            self._packet_queue(_PUBLISH, packet, packet_id, 1)
            self._packet_queue(_PUBLISH, memoryview(payload), packet_id, 1)  # type: ignore[arg-type]

    def say_goodbye(self) -> None:
        """Queue a DISCONNECT and leave the socket open, so that the broker closes it.

        paho closes at once: with unread bytes in the socket that is a reset, and the broker may send our will.
        """
        self._packet_queue(_PINGREQ, b"\xe0\x00", 0, 0)

    def _packet_write(self) -> MQTTErrorCode:
        sock, queue = self._sock, self._out_packet
        if type(sock) is not socket.socket:  # TLS and websockets take one buffer at a time
            return super()._packet_write()
        while queue:
            waiting = itertools.islice(queue, _AT_ONCE)
            try:
                sent = sock.sendmsg([memoryview(packet["packet"])[packet["pos"] :] for packet in waiting])
            except BlockingIOError:
                return MQTTErrorCode.MQTT_ERR_AGAIN
            except OSError as fault:
                self.fault = fault
                return MQTTErrorCode.MQTT_ERR_CONN_LOST
            while sent:
                packet = queue[0]
                taken = min(sent, packet["to_process"])
                packet["pos"] += taken
                packet["to_process"] -= taken
                sent -= taken
                if not packet["to_process"]:
                    queue.popleft()
        self._last_msg_out = paho.time_func()
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _create_socket(self) -> Any:
        return self._stream

    def _mid_generate(self) -> int:
        """Ids of SUBSCRIBE and UNSUBSCRIBE: the upper half; our PUBLISH packets have the lower."""
        self._last_mid = self._last_mid + 1 if 0x8000 <= self._last_mid < 0xFFFF else 0x8000
        return self._last_mid

    # ---- staying alive ------------------------------------------------------------------------------------

    def loop_misc(self) -> MQTTErrorCode:
        """Ping when it is time; the broker is gone only when nothing at all came since the ping."""
        if self._ping_t > 0 and self._last_bytes_received > self._ping_t:
            self._ping_t = 0.0
        return super().loop_misc()

    def excuse_silence(self) -> None:
        """We did not read, so hearing nothing says nothing about the broker; pings still go out."""
        self._ping_t = 0.0
        self._last_bytes_received = paho.time_func()

    # ---- reading ------------------------------------------------------------------------------------------

    def loop_read(self, max_packets: int = 32) -> MQTTErrorCode:
        """Read and handle at most so many packets, or `_SHARE` bytes; `more` says whether to come again at once."""
        self.more = False
        enough = self._read_bytes + _SHARE
        for _ in range(max_packets):
            if self._sock is None:
                return MQTTErrorCode.MQTT_ERR_NO_CONN
            rc = self._packet_read()
            if rc == MQTTErrorCode.MQTT_ERR_AGAIN:
                return MQTTErrorCode.MQTT_ERR_SUCCESS
            if rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
                return self._loop_rc_handle(rc)
            if self._read_bytes >= enough:
                break
        self.more = self._sock is not None
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _packet_read(self) -> MQTTErrorCode:
        try:
            packet = self._next_packet()
        except (BlockingIOError, ssl.SSLWantReadError):
            return MQTTErrorCode.MQTT_ERR_AGAIN
        except ssl.SSLWantWriteError:
            self._call_socket_register_write()
            return MQTTErrorCode.MQTT_ERR_AGAIN
        except OSError as fault:
            self.fault = fault
            return MQTTErrorCode.MQTT_ERR_CONN_LOST
        except MalformedPacket:
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        return self._handle(*packet)

    def _handle(self, command: int, body: bytes | memoryview, length: int) -> MQTTErrorCode:
        kind = command & 0xF0
        try:
            if kind == _PUBLISH:
                return self._take_publish(command, body, length)
            if kind == _PUBACK:
                if len(body) < 2:
                    return MQTTErrorCode.MQTT_ERR_PROTOCOL
                reason = body[2] if len(body) > 2 else 0
                self.on_fast_puback(int.from_bytes(body[:2], "big"), reason)
                return MQTTErrorCode.MQTT_ERR_SUCCESS
            self._in_packet["command"] = command
            self._in_packet["remaining_length"] = length
            self._in_packet["packet"] = bytearray(body)
            return self._packet_handle()
        except (MalformedPacket, IndexError, UnicodeDecodeError):
            return MQTTErrorCode.MQTT_ERR_PROTOCOL

    def _take_publish(self, command: int, body: bytes | memoryview, length: int) -> MQTTErrorCode:
        """Decode in place (MQTT 5, section 3.3); properties are skipped, we use none."""
        qos = command >> 1 & 3
        if qos > 1:
            return MQTTErrorCode.MQTT_ERR_PROTOCOL  # never granted
        at = 2 + int.from_bytes(body[:2], "big")
        topic = str(body[2:at], "utf-8")
        packet_id = 0
        if qos:
            packet_id = int.from_bytes(body[at : at + 2], "big")
            at += 2
        if self._protocol == MQTTProtocolVersion.MQTTv5:
            size, count = _varint(body, at)
            at += count + size
        if at > len(body) and length <= MAX_INBOUND:
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        if length > MAX_INBOUND:
            log.warning("a message of %d bytes on %s was thrown away: larger than %d", length, topic, MAX_INBOUND)
            if qos:
                self.ack(packet_id, 1)
            return MQTTErrorCode.MQTT_ERR_SUCCESS
        self.on_fast_publish(topic, body[at:], qos, bool(command & 1), packet_id)
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _next_packet(self) -> tuple[int, bytes | memoryview, int]:
        """(first byte, body, the body's length); raises `BlockingIOError` until a whole packet is here."""
        while self._big is None:
            head = self._packet_head()
            if head is not None:
                start, length = head
                command = self._buffer[self._start]
                if start + length <= self._end:
                    body = bytes(self._view[start : start + length])
                    self._start = start + length
                    return command, body, length
                if start - self._start + length > _BUFFER:
                    self._big = _BigPacket(command, length, self._view[start : self._end])
                    self._start = self._end = 0
                    continue
            self._fill()
        big = self._big
        while big.missing:
            count = self._sock.recv_into(big.space())  # type: ignore[union-attr]
            self._note_bytes(count)
            big.took(count)
        self._big = None
        return big.command, big.body(), big.length

    def _packet_head(self) -> tuple[int, int] | None:
        """(where the body starts, its length) of the packet at the buffer's front; None: not all here."""
        at = self._start + 1
        length, shift = 0, 0
        while at < self._end:
            byte = self._buffer[at]
            at += 1
            length |= (byte & 0x7F) << shift
            if not byte & 0x80:
                return at, length
            shift += 7
            if shift > 21:
                raise MalformedPacket("the length has more than four bytes")
        return None

    def _fill(self) -> None:
        if self._start:
            rest = self._end - self._start
            self._view[:rest] = bytes(self._view[self._start : self._end])
            self._start, self._end = 0, rest
        count = self._sock.recv_into(self._view[self._end :])  # type: ignore[union-attr]
        self._note_bytes(count)
        self._end += count

    def _note_bytes(self, count: int) -> None:
        if count == 0:
            raise ConnectionResetError("the broker closed the connection")
        self._read_bytes += count
        self._last_bytes_received = paho.time_func()


class _BigPacket:
    """A packet that does not fit into the buffer; of an oversized one only the front is kept."""

    def __init__(self, command: int, length: int, front: memoryview) -> None:
        self.command = command
        self.length = length
        self._kept = bytearray(length if length <= MAX_INBOUND else _HEAD)
        self._scrap = memoryview(bytearray(0 if length <= MAX_INBOUND else _BUFFER))
        self._got = len(front)
        self._view = memoryview(self._kept)
        self._view[: self._got] = front

    @property
    def missing(self) -> int:
        return self.length - self._got

    def space(self) -> memoryview:
        """Where the next bytes belong."""
        if self._got < len(self._kept):
            return self._view[self._got :]
        return self._scrap[: self.missing]

    def took(self, count: int) -> None:
        self._got += count

    def body(self) -> memoryview:
        return self._view.toreadonly()


def _varint(body: bytes | memoryview, at: int) -> tuple[int, int]:
    value = 0
    for count in range(4):
        byte = body[at + count]
        value |= (byte & 0x7F) << (7 * count)
        if not byte & 0x80:
            return value, count + 1
    raise MalformedPacket("a property length has more than four bytes")


def _nothing(*_: object) -> None:
    pass


@functools.cache
def fast_client_fits() -> bool:
    """Whether the paho that is installed still has the inside that `FastClient` needs: tried, not guessed."""
    try:
        return _rehearse()
    except Exception:
        log.info("this paho-mqtt does not fit the fast client; the stock client is used", exc_info=True)
        return False


def _rehearse() -> bool:
    """CONNECT, CONNACK, a small and a large PUBLISH each way, PUBACK, over a pair of sockets."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        client = FastClient("probe", MQTTProtocolVersion.MQTTv311, True, ours)
        heard: list[object] = []
        client.on_connect = lambda *_: heard.append("connected")
        client.on_fast_publish = lambda topic, payload, *rest: heard.append((topic, bytes(payload), *rest))
        client.on_fast_puback = lambda packet_id, reason: heard.append((packet_id, reason))
        client.on_socket_register_write = _nothing
        client.connect_async("probe", 1)
        client.reconnect()
        client.loop_write()
        large = bytes(2 * _BUFFER)
        theirs.sendall(b"\x20\x02\x00\x00" + b"\x40\x02\x00\x07")
        theirs.sendall(b"\x32\x06\x00\x01a\x00\x05x")
        theirs.sendall(b"\x30\x83\x80\x02\x00\x01b" + large)
        client.loop_read()
        client.ack(5, 1)
        client.send_publish(7, "c", large, 1, True, True, None)
        client.loop_write()
        client.loop_misc()
        client.excuse_silence()
        sent = theirs.recv(1 << 20)
    expected = ["connected", (7, 0), ("a", b"x", 1, False, 5), ("b", large, 0, False, 0)]
    tail = b"\x40\x02\x00\x05" + b"\x3b\x85\x80\x02\x00\x01c\x00\x07" + large
    return heard == expected and sent[:1] == b"\x10" and sent.endswith(tail) and client.has_room
