"""Writing changes: each change of the aggregator's state as SQL, with the rules that it must keep.

A change that is there already, word for word, is a replay and writes nothing; one that contradicts what is there
raises `LocalMisuse`. `write` runs inside a transaction that its caller begins and ends.
"""

import json
import sqlite3
from collections.abc import Callable, Mapping
from typing import assert_never

from mhfl_mq.errors import LocalMisuse
from mhfl_mq.protocol.records import (
    Change,
    DeviceSaved,
    EpochStarted,
    RoundClosed,
    RoundOpened,
    UpdateCounted,
    VersionAdded,
)
from mhfl_mq.store.saved import counted_update, round_outcome, version_row

__all__ = ["write"]


def write(connection: sqlite3.Connection, change: Change, at: str, has_model: Callable[[str], bool]) -> bool:
    """Make one change; false when it was there already. `has_model` says whether a model's file is on the disk."""
    match change:
        case EpochStarted():
            return _epoch_started(connection, change)
        case DeviceSaved():
            return _device_saved(connection, change, at)
        case RoundOpened():
            return _round_opened(connection, change, at)
        case UpdateCounted():
            return _update_counted(connection, change, at)
        case RoundClosed():
            return _round_closed(connection, change, at)
        case VersionAdded():
            return _version_added(connection, change, at, has_model)
        case _:
            assert_never(change)


def _epoch_started(connection: sqlite3.Connection, change: EpochStarted) -> bool:
    row = connection.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone()
    if row is not None and change.epoch <= row[0]:
        raise LocalMisuse(f"epoch {change.epoch} does not follow epoch {row[0]}")
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('epoch', ?)", (change.epoch,))
    return True


def _device_saved(connection: sqlite3.Connection, change: DeviceSaved, at: str) -> bool:
    probes = json.dumps([[probe.tier, probe.step_s, probe.peak_bytes] for probe in change.probes])
    values = (change.device, change.session, change.tier, change.reason, change.layout, change.examples)
    connection.execute(
        "INSERT OR REPLACE INTO devices VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (*values, change.link_bytes_s, probes, at),
    )
    return True


def _round_opened(connection: sqlite3.Connection, change: RoundOpened, at: str) -> bool:
    (last,) = connection.execute("SELECT coalesce(max(round), 0) FROM rounds").fetchone()
    if change.round <= last:
        raise LocalMisuse(f"round {change.round} does not follow round {last}: round numbers are never used again")
    open_round = connection.execute("SELECT round FROM rounds WHERE outcome IS NULL").fetchone()
    if open_round is not None:
        raise LocalMisuse(f"round {change.round} cannot open while round {open_round[0]} is open")
    connection.execute(
        "INSERT INTO rounds VALUES (?, ?, ?, ?, NULL, '', NULL, ?, NULL)",
        (change.round, change.base, change.policy, change.needed, at),
    )
    connection.executemany(
        "INSERT INTO cohort VALUES (?, ?, ?, ?, 0)",
        [(change.round, device, tier, place) for place, (device, tier) in enumerate(change.cohort)],
    )
    return True


def _update_counted(connection: sqlite3.Connection, change: UpdateCounted, at: str) -> bool:
    before = counted_update(connection, change.round, change.device)
    if before == change:
        return False
    if before is not None:
        raise LocalMisuse(f"another update of {change.device} is counted in round {change.round} already")
    _require_open(connection, change.round)
    connection.execute(
        "INSERT INTO updates VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            change.round,
            change.device,
            change.tier,
            change.blob_id,
            change.size,
            change.weight,
            _numbers(change.metrics),
            at,
        ),
    )
    return True


def _round_closed(connection: sqlite3.Connection, change: RoundClosed, at: str) -> bool:
    if round_outcome(connection, change.round) == change:
        return False
    _require_open(connection, change.round)
    connection.execute(
        "UPDATE rounds SET outcome = ?, reason = ?, version = ?, closed_at = ? WHERE round = ?",
        (change.outcome, change.reason, change.version, at, change.round),
    )
    connection.executemany(
        "UPDATE cohort SET turn = 1 WHERE round = ? AND device = ?", [(change.round, device) for device in change.turns]
    )
    return True


def _version_added(
    connection: sqlite3.Connection, change: VersionAdded, at: str, has_model: Callable[[str], bool]
) -> bool:
    if version_row(connection, change.version) == change:
        return False
    (last,) = connection.execute("SELECT max(version) FROM versions").fetchone()
    if last is not None and change.version <= last:
        raise LocalMisuse(f"version {change.version} does not follow version {last}")
    if not has_model(change.model):
        raise LocalMisuse(f"version {change.version} points at model {change.model}, whose file is not there")
    if change.origin == "rollback":
        known = connection.execute("SELECT 1 FROM versions WHERE model = ?", (change.model,)).fetchone()
        if known is None:
            raise LocalMisuse(f"rollback to model {change.model}, which no version has")
    values = (change.version, change.parent, change.model, change.layout, change.origin, change.round)
    connection.execute(
        "INSERT INTO versions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (*values, _numbers(change.metrics), change.reason, at),
    )
    return True


def _require_open(connection: sqlite3.Connection, number: int) -> None:
    row = connection.execute("SELECT outcome FROM rounds WHERE round = ?", (number,)).fetchone()
    if row is None:
        raise LocalMisuse(f"round {number} was never opened")
    if row[0] is not None:
        raise LocalMisuse(f"round {number} is {row[0]} already")


def _numbers(metrics: Mapping[str, float]) -> str:
    try:
        return json.dumps(dict(metrics), allow_nan=False)
    except ValueError as error:
        raise LocalMisuse(f"metrics must be finite numbers: {error}") from None
