"""What a device's compacted updates lost and its next one is to make up for, kept over a restart.

    residual.npz    of one round: the residual before its update, and the one after it, if that update is used

Which of the two counts is known only when the aggregator answered, and the answer is durable in the device's state
(`SavedDevice.counted`), not here. So the file is written once a round, before the update is announced, and says with
that answer the same whenever the process is killed: an update that was not used takes nothing away, and one that was
used is not made up for twice.

It is replaced whole and not synced (docs/decisions/0008): after a power cut an older one, or a damaged one, is
forgotten, and what one update lost stays lost.
"""

import logging
import os
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from mhfl_mq.store.files import explained

__all__ = ["ResidualFile"]

log = logging.getLogger(__name__)

FILE: Final = "residual.npz"
FORMAT: Final = 1

Vector = npt.NDArray[np.float32]


class ResidualFile:
    """The residual in a device's folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE

    def load(self, tier: int, layout: str, counted: int) -> Vector | None:
        """What the next update of this tier and layout is to make up for; None: nothing.

        `counted` is the last round in which the device's update was counted.
        """
        if not self._path.exists():
            return None
        try:
            with (
                explained(self._path, "reading"),
                self._path.open("rb") as file,
                np.load(file, allow_pickle=False) as kept,
            ):
                form, number, of_tier = (int(one) for one in kept["facts"])
                if form != FORMAT or (of_tier, kept["layout"].tobytes().decode()) != (tier, layout):
                    return None
                if number < counted:
                    log.warning("%s is older than the last update (a power cut?): forgotten", self._path)
                    return None
                name = "after" if number == counted else "before"
                found = kept[name].astype(np.float32, copy=False) if name in kept else None
                return found if found is None or found.ndim == 1 else None
        except (zipfile.BadZipFile, ValueError, KeyError, EOFError):
            log.warning("%s is damaged (a power cut?): forgotten", self._path)
            return None

    def save(self, number: int, tier: int, layout: str, before: Vector | None, after: Vector | None) -> None:
        """Keep the residual before the update of a round, and the one after it."""
        if before is None and after is None:
            self.forget()
            return
        arrays: dict[str, npt.NDArray[np.generic]] = {
            "facts": np.array([FORMAT, number, tier], np.int64),
            "layout": np.frombuffer(layout.encode(), np.uint8),
            **({} if before is None else {"before": before}),
            **({} if after is None else {"after": after}),
        }
        draft = self._path.with_name(f"{FILE}.{number}.tmp")
        try:
            with explained(self._path, "writing"):
                with draft.open("wb") as file:
                    np.savez(file, **arrays)  # type: ignore[arg-type]  # its stub takes `allow_pickle` for one of them
                os.replace(draft, self._path)
        except BaseException:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
            raise

    def forget(self) -> None:
        """Nothing is to be made up for."""
        with explained(self._path, "deleting"):
            self._path.unlink(missing_ok=True)
