"""The carousel: every segment is broadcast once, however many devices listen.

Paced twice: by the broker (no more than a window of chunks without its PUBACK) and, where a line is shared with a
plant's own traffic, by a rate. Segments go smallest first, since every device needs segment 0.
"""

from dataclasses import dataclass
from typing import Final

from mhfl_mq.errors import LocalMisuse
from mhfl_mq.wire.blobs import chunk_span
from mhfl_mq.wire.messages import Manifest

__all__ = ["Carousel", "Cast"]

IN_FLIGHT: Final = 8
"""Chunks published and not yet acknowledged by the broker."""


@dataclass(frozen=True, slots=True)
class Cast:
    """Broadcast bytes [start, stop) of this blob as chunk `index` of the segment; then call `Carousel.sent` with it."""

    segment: int
    blob_id: str
    index: int
    start: int
    stop: int


class Carousel:
    """Says which chunk of which segment is broadcast next. `rate` is bytes per second; None: as the broker takes it."""

    def __init__(self, *, in_flight: int = IN_FLIGHT, rate: float | None = None) -> None:
        if in_flight < 1 or (rate is not None and rate <= 0):
            raise LocalMisuse(f"{in_flight} chunks in flight at {rate} B/s", remedy="use at least 1 and above 0")
        self._limit = in_flight
        self._rate = rate
        self._casting: dict[int, tuple[Manifest, int]] = {}  # segment -> its blob and the next chunk
        self._in_flight: set[Cast] = set()
        self._free_at = float("-inf")  # when the rate allows the next chunk

    @property
    def casting(self) -> list[int]:
        """Segments whose broadcast is not over, in the order in which they go."""
        return sorted(self._casting)

    @property
    def due(self) -> float | None:
        """When the rate lets the next chunk go; None when nothing waits for the rate."""
        return self._free_at if self._casting and len(self._in_flight) < self._limit else None

    def coming(self, segment: int, manifest: Manifest) -> int:
        """The first chunk of this blob that the rate still holds back; the number of its chunks when there is none."""
        casting = self._casting.get(segment)
        slowed = self._rate is not None and casting is not None and casting[0].blob_id == manifest.blob_id
        return casting[1] if slowed and casting is not None else manifest.chunks

    def cast(self, segment: int, manifest: Manifest) -> None:
        """Broadcast this blob as the segment, once. Takes the place of an older blob of the segment."""
        running = self._casting.get(segment)
        if running is not None and running[0].blob_id == manifest.blob_id:
            return
        self._casting.pop(segment, None)
        if manifest.chunks:
            self._casting[segment] = (manifest, 0)

    def cancel(self, segment: int) -> None:
        """Stop broadcasting this segment, if it is being broadcast."""
        self._casting.pop(segment, None)

    def next(self, now: float) -> Cast | None:
        """The chunk to broadcast now; None when there is none, enough is in flight, or the rate says wait."""
        due = self.due
        if due is None or now < due:
            return None
        segment = min(self._casting)
        manifest, index = self._casting[segment]
        start, stop = chunk_span(manifest, index)
        if index + 1 < manifest.chunks:
            self._casting[segment] = (manifest, index + 1)
        else:
            del self._casting[segment]
        if self._rate is not None:
            self._free_at = max(now, self._free_at) + (stop - start) / self._rate
        cast = Cast(segment, manifest.blob_id, index, start, stop)
        self._in_flight.add(cast)
        return cast

    def sent(self, cast: Cast) -> None:
        """The broker has acknowledged this chunk, or it will not be published after all."""
        self._in_flight.discard(cast)
