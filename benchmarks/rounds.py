"""Whole rounds over a real broker, beside the raw broker that moves the same bytes.

The references go through our own transport, which is faster than stock paho: one made with that would flatter us.
"""

import statistics
import subprocess
from contextlib import ExitStack

from benchmarks.processes import broker, light_run, start
from benchmarks.table import Row, at_most

__all__ = ["measure"]

MB = 1024 * 1024
RAW_ROUNDS = 8
RAW_LIMIT_S = 40.0
"""Seconds for a few raw rounds: ten times what they take."""


def measure() -> list[Row]:
    """Small rounds against a round trip, large rounds against raw bytes, memory, egress."""
    return [*small(), *large(10, 10 * MB, rounds=20), *large(4, 100 * MB, rounds=8)]


def small() -> list[Row]:
    """Two devices, 1 kB: what the protocol itself costs."""
    size = 1000
    with broker() as (one, folder):
        run = light_run(one.url, folder, [size // 4], devices=2, processes=2, rounds=150, limit_s=60)
        ours = run.round_s
        words = ("--broker", one.url, "--size", str(size))
        with (
            start("benchmarks.raw", "ping", *words) as ping,
            start("benchmarks.raw", "leaf", *words, "--name", "l0"),
        ):
            trip = statistics.median(_seconds(ping))
        name = f"round of 1 kB, 2 devices, {one.name}"
        return [
            at_most(f"{name} (ms)", ours * 1000, 20),
            at_most(f"{name} / QoS 1 round trip", ours, 25, reference=trip),
        ]


def large(devices: int, size: int, *, rounds: int) -> list[Row]:
    """Large models, no training: our whole round beside the raw broker's."""
    with broker() as (one, folder):
        raw = _raw(one.url, devices, size, min(rounds, RAW_ROUNDS))
        run = light_run(one.url, folder, [size // 4], devices=devices, processes=devices, rounds=rounds, limit_s=240)
        name = f"round of {devices} x {size // MB} MiB, {one.name}"
        return [
            beside_raw(f"{name} / raw", run.round_s, raw),
            at_most(f"{name}: aggregator's peak memory less 60 MB / model", run.peak_bytes - 60e6, 3, reference=size),
            at_most(f"{name}: egress / model", run.egress, 1.05, reference=size),
        ]


def beside_raw(name: str, ours: float, raw: float | None) -> Row:
    """Our round beside the raw one; without a reference the bound counts as missed, and the row says so."""
    if raw is not None:
        return at_most(name, ours, 1.3, reference=raw)
    return Row(name=f"{name}: the raw run did not end", ours=ours, reference=None, ratio=None, bound="<= 1.3", ok=False)


def _raw(url: str, devices: int, size: int, rounds: int) -> float | None:
    with ExitStack() as stack:
        words = ("--broker", url, "--size", str(size))
        hub = stack.enter_context(
            start("benchmarks.raw", "hub", *words, "--leaves", str(devices), "--rounds", str(rounds))
        )
        for k in range(devices):
            stack.enter_context(start("benchmarks.raw", "leaf", *words, "--told", "--name", f"l{k}"))
        try:
            return statistics.median(_seconds(hub, RAW_LIMIT_S)[1:])
        except subprocess.TimeoutExpired:
            return None


def _seconds(process: "subprocess.Popen[str]", limit_s: float = 240) -> list[float]:
    text, _ = process.communicate(timeout=limit_s)
    return [float(line) for line in text.split()]
