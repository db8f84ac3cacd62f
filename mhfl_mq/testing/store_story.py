"""A short life of an aggregator's state folder, step by step, for tests that kill it in every place.

Each step is one `Store.apply` (with the model file that it needs, written first). The steps are the same in every
run, byte for byte, so what a crash left is compared with what a run without one had after as many steps.
"""

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from mhfl_mq.protocol.records import (
    DeviceSaved,
    Entry,
    EpochStarted,
    RoundClosed,
    RoundOpened,
    SavedState,
    UpdateCounted,
    VersionAdded,
)
from mhfl_mq.store.files import Files
from mhfl_mq.store.ledger import Head
from mhfl_mq.store.models import Models
from mhfl_mq.store.state import Store
from mhfl_mq.store.versions import plan_rollback
from mhfl_mq.store.view import verify_folder
from mhfl_mq.wire.messages import ProbeResult

__all__ = ["STEPS", "Snapshot", "go_on", "now", "play", "snapshot"]

Step = Callable[[Store, Files | None], object]
Snapshot = tuple[SavedState, Head]

LAYOUT: Final = {"format": "a story's layout"}
NOON: Final = datetime.datetime(2026, 11, 23, 12, tzinfo=datetime.UTC)


def now() -> datetime.datetime:
    """The story's clock: it stands still."""
    return NOON


def _model(store: Store, files: Files | None, number: int) -> str:
    return Models(store.models, files).put(np.full(64, number, np.float32), LAYOUT)


def _start(store: Store, files: Files | None) -> object:
    return store.apply([EpochStarted(1)], [Entry("aggregator.start", {"epoch": 1})])


def _first_version(store: Store, files: Files | None) -> object:
    added = VersionAdded(1, None, _model(store, files, 1), "layout", "initial", None, {}, "")
    return store.apply([added], [Entry("model.version", {"version": 1})])


def _devices(store: Store, files: Files | None) -> object:
    probes = (ProbeResult("small", 0.01, 1_000_000),)
    devices = [DeviceSaved(name, 1, 0, "fits", "layout", 100, 0.0, probes) for name in ("gw-1", "gw-2")]
    return store.apply(devices, [Entry("device.assign", {"device": one.device, "tier": 0}) for one in devices])


def _open(number: int, base: int) -> Step:
    opened = RoundOpened(number, base, "policy", 2, (("gw-2", 0), ("gw-1", 0)))
    return lambda store, _: store.apply([opened], [Entry("round.open", {"round": number})])


def _count(number: int, device: str) -> Step:
    counted = UpdateCounted(number, device, 0, "ab" * 32, 256, 10.0, {"loss": 0.5})
    facts: dict[str, str | int] = {"round": number, "device": device}
    return lambda store, _: store.apply([counted], [Entry("update.counted", {**facts})])


def _commit(store: Store, files: Files | None) -> object:
    model = _model(store, files, 2)
    added = VersionAdded(2, 1, model, "layout", "round", 1, {"accuracy/small": 0.8}, "")
    closed = RoundClosed(1, "committed", "", 2, ("gw-1", "gw-2"))
    return store.apply([added, closed], [Entry("round.commit", {"round": 1, "model": model}), Entry("gate.pass")])


def _abort(store: Store, files: Files | None) -> object:
    return store.apply([RoundClosed(2, "aborted", "quorum", None, ("gw-2",))], [Entry("round.abort", {"round": 2})])


def _roll_back(store: Store, files: Files | None) -> object:
    added, entry = plan_rollback(store.view, 1, "drill", "operator")
    return store.apply([added], [entry])


def _stop(store: Store, files: Files | None) -> object:
    return store.apply([], [Entry("aggregator.stop", {"reason": "日本語"})])


STEPS: Final[tuple[Step, ...]] = (
    _start,
    _first_version,
    _devices,
    _open(1, 1),
    _count(1, "gw-1"),
    _count(1, "gw-2"),
    _commit,
    _open(2, 2),
    _count(2, "gw-2"),
    _abort,
    _roll_back,
    _stop,
)


def play(store: Store, files: Files | None = None, first: int = 0) -> list[Snapshot]:
    """Play the steps from number `first` on; the snapshots before, and after each of them."""
    snapshots = [snapshot(store)]
    for step in STEPS[first:]:
        step(store, files)
        snapshots.append(snapshot(store))
    return snapshots


def snapshot(store: Store) -> Snapshot:
    """All that a store tells of itself."""
    return store.restore(), store.head


def go_on(folder: Path, expected: list[Snapshot]) -> int:
    """Open what a crash left, prove it whole, and play the rest; returns how many steps had been kept.

    Raises `AssertionError` unless the folder has exactly what some number of whole steps leave, the ledger
    verifies, every version's model is whole, and the rest of the story ends as it does without a crash.
    """
    with Store(folder, now) as store:
        found = snapshot(store)
        if found not in expected:
            raise AssertionError(f"neither an old nor a new state: {found}")
        kept = expected.index(found)
        if verify_folder(folder) != store.head:
            raise AssertionError("the ledger's head is not the store's")
        for one in store.view.versions():
            Models(store.models).verify(one.added.model)
        if play(store, first=kept)[-1] != expected[-1]:
            raise AssertionError(f"gone on after {kept} steps, the story ends otherwise")
        if verify_folder(folder) != store.head:
            raise AssertionError("the ledger is broken after going on")
        return kept
