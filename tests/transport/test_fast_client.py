"""The fast client's reading and writing, byte by byte; and what happens where it does not fit paho."""

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.enums import MQTTProtocolVersion

from mhfl_mq.testing.brokers import RealLab
from mhfl_mq.transport.base import Session
from mhfl_mq.transport.mqtt import fast
from mhfl_mq.transport.mqtt.fast import MAX_INBOUND, FastClient, fast_client_fits

CONNACK = {MQTTProtocolVersion.MQTTv311: b"\x20\x02\x00\x00", MQTTProtocolVersion.MQTTv5: b"\x20\x03\x00\x00\x00"}

Heard = tuple[str, bytes, int, bool, int] | tuple[int, int]


class Scripted:
    """A socket that gives what it was told to give, in pieces, and takes what it is sent."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces
        self.sent = bytearray()
        self.accept: int | None = None  # bytes that it takes per call; None: all

    def recv_into(self, view: memoryview) -> int:
        while self.pieces and not self.pieces[0]:
            self.pieces.pop(0)
        if not self.pieces:
            raise BlockingIOError
        piece = self.pieces[0][: len(view)]
        self.pieces[0] = self.pieces[0][len(piece) :]
        view[: len(piece)] = piece
        return len(piece)

    def send(self, data: bytes | memoryview) -> int:
        if self.accept is None:
            self.sent += data
            return len(data)
        if not self.accept:
            raise BlockingIOError
        taken = bytes(data[: self.accept])
        self.accept = 0
        self.sent += taken
        return len(taken)

    def setblocking(self, flag: bool) -> None: ...

    def close(self) -> None: ...


def client_on(
    stream: Scripted, protocol: MQTTProtocolVersion = MQTTProtocolVersion.MQTTv311
) -> tuple[FastClient, list[Heard]]:
    heard: list[Heard] = []
    client = FastClient("c", protocol, False, stream)
    client.on_fast_publish = lambda topic, payload, *rest: heard.append((topic, bytes(payload), *rest))
    client.on_fast_puback = lambda packet_id, reason: heard.append((packet_id, reason))
    client.on_socket_register_write = lambda *_: None
    client.connect_async("h", 1)
    client.reconnect()
    client.loop_write()
    stream.sent.clear()
    return client, heard


def length(size: int) -> bytes:
    out = bytearray()
    while True:
        size, digit = divmod(size, 128)
        out.append(digit | (0x80 if size else 0))
        if not size:
            return bytes(out)


def publish_packet(topic: str, payload: bytes, qos: int, packet_id: int, properties: bytes | None) -> bytes:
    name = topic.encode()
    body = len(name).to_bytes(2, "big") + name + (packet_id.to_bytes(2, "big") if qos else b"")
    if properties is not None:
        body += length(len(properties)) + properties
    body += payload
    return bytes((0x30 | qos << 1,)) + length(len(body)) + body


def drain(client: FastClient) -> None:
    while client.socket() is not None:
        client.loop_read()
        if not client.more:
            return


@pytest.mark.parametrize("protocol", list(CONNACK))
@given(
    messages=st.lists(
        st.tuples(st.sampled_from(["a", "b/ü"]), st.sampled_from([0, 1, 100, 20_000, 70_000]), st.booleans()),
        max_size=12,
    ),
    cuts=st.lists(st.integers(1, 30_000), max_size=20),
)
def test_packets_are_the_same_however_the_stream_is_cut(
    protocol: MQTTProtocolVersion, messages: list[tuple[str, int, bool]], cuts: list[int]
) -> None:
    stream = bytearray(CONNACK[protocol])
    wanted: list[Heard] = []
    for number, (topic, size, sure) in enumerate(messages, 1):
        properties = b"\x26\x00\x01k\x00\x01v" if protocol == MQTTProtocolVersion.MQTTv5 else None
        payload = number.to_bytes(1, "big") * size
        stream += publish_packet(topic, payload, int(sure), number, properties)
        wanted.append((topic, payload, int(sure), False, number if sure else 0))
        stream += b"\x40\x02" + number.to_bytes(2, "big")
        wanted.append((number, 0))
    pieces, left = [], bytes(stream)
    for cut in cuts:
        pieces.append(left[:cut])
        left = left[cut:]
    client, heard = client_on(Scripted([*pieces, left]), protocol)
    drain(client)
    assert heard == wanted
    assert client.is_connected()


@given(st.binary(max_size=200), st.sampled_from(list(CONNACK)))
def test_garbage_ends_the_connection_or_means_something_but_never_raises(
    garbage: bytes, protocol: MQTTProtocolVersion
) -> None:
    client, _ = client_on(Scripted([CONNACK[protocol], garbage]), protocol)
    drain(client)


@pytest.mark.parametrize(
    "packet",
    [
        b"\x34\x05\x00\x01a\x00\x01",  # QoS 2: never granted
        b"\x30\x03\x00\x09a",  # a topic longer than the packet
        b"\x32\x03\x00\x01a",  # no packet id
        b"\x30\x03\x00\x01\xff",  # not UTF-8
        b"\x30\xff\xff\xff\xff\x01",  # five bytes of length
        b"\x40\x00",  # a PUBACK of nothing
        b"\xf0\x00",  # no such packet in 3.1.1
    ],
)
def test_a_packet_against_the_rules_ends_the_connection(packet: bytes) -> None:
    client, heard = client_on(Scripted([CONNACK[MQTTProtocolVersion.MQTTv311], packet]))
    drain(client)
    assert client.socket() is None
    assert heard == []


def test_the_reason_in_a_puback_is_told() -> None:
    stream = Scripted([CONNACK[MQTTProtocolVersion.MQTTv5], b"\x40\x03\x00\x07\x87"])
    client, heard = client_on(stream, MQTTProtocolVersion.MQTTv5)
    drain(client)
    assert heard == [(7, 0x87)]


@pytest.mark.parametrize("qos", [0, 1])
def test_an_oversized_packet_is_read_past_and_acknowledged(qos: int, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 200_000
    assert limit < MAX_INBOUND
    monkeypatch.setattr(fast, "MAX_INBOUND", limit)
    huge = publish_packet("huge", bytes(limit), qos, 9, None)
    after = publish_packet("after", b"x", 0, 0, None)
    stream = Scripted([CONNACK[MQTTProtocolVersion.MQTTv311], huge, after])
    client, heard = client_on(stream)
    drain(client)
    client.loop_write()
    assert heard == [("after", b"x", 0, False, 0)]
    assert bytes(stream.sent) == (b"\x40\x02\x00\x09" if qos else b"")


@pytest.mark.parametrize("expiry_s", [None, 60])
@pytest.mark.parametrize("protocol", list(CONNACK))
@pytest.mark.parametrize("size", [0, 10, 9000, 300_000])
def test_a_publish_is_written_whole_through_partial_writes(
    size: int, protocol: MQTTProtocolVersion, expiry_s: int | None
) -> None:
    stream = Scripted([CONNACK[protocol]])
    client, _ = client_on(stream, protocol)
    drain(client)
    payload = bytes(itertools.islice(itertools.cycle(range(251)), size))
    client.send_publish(5, "t/ü", memoryview(payload), 1, True, True, expiry_s)
    while client.want_write():
        stream.accept = 7001
        client.loop_write()
    properties = None
    if protocol == MQTTProtocolVersion.MQTTv5:
        properties = b"" if expiry_s is None else b"\x02\x00\x00\x00\x3c"
    wanted = bytearray(publish_packet("t/ü", payload, 1, 5, properties))
    wanted[0] |= 0x08 | 0x01  # sent before; retained
    assert bytes(stream.sent) == bytes(wanted)


def test_room_is_counted_in_bytes() -> None:
    stream = Scripted([CONNACK[MQTTProtocolVersion.MQTTv311]])
    client, _ = client_on(stream)
    drain(client)
    stream.accept = 0
    assert client.has_room
    client.send_publish(0, "t", bytes(2 << 20), 0, False, False, None)
    client.loop_write()
    assert not client.has_room
    stream.accept = None
    client.loop_write()
    assert client.has_room


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    now = 1000.0

    def tick(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr("paho.mqtt.client.time_func", lambda: now)
    return tick


@pytest.mark.parametrize(("sign", "alive"), [("none", False), ("bytes", True), ("excused", True)])
def test_only_silence_after_a_ping_is_a_lost_broker(clock: Callable[[float], None], sign: str, alive: bool) -> None:
    stream = Scripted([CONNACK[MQTTProtocolVersion.MQTTv311]])
    client, _ = client_on(stream)
    drain(client)
    for _ in range(4):
        clock(40)
        if sign == "bytes":  # a part of a packet: the ping's answer stands behind it
            stream.pieces.append(b"\x30\xff\xff\x03" if not client._start and not client._big else b"x")
            client.loop_read()
        elif sign == "excused":
            client.excuse_silence()
        client.loop_misc()
        client.loop_write()
    assert (client.socket() is not None) is alive
    assert b"\xc0\x00" in stream.sent


def test_the_installed_paho_fits() -> None:
    assert fast_client_fits()


@pytest.mark.parametrize("missing", ["_packet_handle", "_packet_queue", "_pack_remaining_length"])
def test_a_paho_without_the_inside_that_we_need_is_noticed(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(f"paho.mqtt.client.Client.{missing}")
    assert not fast_client_fits.__wrapped__()


@pytest.mark.broker
async def test_without_a_fit_stock_paho_does_the_work(lab: RealLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mhfl_mq.transport.mqtt.fast_client_fits", lambda: False)
    monkeypatch.setattr(FastClient, "__init__", None)
    transport = lab.transport()
    await transport.connect(Session("fallback"))
    await transport.subscribe([("fallback", 1)])
    await transport.publish("fallback", b"x", expiry_s=60)
    assert bytes((await anext(transport.inbox())).payload) == b"x"
    await transport.close()
