"""The aggregator's bench: where arrays lie. It cuts models into segments, judges updates, folds and merges them."""

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from mhfl_mq.errors import LocalMisuse, PeerFault, StoreError
from mhfl_mq.families import Algorithm
from mhfl_mq.run.ports import Conclude, Evaluate
from mhfl_mq.segments import Accumulator, Bounds, Layout, Span, check_update, stored_update, within
from mhfl_mq.store.blobs import Blobs, manifest_of
from mhfl_mq.store.models import Models
from mhfl_mq.store.served import Served
from mhfl_mq.wire.messages import Manifest

__all__ = ["MAKER", "Bench", "MergedModel", "SegmentSource"]

THREAD_FROM = 1024 * 1024
"""Coordinates from which a fold or a finalize goes to a thread: below, the hop costs more than the work."""
FLOAT = 4  # bytes
MAKER = "algorithm"
"""The model file's metadata that names the algorithm which made it."""
SMALLEST_WEIGHT = 1.0
"""Where a sum's bound on the weights begins: every algorithm's smallest weight."""

ParamsT = ParamSpec("ParamsT")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class SegmentSource:
    """The segments of one model, by their numbers: ranges of its file, read chunk by chunk."""

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


@dataclass(slots=True)
class _Sum:
    """A round's sum, whose grid is as fine as its largest weight allows.

    The grid follows from the largest weight (rounded up to a power of two) of what was counted, and from nothing
    else that is told by devices: a bound from the policy (a million examples, say) would round away what updates of
    weight 1 say. When a heavier update comes, the sum is made again from the files, which stay until the round ends;
    so the result follows from the set of updates alone, whatever their order and however often we restart.
    """

    base: str  # the model that it is about
    accumulator: Accumulator
    folded: list[tuple[Path, int, float]] = field(default_factory=list)  # file, tier, weight

    def add(self, path: Path, tier: int, weight: float) -> None:
        """Fold an update that was judged when it came."""
        if weight > self.accumulator.bounds.weight:
            fraction, exponent = math.frexp(weight)  # exact, where a logarithm is rounded
            bound = weight if fraction == 0.5 else math.ldexp(1.0, exponent)
            bounds = replace(self.accumulator.bounds, weight=bound)
            self.accumulator = self.accumulator.emptied(bounds)
            for before, of_tier, counted in self.folded:
                self.accumulator.fold(stored_update(before), of_tier, counted, checked=True)
        self.accumulator.fold(stored_update(path), tier, weight, checked=True)
        self.folded.append((path, tier, weight))


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
        largest_value: float,
        conclude: Conclude | None = None,
    ) -> None:
        self._layout = layout
        self._models = models
        self._blobs = blobs
        self._scratch = scratch
        self._evaluate = evaluate
        self._conclude = conclude
        self._value = largest_value
        self._algorithm = algorithm
        self._sums: dict[int, _Sum] = {}  # by round
        self._spare: npt.NDArray[np.int64] | None = None  # of the last sum
        self._chunk = 0  # bytes of a chunk, as segments were cut last
        self._cut: tuple[str, int, tuple[Manifest, ...]] = ("", 0, ())  # the newest merged model's segments

    async def cut(self, model: str, chunk: int) -> SegmentSource:
        """Cut a model's file into segments, without keeping the event loop from its work."""
        return await self._aside(self.segments, model, chunk)

    def segments(self, model: str, chunk: int) -> SegmentSource:
        """Cut a model's file into segments; one that was merged just now has been cut already."""
        file = self._models.open(model)
        self._chunk = chunk
        known, known_chunk, manifests = self._cut
        if (known, known_chunk) != (model, chunk):
            manifests = self._manifests(file.path, file.start, chunk)
        served = Served()
        for manifest, (start, _) in zip(manifests, self._layout.segment_bounds, strict=True):
            served.hold(manifest, file.path, start=file.start + FLOAT * start)
        return SegmentSource(manifests, served)

    def update_size(self, tier: int) -> int:
        """Bytes of an update of this tier."""
        return FLOAT * self._layout.lengths[tier]

    def fits(self, part: memoryview) -> bool:
        """Whether a part of an update is whole numbers of float32, all of them finite and within the bound."""
        return len(part) % FLOAT == 0 and within(np.frombuffer(part, "<f4"), np.float32(self._value))

    def fault_in_update(self, blob_id: str, tier: int) -> str:
        """What is wrong with an update that lies in the blob folder, in one sentence; empty when nothing is."""
        path = self._blobs.path(blob_id)
        if path is None:
            return "the update is not on the disk"
        try:
            source = stored_update(path)
        except PeerFault as fault:
            return fault.what
        return check_update(source, self._layout.lengths[tier], self._value).reason

    def open_fold(self, number: int, base_model: str, members: int) -> None:
        """Start the sum of a round, for at most so many updates."""
        bounds = Bounds(cohort=max(1, members), weight=SMALLEST_WEIGHT, value=self._value)
        self._sums[number] = _Sum(base_model, Accumulator(self._layout.holdings, bounds, self._spare))
        self._spare = None

    async def fold(self, number: int, tier: int, blob_id: str, weight: float) -> None:
        """Add a counted update, which was judged when it came; its file stays until the round is released."""
        path = self._blobs.path(blob_id)
        if path is None:
            raise StoreError(
                "a counted update is gone", where=f"blob {blob_id}", remedy="the blobs folder was changed by hand?"
            )
        total = self._sum(number)
        if self._layout.lengths[tier] < THREAD_FROM:
            total.add(path, tier, weight)
        else:
            await asyncio.to_thread(total.add, path, tier, weight)

    async def merge(self, number: int) -> MergedModel:
        """Finalize the sum, measure the model and store it; raises `MhflError` when there is no model to be had."""
        total = self._sum(number)
        out = self._scratch / f"merge-{number}.f32"
        try:
            file = self._models.open(total.base)
            head = Span(file.path, file.start, file.length)  # read in blocks: a map would count as our memory
            await self._aside(self._algorithm.finalize, total.accumulator, self._layout, head, out)
            if self._conclude is not None:
                singly = () if self._algorithm.about.linear else total.folded
                await self._conclude(head=head, merged=out, updates=singly, round_number=number)
            metrics = await self._evaluate(out)
            told = {"round": str(number), MAKER: self._algorithm.about.name}
            put = self._aside(self._models.put, out, self._layout.document(), told)
            if not self._chunk:
                return MergedModel(await put, metrics)
            # Both read the file at the same time: each has digests of its own to make.
            model, manifests = await asyncio.gather(put, self._aside(self._manifests, out, 0, self._chunk))
            self._cut = (model, self._chunk, manifests)
        finally:
            out.unlink(missing_ok=True)
        return MergedModel(model, metrics)

    def release(self, number: int) -> None:
        """Free a round's sum and all updates: at most one round is open, so none is needed any more.

        Not only what was folded: others came too late, or were half received when a device gave up.
        """
        total = self._sums.pop(number, None)
        if total is not None:
            self._spare = total.accumulator.storage
        self._blobs.keep(())

    def _manifests(self, path: Path, start: int, chunk: int) -> tuple[Manifest, ...]:
        """The manifests of the segments of a model that lies in a file from byte `start` on."""
        return tuple(
            manifest_of(path, chunk, start=start + FLOAT * first, size=FLOAT * (stop - first))
            for first, stop in self._layout.segment_bounds
        )

    async def _aside(self, work: Callable[ParamsT, ResultT], *args: ParamsT.args, **options: ParamsT.kwargs) -> ResultT:
        """Work on a whole model: in a thread, unless the model is small."""
        if self._layout.total < THREAD_FROM:
            return work(*args, **options)
        return await asyncio.to_thread(work, *args, **options)

    def _sum(self, number: int) -> "_Sum":
        try:
            return self._sums[number]
        except KeyError:
            raise LocalMisuse(f"round {number} has no sum") from None
