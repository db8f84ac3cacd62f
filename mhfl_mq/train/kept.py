"""What a device keeps for itself between rounds: named arrays in one file, which never leave it.

A file belongs to one round; training a round reads the newest older one, so a round that is trained again after a kill
begins as it did. It is of use only to the algorithm, the layout and the tier that it was made with.
"""

import io
import re
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np

from mhfl_mq.errors import TrainingFailed
from mhfl_mq.train.steps.base import Kept

__all__ = ["read_kept", "write_kept"]

_MARK: Final = "@for"  # no array of an algorithm is called so
_NAME: Final = re.compile(r"kept-(\d{1,18})\.npz")


def read_kept(folder: Path | None, round_number: int, maker: str) -> Kept:
    """What was kept of the newest round before this one; empty when nothing was, or by another `maker`.

    `maker` says what the arrays are of use to: algorithm, layout and tier. A file that cannot be read is an error: who
    deletes it starts anew, knowingly.
    """
    numbers = [number for number in _files(folder) if number < round_number]
    if folder is None or not numbers:
        return {}
    path = folder / f"kept-{max(numbers)}.npz"
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as opened:
            arrays = {name: opened[name] for name in opened.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no file of plain arrays"
        raise TrainingFailed(
            f"what this device kept of round {max(numbers)} cannot be read: {why}",
            where=str(path),
            remedy="restore the file, or delete it: the device then begins its private part anew",
        ) from error
    mark = arrays.pop(_MARK, None)
    return arrays if mark is not None and mark.shape == () and str(mark) == maker else {}


def write_kept(folder: Path, round_number: int, maker: str, kept: Kept) -> None:
    """Keep this of a round, and the file before it, from which the round is trained again. Nothing leaves no file."""
    if not kept:
        return
    raw = io.BytesIO()
    np.savez(raw, **{_MARK: np.array(maker), **kept})  # type: ignore[arg-type]
    path = folder / f"kept-{round_number}.npz"
    half = path.with_suffix(".part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        half.write_bytes(raw.getbuffer())
        half.replace(path)
        older = [number for number in _files(folder) if number < round_number]
        for number in set(_files(folder)) - {round_number, max(older, default=round_number)}:
            (folder / f"kept-{number}.npz").unlink(missing_ok=True)  # newer ones are of a federation that was lost
    except OSError as error:
        with suppress(OSError):
            half.unlink(missing_ok=True)
        raise TrainingFailed(f"{path.name} cannot be written: {error.strerror}", where=str(path)) from error


def _files(folder: Path | None) -> list[int]:
    """The rounds that something was kept of."""
    if folder is None or not folder.is_dir():
        return []
    return [int(found[1]) for path in folder.iterdir() if (found := _NAME.fullmatch(path.name))]
