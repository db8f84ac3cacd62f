"""Reading the database back: what a restarted aggregator continues from, and what `mhfl status` shows."""

import datetime
import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from mhfl_mq.protocol.records import (
    DAY_S,
    DeviceSaved,
    OpenRound,
    PastSaved,
    RoundClosed,
    RoundOpened,
    SavedState,
    UpdateCounted,
    VersionAdded,
)
from mhfl_mq.wire.messages import ProbeResult

__all__ = [
    "RoundSaved",
    "VersionSaved",
    "counted_update",
    "devices",
    "latest",
    "newest_entry",
    "restore",
    "round_outcome",
    "rounds",
    "updates",
    "version_row",
    "versions",
]

_DEVICE: Final = "device, session, tier, reason, layout, examples, link_bytes_s, probes"
_UPDATE: Final = "round, device, tier, blob_id, size, weight, metrics"
_VERSION: Final = "version, parent, model, layout, origin, round, metrics, reason"
_ROUND: Final = "round, base, policy, needed, outcome, reason, version, opened_at, closed_at"


@dataclass(frozen=True, slots=True)
class RoundSaved:
    """A round as the database has it; `closed` and `closed_at` are None while it is open. Times are UTC, ISO 8601."""

    opened: RoundOpened
    opened_at: str
    closed: RoundClosed | None
    closed_at: str | None
    counted: int


@dataclass(frozen=True, slots=True)
class VersionSaved:
    """A version and the UTC time, ISO 8601, at which it was added."""

    added: VersionAdded
    at: str


def restore(connection: sqlite3.Connection) -> SavedState:
    """Everything that the aggregator's machine starts from."""
    epoch = connection.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone()
    last_round, rounds_opened = connection.execute("SELECT coalesce(max(round), 0), count(*) FROM rounds").fetchone()
    newest = connection.execute(f"SELECT {_VERSION} FROM versions ORDER BY version DESC LIMIT 1").fetchone()
    opened = connection.execute(f"SELECT {_ROUND} FROM rounds WHERE outcome IS NULL").fetchone()
    counts = connection.execute("SELECT device, count(*) FROM updates GROUP BY device ORDER BY device")
    turns = connection.execute("SELECT device, count(*) FROM cohort WHERE turn = 1 GROUP BY device ORDER BY device")
    committed = connection.execute("SELECT max(opened_at) FROM rounds WHERE outcome = 'committed'").fetchone()[0]
    return SavedState(
        epoch=0 if epoch is None else epoch[0],
        last_round=last_round,
        rounds_opened=rounds_opened,
        head=None if newest is None else _version(newest),
        devices=devices(connection),
        open_round=None
        if opened is None
        else OpenRound(_round_opened(connection, opened), updates(connection, opened[0]), _seconds(opened[7])),
        turns=dict(turns.fetchall()),
        pasts=_pasts(connection),
        committed_at=None if committed is None else _seconds(committed),
        last_closed=round_outcome(connection, last_round),
        rounds_counted=dict(counts.fetchall()),
        latest=latest(connection),
    )


def _pasts(connection: sqlite3.Connection) -> dict[str, PastSaved]:
    """What each device that ever had its turn did, with its uploads of the last day before the newest."""
    rows = connection.execute(
        """SELECT c.device, max(r.opened_at), sum(c.round > coalesce(u.last, 0))
        FROM cohort c JOIN rounds r USING (round)
        LEFT JOIN (SELECT device, max(round) AS last FROM updates GROUP BY device) u ON u.device = c.device
        WHERE c.turn = 1 GROUP BY c.device"""
    ).fetchall()
    pasts = {device: PastSaved(_seconds(opened_at), missed) for device, opened_at, missed in rows}
    newest = connection.execute("SELECT max(at) FROM updates").fetchone()[0]
    if newest is not None:
        since = datetime.datetime.fromisoformat(newest) - datetime.timedelta(seconds=DAY_S)
        day = "SELECT device, at, size, metrics FROM updates WHERE at > ? ORDER BY id"
        for device, at, size, metrics in connection.execute(
            day, (since.isoformat(timespec="milliseconds").replace("+00:00", "Z"),)
        ):
            before = pasts.get(device, PastSaved())
            pasts[device] = before.uploaded(_seconds(at), size, json.loads(metrics).get("seconds", 0.0))
    return pasts


def devices(connection: sqlite3.Connection) -> tuple[DeviceSaved, ...]:
    """Every device that was ever saved, by name."""
    return tuple(map(_device, connection.execute(f"SELECT {_DEVICE} FROM devices ORDER BY device")))


