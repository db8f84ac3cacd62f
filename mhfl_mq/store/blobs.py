"""Blobs on the disk: being received, chunk by chunk and over restarts, and whole.

    <id>.man    its manifest, as long as anything else of it is here
    <id>.part   its bytes so far, reserved in full, so that a full disk shows before the first chunk
    <id>.map    its bitmap: chunk i is bit i % 8 of byte i // 8
    <id>.blob   a whole blob

Nothing here waits for the disk. Against a kill the operating system's cache is durable; against a power cut a blob is
not synced but PROVEN (docs/decisions/0008): what an earlier process left whole is read once against its manifest
before it is believed, and what does not match is deleted. Likewise with a bitmap: it is saved once a second at most
and never before its chunks were written, so a kill loses a second of chunks, and each chunk that it claims is proven
after a restart. One thread uses a `Blobs`.
"""

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from mhfl_mq.errors import LocalMisuse, PeerFault, StoreFull
from mhfl_mq.store.files import Files, RealFiles, explained
from mhfl_mq.wire.blobs import (
    DEFAULT_CHUNK,
    build_manifest,
    check_inline,
    check_manifest,
    chunk_matches,
    chunk_span,
    fault_in_manifest,
    proven_bitmap,
)
from mhfl_mq.wire.codec import pack, unpack
from mhfl_mq.wire.messages import Manifest

__all__ = ["Blobs", "is_blob_id", "manifest_of"]

SAVE_S: Final = 1.0
"""Seconds between two savings of a bitmap: what a kill may cost, against a small write per chunk."""
READ_BLOCK: Final = 1024 * 1024
"""Bytes that are read at a time to make a manifest: the disk's full speed, no weight in memory."""


def is_blob_id(text: str) -> bool:
    """Whether this is a blob id, so that it may become a file's name."""
    return len(text) == 64 and set(text) <= set("0123456789abcdef")


def manifest_of(path: Path, chunk: int = DEFAULT_CHUNK, *, start: int = 0, size: int | None = None) -> Manifest:
    """The manifest of `size` bytes (default: all that follow) of a file from byte `start` on, read in blocks."""

    def pieces() -> Iterator[bytes]:
        with path.open("rb") as file:
            file.seek(start)
            left = os.fstat(file.fileno()).st_size - start if size is None else size
            while left > 0:
                piece = file.read(min(READ_BLOCK, left))
                if not piece:
                    raise LocalMisuse(f"ends {left} bytes too early", where=str(path))
                left -= len(piece)
                yield piece

    with explained(path, "reading a blob"):
        return build_manifest(pieces(), chunk)


@dataclass(slots=True)
class _Incoming:
    """A blob that is being received and open."""

    manifest: Manifest
    fd: int
    bitmap: bytearray
    lacks: int  # chunks
    saved_at: float  # monotonic seconds


