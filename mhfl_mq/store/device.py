"""A device's small folder: what it must not forget over a kill, so that it sends again instead of training again.

    session     the session counter: grows with every connection, so that the broker's old last will is known as old
    state       the machine's `SavedDevice`: tier, offer, the finished update's manifest
    blobs/      fetched segments and the finished update (`mhfl_mq.store.blobs`)
    lock        held by the one agent of this folder

Both small files are replaced atomically, and begin with a digest of the rest: a damaged one is told, not believed.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from mhfl_mq.errors import PeerFault, StoreError
from mhfl_mq.protocol.effects import SavedDevice
from mhfl_mq.store.blobs import Blobs
from mhfl_mq.store.files import Files, FolderLock, RealFiles, atomic_write, explained, make_folder
from mhfl_mq.wire.blobs import check_manifest
from mhfl_mq.wire.codec import decode, encode, pack, unpack
from mhfl_mq.wire.messages import Manifest, Offer, Survey

__all__ = ["DeviceStore"]

FORMAT: Final = 1
DIGEST: Final = 16  # bytes of SHA-256 before the packed state: against a damaged disk, not against a person


class DeviceStore:
    """An open device folder, locked for this process. Use it as a context manager, or `close` it."""

    blobs: Blobs
    """Fetched segments and the finished update."""

    def __init__(self, folder: Path, budget: int, monotonic: Callable[[], float], files: Files | None = None) -> None:
        """Open the folder, making it when it is missing. `budget` is for `blobs`.

        Raises `StoreLocked` when another agent uses it, `StoreFull` or another `StoreError`.
        """
        self.folder = folder
        self._files = RealFiles() if files is None else files
        make_folder(self._files, folder)
        make_folder(self._files, folder / "blobs")
        self._lock = FolderLock(folder / "lock")
        try:
            self.blobs = Blobs(folder / "blobs", budget, monotonic, self._files)
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the folder back; again is not an error."""
        try:
            self.blobs.close()
        finally:
            self._lock.release()

    def next_session(self, floor: int = 0) -> int:
        """A session number that this folder never gave before, not even to a process that was killed at once.

        It is at least `floor`: with the wall clock's seconds, a device whose folder was lost still grows.
        """
        path = self.folder / "session"
        last = _load(path)
        if last is not None and type(last) is not int:
            raise _damaged(path)
        number = max(floor, 1 + (last or 0))
        self._store(path, number)
        return number

    def load(self) -> SavedDevice:
        """What the last `save` kept; a new folder gives the defaults. Raises `StoreError` when it is damaged."""
        path = self.folder / "state"
        value = _load(path)
        if value is None:
            return SavedDevice()
        try:
            return _saved_device(value)
        except (PeerFault, TypeError, ValueError, KeyError):
            raise _damaged(path) from None

    def save(self, state: SavedDevice) -> None:
        """Make the state durable: after a kill at any instant the folder has the old one or this one."""
        self._store(self.folder / "state", _document(state))

    def _store(self, path: Path, value: object) -> None:
        body = pack(value)
        atomic_write(self._files, path, hashlib.sha256(body).digest()[:DIGEST] + body)


def _load(path: Path) -> Any:
    """The value in a small file; None when there is no file."""
    with explained(path, "reading"):
        if not path.exists():
            return None
        data = path.read_bytes()
    digest, body = data[:DIGEST], data[DIGEST:]
    if hashlib.sha256(body).digest()[:DIGEST] != digest:
        raise _damaged(path)
    try:
        return unpack(body)
    except PeerFault:
        raise _damaged(path) from None


def _document(state: SavedDevice) -> dict[str, object]:
    """The state by its fields: messages as frames of the wire, the manifest by its own fields, the rest as it is."""
    document: dict[str, object] = {"format": FORMAT}
    for field in dataclasses.fields(state):
        value = getattr(state, field.name)
        match value:
            case Manifest():
                value = [value.blob_id, value.size, value.chunk, value.digests]
            case Survey() | Offer():
                value = encode(value)
            case Mapping():
                value = dict(value)
        document[field.name] = value
    return document


def _saved_device(document: Any) -> SavedDevice:
    """The state of a document; one of an older release may lack fields, and they get their defaults."""
    values = dict(document)
    if values.pop("format") != FORMAT:
        raise ValueError("another format")
    for name in ("survey", "offer"):
        if values.get(name) is not None:
            values[name] = decode(values[name])
    if values.get("update") is not None:
        values["update"] = Manifest(*values["update"])
        check_manifest(values["update"])
    return SavedDevice(**values)


def _damaged(path: Path) -> StoreError:
    return StoreError(
        "is damaged, or another release of mhfl-mq wrote it",
        where=str(path),
        remedy="run the release that wrote it, or move the folder away: the device joins again as a new one",
    )
