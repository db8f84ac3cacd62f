"""Brokers for the tests of the transport: one process per kind and module, topics kept apart by each test."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.resources import as_file
from pathlib import Path

import pytest

from mhfl_mq.shipped import shipped
from mhfl_mq.testing.brokers import BrokerKind, RealLab, found_brokers, started
from mhfl_mq.transport.broker_programs import BrokerProgram, found_programs

RunBroker = Callable[[list[str], Path, int], subprocess.Popen[bytes]]


@pytest.fixture(scope="module", params=found_brokers(), ids=str)
def lab(request: pytest.FixtureRequest) -> Iterator[RealLab]:
    """A real broker, once for each kind that is found here."""
    kind: BrokerKind = request.param
    # A durable mosquitto waits for the disk at each message: in memory it does the same without the wait.
    memory = Path("/dev/shm")
    with (
        tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder,
        started(kind, Path(folder)) as running,
    ):
        yield running


@pytest.fixture(params=found_programs(), ids=lambda program: program.name)
def program(request: pytest.FixtureRequest) -> BrokerProgram:
    """A broker program, once for each that is found here."""
    found: BrokerProgram = request.param
    return found


@pytest.fixture
def free_port() -> int:
    """Below those that the system gives to whoever asks for any: a connection that begins meanwhile cannot take it."""
    for step in range(10_000):
        port = 20_000 + (os.getpid() * 97 + step) % 10_000
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


@pytest.fixture
def run_broker() -> Iterator[RunBroker]:
    """Starts a broker by its command line, waits until it listens, and ends it after the test."""
    processes: list[subprocess.Popen[bytes]] = []

    def run(arguments: list[str], folder: Path, port: int) -> subprocess.Popen[bytes]:
        with open(folder / "broker.log", "ab") as log:
            processes.append(subprocess.Popen(arguments, cwd=folder, stdout=log, stderr=log))
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            assert processes[-1].poll() is None, (folder / "broker.log").read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return processes[-1]
            time.sleep(0.02)
        raise AssertionError((folder / "broker.log").read_text())

    yield run
    for process in processes:
        process.terminate()
        process.wait(10)


@pytest.fixture
def shipped_config(program: BrokerProgram, tmp_path: Path, free_port: int) -> Callable[[str], Path]:
    """A shipped file, in a copy of its folder, on a free port of this machine alone."""
    brand = "mosquitto" if program.name == "mosquitto" else "nats"

    def prepare(name: str) -> Path:
        with as_file(shipped("broker_config")) as source:
            shutil.copytree(source / brand, tmp_path / brand)
            script = source / "make_certs.py"
            clients = ["aggregator", "device-1", "device-2"]
            subprocess.run(
                [sys.executable, script, tmp_path / brand / "certs", "--host", "127.0.0.1", *clients], check=True
            )
        (tmp_path / brand / "data").mkdir()
        path = tmp_path / brand / name
        text = path.read_text()
        for line in ("listener 1883 127.0.0.1", "listener 8883"):
            text = text.replace(line, f"listener {free_port} 127.0.0.1")
        for line in ("port: 1883", "port: 8883"):
            text = text.replace(line, f"port: {free_port}")
        text = text.replace("port: 4222", "port: -1").replace("host: 0.0.0.0", "host: 127.0.0.1")
        if brand == "mosquitto" and os.getuid() == 0:
            text += "user root\n"  # else it drops to a user who cannot read the test's folder
        path.write_text(text)
        return path

    return prepare
