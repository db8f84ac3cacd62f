"""Blobs that are served: ranges of files, read chunk by chunk; a segment is a range of the model's file, not a copy."""

import os
from dataclasses import dataclass
from pathlib import Path

from mhfl_mq.errors import LocalMisuse, StoreError
from mhfl_mq.store.blobs import manifest_of
from mhfl_mq.store.files import explained
from mhfl_mq.wire.blobs import DEFAULT_CHUNK, chunk_span
from mhfl_mq.wire.messages import Manifest

__all__ = ["Served"]


@dataclass(frozen=True, slots=True)
class _Range:
    """Where a served blob's bytes are."""

    manifest: Manifest
    path: Path
    fd: int
    start: int


class Served:
    """The blobs that this process gives out. Reads by pread, so that no model is mapped into memory."""

    def __init__(self) -> None:
        self._ranges: dict[str, _Range] = {}

    def share(self, path: Path, chunk: int = DEFAULT_CHUNK, *, start: int = 0, size: int | None = None) -> Manifest:
        """Serve bytes [start, start + size) of a file as a blob (size None: to the end); returns its manifest."""
        manifest = manifest_of(path, chunk, start=start, size=size)
        self.hold(manifest, path, start=start)
        return manifest

    def hold(self, manifest: Manifest, path: Path, *, start: int = 0) -> None:
        """Serve a blob whose manifest is known: a whole one on the disk, say. Again is not an error."""
        if manifest.blob_id in self._ranges:
            return
        with explained(path, "opening a blob"):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._ranges[manifest.blob_id] = _Range(manifest, path, fd, start)

    def manifest(self, blob_id: str) -> Manifest | None:
        """The manifest of a served blob, None when it is not served."""
        one = self._ranges.get(blob_id)
        return None if one is None else one.manifest

    def read(self, blob_id: str, index: int) -> bytes:
        """Chunk `index` of a served blob; raises `StoreError` when the file no longer has it."""
        one = self._ranges.get(blob_id)
        if one is None:
            raise LocalMisuse("this blob is not served", where=f"blob {blob_id[:16]}")
        start, stop = chunk_span(one.manifest, index)
        with explained(one.path, "reading a chunk"):
            data = os.pread(one.fd, stop - start, one.start + start)
        if len(data) != stop - start:
            raise StoreError(
                f"{one.path.name} is shorter than the blob that it holds", where=str(one.path), remedy="restart"
            )
        return data

    def drop(self, blob_id: str) -> None:
        """Serve this blob no longer; one that is not served is not an error."""
        one = self._ranges.pop(blob_id, None)
        if one is not None:
            os.close(one.fd)

    def close(self) -> None:
        """Serve nothing any more."""
        for blob_id in list(self._ranges):
            self.drop(blob_id)