def updates(connection: sqlite3.Connection, number: int) -> tuple[UpdateCounted, ...]:
    """The updates that a round has counted, in the order of counting."""
    rows = connection.execute(f"SELECT {_UPDATE} FROM updates WHERE round = ? ORDER BY id", (number,))
    return tuple(map(_update, rows))


def latest(connection: sqlite3.Connection) -> tuple[UpdateCounted, ...]:
    """Each device's newest counted update, by name."""
    newest = "SELECT max(id) FROM updates GROUP BY device"
    return tuple(
        map(_update, connection.execute(f"SELECT {_UPDATE} FROM updates WHERE id IN ({newest}) ORDER BY device"))
    )


def counted_update(connection: sqlite3.Connection, number: int, device: str) -> UpdateCounted | None:
    """This device's update in this round, if one was counted."""
    statement = f"SELECT {_UPDATE} FROM updates WHERE round = ? AND device = ?"
    row = connection.execute(statement, (number, device)).fetchone()
    return None if row is None else _update(row)


def versions(connection: sqlite3.Connection) -> tuple[VersionSaved, ...]:
    """All versions, oldest first; the last one is the head."""
    rows = connection.execute(f"SELECT {_VERSION}, at FROM versions ORDER BY version")
    return tuple(VersionSaved(_version(row), at) for *row, at in rows)


def version_row(connection: sqlite3.Connection, number: int) -> VersionAdded | None:
    """One version, if there is one of this number."""
    row = connection.execute(f"SELECT {_VERSION} FROM versions WHERE version = ?", (number,)).fetchone()
    return None if row is None else _version(row)


def rounds(connection: sqlite3.Connection, last: int) -> tuple[RoundSaved, ...]:
    """The newest `last` rounds, oldest first."""
    rows = connection.execute(f"SELECT {_ROUND} FROM rounds ORDER BY round DESC LIMIT ?", (last,)).fetchall()
    return tuple(_round(connection, row) for row in reversed(rows))


def round_outcome(connection: sqlite3.Connection, number: int) -> RoundClosed | None:
    """How a round ended, if it did."""
    row = connection.execute(f"SELECT {_ROUND} FROM rounds WHERE round = ?", (number,)).fetchone()
    return None if row is None else _closed(connection, row)


def newest_entry(connection: sqlite3.Connection) -> tuple[int, str] | None:
    """Number and hash of the newest ledger line, if there is one."""
    row: tuple[int, str] | None = connection.execute(
        "SELECT seq, hash FROM entries ORDER BY seq DESC LIMIT 1"
    ).fetchone()
    return row


# ---- rows -----------------------------------------------------------------------------------------------------


def _device(row: Iterable[Any]) -> DeviceSaved:
    device, session, tier, reason, layout, examples, link_bytes_s, probes = row
    measured = tuple(ProbeResult(*probe) for probe in json.loads(probes))
    return DeviceSaved(device, session, tier, reason, layout, examples, link_bytes_s, measured)


def _update(row: Iterable[Any]) -> UpdateCounted:
    number, device, tier, blob_id, size, weight, metrics = row
    return UpdateCounted(number, device, tier, blob_id, size, weight, json.loads(metrics))


def _version(row: Iterable[Any]) -> VersionAdded:
    version, parent, model, layout, origin, number, metrics, reason = row
    return VersionAdded(version, parent, model, layout, origin, number, json.loads(metrics), reason)


def _round(connection: sqlite3.Connection, row: tuple[Any, ...]) -> RoundSaved:
    (counted,) = connection.execute("SELECT count(*) FROM updates WHERE round = ?", (row[0],)).fetchone()
    return RoundSaved(_round_opened(connection, row), row[7], _closed(connection, row), row[8], counted)


def _round_opened(connection: sqlite3.Connection, row: tuple[Any, ...]) -> RoundOpened:
    number, base, policy, needed = row[:4]
    cohort = connection.execute("SELECT device, tier FROM cohort WHERE round = ? ORDER BY place", (number,))
    return RoundOpened(number, base, policy, needed, tuple(cohort.fetchall()))


def _seconds(stamp: str) -> float:
    """A time of the database as seconds since 1970."""
    return datetime.datetime.fromisoformat(stamp).timestamp()


def _closed(connection: sqlite3.Connection, row: tuple[Any, ...]) -> RoundClosed | None:
    number, outcome, reason, version = row[0], row[4], row[5], row[6]
    if outcome is None:
        return None
    turns = connection.execute("SELECT device FROM cohort WHERE round = ? AND turn = 1 ORDER BY device", (number,))
    return RoundClosed(number, outcome, reason, version, tuple(device for (device,) in turns))
