"""Looking at a state folder, and verifying it, while an aggregator may be writing there; nobody is locked out."""

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

from mhfl_mq.errors import ConfigError, LedgerBroken, StoreError
from mhfl_mq.protocol.records import DeviceSaved, SavedState, UpdateCounted, VersionAdded
from mhfl_mq.store import saved
from mhfl_mq.store.files import explained
from mhfl_mq.store.ledger import GENESIS, Head, verify
from mhfl_mq.store.schema import connect_reader, explained_database

__all__ = ["BLOBS", "DATABASE", "LEDGER", "LOCK", "MODELS", "View", "ledger_of", "open_view", "verify_folder"]

DATABASE: Final = "state.sqlite"
LEDGER: Final = "ledger.jsonl"
MODELS: Final = "models"
BLOBS: Final = "blobs"
LOCK: Final = "lock"

AnswerT = TypeVar("AnswerT")


class View:
    """Questions to the database of a state folder."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path

    def restore(self) -> SavedState:
        """Everything that the aggregator's machine starts from; an empty store gives the defaults."""
        return self._ask(saved.restore)

    def devices(self) -> tuple[DeviceSaved, ...]:
        """Every device that was ever saved, by name."""
        return self._ask(saved.devices)

    def versions(self) -> tuple[saved.VersionSaved, ...]:
        """All versions with the time they were added, oldest first; the last one is the head."""
        return self._ask(saved.versions)

    def version(self, number: int) -> VersionAdded:
        """One version; raises `ConfigError` naming those that there are."""
        found = self._ask(lambda connection: saved.version_row(connection, number))
        if found is None:
            there = [str(one.added.version) for one in self.versions()]
            known = f"versions {there[0]} to {there[-1]}" if there else "no version yet"
            raise ConfigError(f"there is no version {number}", where=str(self._path), remedy=f"there are {known}")
        return found

    def rounds(self, last: int = 20) -> tuple[saved.RoundSaved, ...]:
        """The newest rounds, oldest first."""
        return self._ask(lambda connection: saved.rounds(connection, last))

    def updates(self, number: int) -> tuple[UpdateCounted, ...]:
        """The updates that a round has counted, in the order of counting."""
        return self._ask(lambda connection: saved.updates(connection, number))

    def ledger_head(self) -> Head:
        """The number and the hash of the ledger's newest line."""
        row = self._ask(saved.newest_entry)
        return GENESIS if row is None else Head(*row)

    def _ask(self, question: Callable[[sqlite3.Connection], AnswerT]) -> AnswerT:
        with explained_database(self._path):
            return question(self._connection)


@contextmanager
def open_view(folder: Path) -> Iterator[View]:
    """Look at a state folder from any process; raises `StoreError` when it has no database."""
    path = folder / DATABASE
    if not path.is_file():
        raise StoreError("there is no state here", where=str(folder), remedy="name the aggregator's state folder")
    connection = connect_reader(path)
    try:
        yield View(connection, path)
    finally:
        connection.close()


def ledger_of(folder: Path) -> Path:
    """The ledger's file; raises `StoreError` when there is no state in the folder, `LedgerBroken` when it is gone."""
    with open_view(folder) as view:
        _check_there(folder / LEDGER, view)
    return folder / LEDGER


def _check_there(path: Path, view: View) -> None:
    if not path.exists() and view.ledger_head() != GENESIS:
        raise LedgerBroken(
            "the ledger is gone",
            where=str(path),
            remedy="find out who deleted it; the database has its lines: the aggregator's next start writes them again "
            "and records that it did",
        )


def verify_folder(folder: Path) -> Head:
    """Check the whole ledger of a state folder against the database's head, and return that head.

    Raises `LedgerBroken` with the first wrong line, `StoreError` when there is no ledger or no database.
    """
    path = folder / LEDGER
    with open_view(folder) as view:
        _check_there(path, view)
        with explained(path, "opening the ledger"), path.open("rb") as file:
            # The writer holds this lock from its commit to its append: head and length belong together.
            fcntl.flock(file, fcntl.LOCK_SH)
            head, size = view.ledger_head(), os.fstat(file.fileno()).st_size
        return verify(path, head, size=size)
