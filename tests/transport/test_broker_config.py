"""Every shipped broker configuration starts, carries messages, and refuses what it should."""

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from mhfl_mq.errors import BrokerRefused, TransportError
from mhfl_mq.transport.address import BrokerAddress
from mhfl_mq.transport.base import Session
from mhfl_mq.transport.broker_programs import BrokerProgram, mosquitto_password
from mhfl_mq.transport.mqtt import MqttTransport

pytestmark = pytest.mark.broker

RunBroker = Callable[[list[str], Path, int], subprocess.Popen[bytes]]
Config = Callable[[str], Path]
WAIT_S = 10.0


@asynccontextmanager
async def joined(address: BrokerAddress, client_id: str) -> AsyncIterator[MqttTransport]:
    transport = MqttTransport(address)
    await transport.connect(Session(client_id))
    try:
        yield transport
    finally:
        await transport.close()


async def take(transport: MqttTransport) -> tuple[str, bytes]:
    message = await asyncio.wait_for(anext(transport.inbox()), WAIT_S)
    transport.ack(message.token)
    return message.topic, bytes(message.payload)


async def test_the_plain_file_carries_messages_for_those_with_a_password(
    program: BrokerProgram,
    shipped_config: Config,
    run_broker: RunBroker,
    free_port: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = shipped_config("plain.conf")
    device = "device-1" if program.name == "mosquitto" else "device"
    (config.parent / "passwords").write_text(
        f"aggregator:{mosquitto_password('agg-secret')}\n{device}:{mosquitto_password('dev-secret')}\n"
    )
    (config.parent / "passwords").chmod(0o600)
    monkeypatch.setenv("AGGREGATOR_PASSWORD", "agg-secret")
    monkeypatch.setenv("DEVICE_PASSWORD", "dev-secret")
    run_broker([program.path, "-c", config.name], config.parent, free_port)
    address = BrokerAddress("127.0.0.1", free_port, username="aggregator", password="agg-secret")
    async with (
        joined(address, "aggregator") as aggregator,
        joined(replace(address, username=device, password="dev-secret"), "device-1") as sender,
    ):
        await aggregator.subscribe([("mhfl/v1/fed/d/+/out/+", 1)])
        await sender.publish("mhfl/v1/fed/d/device-1/out/evt", b"hello")
        assert await take(aggregator) == ("mhfl/v1/fed/d/device-1/out/evt", b"hello")
    with pytest.raises(BrokerRefused, match="does not let"):
        await MqttTransport(replace(address, password="wrong")).connect(Session("x"))
    with pytest.raises(BrokerRefused, match="without a user name"):
        await MqttTransport(replace(address, username="", password="")).connect(Session("x"))


@pytest.fixture
def tls(
    program: BrokerProgram, shipped_config: Config, run_broker: RunBroker, free_port: int
) -> Callable[[str], BrokerAddress]:
    """A broker with the TLS file; gives the address as a client with its certificate sees it."""
    config = shipped_config("tls-acl.conf")
    run_broker([program.path, "-c", config.name], config.parent, free_port)
    certs = config.parent / "certs"

    def address(client: str) -> BrokerAddress:
        return BrokerAddress.parse(
            f"mqtts://127.0.0.1:{free_port}?ca={certs}/ca.pem&cert={certs}/{client}.pem&key={certs}/{client}.key"
        )

    return address


async def test_mutual_tls_pins_a_device_to_its_own_topics(tls: Callable[[str], BrokerAddress]) -> None:
    async with (
        joined(tls("aggregator"), "aggregator") as aggregator,
        joined(tls("device-1"), "device-1") as first,
        joined(tls("device-2"), "device-2") as second,
    ):
        await aggregator.subscribe([("mhfl/v1/fed/d/+/status", 1), ("mhfl/v1/fed/d/+/out/+", 1)])
        # As another device, or as the aggregator: refused (MQTT 5) or dropped without a word (3.1.1).
        for topic in ("d/device-2/out/evt", "d/device-2/status", "srv/head", "d/device-2/in/cmd"):
            try:
                await first.publish(f"mhfl/v1/fed/{topic}", b"forged")
            except BrokerRefused:
                assert first.limits.protocol == 5
        await first.publish("mhfl/v1/fed/d/device-1/out/evt", b"own")
        assert await take(aggregator) == ("mhfl/v1/fed/d/device-1/out/evt", b"own")
        await first.publish("mhfl/v1/fed/d/device-1/status", b"here", retain=True)
        assert await take(aggregator) == ("mhfl/v1/fed/d/device-1/status", b"here")

        # Another's orders are not readable: the SUBSCRIBE is refused, or nothing is delivered.
        for hidden in ("d/device-2/in/#", "d/+/in/chunk", "d/device-2/status"):
            with contextlib.suppress(BrokerRefused):
                await first.subscribe([(f"mhfl/v1/fed/{hidden}", 1)])
        await first.subscribe([("mhfl/v1/fed/d/device-1/in/cmd", 1), ("mhfl/v1/fed/srv/head", 1)])
        await second.subscribe([("mhfl/v1/fed/d/device-2/in/cmd", 1)])
        await aggregator.publish("mhfl/v1/fed/d/device-2/in/cmd", b"for the second")
        assert await take(second) == ("mhfl/v1/fed/d/device-2/in/cmd", b"for the second")
        await aggregator.publish("mhfl/v1/fed/d/device-2/in/chunk", b"for the second")
        await aggregator.publish("mhfl/v1/fed/d/device-1/in/cmd", b"for the first")
        assert await take(first) == ("mhfl/v1/fed/d/device-1/in/cmd", b"for the first")
        await aggregator.publish("mhfl/v1/fed/srv/head", b"for all", retain=True)
        assert await take(first) == ("mhfl/v1/fed/srv/head", b"for all")


async def test_mutual_tls_lets_nobody_in_without_a_certificate_of_its_authority(
    tls: Callable[[str], BrokerAddress], tmp_path: Path
) -> None:
    address = tls("device-1")
    with pytest.raises(TransportError, match="certificate"):
        await MqttTransport(replace(address, cert_file="", key_file="")).connect(Session("device-1"))
    with pytest.raises(BrokerRefused, match="does not verify"):
        await MqttTransport(replace(address, ca_file="")).connect(Session("device-1"))


async def test_tls_carries_chunks(tls: Callable[[str], BrokerAddress]) -> None:
    chunk = bytes(range(256)) * 1024
    async with (
        joined(tls("aggregator"), "aggregator") as aggregator,
        joined(tls("device-1"), "device-1") as device,
    ):
        await device.subscribe([("mhfl/v1/fed/seg/0/c", 0)])
        sending = asyncio.gather(*(aggregator.publish("mhfl/v1/fed/seg/0/c", chunk) for _ in range(20)))
        for _ in range(20):
            assert await take(device) == ("mhfl/v1/fed/seg/0/c", chunk)
        await sending
