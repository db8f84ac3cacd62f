"""A database that fails: SQLite's Nth statement is refused, or is the last thing that the process does."""

import os
import sqlite3
from enum import Enum
from pathlib import Path
from typing import Any, Final

from mhfl_mq.store import schema
from mhfl_mq.testing.files import KILLED

__all__ = ["FailingDatabase", "Fate"]


class Fate(Enum):
    """What happens at the Nth statement."""

    REFUSED = "refused"  # an I/O error, nothing is done
    DONE_AND_REFUSED = "done and refused"  # it is done, and an I/O error is reported all the same
    KILLED_BEFORE = "killed before"  # the process ends, as by kill -9
    KILLED_AFTER = "killed after"


class FailingDatabase:
    """A `Connect` for `Store` whose statement number `nth` (from 1) fails; 0: none does. `calls` counts them."""

    def __init__(self, nth: int, fate: Fate) -> None:
        self.calls = 0
        self._nth: Final = nth
        self._fate: Final = fate

    @property
    def failed(self) -> bool:
        """Whether the failing statement was reached."""
        return 0 < self._nth <= self.calls

    def __call__(self, path: Path) -> sqlite3.Connection:
        """Open the database at `path`."""
        database = self

        class Connection(sqlite3.Connection):
            def execute(self, *args: Any) -> sqlite3.Cursor:
                database.before()
                cursor = super().execute(*args)
                database.after()
                return cursor

            def executemany(self, *args: Any) -> sqlite3.Cursor:
                database.before()
                cursor = super().executemany(*args)
                database.after()
                return cursor

        return sqlite3.connect(path, isolation_level=None, timeout=schema.BUSY_S, factory=Connection)

    def before(self) -> None:
        """Count a statement that is about to run."""
        self.calls += 1
        if self.calls == self._nth:
            if self._fate is Fate.KILLED_BEFORE:
                os._exit(KILLED)
            if self._fate is Fate.REFUSED:
                raise sqlite3.OperationalError("disk I/O error")

    def after(self) -> None:
        """Look at a statement that has run."""
        if self.calls == self._nth:
            if self._fate is Fate.KILLED_AFTER:
                os._exit(KILLED)
            if self._fate is Fate.DONE_AND_REFUSED:
                raise sqlite3.OperationalError("disk I/O error")
