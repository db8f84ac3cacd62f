"""Makes of a trained update what travels: as the offer says, with what earlier updates lost added to it."""

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mhfl_mq.segments import Feedback, Form
from mhfl_mq.segments.compact import Packed, norm, pack
from mhfl_mq.store.residual import ResidualFile
from mhfl_mq.wire.messages import Offer

__all__ = ["PackedUpdate", "Packing"]

FLOAT = 4  # bytes
PRECISION, TOP_K = "precision", "top_k"
"""The numbers of an offer that ask for it; without the first, an update stays as it was trained."""


@dataclass(frozen=True, slots=True)
class PackedUpdate:
    """The file that is to be sent, and what became of it: change, error, saved_bytes."""

    path: Path
    metrics: Mapping[str, float]


class Packing:
    """The packing of one device. It may be called in a thread: one update at a time."""

    def __init__(self, folder: Path) -> None:
        self._kept = ResidualFile(folder)
        self._newest = 0  # the round that was packed last
        self._keeping = threading.Lock()

    def pack(self, offer: Offer, update: Path, segments: Sequence[Path], counted: int) -> PackedUpdate:
        """Pack a raw update, whose file is used up; `segments` are the model that it was trained from.

        `counted` is the last round in which an update of this device was counted. The new residual is kept before
        the update is anybody's to send. Raises `MhflError` for an update that is not finite, or when there is no room.
        """
        if PRECISION not in offer.options:
            self._kept.forget()
            return PackedUpdate(update, {})
        form = Form(int(offer.options[PRECISION]), offer.options.get(TOP_K, 1.0))
        feedback = self._feedback(offer, update.stat().st_size // FLOAT, counted)
        trained = np.fromfile(update, "<f4")
        change = _part(norm(trained, trained.size), math.hypot(*(_norm(path) for path in segments)))
        out = update
        if form.plain and feedback.residual is None:
            packed = Packed(FLOAT * trained.size, 0.0, None)
        else:
            out = update.with_suffix(".packed")
            try:
                packed = pack(feedback.corrected(trained), form, out)
            except BaseException:
                out.unlink(missing_ok=True)
                raise
            update.unlink()
        after = feedback.after(packed).residual
        with self._keeping:
            if offer.round >= self._newest:  # else a newer round was packed while this one, given up, was being packed
                self._newest = offer.round
                self._kept.save(offer.round, offer.tier, offer.layout, feedback.residual, after)
        saved = FLOAT * trained.size - packed.size
        return PackedUpdate(out, {"change": change, "error": packed.error, "saved_bytes": float(saved)})

    def _feedback(self, offer: Offer, length: int, counted: int) -> Feedback:
        residual = self._kept.load(offer.tier, offer.layout, counted)
        return Feedback(residual if residual is not None and residual.size == length else None)


def _norm(path: Path) -> float:
    return norm(path, path.stat().st_size // FLOAT)


def _part(change: float, model: float) -> float:
    """A change relative to its model; of a model of zeros, any change is all of it."""
    return change / model if model else float(change > 0.0)
