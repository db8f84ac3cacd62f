"""Open the byte stream to a broker without blocking the event loop: TCP, then TLS, then a websocket if asked."""

import asyncio
import base64
import os
import secrets
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from mhfl_mq.errors import BrokerRefused, BrokerUnreachable
from mhfl_mq.transport.address import BrokerAddress
from mhfl_mq.transport.websocket import WebsocketStream, accept_key, handshake_request

__all__ = ["DIAL_S", "dial", "tls_refusal"]

T = TypeVar("T")

DIAL_S = 10.0  # TCP, TLS and websocket handshakes together: three round trips of a bad mobile line
_RESPONSE_BYTES = 16 * 1024  # an HTTP answer longer than this is not a websocket's

Stream = socket.socket | ssl.SSLSocket | WebsocketStream


async def dial(address: BrokerAddress) -> Stream:
    """A connected, non-blocking stream with TCP_NODELAY. Raises `BrokerUnreachable` or `BrokerRefused`."""
    context = address.tls_context()
    sock: socket.socket | None = None
    try:
        async with asyncio.timeout(DIAL_S):
            sock = await _tcp(address)
            if context is not None:
                sock = await _tls(sock, context, address.host)
            if address.websocket:
                stream: Stream = await _websocket(sock, address)
            else:
                stream = sock
    except BaseException as error:
        if sock is not None:
            sock.close()
        if isinstance(error, TimeoutError):
            raise _unreachable(address, f"no answer within {DIAL_S:.0f} s") from error
        if isinstance(error, ssl.SSLError):
            raise tls_refusal(address, error) from error
        if isinstance(error, OSError):
            raise _unreachable(address, _reason(error)) from error
        raise
    return stream


def tls_refusal(address: BrokerAddress, error: ssl.SSLError) -> BrokerRefused:
    """What a failed TLS handshake means and what to do about it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return BrokerRefused(
            f"the broker's certificate does not verify: {error.verify_message}",
            where=str(address),
            remedy="give the authority that signed it with ?ca=FILE, and use the host name in the certificate",
        )
    reason = (error.reason or str(error)).lower().replace("_", " ")
    remedy = "check that the port speaks TLS"
    if "alert" in reason or "certificate" in reason:
        remedy = "the broker did not take our certificate: give one with ?cert=FILE&key=FILE"
    return BrokerRefused(f"the TLS handshake failed: {reason}", where=str(address), remedy=remedy)


def _unreachable(address: BrokerAddress, what: str) -> BrokerUnreachable:
    return BrokerUnreachable(
        f"cannot connect: {what}",
        where=str(address),
        remedy="check host and port, or start a broker with `mhfl broker`",
    )


def _reason(error: OSError) -> str:
    """The system's own words: asyncio's name the address, which stands beside them already."""
    if error.errno is None or isinstance(error, socket.gaierror):  # whose numbers are of another table
        text = error.strerror or str(error) or type(error).__name__
    else:
        text = os.strerror(error.errno)
    return text[:1].lower() + text[1:]


async def _tcp(address: BrokerAddress) -> socket.socket:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    failure = OSError("the host name has no address")
    for family, kind, protocol, _, where in found:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            # Without it a small packet waits for the acknowledgement of the one before: 40 ms instead of 0.3.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.sock_connect(sock, where)
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure


async def _tls(sock: socket.socket, context: ssl.SSLContext, host: str) -> ssl.SSLSocket:
    wrapped = context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
    try:
        await _patiently(wrapped, wrapped.do_handshake)
    except BaseException:
        wrapped.close()
        raise
    return wrapped


async def _websocket(sock: socket.socket, address: BrokerAddress) -> WebsocketStream:
    key = base64.b64encode(secrets.token_bytes(16))
    rest = handshake_request(address.host, address.port, address.path, key)
    while rest:
        rest = rest[await _patiently(sock, partial(sock.send, rest)) :]
    answer = b""
    while b"\r\n\r\n" not in answer:
        piece = await _patiently(sock, lambda: sock.recv(4096))
        answer += piece
        if not piece or len(answer) > _RESPONSE_BYTES:
            raise _not_a_websocket(address, answer)
    head, _, early = answer.partition(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
    if status.split(b" ")[1:2] != [b"101"] or headers.get(b"sec-websocket-accept") != accept_key(key):
        raise _not_a_websocket(address, status)
    return WebsocketStream(sock, early)


def _not_a_websocket(address: BrokerAddress, answer: bytes) -> BrokerRefused:
    shown = answer[:80].decode("ascii", "replace").split("\r\n")[0]
    return BrokerRefused(
        f"the server did not open a websocket, it said {shown!r}",
        where=str(address),
        remedy="check the port and the path: most brokers use /mqtt",
    )


async def _patiently(sock: socket.socket, attempt: Callable[[], T]) -> T:
    """Try a non-blocking call until it does not want to wait any more (works for plain and TLS sockets)."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            return attempt()
        except ssl.SSLWantWriteError:
            watch, unwatch = loop.add_writer, loop.remove_writer
        except (BlockingIOError, ssl.SSLWantReadError):
            watch, unwatch = loop.add_reader, loop.remove_reader
        ready: asyncio.Future[None] = loop.create_future()
        watch(sock, _settle, ready)
        try:
            await ready
        finally:
            unwatch(sock)


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
