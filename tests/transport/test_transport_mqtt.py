"""The transport to real brokers: who does not answer, who refuses, websockets, slow consumers, hostile peers."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from importlib.resources import as_file
from pathlib import Path

import pytest

from mhfl_mq.errors import BrokerRefused, BrokerUnreachable, TransportError
from mhfl_mq.shipped import shipped
from mhfl_mq.testing.brokers import RealLab
from mhfl_mq.transport.address import BrokerAddress
from mhfl_mq.transport.base import Session
from mhfl_mq.transport.broker_programs import BrokerProgram, configure, found_programs
from mhfl_mq.transport.mqtt import MqttTransport

pytestmark = pytest.mark.broker

RunBroker = Callable[[list[str], Path, int], subprocess.Popen[bytes]]
both_clients = pytest.mark.parametrize("stock", [False, True], ids=["fast", "stock"])
WAIT_S = 10.0


@asynccontextmanager
async def answering(answer: bytes, *, after: int = 1) -> AsyncIterator[int]:
    """A server that says one thing to whoever connects, after so many bytes from him, and hangs up; its port."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(after)
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@both_clients
async def test_nobody_listens(free_port: int, stock: bool) -> None:
    with pytest.raises(BrokerUnreachable, match=f"127.0.0.1:{free_port}.*`mhfl broker`"):
        await MqttTransport(f"mqtt://u:hidden@127.0.0.1:{free_port}", stock=stock).connect(Session("a"))


async def test_a_host_that_does_not_exist() -> None:
    with pytest.raises(BrokerUnreachable, match="cannot connect"):
        await MqttTransport("mqtt://no-such-host.invalid").connect(Session("a"))


@both_clients
async def test_wrong_credentials_are_refused_without_being_shown(lab: RealLab, stock: bool) -> None:
    address = replace(lab.broker.address("aggregator"), password="hidden-word", protocol=lab.protocol)
    with pytest.raises(BrokerRefused, match="'aggregator'") as caught:
        await MqttTransport(address, stock=stock).connect(Session("a"))
    assert "hidden-word" not in str(caught.value)


@both_clients
async def test_the_newest_protocol_is_found_and_remembered(lab: RealLab, stock: bool) -> None:
    transport = MqttTransport(replace(lab.broker.address("aggregator"), protocol=0), stock=stock)
    await transport.connect(Session("newest"))
    expected = 5 if lab.broker.name == "mosquitto" else 4
    assert transport.limits.protocol == expected
    connections = transport.connections()
    await anext(connections)
    transport.cut()
    assert await anext(connections) is None
    limits = await anext(connections)
    assert limits is not None
    assert limits.protocol == expected
    assert limits.max_packet == 2_000_000
    await transport.close()


async def test_a_protocol_that_the_broker_does_not_speak_is_said(lab: RealLab) -> None:
    if lab.broker.name == "mosquitto":  # it speaks both
        return
    with pytest.raises(BrokerRefused, match="does not speak this version"):
        await MqttTransport(replace(lab.broker.address("aggregator"), protocol=5)).connect(Session("a"))


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "the broker cannot be used"),
        (b"", "closed the connection before it answered"),
        (b"\x20\x02\x00\x03", "Server unavailable"),
    ],
)
@both_clients
async def test_a_server_that_is_no_broker_is_told_apart(answer: bytes, told: str, stock: bool) -> None:
    async with answering(answer) as port:
        with pytest.raises(BrokerUnreachable, match=told):
            await MqttTransport(f"mqtt://127.0.0.1:{port}?protocol=3.1.1", stock=stock).connect(Session("a"))


async def test_a_server_without_tls_is_told_apart() -> None:
    async with answering(b"not tls at all") as port:
        with pytest.raises(BrokerRefused, match="TLS handshake failed"):
            await MqttTransport(f"mqtts://127.0.0.1:{port}").connect(Session("a"))


async def test_a_server_without_websockets_is_told_apart() -> None:
    async with answering(b"HTTP/1.1 404 Not Found\r\n\r\n") as port:
        with pytest.raises(BrokerRefused, match=r"did not open a websocket.*404 Not Found"):
            await MqttTransport(f"ws://127.0.0.1:{port}").connect(Session("a"))


