"""A device's small folder: what it must not forget over a kill, so that it sends again instead of training again.

    session     the session counter: grows with every connection, so that the broker's old last will is known as old
    state.0     the machine's `SavedDevice` (tier, offer, the finished update's manifest), in one of two slots:
    state.1     each saving writes the older one, so the one before it is whole at every instant
    model.json  which model the device's own programs had better use, and its files
    blobs/      fetched segments and the finished update (`mhfl_mq.store.blobs`)
    lock        held by the one agent of this folder

Small files begin with a digest of the rest: a damaged one is not believed. The counter is synced to the disk, once a
life; the state, saved several times a round, is not (docs/decisions/0008): a kill leaves the old state or the new
one, a power cut an older one or, at worst, none, and the device then does again what it forgot.
"""

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from mhfl_mq.errors import PeerFault, StoreError
from mhfl_mq.protocol.effects import SavedDevice
from mhfl_mq.protocol.site import Spent
from mhfl_mq.store.blobs import Blobs
from mhfl_mq.store.files import Files, FolderLock, RealFiles, atomic_write, explained, make_folder
from mhfl_mq.wire.blobs import check_manifest
from mhfl_mq.wire.codec import decode, encode, pack, unpack
from mhfl_mq.wire.messages import Manifest, Offer, Survey

__all__ = ["POINTER", "DeviceStore", "Pointer"]

log = logging.getLogger(__name__)

FORMAT: Final = 1
POINTER: Final = "model.json"
DIGEST: Final = 16  # bytes of SHA-256 before the packed state: against a damaged disk, not against a person


@dataclasses.dataclass(frozen=True, slots=True)
class Pointer:
    """The version that a device has, and which model of it the device's own programs had better use.

    `tier` is the device's, `use` the best of those that it holds (mostly the same), `files` are the raw float32
    segments of that model, one after the other. They stay until the next version is installed.
    """

    version: int
    layout: str
    tier: str
    use: str
    files: list[str]


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
        self._saves: int | None = None  # number of the newest saved state; None: not looked at yet
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
        data, last = _bytes(path), 0
        if data is not None:
            try:
                last = unpack(_unsealed(data) or b"")
            except PeerFault:
                raise _damaged(path) from None
            if type(last) is not int:
                raise _damaged(path)
        number = max(floor, 1 + last)
        atomic_write(self._files, path, _sealed(number))
        return number

    def load(self) -> SavedDevice:
        """What the last `save` kept; a new folder gives the defaults, and so does one whose both slots are damaged.

        An update that is not whole on the disk is left out: the device trains again. Raises `StoreError` when another
        release wrote the state.
        """
        path, _, value = self._newest()
        if value is None:
            return SavedDevice()
        try:
            state = _saved_device(value)
        except (PeerFault, TypeError, ValueError, KeyError):
            raise _damaged(path) from None
        if state.update is None or self.blobs.path(state.update.blob_id) is not None:
            return state
        log.warning("%s: the finished update is not whole (a power cut?): training again", self.folder)
        return dataclasses.replace(state, update=None, weight=0.0, metrics={})

    def save(self, state: SavedDevice) -> None:
        """Keep the state: after a kill at any instant the folder has the old one or this one."""
        if self._saves is None:
            self._newest()
        number = (self._saves or 0) + 1
        path = self._slot(number)
        with explained(path, "writing"):
            fd = self._files.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            try:
                self._files.write(fd, _sealed([number, _document(state)]), 0)
            finally:
                os.close(fd)
        self._saves = number

    def point(self, pointer: "Pointer") -> None:
        """Keep in `model.json` which model the device's programs had better use: the old answer or this one.

        Not synced: it is written again when the device starts and hears of the head.
        """
        path, text = self.folder / POINTER, json.dumps(dataclasses.asdict(pointer), indent=1) + "\n"
        draft = path.with_name(path.name + ".tmp")
        with explained(path, "writing"):
            fd = self._files.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            try:
                self._files.write(fd, text.encode(), 0)
            finally:
                os.close(fd)
            self._files.replace(draft, path)

    def _slot(self, number: int) -> Path:
        return self.folder / f"state.{number % 2}"

    def _newest(self) -> tuple[Path, int, Any]:
        """The slot that was written last, its number, and its document (None: there is none)."""
        newest: tuple[Path, int, Any] = (self._slot(0), 0, None)
        for path in (self._slot(0), self._slot(1)):
            data = _bytes(path)
            body = None if data is None else _unsealed(data)
            if body is None:
                if data:
                    log.warning("%s is damaged (a power cut?): going on with the state before it", path)
                continue
            try:
                number, document = unpack(body)
            except (PeerFault, TypeError, ValueError):
                raise _damaged(path) from None
            if type(number) is not int:
                raise _damaged(path)
            if number > newest[1]:
                newest = (path, number, document)
        self._saves = newest[1]
        return newest


def _sealed(value: object) -> bytes:
    body = pack(value)
    return hashlib.sha256(body).digest()[:DIGEST] + body


def _unsealed(data: bytes) -> bytes | None:
    """What was packed; None when the digest before it is not its own."""
    digest, body = data[:DIGEST], data[DIGEST:]
    return body if hashlib.sha256(body).digest()[:DIGEST] == digest else None


def _bytes(path: Path) -> bytes | None:
    """What a small file holds; None when there is no file."""
    with explained(path, "reading"):
        return path.read_bytes() if path.exists() else None


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
            case Spent():
                value = list(dataclasses.astuple(value))
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
    if "spent" in values:
        values["spent"] = Spent(*values["spent"])
    return SavedDevice(**values)


def _damaged(path: Path) -> StoreError:
    return StoreError(
        f"{path.name} is damaged, or another release of mhfl-mq wrote it",
        where=str(path),
        remedy="run the release that wrote it, or move the folder away: the device joins again as a new one",
    )
