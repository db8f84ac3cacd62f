"""A websocket as a byte stream: frames cut anywhere, partial writes, pings, and servers against the rules."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mhfl_mq.transport.websocket import WebsocketStream, accept_key, frame, handshake_request

BINARY, CLOSE, PING, PONG = 2, 8, 9, 10


class Scripted:
    """A socket that gives scripted pieces and takes at most `accept` bytes per call."""

    def __init__(self, pieces: list[bytes], accept: int = 1 << 30) -> None:
        self.pieces = list(pieces)
        self.accept = accept
        self.sent = bytearray()

    def recv(self, size: int) -> bytes:
        if not self.pieces:
            raise BlockingIOError
        return self.pieces.pop(0)

    def send(self, data: bytes | memoryview) -> int:
        if not self.accept:
            raise BlockingIOError
        taken = bytes(data[: self.accept])
        self.sent += taken
        return len(taken)

    def fileno(self) -> int:
        return 7

    def setblocking(self, flag: bool) -> None: ...

    def close(self) -> None: ...


def stream_on(sock: Scripted, early: bytes = b"") -> WebsocketStream:
    return WebsocketStream(sock, early)  # type: ignore[arg-type]


def read_all(stream: WebsocketStream, size: int) -> bytes:
    got = b""
    while True:
        try:
            piece = stream.recv(size)
        except BlockingIOError:
            return got
        if not piece:
            return got
        got += piece


def unmasked(sent: bytes) -> list[tuple[int, bytes]]:
    """The frames that a client sent."""
    frames = []
    while sent:
        opcode, size, at = sent[0] & 0x0F, sent[1] & 0x7F, 2
        assert sent[1] & 0x80, "a client must mask"
        if size >= 126:
            width = 2 if size == 126 else 8
            size, at = int.from_bytes(sent[2 : 2 + width], "big"), 2 + width
        mask, at = sent[at : at + 4], at + 4
        frames.append((opcode, bytes(byte ^ mask[n % 4] for n, byte in enumerate(sent[at : at + size]))))
        sent = sent[at + size :]
    return frames


@given(
    st.lists(st.binary(max_size=300), max_size=8),
    st.lists(st.integers(1, 200), max_size=20),
    st.integers(1, 400),
    st.booleans(),
)
def test_bytes_are_the_same_however_the_frames_are_cut(
    payloads: list[bytes], cuts: list[int], size: int, early: bool
) -> None:
    raw = b"".join(bytes(frame(BINARY, payload)) for payload in payloads)
    pieces, left = [], raw
    for cut in cuts:
        if left[:cut]:
            pieces.append(left[:cut])
        left = left[cut:]
    if left:
        pieces.append(left)
    first = pieces.pop(0) if early and pieces else b""
    assert read_all(stream_on(Scripted(pieces), first), size) == b"".join(payloads)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 200_000])
@pytest.mark.parametrize("accept", [997, 1 << 30])
def test_a_frame_is_sent_whole_through_partial_writes(size: int, accept: int) -> None:
    sock = Scripted([], accept)
    stream = stream_on(sock)
    payload = bytes(range(256)) * (size // 256) + bytes(size % 256)
    while True:
        try:
            assert stream.send(payload) == size
            break
        except BlockingIOError:
            continue
    assert unmasked(bytes(sock.sent)) == [(BINARY, payload)]


def test_a_ping_is_answered_between_frames_only() -> None:
    sock = Scripted([bytes(frame(PING, b"are you there"))], accept=5)
    stream = stream_on(sock)
    with pytest.raises(BlockingIOError):
        stream.send(b"a frame that is half sent")
    assert read_all(stream, 100) == b""
    sock.accept = 1 << 30
    assert stream.send(b"a frame that is half sent") == 25
    assert stream.send(b"next") == 4
    assert unmasked(bytes(sock.sent)) == [
        (BINARY, b"a frame that is half sent"),
        (PONG, b"are you there"),
        (BINARY, b"next"),
    ]


def test_a_pong_that_is_half_sent_is_finished_first() -> None:
    sock = Scripted([bytes(frame(PING, b"")), bytes(frame(BINARY, b"data"))], accept=3)
    stream = stream_on(sock)
    assert read_all(stream, 100) == b"data"
    sock.accept = 1
    with pytest.raises(BlockingIOError):
        stream.send(b"x")
    sock.accept = 1 << 30
    assert stream.send(b"x") == 1
    assert unmasked(bytes(sock.sent)) == [(PONG, b""), (BINARY, b"x")]


def test_a_close_frame_and_a_closed_socket_are_the_end() -> None:
    assert stream_on(Scripted([bytes(frame(BINARY, b"x") + frame(CLOSE, b""))])).recv(10) == b"x"
    ended = stream_on(Scripted([bytes(frame(CLOSE, b""))]))
    assert ended.recv(10) == b""
    assert ended.recv(10) == b""
    assert stream_on(Scripted([b""])).recv(10) == b""


def test_what_is_parsed_and_not_taken_is_pending() -> None:
    stream = stream_on(Scripted([]), bytes(frame(BINARY, b"12345")))
    assert stream.pending() == 5
    assert stream.recv(2) == b"12"
    assert stream.pending() == 3
    assert stream.fileno() == 7


@pytest.mark.parametrize("bad", [frame(BINARY, b"x", mask=b"abcd"), b"\x89\x7e\x01\x00" + bytes(256)])
def test_a_server_against_the_rules_ends_the_connection(bad: bytes | bytearray) -> None:
    with pytest.raises(ConnectionAbortedError):
        stream_on(Scripted([bytes(bad)])).recv(10)


def test_the_handshake_is_the_standards_example() -> None:
    assert accept_key(b"dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    request = handshake_request("h", 80, "/mqtt", b"key")
    assert request.startswith(b"GET /mqtt HTTP/1.1\r\nHost: h:80\r\n")
    assert request.endswith(b"Sec-WebSocket-Protocol: mqtt\r\n\r\n")
