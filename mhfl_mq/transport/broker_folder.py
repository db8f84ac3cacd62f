"""The folder of an embedded broker: one broker at a time, and what the disk says in words for people."""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mhfl_mq.errors import StoreError, StoreFull, StoreLocked

__all__ = ["BrokerLock", "explained"]

_LOCK = "lock"
_ORPHAN_S = 5.0  # seconds for the broker of a process that was killed: it was told to end, and writes its store first
_LOOK_S = 0.02
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn an `OSError` of the block into `StoreFull` or `StoreError`: the folder cannot be used."""
    try:
        yield
    except OSError as error:
        kind = StoreFull if error.errno in _FULL else StoreError
        raise kind(
            f"the broker's folder {folder} cannot be used: {error.strerror or error}",
            where=str(error.filename or folder),
            remedy="name a folder that this user can write to, on a disk with room",
        ) from error


class BrokerLock:
    """Held for one broker and its folder, by us and by the broker's own process: two brokers on one store ruin it.

    The broker inherits `fd`, so it holds the lock also when we are killed and it is still ending.
    """

    def __init__(self, folder: Path) -> None:
        """As `take`."""
        self._folder = folder
        self.fd = -1
        self.take()

    def take(self) -> None:
        """Take it, unless it is ours already; raises `StoreLocked` naming the process that has it."""
        if self.fd >= 0:
            return
        with explained(self._folder):
            self.fd = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                self._wait()
            except BaseException:
                self.release()
                raise
        with suppress(OSError):  # the pid is for people
            os.ftruncate(self.fd, 0)
            os.pwrite(self.fd, b"%d\n" % os.getpid(), 0)

    def release(self) -> None:
        """Let the next broker in; again is not an error."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _wait(self) -> None:
        """Until it is ours; only a broker that lost its parent is waited for, for it is ending."""
        ends = time.monotonic() + _ORPHAN_S
        while True:
            try:
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(self.fd, 32, 0).decode("ascii", "replace").strip()
                if _runs(holder) or time.monotonic() > ends:
                    raise _locked(self._folder, holder) from None
                time.sleep(_LOOK_S)
            else:
                return


def _runs(pid: str) -> bool:
    """Whether there is such a process; what is no number is one that has the lock and not yet said who it is."""
    if not pid.isdecimal():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _locked(folder: Path, holder: str) -> StoreLocked:
    return StoreLocked(
        f"a broker that process {holder or 'unknown'} started is using the folder {folder}",
        where=str(folder),
        remedy="use that broker or stop it, or give this one a folder of its own with --folder",
    )
