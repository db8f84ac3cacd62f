"""The disk as a port: every call that changes it goes through `Files`, so that a test can fail or tear the Nth one.

Reads do not pass here: they change nothing, and what they bring is proven by digests and by the ledger's chain.
POSIX only (flock, pwrite, fsync of folders).
"""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from mhfl_mq.errors import StoreError, StoreFull, StoreLocked

__all__ = ["Files", "FolderLock", "RealFiles", "atomic_write", "explained", "make_folder", "store_error"]

MODE = 0o640  # state is for its owner; an auditor's group may read it
FULL = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
)  # no room: of the disk, of the quota, of the file size limit


class Files(Protocol):
    """What the store asks of a disk. Every method raises `OSError` when the disk does not do it."""

    def open(self, path: Path, flags: int) -> int:
        """A file descriptor, as from `os.open`; the caller closes it."""
        ...

    def write(self, fd: int, data: bytes | memoryview, at: int) -> None:
        """Write all of `data` at byte `at`."""
        ...

    def resize(self, fd: int, size: int) -> None:
        """Make the file `size` bytes long; bytes that are new are reserved on the disk and read as zero."""
        ...

    def sync(self, fd: int) -> None:
        """Return when the file's bytes survive a power cut."""
        ...

    def replace(self, source: Path, target: Path) -> None:
        """Rename, atomically, over what may be there."""
        ...

    def unlink(self, path: Path) -> None:
        """Delete; a file that is not there is not an error."""
        ...

    def sync_folder(self, folder: Path) -> None:
        """Return when names made, replaced and deleted in this folder survive a power cut."""
        ...


class RealFiles:
    """The disk of this machine."""

    def open(self, path: Path, flags: int) -> int:
        """See `Files`."""
        return os.open(path, flags | os.O_CLOEXEC, MODE)

    def write(self, fd: int, data: bytes | memoryview, at: int) -> None:
        """See `Files`; goes on after a short write."""
        rest = memoryview(data).cast("B")
        while rest:
            done = os.pwrite(fd, rest, at)
            rest = rest[done:]
            at += done

    def resize(self, fd: int, size: int) -> None:
        """See `Files`."""
        grows = size > os.fstat(fd).st_size
        if grows and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, size)
        else:
            os.ftruncate(fd, size)

    def sync(self, fd: int) -> None:
        """See `Files`."""
        os.fsync(fd)

    def replace(self, source: Path, target: Path) -> None:
        """See `Files`."""
        os.replace(source, target)

    def unlink(self, path: Path) -> None:
        """See `Files`."""
        path.unlink(missing_ok=True)

    def sync_folder(self, folder: Path) -> None:
        """See `Files`."""
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def store_error(error: OSError, path: Path, doing: str) -> StoreError:
    """The store's error for what the operating system said while `doing` something with `path`."""
    if error.errno in FULL:
        return StoreFull(
            f"no room left while {doing} ({error.strerror})",
            where=str(path),
            remedy="free space on this disk (or raise the quota) and start again: nothing that was confirmed is lost",
        )
    return StoreError(
        f"failed while {doing} ({error.strerror})",
        where=str(path),
        remedy="check that the folder exists, belongs to this user and that the disk is healthy (dmesg)",
    )


@contextmanager
def explained(path: Path, doing: str) -> Iterator[None]:
    """Turn an `OSError` of the block into the store's own error, naming `path` and what was being done."""
    try:
        yield
    except OSError as error:
        raise store_error(error, path, doing) from error


def atomic_write(files: Files, path: Path, data: bytes | memoryview) -> None:
    """Make `path` hold `data`, durably: after any failure or kill it holds the old bytes or the new, never a mix."""
    draft = path.with_name(path.name + ".tmp")
    with explained(path, "writing"):
        try:
            fd = files.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            try:
                files.write(fd, data, 0)
                files.sync(fd)
            finally:
                os.close(fd)
            files.replace(draft, path)
        except OSError:
            with suppress(OSError):  # the first error is the one to tell; a draft left behind harms nobody
                files.unlink(draft)
            raise
        files.sync_folder(path.parent)


def make_folder(files: Files, folder: Path) -> None:
    """Make the folder (and its parents) when it is missing, durably."""
    if folder.is_dir():
        return
    with explained(folder, "making the folder"):
        folder.mkdir(parents=True, exist_ok=True)
        files.sync_folder(folder.parent)


class FolderLock:
    """Holds a folder for this process alone, until `release` or the end of the process (kill -9 included)."""

    def __init__(self, path: Path) -> None:
        """Take the lock file `path`, or raise `StoreLocked` naming the process that holds it."""
        self._path = path
        with explained(path, "opening the lock"):
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, MODE)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            self.release()
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise store_error(error, path, "locking") from error
            raise StoreLocked(
                f"process {holder} is using this folder",
                where=str(path.parent),
                remedy=f"stop process {holder}, or give this one a state folder of its own",
            ) from None
        # The pid is for people: a disk too full for it must not keep the process from starting.
        with suppress(OSError):
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, b"%d\n" % os.getpid(), 0)

    def release(self) -> None:
        """Let the next process in; again is not an error."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
