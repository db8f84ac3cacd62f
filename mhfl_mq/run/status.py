"""The board: what a running aggregator shows of itself, as a small file that `mhfl status` reads.

What is durable (rounds, versions, devices) stands in the store; the board adds what only the process knows: who is
present, how many bytes went by, where the time went. It is written every second, when a round ends, and finally when
the process ends; it is never waited for. What is counted only here (bytes) lacks the last second of a killed process.
"""

import asyncio
import datetime
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mhfl_mq.protocol.effects import AggregatorEffect, Merge, Persist
from mhfl_mq.protocol.federation import FederationMachine
from mhfl_mq.protocol.members import Link
from mhfl_mq.protocol.records import RoundClosed, RoundOpened, UpdateCounted
from mhfl_mq.protocol.states import FederationState
from mhfl_mq.run.clock import Clock
from mhfl_mq.run.fleet import FLEET
from mhfl_mq.run.traffic import Traffic

__all__ = ["BOARD", "StatusBoard", "describe", "is_running", "read_board"]

BOARD = "status.json"
"""Its file's name in the aggregator's state folder."""
WRITE_EVERY_S = 1.0
FLEET_AFTER = 3
"""Boards between two writings of the fleet, which grows with the devices."""
STALE_S = 5.0
"""A board older than this is one of an aggregator that was killed: it writes one every second, and a last one."""
FRESH_S = 0.2
"""Seconds for which a board is good enough."""
FLOAT = 4  # bytes
MOST_SAVED = 2.0**60
"""Bytes that devices may say they saved: what they say is only shown."""


class StatusBoard:
    """Counts while the process runs, on top of what an earlier process of the same folder counted.

    `fleet` gives what decisions about devices are made from; it has a file of its own.
    `trainings` is how many updates the store has: it knows better than the board of a process that was killed.
    """

    def __init__(
        self,
        folder: Path,
        clock: Clock,
        lengths: Sequence[int],
        describe: Callable[[], Mapping[str, Any]],
        *,
        trainings: int = 0,
        fleet: Callable[[], Mapping[str, Any]] | None = None,
    ) -> None:
        self._path = folder / BOARD
        self._clock = clock
        self._lengths = tuple(lengths)
        self._describe = describe
        before = read_board(folder)
        self._bytes_before: Counter[str] = Counter(before.get("bytes", {}))
        self._seconds: dict[str, float] = {"train": 0.0, "collect": 0.0, "merge": 0.0, **before.get("seconds", {})}
        self._fleet = fleet
        self._fleet_path = folder / FLEET
        self._trainings = trainings
        killed = bool(before) and before.get("state") != FederationState.STOPPED.value
        self._kills = int(before.get("kills", 0)) + killed
        self._unicast = 0
        self._saved = 0.0  # bytes that compacting saved on the way up
        self._traffic = Traffic()
        self._connected: Callable[[], bool] = bool  # no
        self._opened_at = self._merging_at = clock.monotonic()
        self._written_at = float("-inf")

    def watch(self, traffic: Traffic, connected: Callable[[], bool]) -> None:
        """Show this traffic, and whether there is a connection to the broker."""
        self._traffic, self._connected = traffic, connected

    def saw(self, effect: AggregatorEffect) -> None:
        """Take the time of an effect that is about to be performed."""
        now = self._clock.monotonic()
        match effect:
            case Persist(changes, _):
                for change in changes:
                    if isinstance(change, RoundOpened):
                        self._opened_at = now
                        self._unicast += sum(FLOAT * self._lengths[tier] for _, tier in change.cohort)
                    elif isinstance(change, UpdateCounted):
                        self._seconds["train"] += change.metrics.get("seconds", 0.0)
                        self._trainings += 1
                        self._saved += max(0.0, change.metrics.get("saved_bytes", 0.0))
                    elif isinstance(change, RoundClosed) and change.outcome == "committed":
                        self._seconds["merge"] += now - self._merging_at
            case Merge():
                self._merging_at = now
                self._seconds["collect"] += now - self._opened_at

    def show(self) -> dict[str, Any]:
        """The board as it stands."""
        return {
            **self._describe(),
            "at": self._clock.now().isoformat(timespec="seconds"),
            "pid": os.getpid(),
            "connected": self._connected(),
            "lengths": list(self._lengths),
            "bytes": {
                "up": self._bytes_before["up"] + self._traffic.received.total(),
                "down": self._bytes_before["down"] + self._traffic.sent.total(),
                "down_if_unicast": self._bytes_before["down_if_unicast"] + self._unicast,
                "up_saved": self._bytes_before["up_saved"] + int(min(self._saved, MOST_SAVED)),
            },
            "seconds": dict(self._seconds),
            "trainings": self._trainings,
            "kills": self._kills,  # lives that wrote no last board: their last second is in no count of bytes
        }

    def round_ended(self) -> None:
        """Write it, unless that was done a moment ago: rounds may take milliseconds."""
        if self._clock.monotonic() - self._written_at >= FRESH_S:
            self.write()

    def write(self) -> None:
        """Replace the file; a disk without room costs the board, not the federation."""
        self._written_at = self._clock.monotonic()
        _replace(self._path, self.show())

    def write_fleet(self) -> None:
        """Replace the fleet's file; it is read by those who ask for the reasons of decisions."""
        if self._fleet is not None:
            _replace(self._fleet_path, self._fleet())

    def end(self) -> None:
        """Write it for the last time: the process ends, and who is here nobody knows any more."""
        self.write_fleet()
        self._describe = partial(_ended, self._describe)
        self.write()

    async def keep(self, every_s: float = WRITE_EVERY_S) -> None:
        """Write the board every `every_s` seconds, for ever."""
        while True:
            for _ in range(FLEET_AFTER):
                self.write()
                await asyncio.sleep(every_s)
            self.write_fleet()


def _replace(path: Path, document: Mapping[str, Any]) -> None:
    draft = path.with_suffix(".tmp")
    try:
        draft.write_text(json.dumps(document, ensure_ascii=False))
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)


def _ended(before: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    return {**before(), "state": FederationState.STOPPED.value, "round": None, "present": None, "out": {}}


def describe(machine: FederationMachine) -> dict[str, Any]:
    """What the federation is doing now."""
    current = machine.round
    return {
        "epoch": machine.epoch,
        "state": machine.state.value,
        "version": machine.head.version,
        "algorithm": {"name": machine.rules.algorithm, "why": machine.rules.algorithm_why},
        "schedule": {"open": machine.pace.opening.yes, "why": machine.pace.opening.why},
        "last_round": machine.last_round,
        "round": None
        if current is None
        else {
            "number": current.number,
            "state": current.state.value,
            "invited": len(current.opened.cohort),
            "counted": len(current.counted),
        },
        "out": dict(machine.eligibility.out),
        "present": [one.saved.device for one in machine.members.roll() if one.link is Link.ONLINE],
    }


def is_running(board: Mapping[str, Any], now: datetime.datetime) -> bool:
    """Whether the aggregator of this board runs: one that was killed leaves an old board, and no last one."""
    if board.get("state") == FederationState.STOPPED.value:
        return False
    try:
        written = datetime.datetime.fromisoformat(board["at"])
    except (KeyError, TypeError, ValueError):
        return False
    return (now - written).total_seconds() < STALE_S


def read_board(folder: Path) -> dict[str, Any]:
    """The board that an aggregator left in its state folder; empty when there is none."""
    try:
        board = json.loads((folder / BOARD).read_text())
    except (OSError, ValueError):
        return {}
    return board if isinstance(board, dict) else {}
