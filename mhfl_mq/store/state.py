"""The aggregator's state folder: one atomic `apply` over the database and the ledger.

    state.sqlite                   devices, rounds, updates, versions, and the ledger's lines (WAL)
    ledger.jsonl                   the same lines as a file for auditors (`mhfl_mq.store.ledger`)
    models/<sha256>.safetensors    content-addressed models (`mhfl_mq.store.models`)
    blobs/                         updates being received (`mhfl_mq.store.blobs`)
    lock                           held by the one process that writes

The order that makes it safe: changes and ledger lines are committed to the database in ONE transaction, then the
lines are appended to the file, then `apply` returns. A kill between the two leaves the file behind; the next `Store`
appends what is missing, once, because the database knows at which byte each line ends. Not thread-safe: one thread
(the event loop's) opens, uses and closes a store.
"""

import datetime
import logging
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from mhfl_mq.errors import LocalMisuse, StoreError
from mhfl_mq.protocol.records import Change, Entry, SavedState
from mhfl_mq.store import changes as rules
from mhfl_mq.store.files import Files, FolderLock, RealFiles, make_folder
from mhfl_mq.store.ledger import GENESIS, Head, LedgerFile, Line, chain
from mhfl_mq.store.models import model_path
from mhfl_mq.store.schema import Connect, connect, explained_database, prepare
from mhfl_mq.store.view import BLOBS, DATABASE, LEDGER, LOCK, MODELS, View

__all__ = ["Store"]

log = logging.getLogger(__name__)


class Store:
    """An open state folder, locked for this process. Use it as a context manager, or `close` it."""

    def __init__(
        self,
        folder: Path,
        now: Callable[[], datetime.datetime],
        *,
        files: Files | None = None,
        connect: Connect = connect,
    ) -> None:
        """Open the folder, making it when it is missing, and complete the ledger after a crash.

        A ledger that was deleted is written again from the database, and an entry `ledger.rebuilt` says so.
        `now` is the wall clock in UTC. Raises `StoreLocked`, `StoreFull`, `LedgerBroken` or another `StoreError`.
        """
        self.folder = folder
        self._now = now
        self._files = RealFiles() if files is None else files
        self._path = folder / DATABASE
        self._failed = False
        with ExitStack() as undo:
            for one in (folder, folder / MODELS, folder / BLOBS):
                make_folder(self._files, one)
            undo.callback(FolderLock(folder / LOCK).release)
            with explained_database(self._path):
                self._connection = connect(self._path)
                undo.callback(self._connection.close)
                prepare(self._connection, self._path)
                self._record_rebuilding(folder / LEDGER)
                self._ledger = LedgerFile(folder / LEDGER, self._files)
                undo.callback(self._ledger.close)
                with self._ledger.held():
                    self.completed = self._ledger.complete(self._stop(), self._line_before, self._lines_from)
            self.view = View(self._connection, self._path)
            self._head = self.view.ledger_head()
            self._undo = undo.pop_all()

    completed: int
    """Bytes of ledger.jsonl that were missing when the store was opened (a crash, or a hand) and were appended."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the folder back; again is not an error."""
        with explained_database(self._path):
            self._undo.close()

    @property
    def models(self) -> Path:
        """The folder for `mhfl_mq.store.models.Models`."""
        return self.folder / MODELS

    @property
    def blobs(self) -> Path:
        """The folder for `mhfl_mq.store.blobs.Blobs`."""
        return self.folder / BLOBS

    @property
    def head(self) -> Head:
        """The ledger's head: publish it, and whoever remembers it can tell a rewritten ledger."""
        return self._head

    def restore(self) -> SavedState:
        """What a restarted aggregator continues from; an empty store gives the defaults."""
        return self.view.restore()

    def apply(self, changes: Sequence[Change], entries: Sequence[Entry] = ()) -> Head:
        """Make changes and ledger entries durable, all or nothing, and return the ledger's new head.

        A batch whose every change is there already is a replay: nothing is written, its entries neither. Raises
        `LocalMisuse` for a change that breaks a rule of `mhfl_mq.store.changes`; then nothing was done. After any
        `StoreError` it is not known whether the batch is in: the store takes nothing more, and the process goes on
        from `restore` of a new `Store`.
        """
        if self._failed:
            raise StoreError(
                "a write failed before, so nothing more is written",
                where=str(self.folder),
                remedy="restart the aggregator: it goes on from the last durable state",
            )
        at = _stamp(self._now())
        lines = chain(self._head, at, entries)
        try:
            with explained_database(self._path), self._ledger.held():
                if self._commit(changes, lines, at):
                    self._ledger.append(lines)
                    self._head = Head(lines[-1].seq, lines[-1].hash) if lines else self._head
        except LocalMisuse:
            raise
        except BaseException:
            self._failed = True
            raise
        return self._head

    def _commit(self, changes: Sequence[Change], lines: Sequence[Line], at: str) -> bool:
        """One transaction; false (and nothing written) when every change was there already."""
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            news = [rules.write(connection, change, at, self._has_model) for change in changes]
            if news and not any(news):
                connection.execute("ROLLBACK")
                return False
            stop = self._stop()
            for line in lines:
                stop += len(line.data)
                row = (line.seq, line.hash, line.data, stop)
                connection.execute("INSERT INTO entries VALUES (?, ?, ?, ?)", row)
            connection.execute("COMMIT")
        except BaseException as error:
            with suppress(sqlite3.Error):  # the first error is the one to tell
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            if isinstance(error, UnicodeEncodeError | OverflowError):
                raise LocalMisuse(f"a value that the database cannot hold: {error}") from error
            raise
        return True

    def _has_model(self, digest: str) -> bool:
        return model_path(self.models, digest).is_file()

    def _record_rebuilding(self, path: Path) -> None:
        """In the database, before the file is made: a kill in between must not hide that it was gone."""
        head = View(self._connection, self._path).ledger_head()
        if head == GENESIS or path.exists():
            return
        log.warning("%s was deleted: its %d lines are written again from the database", path, head.seq)
        at = _stamp(self._now())
        self._commit((), chain(head, at, [Entry("ledger.rebuilt", {"lines": head.seq})]), at)

    # ---- where the ledger's lines end, by the database ----

    def _stop(self) -> int:
        (stop,) = self._connection.execute("SELECT coalesce(max(stop), 0) FROM entries").fetchone()
        return int(stop)

    def _line_before(self, size: int) -> tuple[bytes, int]:
        statement = "SELECT line, stop FROM entries WHERE stop <= ? ORDER BY stop DESC LIMIT 1"
        row: tuple[bytes, int] | None = self._connection.execute(statement, (size,)).fetchone()
        return (b"", 0) if row is None else row

    def _lines_from(self, start: int) -> bytes:
        rows = self._connection.execute("SELECT line FROM entries WHERE stop > ? ORDER BY stop", (start,))
        return b"".join(line for (line,) in rows)


def _stamp(now: datetime.datetime) -> str:
    """UTC with milliseconds: `2026-11-23T02:00:03.512Z`; equal lengths, so text order is time order."""
    return now.astimezone(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
