"""Reading a data set's file: it must be there and be the very one, or the error says how to get it."""

import gzip
import hashlib
import io
import zipfile
import zlib
from collections.abc import Mapping
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mhfl_mq.errors import TaskError

__all__ = ["digest_of_arrays", "idx_array", "npz_arrays", "read_file"]

_IDX_BYTES = 0x08  # the code of unsigned bytes in an idx file's third byte


def read_file(path: Path | Traversable, sha256: str, remedy: str) -> bytes:
    """The content of a file; raises `TaskError` when it cannot be read, or when its SHA-256 is given and is another."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise TaskError(f"{path.name} cannot be read: {error.strerror}", where=str(path), remedy=remedy) from error
    found = hashlib.sha256(raw).hexdigest()
    if sha256 and found != sha256:
        what = f"the SHA-256 of {path.name} is {found}, not {sha256}"
        raise TaskError(what, where=str(path), remedy=f"the file is damaged or another version: {remedy}")
    return raw


def npz_arrays(raw: bytes, where: str, sha256: str = "", remedy: str = "") -> dict[str, npt.NDArray[Any]]:
    """The arrays of an .npz file, of this digest of arrays if one is given; objects in it are refused unread."""
    try:
        with np.load(io.BytesIO(raw), allow_pickle=False) as opened:
            arrays = {name: opened[name] for name in opened.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise TaskError(f"it is no npz file: {error}", where=where, remedy=remedy) from error
    found = digest_of_arrays(arrays)
    if sha256 and found != sha256:
        what = f"the SHA-256 of its arrays is {found}, not {sha256}"
        raise TaskError(what, where=where, remedy=f"the file is damaged or another version: {remedy}")
    return arrays


def digest_of_arrays(arrays: Mapping[str, npt.NDArray[Any]]) -> str:
    """SHA-256 over name, type, shape and content of every array: the same however a file packs them."""
    running = hashlib.sha256()
    for key, value in arrays.items():
        running.update(f"{key}|{value.dtype.str}|{value.shape}|".encode())
        running.update(np.ascontiguousarray(value).tobytes())
    return running.hexdigest()


def idx_array(raw: bytes, where: str) -> npt.NDArray[np.uint8]:
    """The array of a gzip-compressed idx file of unsigned bytes (the format of MNIST and its descendants)."""
    try:
        content = gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise TaskError(f"it is no gzip file: {error}", where=where) from error
    axes = content[3] if len(content) > 3 and content[:3] == bytes((0, 0, _IDX_BYTES)) else 0
    start = 4 + 4 * axes
    shape = np.frombuffer(content, dtype=">u4", count=axes, offset=4) if axes and len(content) >= start else ()
    if not axes or len(content) - start != int(np.prod(shape, dtype=np.int64)):
        raise TaskError("it is no idx file of unsigned bytes", where=where)
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape([int(size) for size in shape])
