"""What an idle device agent weighs, and how hundreds of light devices do."""

import time

import psutil

from benchmarks.processes import broker, light_run, start
from benchmarks.table import Row, at_most, note

__all__ = ["idle", "many", "measure"]

MANY = (30, 100, 300)
SETTLE_S = 3.0


def measure() -> list[Row]:
    """The idle agent, then fleets."""
    return [*idle(), *many()]


def idle() -> list[Row]:
    """`mhfl device`, connected and waiting for an aggregator."""
    with broker() as (one, folder):
        words = ("device", "idle", "--broker", one.url, "--state", str(folder / "idle"))
        with start("mhfl_mq", *words) as process:
            time.sleep(SETTLE_S)
            watched = psutil.Process(process.pid)
            weight = watched.memory_info().rss
            torch = any("torch" in mapped.path for mapped in watched.memory_maps())
            children = len(watched.children(recursive=True))
        return [
            at_most("idle device agent (MB resident)", weight / 1e6, 60),
            at_most("idle device agent: torch libraries or children loaded", float(torch + children), 0),
        ]


def many() -> list[Row]:
    """Light devices in one process, with a model of 10,000 coordinates in three tiers."""
    rows = []
    for count in MANY:
        with broker() as (one, folder):
            run = light_run(one.url, folder, [1000, 4000, 10_000], devices=count, processes=1, rounds=8, limit_s=240)
            rows.append(note(f"{count} light devices in one process (ms per round)", run.round_s * 1e3))
            rows.append(note(f"{count} light devices: aggregator's peak memory (MB)", run.peak_bytes / 1e6))
    return rows