@both_clients
async def test_a_silent_server_is_given_up(stock: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mhfl_mq.transport.mqtt.link._CONNACK_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(BrokerUnreachable, match="no CONNACK"):
            await MqttTransport(f"mqtt://127.0.0.1:{port}", stock=stock).connect(Session("a"))


async def test_a_silent_websocket_server_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mhfl_mq.transport.dial.DIAL_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(BrokerUnreachable, match="no answer within"):
            await MqttTransport(f"ws://127.0.0.1:{port}").connect(Session("a"))


@both_clients
async def test_closing_while_the_broker_is_gone_does_not_wait(lab: RealLab, stock: bool) -> None:
    transport = MqttTransport(replace(lab.broker.address("aggregator"), protocol=lab.protocol), stock=stock)
    await transport.connect(Session("leaving"))
    connections = transport.connections()
    await anext(connections)
    lab.broker.kill()
    assert await anext(connections) is None
    await asyncio.wait_for(transport.close(), WAIT_S)
    lab.broker.restart()


async def test_an_idle_sender_and_a_pausing_consumer_stay_connected_and_lose_nothing(lab: RealLab) -> None:
    sender, receiver = lab.transport(), lab.transport()
    keepalive_s = 1 if lab.broker.name == "mosquitto" else 2  # NATS waits 1.5 times as long, in whole seconds
    await sender.connect(Session("pause-a", keepalive_s=keepalive_s))
    await receiver.connect(Session("pause-b", keepalive_s=keepalive_s))
    await receiver.subscribe([("pause", 0)])
    for number in range(40):  # 10 MiB: more than an inbox holds
        await sender.publish("pause", number.to_bytes(2, "big") + bytes(256 * 1024 - 2))
    # Longer than two keep-alives without reading: pings go out, and silence is not taken for death.
    await asyncio.sleep(2.2 * keepalive_s)
    assert sender.connected
    assert receiver.connected
    box = receiver.inbox()
    got = [int.from_bytes((await asyncio.wait_for(anext(box), WAIT_S)).payload[:2], "big") for _ in range(40)]
    assert got == list(range(40))
    assert receiver.connected
    await sender.close()
    await receiver.close()


@pytest.fixture(params=["ws", "wss"])
def websocket_broker(
    request: pytest.FixtureRequest, tmp_path: Path, free_port: int, run_broker: RunBroker
) -> BrokerAddress:
    """nats-server with a websocket listener (mosquitto 2.0.11 would open its own to every address)."""
    program: BrokerProgram = next(found for found in found_programs() if found.name == "nats-server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        mqtt_port = int(probe.getsockname()[1])
    command = configure(program, tmp_path, "127.0.0.1", mqtt_port, {"aggregator": "secret", "device": "secret"})
    security, authority = "no_tls: true", ""
    if request.param == "wss":
        certs = tmp_path / "certs"
        with as_file(shipped("broker_config")) as source:
            subprocess.run([sys.executable, source / "make_certs.py", certs, "--host", "127.0.0.1"], check=True)
        security = f'tls {{ cert_file: "{certs}/server.pem", key_file: "{certs}/server.key" }}'
        authority = f"&ca={certs}/ca.pem"
    with (tmp_path / "nats-server.conf").open("a") as config:
        config.write(f'websocket {{ host: "127.0.0.1", port: {free_port}, {security} }}\n')
    run_broker(command, tmp_path, free_port)
    return BrokerAddress.parse(
        f"{request.param}://aggregator:secret@127.0.0.1:{free_port}?max_packet=2000000{authority}"
    )


@both_clients
async def test_websockets_carry_chunks_both_ways(websocket_broker: BrokerAddress, stock: bool) -> None:
    transport = MqttTransport(websocket_broker, stock=stock)
    await transport.connect(Session("ws"))
    await transport.subscribe([("ws", 1)])
    sizes = [0, 1, 125, 126, 65_535, 65_536] + [256 * 1024] * (2 if stock else 20)
    payloads = [bytes([number]) * size for number, size in enumerate(sizes)]

    async def send() -> None:
        await asyncio.gather(*(transport.publish("ws", payload) for payload in payloads))

    sending = asyncio.create_task(send())
    for payload in payloads:
        message = await asyncio.wait_for(anext(transport.inbox()), WAIT_S)
        assert bytes(message.payload) == payload
        transport.ack(message.token)
    await sending
    await transport.close()


@pytest.mark.parametrize("websocket_broker", ["wss"], indirect=True)
async def test_a_websocket_broker_without_a_certificate_that_we_trust_is_refused(
    websocket_broker: BrokerAddress,
) -> None:
    with pytest.raises(BrokerRefused, match="does not verify"):
        await MqttTransport(replace(websocket_broker, ca_file="")).connect(Session("ws"))


async def test_an_error_is_a_transport_error_whatever_the_library_says(lab: RealLab) -> None:
    transport = lab.transport()
    await transport.connect(Session("end"))
    transport.kill()
    with pytest.raises(TransportError, match="closed"):
        await transport.subscribe([("x", 1)])
