"""The aggregator's bench: where arrays lie. It cuts models into segments, judges updates, folds and merges them."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mhfl_mq.errors import LocalMisuse, StoreError
from mhfl_mq.families.base import Algorithm
from mhfl_mq.run.ports import Evaluate
from mhfl_mq.segments import Accumulator, Bounds, Layout, check_update
from mhfl_mq.store.blobs import Blobs
from mhfl_mq.store.models import Models
from mhfl_mq.store.served import Served
from mhfl_mq.wire.messages import Manifest

__all__ = ["Bench", "MergedModel", "SegmentSource"]

THREAD_FROM = 1024 * 1024
"""Coordinates from which a fold or a finalize goes to a thread: below, the hop costs more than the work."""
FLOAT = 4  # bytes


@dataclass(frozen=True, slots=True)
class SegmentSource:
    """The segments of one model, smallest tier first: ranges of its file, read chunk by chunk."""

    manifests: tuple[Manifest, ...]
    served: Served

    def read(self, segment: int, index: int) -> bytes:
        """Chunk `index` of a segment."""
        return self.served.read(self.manifests[segment].blob_id, index)


@dataclass(frozen=True, slots=True)
class MergedModel:
    """A finished merge: the SHA-256 of the new model's file, and its metrics (`accuracy/<tier>`, ...)."""

    model: str
    metrics: Mapping[str, float]


class Bench:
    """The arrays of one aggregator. Memory: one sum (8 bytes a coordinate) and small blocks, however many devices."""

    def __init__(
        self,
        *,
        layout: Layout,
        algorithm: Algorithm,
        models: Models,
        blobs: Blobs,
        scratch: Path,
        evaluate: Evaluate,
        largest_weight: float,
        largest_value: float,
    ) -> None:
        self._layout = layout
        self._models = models
        self._blobs = blobs
        self._scratch = scratch
        self._evaluate = evaluate
        self._weight = largest_weight
        self._value = largest_value
        self._algorithm = algorithm
        self._sums: dict[int, tuple[Accumulator, str]] = {}  # round -> sum, model that it is about

    def segments(self, model: str, chunk: int) -> SegmentSource:
        """Cut a model's file into segments (each byte is hashed once)."""
        file = self._models.open(model)
        served = Served()
        manifests = tuple(
            served.share(file.path, chunk, start=file.start + FLOAT * start, size=FLOAT * (stop - start))
            for start, stop in self._layout.segment_bounds
        )
        return SegmentSource(manifests, served)

    def fault_in_update(self, blob_id: str, tier: int) -> str:
        """What is wrong with an update that lies in the blob folder, in one sentence; empty when nothing is."""
        path = self._blobs.path(blob_id)
        if path is None:
            return "the update is not on the disk"
        return check_update(path, self._layout.lengths[tier], self._value).reason

    def open_fold(self, number: int, base_model: str, members: int) -> None:
        """Start the sum of a round, for at most so many updates."""
        bounds = Bounds(cohort=max(1, members), weight=self._weight, value=self._value)
        self._sums[number] = (Accumulator(self._layout.lengths, bounds), base_model)

    async def fold(self, number: int, tier: int, blob_id: str, weight: float) -> None:
        """Add a counted update; its file stays until the round is released."""
        path = self._blobs.path(blob_id)
        if path is None:
            raise StoreError(
                "a counted update is gone", where=f"blob {blob_id}", remedy="the blobs folder was changed by hand?"
            )
        accumulator, _ = self._sum(number)
        if self._layout.lengths[tier] < THREAD_FROM:
            accumulator.fold(path, tier, weight)
        else:
            await asyncio.to_thread(accumulator.fold, path, tier, weight)

    async def merge(self, number: int) -> MergedModel:
        """Finalize the sum, measure the model and store it; raises `MhflError` when there is no model to be had."""
        accumulator, base = self._sum(number)
        out = self._scratch / f"merge-{number}.f32"
        try:
            head = self._models.open(base).map()
            if self._layout.lengths[-1] < THREAD_FROM:
                self._algorithm.finalize(accumulator, head, out)
            else:
                await asyncio.to_thread(self._algorithm.finalize, accumulator, head, out)
            metrics = await self._evaluate(out)
            model = self._models.put(out, self._layout.document(), {"round": str(number)})
        finally:
            out.unlink(missing_ok=True)
        return MergedModel(model, metrics)

    def release(self, number: int) -> None:
        """Free a round's sum and all updates: at most one round is open, so none is needed any more.

        Not only what was folded: others came too late, or were half received when a device gave up.
        """
        self._sums.pop(number, None)
        self._blobs.keep(())

    def _sum(self, number: int) -> tuple[Accumulator, str]:
        try:
            return self._sums[number]
        except KeyError:
            raise LocalMisuse(f"round {number} has no sum") from None
