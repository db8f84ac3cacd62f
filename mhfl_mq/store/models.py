"""Models on the disk, content-addressed: `<sha256 of the file>.safetensors`, written once and never changed.

A file holds one float32 tensor `flat` (the global model, smallest tier's segment first) and, in its metadata, the
layout document that gives it names and shapes; any safetensors reader opens it. Written and read in blocks: neither
takes memory that grows with the model. The format (8 bytes of header length, a JSON header, raw little-endian data)
is that of https://github.com/huggingface/safetensors.
"""

import hashlib
import itertools
import json
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mhfl_mq.errors import LocalMisuse, StoreError
from mhfl_mq.store.files import Files, RealFiles, explained

__all__ = ["BLOCK", "ModelFile", "Models", "is_model_digest", "model_path", "read_header", "write_safetensors"]

Flat = npt.NDArray[np.float32]

BLOCK: Final = 1024 * 1024
"""Bytes that are read, hashed and written at a time: large enough for the disk's full speed, no weight in memory."""
HEADER_LIMIT: Final = 16 * 1024 * 1024
"""Bytes of a header: a layout document of 10,000 tensors has 2 MB. (safetensors itself allows 100 MB.)"""
SUFFIX: Final = ".safetensors"
DRAFT: Final = ".tmp"
LAYOUT: Final = "layout"


def is_model_digest(text: str) -> bool:
    """Whether this is a lower-case hexadecimal SHA-256, so that it may become a file's name."""
    return len(text) == 64 and set(text) <= set("0123456789abcdef")


def model_path(folder: Path, digest: str) -> Path:
    """Where the model of this digest lies, if it is there; raises `LocalMisuse` for what is not a digest."""
    if not is_model_digest(digest):
        raise LocalMisuse(f"{digest[:80]!r} is not the SHA-256 of a model")
    return folder / (digest + SUFFIX)


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model on the disk. Its `flat` vector is `length` float32 values from byte `start` of `path` on."""

    path: Path
    digest: str
    start: int
    length: int
    metadata: Mapping[str, str]

    @property
    def layout(self) -> Any:
        """The layout document, as it was given to `Models.put`."""
        return json.loads(self.metadata[LAYOUT])

    def map(self, start: int = 0, stop: int | None = None) -> Flat:
        """Coordinates [start, stop) as a read-only view of the file; pages come in as they are touched."""
        stop = self.length if stop is None else stop
        with explained(self.path, "mapping the model"):
            view: Flat = np.memmap(self.path, "<f4", "r", self.start, (self.length,))[start:stop]
        return view

    def read(self, start: int, stop: int) -> Flat:
        """Coordinates [start, stop) as an array of its own."""
        with explained(self.path, "reading the model"):
            part = np.fromfile(self.path, "<f4", max(0, stop - start), offset=self.start + 4 * start)
        if len(part) != stop - start:
            raise _damaged(self.path, f"ends before coordinate {stop}")
        return part

    def blocks(self, values: int = BLOCK // 4) -> Iterator[Flat]:
        """The whole vector in order, `values` coordinates at a time."""
        for start in range(0, self.length, values):
            yield self.read(start, min(start + values, self.length))


class Models:
    """The folder of models. One process writes; any number may read."""

    def __init__(self, folder: Path, files: Files | None = None) -> None:
        self._folder = folder
        self._files = RealFiles() if files is None else files

    def put(self, flat: Flat | Path, layout: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> str:
        """Store a model durably and return its digest; the same model again is the same file.

        `flat` is a one-dimensional float32 array, or a file of raw little-endian float32 values. Raises
        `StoreFull` or another `StoreError`; then nothing was stored.
        """
        size = flat.stat().st_size if isinstance(flat, Path) else flat.nbytes
        if size == 0 or size % 4:
            raise LocalMisuse(f"a model of {size} bytes is not a vector of float32")
        extra = {LAYOUT: json.dumps(layout, sort_keys=True, separators=(",", ":")), **(metadata or {})}
        draft = self._folder / f"{os.getpid()}{DRAFT}"
        with explained(draft, "writing a model"):
            try:
                digest = write_safetensors(self._files, draft, {"flat": (size // 4,)}, _blocks_of(flat), metadata=extra)
                self._files.replace(draft, model_path(self._folder, digest))
            except BaseException:
                with suppress(OSError):  # the first error is the one to tell; `sweep` deletes what is left
                    self._files.unlink(draft)
                raise
            self._files.sync_folder(self._folder)
        return digest

    def open(self, digest: str) -> ModelFile:
        """The model of this digest; raises `StoreError` when it is not there or not one of ours."""
        path = model_path(self._folder, digest)
        if not path.is_file():
            raise StoreError("this model is not there", where=str(path), remedy="restore it from a backup")
        tensors, metadata, start = read_header(path)
        match tensors:
            case {"flat": {"dtype": "F32", "shape": [int(length)], "data_offsets": [0, int(stop)], **rest}} if (
                len(tensors) == 1 and not rest and stop == 4 * length and LAYOUT in metadata
            ):
                if path.stat().st_size != start + stop:
                    raise _damaged(path, f"has {path.stat().st_size} bytes instead of {start + stop}")
                return ModelFile(path, digest, start, length, metadata)
        raise _damaged(path, "does not hold one float32 tensor `flat` and its layout")

    def verify(self, digest: str) -> None:
        """Read the whole file and raise `StoreError` unless it has this digest."""
        path = model_path(self._folder, digest)
        with explained(path, "reading the model"), path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != digest:
            raise _damaged(path, f"has digest {found}")

    def digests(self) -> tuple[str, ...]:
        """The digests of all models that are stored, in order."""
        with explained(self._folder, "listing the models"):
            names = [one.name for one in self._folder.iterdir()]
        stems = (name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX))
        return tuple(sorted(filter(is_model_digest, stems)))

    def sweep(self) -> None:
        """Delete drafts that a crash left behind. Only for the process that holds the folder's lock."""
        with explained(self._folder, "deleting drafts"):
            for draft in self._folder.glob("*" + DRAFT):
                self._files.unlink(draft)