class Blobs:
    """A folder of blobs. `budget` bounds the bytes of all blobs that are being received."""

    def __init__(self, folder: Path, budget: int, monotonic: Callable[[], float], files: Files | None = None) -> None:
        """Look at what an earlier process left: parts can be gone on with, scraps are deleted."""
        self._folder = folder
        self._budget = budget
        self._monotonic = monotonic
        self._files = RealFiles() if files is None else files
        self._open: dict[str, _Incoming] = {}
        self._incoming: dict[str, Manifest] = {}
        self._whole: dict[str, Manifest] = {}
        self._unproven: set[str] = set()  # whole ones that an earlier process left, and nobody has asked for yet
        with explained(folder, "looking for blobs"):
            self._look()

    # ---- what is there ----

    @property
    def incoming(self) -> Mapping[str, Manifest]:
        """Blobs that are being received, or were when the last process ended."""
        return MappingProxyType(self._incoming)

    @property
    def room(self) -> int:
        """Bytes of the budget that are free."""
        return self._budget - sum(manifest.size for manifest in self._incoming.values())

    def path(self, blob_id: str) -> Path | None:
        """The file of a whole blob; None when it is not here, or not whole.

        One that an earlier process left is read first, once: what is not what its manifest says is deleted.
        """
        path = self._file(blob_id, "blob")
        if blob_id not in self._whole or not path.is_file():
            return None
        if blob_id in self._unproven:
            if not self._matches(self._whole[blob_id], path):
                self.drop(blob_id)
                return None
            self._unproven.discard(blob_id)
        return path

    def missing(self, blob_id: str) -> tuple[tuple[int, int], ...]:
        """Ranges [start, stop) of chunks that an incoming blob lacks."""
        one = self._opened(blob_id)
        ranges: list[list[int]] = []
        for index in range(one.manifest.chunks):
            if not _has(one.bitmap, index):
                if ranges and ranges[-1][1] == index:
                    ranges[-1][1] += 1
                else:
                    ranges.append([index, index + 1])
        return tuple((start, stop) for start, stop in ranges)

    # ---- receiving ----

    def begin(self, manifest: Manifest) -> bytes:
        """Start to receive a blob, or go on with it; returns the bitmap of the chunks that are there, proven.

        Raises `PeerFault` for a manifest that does not prove itself, `StoreFull` when budget or disk have no room
        (then nothing is left behind).
        """
        check_manifest(manifest)
        blob_id = manifest.blob_id
        if blob_id in self._open:
            return bytes(self._open[blob_id].bitmap)
        if self.path(blob_id) is not None:
            return bytes(
                sum(1 << bit for bit in range(8) if at + bit < manifest.chunks) for at in range(0, manifest.chunks, 8)
            )
        if blob_id not in self._incoming and manifest.size > self.room:
            raise StoreFull(
                f"a blob of {manifest.size} bytes; {self.room} of the {self._budget} for incoming blobs are free",
                where=str(self._folder),
                remedy="let another transfer end first, or raise the budget",
            )
        try:
            with explained(self._file(blob_id, "part"), "reserving room for a blob"):
                if blob_id not in self._incoming:
                    self._write(self._file(blob_id, "man"), _packed(manifest))
                fd = self._files.open(self._file(blob_id, "part"), os.O_RDWR | os.O_CREAT)
                try:
                    self._files.resize(fd, manifest.size)
                    bitmap = bytearray(self._proven(manifest, fd))
                except BaseException:
                    os.close(fd)
                    raise
        except BaseException:
            if blob_id not in self._incoming:
                self._scrap(blob_id)
            raise
        self._incoming[blob_id] = manifest
        lacks = manifest.chunks - sum(byte.bit_count() for byte in bitmap)
        self._open[blob_id] = _Incoming(manifest, fd, bitmap, lacks, self._monotonic())
        return bytes(bitmap)

    def write(self, blob_id: str, index: int, data: bytes | memoryview) -> bool:
        """Keep a chunk; false when it was there. Raises `PeerFault` when it is not the manifest's chunk."""
        one = self._opened(blob_id)
        if not chunk_matches(one.manifest, index, data):
            raise PeerFault("does not have the manifest's digest", where=f"chunk {index} of blob {blob_id[:16]}")
        return self._keep(one, index, data)

    def write_proven(self, blob_id: str, offset: int, data: bytes | memoryview) -> bool:
        """Keep a chunk that was proven already (by `mhfl_mq.protocol.transfer.Receiver`), at its byte offset."""
        one = self._opened(blob_id)
        index, inside = divmod(offset, one.manifest.chunk)
        if inside or chunk_span(one.manifest, index) != (offset, offset + len(data)):
            raise LocalMisuse(f"{len(data)} bytes at {offset} are not a chunk", where=f"blob {blob_id[:16]}")
        return self._keep(one, index, data)

    def save(self, blob_id: str) -> None:
        """Save the bitmap now, rather than with the next chunk after a second."""
        one = self._opened(blob_id)
        path = self._file(blob_id, "map")
        with explained(path, "saving a bitmap"):
            self._write(path, one.bitmap, truncate=False)  # a kill in between leaves the old bitmap or the new one
        one.saved_at = self._monotonic()

    def pause(self, blob_id: str) -> None:
        """Stop receiving for now: the bitmap is saved, the file closed, and `begin` goes on later."""
        if blob_id in self._open:
            self.save(blob_id)
            os.close(self._open.pop(blob_id).fd)

    def finish(self, blob_id: str) -> Path:
        """Make a blob whose chunks are all there whole; returns its file."""
        if (done := self.path(blob_id)) is not None:
            return done
        one = self._opened(blob_id)
        if one.lacks:
            raise LocalMisuse(f"{one.lacks} chunks are missing", where=f"blob {blob_id[:16]}")
        path = self._file(blob_id, "blob")
        with explained(path, "finishing a blob"):
            self._files.replace(self._file(blob_id, "part"), path)
            self._close(blob_id)
            self._whole[blob_id] = self._incoming.pop(blob_id)
            self._files.unlink(self._file(blob_id, "map"))
        return path

    def put(self, manifest: Manifest, data: bytes | memoryview) -> Path:
        """Keep a blob that came whole (inline); returns its file. Raises `PeerFault` when it is not it."""
        check_manifest(manifest)
        check_inline(manifest, data)
        blob_id = manifest.blob_id
        if (done := self.path(blob_id)) is not None:
            return done
        path, draft = self._file(blob_id, "blob"), self._file(blob_id, "part")
        self._close(blob_id)
        with explained(path, "writing a blob"):
            try:
                self._write(self._file(blob_id, "man"), _packed(manifest))
                self._write(draft, data)
                self._files.replace(draft, path)
            except BaseException:
                self._scrap(blob_id)
                raise
            if self._incoming.pop(blob_id, None) is not None:
                self._files.unlink(self._file(blob_id, "map"))
        self._whole[blob_id] = manifest
        return path

    def adopt(self, source: Path, chunk: int = DEFAULT_CHUNK) -> Manifest:
        """Take a file of the same disk over as a whole blob (it is renamed); returns its manifest."""
        manifest = manifest_of(source, chunk)
        blob_id = manifest.blob_id
        self._close(blob_id)
        with explained(source, "taking a file over"):
            self._write(self._file(blob_id, "man"), _packed(manifest))
            self._files.replace(source, self._file(blob_id, "blob"))
        if blob_id in self._incoming:
            with explained(self._folder, "deleting a blob"):
                for suffix in ("part", "map"):
                    self._files.unlink(self._file(blob_id, suffix))
            del self._incoming[blob_id]
        self._whole[blob_id] = manifest
        self._unproven.discard(blob_id)
        return manifest

    # ---- forgetting ----

    def drop(self, blob_id: str) -> None:
        """Delete a blob, whole or not; one that is not here is not an error."""
        self._close(blob_id)
        self._scrap(blob_id)
        if blob_id in self._whole:
            with explained(self._folder, "deleting a blob"):
                self._files.unlink(self._file(blob_id, "man"))  # first, so that what a kill leaves is a scrap
                self._files.unlink(self._file(blob_id, "blob"))
            del self._whole[blob_id]
            self._unproven.discard(blob_id)

    def keep(self, blob_ids: Collection[str]) -> None:
        """Delete every blob but these, whole or not."""
        for blob_id in [*self._incoming, *self._whole]:
            if blob_id not in blob_ids:
                self.drop(blob_id)

    def close(self) -> None:
        """Save and close what is being received."""
        for blob_id in list(self._open):
            self.pause(blob_id)

    # ---- inside ----

    def _file(self, blob_id: str, suffix: str) -> Path:
        if not is_blob_id(blob_id):
            raise LocalMisuse(f"{blob_id[:80]!r} is not a blob id")
        return self._folder / f"{blob_id}.{suffix}"

    def _opened(self, blob_id: str) -> _Incoming:
        one = self._open.get(blob_id)
        if one is None:
            raise LocalMisuse("this blob is not being received", where=f"blob {blob_id[:16]}")
        return one

    def _look(self) -> None:
        """Take up what an earlier process left: whole blobs, blobs that it was receiving; the rest is scraps."""
        found: dict[str, set[str]] = {}
        for one in self._folder.iterdir():
            blob_id, _, suffix = one.name.partition(".")
            if is_blob_id(blob_id):
                found.setdefault(blob_id, set()).add(suffix)
        for blob_id, suffixes in sorted(found.items()):
            manifest = self._manifest(blob_id) if "man" in suffixes else None
            if manifest is None:
                kept: set[str] = set()
            elif "blob" in suffixes:
                self._whole[blob_id] = manifest
                self._unproven.add(blob_id)
                kept = {"blob", "man"}
            else:
                self._incoming[blob_id] = manifest
                kept = {"man", "part", "map"}
            for suffix in sorted(suffixes - kept):
                self._files.unlink(self._folder / f"{blob_id}.{suffix}")

    def _manifest(self, blob_id: str) -> Manifest | None:
        """The manifest on the disk; None when it is not sound."""
        with suppress(PeerFault, TypeError, ValueError):
            size, chunk, digests = unpack(self._file(blob_id, "man").read_bytes())
            manifest = Manifest(blob_id, size, chunk, digests)
            if not fault_in_manifest(manifest):
                return manifest
        return None

    def _matches(self, manifest: Manifest, path: Path) -> bool:
        """Whether the file is the manifest's blob; it is read once."""
        with explained(path, "proving a blob"), path.open("rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size != manifest.size:
                return False
            spans = (chunk_span(manifest, index) for index in range(manifest.chunks))
            return all(
                chunk_matches(manifest, index, os.pread(file.fileno(), stop - start, start))
                for index, (start, stop) in enumerate(spans)
            )

    def _write(self, path: Path, data: bytes | bytearray | memoryview, *, truncate: bool = True) -> None:
        """A small file, whole or torn: whoever reads it proves it."""
        fd = self._files.open(path, os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if truncate else 0))
        try:
            self._files.write(fd, memoryview(data), 0)
        finally:
            os.close(fd)

    def _proven(self, manifest: Manifest, fd: int) -> bytes:
        saved = b""
        with suppress(FileNotFoundError):
            saved = self._file(manifest.blob_id, "map").read_bytes()
        return proven_bitmap(manifest, saved, lambda offset, length: os.pread(fd, length, offset))

    def _keep(self, one: _Incoming, index: int, data: bytes | memoryview) -> bool:
        if _has(one.bitmap, index):
            return False
        blob_id = one.manifest.blob_id
        with explained(self._file(blob_id, "part"), "writing a chunk"):
            self._files.write(one.fd, data, index * one.manifest.chunk)
        one.bitmap[index >> 3] |= 1 << (index & 7)
        one.lacks -= 1
        if self._monotonic() - one.saved_at >= SAVE_S:
            self.save(blob_id)
        return True

    def _close(self, blob_id: str) -> None:
        one = self._open.pop(blob_id, None)
        if one is not None:
            os.close(one.fd)

    def _scrap(self, blob_id: str) -> None:
        """Delete what receiving leaves. The manifest goes first: without it the rest is a scrap to `_look`."""
        if blob_id in self._whole:
            return
        with explained(self._folder, "deleting a blob"):
            for suffix in ("man", "part", "map"):
                self._files.unlink(self._file(blob_id, suffix))
        self._incoming.pop(blob_id, None)


def _packed(manifest: Manifest) -> bytes:
    return pack([manifest.size, manifest.chunk, manifest.digests])


def _has(bitmap: bytearray, index: int) -> bool:
    return bool(bitmap[index >> 3] >> (index & 7) & 1)
