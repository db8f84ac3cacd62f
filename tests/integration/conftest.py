"""A light federation of real processes over a real broker, for tests that kill them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mhfl_mq.store.view import open_view
from mhfl_mq.testing.brokers import found_brokers
from mhfl_mq.testing.plant import Plant
from mhfl_mq.testing.processes import Processes
from mhfl_mq.transport.embedded import EmbeddedBroker

LENGTHS = (300, 20_000)  # the first tier travels inside a frame, the second in chunks
DEVICES = 3
PATIENCE_S = 60.0


class LightFederation:
    """A broker, an aggregator and devices, each a process that can be killed and started again."""

    def __init__(self, folder: Path, broker: EmbeddedBroker) -> None:
        self.folder = folder
        self.broker = broker
        self.state = folder / "aggregator"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        """Start a process of this name, again after it was killed."""
        words = [sys.executable, "-m", "mhfl_mq.testing.light"]
        shared = ["--broker", self.broker.url]
        if name == "aggregator":
            lengths = ",".join(str(one) for one in LENGTHS)
            words += ["aggregator", *shared, "--folder", str(self.state), "--lengths", lengths]
            words += ["--quorum", "1", "--deadline", "20", "--interval", "0.02"]
        else:
            number = name.removeprefix("device-")
            words += ["devices", *shared, "--folder", str(self.folder), "--first", number, "--tiers", "2"]
            words += ["--train", "0.05", "--receipts"]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(words, stdout=log, stderr=log)

    def kill(self, name: str) -> None:
        """`kill -9`, by its own process id."""
        if name == "broker":
            self.broker.kill()
        else:
            self.processes[name].kill()
            self.processes[name].wait()

    def restart(self, name: str) -> None:
        if name == "broker":
            self.broker.restart()
        else:
            self.start(name)

    def rounds(self) -> int:
        """How many rounds were committed so far."""
        try:
            with open_view(self.state) as view:
                return sum(one.added.round is not None for one in view.versions())
        except Exception:  # not there yet
            return 0

    def await_rounds(self, count: int) -> None:
        """Until so many rounds were committed; fails with the logs when that takes too long."""
        self.await_true(lambda: self.rounds() >= count, f"{count} rounds")

    def await_all_counted(self, after: int) -> None:
        """Until a round after `after` committed ones has counted every device."""

        def counted() -> bool:
            if self.rounds() <= after:
                return False
            with open_view(self.state) as view:
                return any(one.counted == DEVICES for one in view.rounds(last=self.rounds() - after))

        self.await_true(counted, "round with every device")

    def await_true(self, ready: Callable[[], bool], what: str) -> None:
        ends = time.monotonic() + PATIENCE_S
        while not ready():
            if time.monotonic() > ends:
                raise AssertionError(f"no {what} within {PATIENCE_S} s\n{self.logs()}")
            time.sleep(0.02)

    def logs(self) -> str:
        """The last lines of every process."""
        return "\n".join(
            f"--- {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-15:])
            for path in sorted(self.folder.glob("*.log"))
        )

    def stop(self) -> None:
        """End everything in good order."""
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for name, process in self.processes.items():
            try:
                code = process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise AssertionError(f"{name} did not stop in good order\n{self.logs()}") from None
            assert code == 0, f"{name} ended with {code}\n{self.logs()}"


@pytest.fixture(params=sorted({kind.program for kind in found_brokers()}))
def federation(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LightFederation]:
    """A running light federation, on each broker program that is found here."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with EmbeddedBroker.start(tmp_path / "broker", prefer=request.param) as broker:
        running = LightFederation(tmp_path, broker)
        try:
            running.start("aggregator")
            for number in range(DEVICES):
                running.start(f"device-{number}")
            yield running
        finally:
            for process in running.processes.values():
                if process.poll() is None:
                    process.kill()
                    process.wait()


HERE = Path(__file__).parent


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """Commands as processes; none is left at the end, not even one that a command started and forgot."""
    started = Processes(tmp_path)
    try:
        yield started
    finally:
        started.close()


@pytest.fixture
def plant(processes: Processes) -> Iterator[Plant]:
    """The real command line over the broker that a newcomer gets, with arithmetic in the place of training."""
    with EmbeddedBroker.start(processes.folder / "broker") as broker:
        yield Plant(processes, broker, HERE / "light_mhfl.py", HERE / "light.yaml")


@pytest.fixture(autouse=True)
def unmeasured_processes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the processes of one file are measured: what is killed saves no coverage, and measuring doubles a start."""
    if request.path.name != "test_cli_federation.py":
        monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