# ---- the format -----------------------------------------------------------------------------------------------


def write_safetensors(
    files: Files,
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    data: Iterator[memoryview],
    *,
    metadata: Mapping[str, str],
) -> str:
    """Write float32 tensors, given as raw pieces in the order of `shapes`, durably; returns the file's SHA-256."""
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    stop = 0
    for name, shape in shapes.items():
        start, stop = stop, stop + 4 * int(np.prod(shape, dtype=np.int64))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, stop]}
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)  # so that the data is aligned
    if len(text) > HEADER_LIMIT:
        raise LocalMisuse(f"a model header of {len(text)} bytes, at most {HEADER_LIMIT} are allowed")
    fd = files.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        running, at = hashlib.sha256(), 0
        begin = struct.pack("<Q", len(text)) + text
        for piece in itertools.chain((memoryview(begin),), data):
            files.write(fd, piece, at)
            running.update(piece)
            at += len(piece)
        if at != len(begin) + stop:
            raise LocalMisuse(f"{at - len(begin)} bytes of tensors were given, their shapes need {stop}")
        files.sync(fd)
    finally:
        os.close(fd)
    return running.hexdigest()


def read_header(path: Path) -> tuple[dict[str, Any], dict[str, str], int]:
    """A safetensors file's tensors, its metadata, and the byte at which the data starts; raises `StoreError`."""
    with explained(path, "reading the model"), path.open("rb") as file:
        first = file.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
        text = file.read(length) if 0 < length <= HEADER_LIMIT else b""
    if not text or len(text) != length:
        raise _damaged(path, "is not a safetensors file, or it is cut off")
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        raise _damaged(path, "has a header that is not JSON") from None
    if not isinstance(header, dict):
        raise _damaged(path, "has a header that is not a JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _damaged(path, "has metadata that is not text")
    return header, metadata, 8 + length


def _blocks_of(flat: Flat | Path) -> Iterator[memoryview]:
    if isinstance(flat, Path):
        with flat.open("rb") as file:
            while piece := file.read(BLOCK):
                yield memoryview(piece)
        return
    if flat.ndim != 1 or flat.dtype != np.float32:
        raise LocalMisuse(f"a model is a float32 vector, not {flat.dtype} of shape {flat.shape}")
    for start in range(0, len(flat), BLOCK // 4):
        block = np.ascontiguousarray(flat[start : start + BLOCK // 4], dtype="<f4")
        yield block.data.cast("B")


def _damaged(path: Path, what: str) -> StoreError:
    return StoreError(f"this model {what}", where=str(path), remedy="restore it from a backup")
