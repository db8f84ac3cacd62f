"""The shipped broker files keep what they promise over `kill -9`, and the recipe in their README works as written."""

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import as_file
from pathlib import Path

import pytest

from mhfl_mq.shipped import shipped
from mhfl_mq.transport.address import BrokerAddress
from mhfl_mq.transport.base import Session
from mhfl_mq.transport.broker_programs import BrokerProgram, found_programs, mosquitto_password
from mhfl_mq.transport.mqtt import MqttTransport

pytestmark = pytest.mark.broker

RunBroker = Callable[[list[str], Path, int], subprocess.Popen[bytes]]
Config = Callable[[str], Path]
WAIT_S = 10.0
HEAD = "mhfl/v1/fed/srv/head"
ORDERS = "mhfl/v1/fed/d/device-1/in/cmd"
QUEUED = [f"order {number}".encode() for number in range(5)]


async def there(transport: MqttTransport, count: int) -> list[bytes]:
    """The next messages, each acknowledged."""
    box, payloads = transport.inbox(), []
    for _ in range(count):
        message = await asyncio.wait_for(anext(box), WAIT_S)
        payloads.append(bytes(message.payload))
        transport.ack(message.token)
    return payloads


async def on_the_disk(folder: Path, words: bytes) -> None:
    """Wait until mosquitto has written these bytes: with `autosave_interval 1`, right after each change."""
    async with asyncio.timeout(WAIT_S):
        while not any(words in path.read_bytes() for path in folder.glob("*.db")):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("file", ["plain.conf", "tls-acl.conf"])
async def test_what_a_shipped_file_keeps_survives_kill_9(
    program: BrokerProgram,
    shipped_config: Config,
    run_broker: RunBroker,
    free_port: int,
    monkeypatch: pytest.MonkeyPatch,
    file: str,
) -> None:
    """Retained state, the session of a device that is away, and what is queued for it."""
    config = shipped_config(file)
    folder = config.parent
    mosquitto = program.name == "mosquitto"
    device = "device-1" if mosquitto else "device"
    (folder / "passwords").write_text(
        f"aggregator:{mosquitto_password('agg-secret')}\n{device}:{mosquitto_password('dev-secret')}\n"
    )
    (folder / "passwords").chmod(0o600)
    monkeypatch.setenv("AGGREGATOR_PASSWORD", "agg-secret")
    monkeypatch.setenv("DEVICE_PASSWORD", "dev-secret")
    plain = BrokerAddress("127.0.0.1", free_port, username="aggregator", password="agg-secret")

    def address(client: str) -> BrokerAddress:
        if file == "plain.conf":
            return plain if client == "aggregator" else replace(plain, username=device, password="dev-secret")
        certs = folder / "certs"
        return BrokerAddress.parse(
            f"mqtts://127.0.0.1:{free_port}?ca={certs}/ca.pem&cert={certs}/{client}.pem&key={certs}/{client}.key"
        )

    command = [program.path, "-c", config.name]
    process = run_broker(command, folder, free_port)
    absent, aggregator = MqttTransport(address("device-1")), MqttTransport(address("aggregator"))
    await absent.connect(Session("device-1"))
    await absent.subscribe([(ORDERS, 1)])
    await absent.close()
    await aggregator.connect(Session("aggregator"))
    await aggregator.publish(HEAD, b"version 7", retain=True)
    for payload in QUEUED:
        await aggregator.publish(ORDERS, payload)
    if mosquitto:
        await on_the_disk(folder / "data", QUEUED[-1])
    aggregator.kill()
    process.kill()
    process.wait(10)

    run_broker(command, folder, free_port)
    back = MqttTransport(address("device-1"))
    await back.connect(Session("device-1"))
    assert back.limits.session_present
    assert await there(back, len(QUEUED)) == QUEUED
    await back.subscribe([(HEAD, 1)])
    assert await there(back, 1) == [b"version 7"]
    await back.close()


@pytest.mark.skipif(
    shutil.which("mosquitto_passwd") is None or "mosquitto" not in {one.name for one in found_programs()},
    reason="no mosquitto here",
)
async def test_the_recipe_of_the_readme_gives_a_broker_that_keeps_its_state(
    tmp_path: Path, run_broker: RunBroker, free_port: int
) -> None:
    """As root too, where mosquitto drops to a user of its own: it ran, and kept nothing."""
    with as_file(shipped("broker_config")) as source:
        shutil.copytree(source, tmp_path / "broker_config")
    root = tmp_path / "broker_config"
    folder = root / "mosquitto"
    for name in ("plain.conf", "tls-acl.conf"):
        text = (folder / name).read_text()
        text = text.replace("listener 1883", f"listener {free_port}").replace(
            "listener 8883", f"listener {free_port} 127.0.0.1"
        )
        (folder / name).write_text(text)
    recipe = (root / "README.md").read_text().split("```")[1].replace("broker.plant", "127.0.0.1").strip().splitlines()
    assert recipe[0].startswith("cd mosquitto && ")
    places = [str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin"]
    environment = {**os.environ, "PATH": os.pathsep.join(places)}
    started = list[str]()
    for line in ["mkdir -p data", *recipe[1:]]:
        if not line.startswith("mosquitto -c "):
            done = subprocess.run(
                ["bash", "-c", line],
                cwd=folder,
                env=environment,
                input=b"secret\nsecret\n",
                capture_output=True,
                check=False,
            )
            assert done.returncode == 0, (line, done.stderr)
            continue
        file = line.split()[2]
        mosquitto = next(one for one in found_programs() if one.name == "mosquitto")
        process = run_broker([mosquitto.path, "-c", file], folder, free_port)
        url = f"mqtt://aggregator:secret@127.0.0.1:{free_port}"
        if file == "tls-acl.conf":
            url = f"mqtts://127.0.0.1:{free_port}?ca={folder}/certs/ca.pem&cert={folder}/certs/aggregator.pem"
            url += f"&key={folder}/certs/aggregator.key"
        transport = MqttTransport(url)
        await transport.connect(Session("aggregator"))
        await transport.publish(HEAD, f"kept by {file}".encode(), retain=True)
        with contextlib.suppress(TimeoutError):
            await on_the_disk(folder / "data", f"kept by {file}".encode())
        log = (folder / "broker.log").read_text()
        assert "Permission denied" not in log
        assert list((folder / "data").glob("*.db")), log
        await transport.close()
        process.terminate()
        process.wait(10)
        started.append(file)
    assert started == ["plain.conf", "tls-acl.conf"]
