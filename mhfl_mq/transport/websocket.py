"""A websocket client (RFC 6455) as a byte stream with the face of a non-blocking socket, for MQTT over websockets.

Ours because paho's drops a packet when the socket takes only a part of a frame (eclipse-paho/paho.mqtt.python
issue 887) and masks byte by byte in Python.
"""

import base64
import hashlib
import secrets
import socket
import ssl
import struct
from collections import deque

__all__ = ["WebsocketStream", "accept_key", "frame", "handshake_request"]

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3
_BINARY, _CLOSE, _PING, _PONG = 0x2, 0x8, 0x9, 0xA
_READ_BYTES = 64 * 1024
_CONTROL_BYTES = 125  # a control frame's largest payload


def handshake_request(host: str, port: int, path: str, key: bytes) -> bytes:
    """The HTTP request that asks to go over to MQTT on a websocket; `key` is 16 random bytes in base64."""
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {host}:{port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key.decode()}",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Protocol: mqtt",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def accept_key(key: bytes) -> bytes:
    """What the server must answer to our key."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def frame(opcode: int, payload: bytes | bytearray | memoryview, *, mask: bytes = b"") -> bytearray:
    """One whole frame; a client masks with 4 random bytes, a server does not."""
    length = len(payload)
    bit = 0x80 if mask else 0
    head = bytearray((0x80 | opcode,))
    if length < 126:
        head.append(bit | length)
    elif length < 65_536:
        head.append(bit | 126)
        head += struct.pack("!H", length)
    else:
        head.append(bit | 127)
        head += struct.pack("!Q", length)
    head += mask
    head += _masked(payload, mask) if mask else payload
    return head


def _masked(payload: bytes | bytearray | memoryview, mask: bytes) -> bytes:
    length = len(payload)
    stream = (mask * (length // 4 + 1))[:length]
    # One XOR of two long integers is about 100 times faster than a loop over bytes.
    return (int.from_bytes(payload, "little") ^ int.from_bytes(stream, "little")).to_bytes(length, "little")


class WebsocketStream:
    """Bytes over binary frames. Raises `BlockingIOError` where a socket would."""

    def __init__(self, sock: socket.socket | ssl.SSLSocket, early: bytes = b"") -> None:
        self._socket = sock
        self._raw = bytearray(early)  # received and not yet parsed
        self._ready: deque[memoryview] = deque()  # parsed payload that nobody took
        self._left = 0  # bytes of the present data frame that are still to come
        self._unsent = memoryview(b"")
        self._accepted = 0  # payload bytes that the unsent frame stands for
        self._pong = memoryview(b"")  # what is left of a pong to send
        self._closed = False
        if early:
            self._parse()

    def recv(self, size: int) -> bytes:
        """At most `size` bytes; empty at the end of the stream."""
        buffer = bytearray(size)
        count = self.recv_into(memoryview(buffer))
        return bytes(buffer[:count])

    def recv_into(self, view: memoryview) -> int:
        """Fill the front of `view`; 0 at the end of the stream."""
        while not self._ready:
            if self._closed:
                return 0
            data = self._socket.recv(_READ_BYTES)
            if not data:
                return 0
            self._raw += data
            self._parse()
            self._answer_ping()
        count = 0
        while self._ready and count < len(view):
            piece = self._ready.popleft()
            fits = min(len(piece), len(view) - count)
            view[count : count + fits] = piece[:fits]
            count += fits
            if fits < len(piece):
                self._ready.appendleft(piece[fits:])
        return count

    def pending(self) -> int:
        """Bytes that can be had although the socket itself may not become readable."""
        inner = self._socket.pending() if isinstance(self._socket, ssl.SSLSocket) else 0
        return inner + sum(len(piece) for piece in self._ready)

    def send(self, data: bytes | bytearray | memoryview) -> int:
        """Send `data` as one frame: all of it, or `BlockingIOError`; then call again with the same data."""
        if not self._unsent:
            if self._pong:
                self._flush_pong()
            self._unsent = memoryview(frame(_BINARY, data, mask=secrets.token_bytes(4)))
            self._accepted = len(data)
        self._unsent = self._unsent[self._socket.send(self._unsent) :]
        if self._unsent:
            raise BlockingIOError
        return self._accepted

    def fileno(self) -> int:
        return self._socket.fileno()

    def setblocking(self, flag: bool) -> None:
        self._socket.setblocking(flag)

    def close(self) -> None:
        self._socket.close()

    def _parse(self) -> None:
        raw = memoryview(bytes(self._raw))
        position = 0
        while position < len(raw):
            if self._left:
                piece = raw[position : position + self._left]
                self._ready.append(piece)
                self._left -= len(piece)
                position += len(piece)
                continue
            head = _head(raw[position:])
            if head is None:
                break
            opcode, start, length = head
            if opcode & 0x8:
                if length > _CONTROL_BYTES:
                    raise ConnectionAbortedError("the websocket server sent an oversized control frame")
                if len(raw) - position < start + length:
                    break
                self._control(opcode, raw[position + start : position + start + length])
                position += start + length
            else:
                self._left = length
                position += start
        del self._raw[:position]

    def _control(self, opcode: int, payload: memoryview) -> None:
        if opcode == _CLOSE:
            self._closed = True
        elif opcode == _PING and not self._pong:
            self._pong = memoryview(frame(_PONG, payload, mask=secrets.token_bytes(4)))

    def _answer_ping(self) -> None:
        """Send the pong, or as much as goes now; never into the middle of a frame that is half sent."""
        try:
            if self._pong and not self._unsent:
                self._flush_pong()
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass  # `send` goes on with it

    def _flush_pong(self) -> None:
        self._pong = self._pong[self._socket.send(self._pong) :]
        if self._pong:
            raise BlockingIOError


def _head(raw: memoryview) -> tuple[int, int, int] | None:
    """(opcode, where the payload starts, its length); None while the head is not whole."""
    if len(raw) < 2:
        return None
    opcode, length = raw[0] & 0x0F, raw[1] & 0x7F
    if raw[1] & 0x80:
        raise ConnectionAbortedError("the websocket server sent a masked frame")
    size = {126: 2, 127: 8}.get(length, 0)
    if len(raw) < 2 + size:
        return None
    if size:
        length = int.from_bytes(raw[2 : 2 + size], "big")
    return opcode, 2 + size, length
