"""Processes of a benchmark: a broker, light federations, and what they used."""

import datetime
import itertools
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from mhfl_mq.run.status import read_board
from mhfl_mq.transport.embedded import EmbeddedBroker

__all__ = ["LightRun", "broker", "light_run", "start"]

GRACE_S = 10.0
WARM_ROUNDS = 2


@contextmanager
def broker() -> Iterator[tuple[EmbeddedBroker, Path]]:
    """A broker and a scratch folder, both gone at the end.

    Not durable: a durable mosquitto rewrites and syncs its whole state at every message, so it would measure the disk.
    """
    folder = Path(tempfile.mkdtemp(prefix="mhfl-bench-"))
    try:
        with EmbeddedBroker.start(folder / "broker", durable=False) as one:
            yield one, folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def start(*words: str) -> Iterator["subprocess.Popen[str]"]:
    """A Python process of this interpreter, ended at the end."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-m", *words], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.stdout is not None:
            process.stdout.close()


class LightRun:
    """What a finished light federation tells of itself.

    `sent` are the aggregator's bytes by round, as seen after devices had the round's base and before the next model
    was broadcast: between two of them lie whole broadcasts and all repairs.
    """

    def __init__(self, folder: Path, peak_bytes: int, sent: dict[int, int]) -> None:
        lines = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
        commits = [datetime.datetime.fromisoformat(one["at"]) for one in lines if one["kind"] == "round.commit"]
        # The first rounds fill caches and distribute the first model while devices still join.
        self._commits = commits[WARM_ROUNDS:]
        self.peak_bytes = peak_bytes
        self._sent = {number: count for number, count in sent.items() if number > WARM_ROUNDS}

    @property
    def round_s(self) -> float:
        """Seconds of a round: the median over stretches of a tenth of the run; the ledger counts milliseconds."""
        step = max(1, len(self._commits) // 10)
        stretches = itertools.pairwise(self._commits[::step])
        return statistics.median((b - a).total_seconds() / step for a, b in stretches)

    @property
    def egress(self) -> float:
        """Bytes that the aggregator sends in a round, joining left out."""
        first, last = min(self._sent), max(self._sent)
        if last - first < 2:
            raise RuntimeError(f"the board was seen in rounds {sorted(self._sent)} only: let it run longer")
        return (self._sent[last] - self._sent[first]) / (last - first)


def light_run(
    url: str, folder: Path, lengths: Sequence[int], *, devices: int, processes: int, rounds: int, limit_s: float
) -> LightRun:
    """Run a light federation to its end; `devices` are spread over `processes`."""
    sizes = ",".join(str(one) for one in lengths)
    shared = ("--broker", url)
    aggregator = ("mhfl_mq.testing.light", "aggregator", *shared, "--folder", str(folder / "aggregator"))
    options = ("--lengths", sizes, "--rounds", str(rounds), "--quorum", str(devices), "--deadline", str(limit_s))
    each = devices // processes
    with start(*aggregator, *options) as hub:
        peak = 0
        leaves = [
            start(
                "mhfl_mq.testing.light",
                "devices",
                *shared,
                "--folder",
                str(folder / "devices"),
                "--count",
                str(each),
                "--first",
                str(k * each),
                "--tiers",
                str(len(lengths)),
                "--prepared",
            )
            for k in range(processes)
        ]
        entered = [leaf.__enter__() for leaf in leaves]
        try:
            ends = time.monotonic() + limit_s
            watched = psutil.Process(hub.pid)
            sent: dict[int, int] = {}
            while hub.poll() is None:
                if time.monotonic() > ends:
                    raise TimeoutError(f"a light federation of {devices} devices took longer than {limit_s} s")
                peak = max(peak, peak_of(watched))
                board = read_board(folder / "aggregator")
                current = board.get("round")
                if current and current["counted"]:
                    sent[current["number"]] = board["bytes"]["down"]
                time.sleep(0.05)
        finally:
            del entered
            for leaf in leaves:
                leaf.__exit__(None, None, None)
    return LightRun(folder / "aggregator", peak, sent)


def peak_of(process: psutil.Process) -> int:
    """The kernel's own record of a process's largest resident size, in bytes; 0 when it has ended."""
    try:
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
