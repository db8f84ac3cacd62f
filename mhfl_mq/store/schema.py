"""The aggregator's database: its tables, how it is opened, and what its errors mean to a person.

WAL with `synchronous=FULL`: a commit is on the disk when it returns (one fsync, about 0.2 ms on an SSD), readers of
other processes never wait for the writer, and a kill at any byte leaves the last commit.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from mhfl_mq.errors import LocalMisuse, StoreError, StoreFull, StoreLocked

__all__ = ["SCHEMA_VERSION", "Connect", "connect", "connect_reader", "explained_database", "prepare"]

Connect = Callable[[Path], sqlite3.Connection]

SCHEMA_VERSION: Final = 2
BUSY_S: Final = 5.0
"""Seconds to wait for another connection: readers never hold the database that long, so more means trouble."""

TABLES: Final = (
    """CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID""",
    """CREATE TABLE devices (
        device TEXT PRIMARY KEY, session INTEGER NOT NULL, tier INTEGER, reason TEXT NOT NULL, layout TEXT NOT NULL,
        examples INTEGER NOT NULL, link_bytes_s REAL NOT NULL, probes TEXT NOT NULL, at TEXT NOT NULL)""",
    """CREATE TABLE rounds (
        round INTEGER PRIMARY KEY CHECK (round > 0), base INTEGER NOT NULL REFERENCES versions, policy TEXT NOT NULL,
        needed INTEGER NOT NULL, outcome TEXT CHECK (outcome IN ('committed', 'aborted')), reason TEXT NOT NULL,
        version INTEGER REFERENCES versions DEFERRABLE INITIALLY DEFERRED, opened_at TEXT NOT NULL, closed_at TEXT,
        CHECK ((outcome IS 'committed') = (version IS NOT NULL)))""",
    # At most one round is open; an expression index, because a partial one over NULLs would not be unique.
    """CREATE UNIQUE INDEX one_open_round ON rounds (outcome IS NULL) WHERE outcome IS NULL""",
    """CREATE TABLE cohort (
        round INTEGER NOT NULL REFERENCES rounds, device TEXT NOT NULL, tier INTEGER NOT NULL,
        place INTEGER NOT NULL, turn INTEGER NOT NULL, PRIMARY KEY (round, device)) WITHOUT ROWID""",
    """CREATE INDEX turns_by_device ON cohort (device) WHERE turn = 1""",
    """CREATE TABLE updates (
        id INTEGER PRIMARY KEY, round INTEGER NOT NULL, device TEXT NOT NULL, tier INTEGER NOT NULL,
        blob_id TEXT NOT NULL, size INTEGER NOT NULL, weight REAL NOT NULL, metrics TEXT NOT NULL, at TEXT NOT NULL,
        UNIQUE (round, device), FOREIGN KEY (round, device) REFERENCES cohort)""",
    """CREATE INDEX updates_by_device ON updates (device)""",
    """CREATE TABLE versions (
        version INTEGER PRIMARY KEY CHECK (version >= 0), parent INTEGER REFERENCES versions, model TEXT NOT NULL,
        layout TEXT NOT NULL, origin TEXT NOT NULL CHECK (origin IN ('initial', 'round', 'rollback')),
        round INTEGER REFERENCES rounds DEFERRABLE INITIALLY DEFERRED, metrics TEXT NOT NULL, reason TEXT NOT NULL,
        at TEXT NOT NULL)""",
    # `stop` is the byte of ledger.jsonl at which the line ends: opening the store need not read the whole file.
    """CREATE TABLE entries (
        seq INTEGER PRIMARY KEY, hash TEXT NOT NULL, line BLOB NOT NULL, stop INTEGER NOT NULL UNIQUE)""",
)


def connect(path: Path) -> sqlite3.Connection:
    """The writer's connection; transactions are begun and ended by hand."""
    return sqlite3.connect(path, isolation_level=None, timeout=BUSY_S)


def connect_reader(path: Path) -> sqlite3.Connection:
    """A connection of another process, for looking only. The database must be there; raises `StoreError`."""
    with explained_database(path):
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=BUSY_S, isolation_level=None
        )
        try:
            connection.execute("PRAGMA query_only = ON")
            _check_version(connection, path)
        except BaseException:
            connection.close()
            raise
    return connection


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Set a writer's connection up, and make the tables when the database is new; raises `StoreError`."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    if connection.execute("PRAGMA user_version").fetchone() == (0,):
        connection.execute("BEGIN IMMEDIATE")
        for statement in TABLES:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    _check_version(connection, path)


def _check_version(connection: sqlite3.Connection, path: Path) -> None:
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    if found != SCHEMA_VERSION:
        raise StoreError(
            f"the database has schema {found}, this release speaks {SCHEMA_VERSION}",
            where=str(path),
            remedy="run the release of mhfl-mq that wrote it, or give this one a new state folder",
        )


@contextmanager
def explained_database(path: Path) -> Iterator[None]:
    """Turn SQLite's errors of the block into the store's own, naming `path`."""
    try:
        yield
    except sqlite3.IntegrityError as error:
        raise LocalMisuse(f"the database refuses this change ({error})", where=str(path)) from error
    except sqlite3.Error as error:
        raise _database_error(error, path) from error


def _database_error(error: sqlite3.Error, path: Path) -> StoreError:
    name = getattr(error, "sqlite_errorname", None) or type(error).__name__
    if name in ("SQLITE_FULL", "SQLITE_IOERR_SHMSIZE"):  # the second: no room for the shared index of the log
        return StoreFull(
            "no room left while writing the database",
            where=str(path),
            remedy="free space on this disk (or raise the quota) and start again: nothing that was confirmed is lost",
        )
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return StoreLocked(
            f"another program holds the database ({error})",
            where=str(path),
            remedy="close the program that has it open for writing",
        )
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        remedy = "restore the state folder from a backup; `mhfl ledger verify` says how far the ledger is sound"
        return StoreError(f"the database is damaged ({error})", where=str(path), remedy=remedy)
    return StoreError(
        f"the database cannot be used ({error}, {name})",
        where=str(path),
        remedy="check that the folder exists, belongs to this user, and that disk and quota have room",
    )
