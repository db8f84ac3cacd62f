"""Processes of a benchmark: a broker, light federations, and what they used."""

import datetime
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from mhfl_mq.transport.embedded import EmbeddedBroker

__all__ = ["LightRun", "broker", "light_run", "start"]

GRACE_S = 10.0


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
    """What a finished light federation tells of itself."""

    def __init__(self, folder: Path, peak_bytes: int) -> None:
        lines = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
        commits = [datetime.datetime.fromisoformat(one["at"]) for one in lines if one["kind"] == "round.commit"]
        # The first rounds fill caches and distribute the first model while devices still join.
        self.rounds_s = [(b - a).total_seconds() for a, b in itertools.pairwise(commits[2:])]
        self.peak_bytes = peak_bytes
        self.board = json.loads((folder / "status.json").read_text())


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
            while hub.poll() is None:
                if time.monotonic() > ends:
                    raise TimeoutError(f"a light federation of {devices} devices took longer than {limit_s} s")
                peak = max(peak, peak_of(watched))
                time.sleep(0.05)
        finally:
            del entered
            for leaf in leaves:
                leaf.__exit__(None, None, None)
    return LightRun(folder / "aggregator", peak)


def peak_of(process: psutil.Process) -> int:
    """The kernel's own record of a process's largest resident size, in bytes; 0 when it has ended."""
    try:
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
