"""A disk that fails: the Nth call that changes it is refused, torn in the middle, or the last thing that happens.

Fail call 1, 2, 3, ... until a run passes clean, and after each failure open the folder again and look: there is the
old state or the new one, and nothing is claimed that is not there (the idea is SQLite's anomaly tests,
https://sqlite.org/testing.html).
"""

import errno
import os
from enum import Enum
from pathlib import Path

from mhfl_mq.store.files import Files, RealFiles

__all__ = ["FailingFiles", "Failure"]


class Failure(Enum):
    """What happens at the Nth call."""

    FULL = "full"  # ENOSPC, nothing is done; from then on nothing can be written, as on a real full disk
    TORN = "torn"  # half of the bytes are written, then as FULL
    BAD = "bad"  # EIO, once: a bad sector
    KILL = "kill"  # the process ends before the call, as by kill -9
    KILL_TORN = "kill torn"  # the process ends in the middle of a write


KILLED = 137
"""The exit status of a process that a `KILL` ended: what a shell shows for kill -9."""


class FailingFiles:
    """`Files` whose call number `nth` (from 1) fails; 0: none does. `calls` counts them."""

    def __init__(self, nth: int, failure: Failure, inner: Files | None = None) -> None:
        self.calls = 0
        self._nth = nth
        self._failure = failure
        self._inner = RealFiles() if inner is None else inner

    @property
    def failed(self) -> bool:
        """Whether the failing call was reached."""
        return 0 < self._nth <= self.calls

    def open(self, path: Path, flags: int) -> int:
        """See `Files`."""
        self._step(takes_room=bool(flags & os.O_CREAT) and not path.exists())
        return self._inner.open(path, flags)

    def write(self, fd: int, data: bytes | memoryview, at: int) -> None:
        """See `Files`; a torn one writes the first half."""
        if self.calls + 1 == self._nth and self._failure in (Failure.TORN, Failure.KILL_TORN):
            view = memoryview(data).cast("B")
            self._inner.write(fd, view[: len(view) // 2], at)
        self._step(takes_room=True)
        self._inner.write(fd, data, at)

    def resize(self, fd: int, size: int) -> None:
        """See `Files`."""
        self._step(takes_room=size > os.fstat(fd).st_size)
        self._inner.resize(fd, size)

    def sync(self, fd: int) -> None:
        """See `Files`."""
        self._step(takes_room=True)  # delayed allocation: a full disk may show only now
        self._inner.sync(fd)

    def replace(self, source: Path, target: Path) -> None:
        """See `Files`."""
        self._step(takes_room=False)
        self._inner.replace(source, target)

    def unlink(self, path: Path) -> None:
        """See `Files`."""
        self._step(takes_room=False)
        self._inner.unlink(path)

    def sync_folder(self, folder: Path) -> None:
        """See `Files`."""
        self._step(takes_room=False)
        self._inner.sync_folder(folder)

    def _step(self, *, takes_room: bool) -> None:
        self.calls += 1
        now = self.calls == self._nth
        match self._failure:
            case Failure.KILL | Failure.KILL_TORN if now:
                os._exit(KILLED)
            case Failure.BAD if now:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            case Failure.FULL | Failure.TORN if now or (self.failed and takes_room):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
