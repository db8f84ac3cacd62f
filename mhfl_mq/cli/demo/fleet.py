"""The demo's processes: a broker, an aggregator and devices, each started as a plant would start it."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mhfl_mq.errors import MhflError
from mhfl_mq.transport.embedded import EmbeddedBroker, dies_with_us

__all__ = ["FEDERATION", "DemoDevice", "Fleet"]

FEDERATION = "demo"
GRACE_S = 5.0
"""Seconds that a process gets between being asked to stop and being killed."""
LAST_LINES = 12


@dataclass(frozen=True, slots=True)
class DemoDevice:
    """One device of the demo: its name, its share of the data, and the machine that it plays.

    It is `slowdown` times slower than this machine and has `memory_mb` megabytes (0: as many as there are).
    """

    name: str
    shard: str
    slowdown: float
    memory_mb: float


@dataclass(slots=True)
class Fleet:
    """Everything that runs. Logs lie in `folder`; `url` is set for a broker that is not ours."""

    folder: Path
    task: str
    data: Path | None
    policy: Path
    seed: int
    url: str = ""
    broker: EmbeddedBroker | None = None
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def state(self) -> Path:
        """The aggregator's state folder."""
        return self.folder / "aggregator"

    def start_broker(self) -> str:
        """Start the embedded broker, unless a URL was given; says which one serves."""
        if self.url:
            return "the broker that you named"
        self.broker = EmbeddedBroker.start(self.folder / "broker")
        return f"{self.broker.name} {self.broker.version} on 127.0.0.1 (embedded)"

    def start_aggregator(self, rounds: int, devices: int) -> None:
        """Start (or start again) the aggregator; its first round is for all devices.

        The baselines train with every device in every round: a federation that began with the first two devices
        would be compared with another one.
        """
        words = ["aggregator", "--policy", str(self.policy), "--state", str(self.state), "--rounds", str(rounds)]
        words += ["--wait-for", str(devices), "--seed", str(self.seed)]
        self._start("aggregator", [*words, *self._shared()], "aggregator")

    def start_device(self, device: DemoDevice) -> None:
        """Start (or start again) a device."""
        plays = ["--memory-mb", f"{device.memory_mb:.6f}"]
        words = ["device", device.name, "--state", str(self.folder / device.name), "--shard", device.shard]
        self._start(device.name, [*words, "--slowdown", f"{device.slowdown:g}", *plays, *self._shared()], "device")

    def kill(self, name: str) -> None:
        """`kill -9`."""
        process = self.processes[name]
        process.send_signal(signal.SIGKILL)
        process.wait()

    def check(self) -> None:
        """Raise when a process has ended that should run; its last words say why, its exit code becomes ours."""
        for name, process in self.processes.items():
            if process.poll() not in (None, 0):
                error = MhflError(
                    f"{name} ended with exit code {process.returncode}:\n{self._last_words(name)}",
                    where=str(self._log(name)),
                )
                error.exit_code = max(process.returncode, MhflError.exit_code)  # negative: killed by somebody
                raise error

    def ended(self, name: str) -> bool:
        """Whether this process has ended in good order."""
        return self.processes[name].poll() == 0

    def stop(self) -> None:
        """Ask all to stop, devices first, and kill what does not; the broker goes last."""
        order = sorted(self.processes, key=lambda name: name == "aggregator")
        for name in order:
            self.processes[name].terminate()
        for name in order:
            try:
                self.processes[name].wait(GRACE_S)
            except subprocess.TimeoutExpired:
                self.kill(name)
        if self.broker is not None:
            self.broker.stop()

    # ---- how ----

    def _shared(self) -> list[str]:
        data = [] if self.data is None else ["--data", str(self.data)]
        return ["--federation", FEDERATION, "--task", self.task, *data]

    def _start(self, name: str, words: Sequence[str], role: str) -> None:
        """The broker's URL holds a password, so it goes by the environment: command lines are seen by all."""
        if self.broker is not None:
            url = self.broker.url_for("aggregator" if role == "aggregator" else "device")
        else:
            url = self.url
        environment = {**os.environ, "MHFL_BROKER": url, "OMP_NUM_THREADS": "1"}
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._log(name).open("ab") as log:
            try:
                self.processes[name] = subprocess.Popen(
                    [sys.executable, "-m", "mhfl_mq", *words],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    start_new_session=True,  # Ctrl-C is the demo's to hand on
                    preexec_fn=dies_with_us(),
                )
            except OSError as error:
                raise MhflError(f"cannot start {name}: {error}") from error

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def _last_words(self, name: str) -> str:
        lines = self._log(name).read_text(errors="replace").splitlines()[-LAST_LINES:]
        return "\n".join(f"    {line}" for line in lines)
