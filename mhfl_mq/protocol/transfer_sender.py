"""The holder of blobs: remembers who pulled what, and says which chunk goes next.

It knows nothing of a receiver's progress: a receiver that is ill, slow or gone costs its queue and nothing more.
"""

from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum
from typing import Final

from mhfl_mq.errors import LocalMisuse, PeerFault
from mhfl_mq.wire.blobs import chunk_span
from mhfl_mq.wire.bounds import MAX_TIERS
from mhfl_mq.wire.messages import Manifest, Pull

__all__ = ["Pulled", "Send", "Sender"]

IN_FLIGHT: Final = 8
"""Chunks published and not yet acknowledged by the broker, over all peers: memory is so many chunks."""
QUEUE_LIMIT: Final = 8 * MAX_TIERS
"""Chunks that wait for one peer: a window of every segment. What is above is dropped; the peer asks again."""


class Pulled(Enum):
    """What a `Pull` came to."""

    QUEUED = "queued"
    MANIFEST = "manifest"  # the peer wants the manifest: send it
    UNKNOWN = "unknown"  # we do not hold this blob (any more)


@dataclass(frozen=True, slots=True)
class Send:
    """Send bytes [start, stop) of this blob as chunk `index` to this peer; then call `Sender.sent` with it."""

    peer: str
    blob_id: str
    index: int
    start: int
    stop: int


class Sender:
    """Answers pulls of the blobs that it holds; peers take turns, a chunk each."""

    def __init__(self, *, in_flight: int = IN_FLIGHT, queue_limit: int = QUEUE_LIMIT) -> None:
        if in_flight < 1 or queue_limit < 1:
            raise LocalMisuse(f"{in_flight} chunks in flight, {queue_limit} queued", remedy="use at least 1 of each")
        self.dropped = 0
        self._limit = in_flight
        self._queue_limit = queue_limit
        self._blobs: dict[str, Manifest] = {}
        self._queues: OrderedDict[str, OrderedDict[tuple[str, int], None]] = OrderedDict()  # never an empty one
        self._in_flight: set[Send] = set()

    @property
    def waiting(self) -> int:
        """Chunks that are queued, over all peers."""
        return sum(len(queue) for queue in self._queues.values())

    def hold(self, manifest: Manifest) -> None:
        """From now on, pulls of this blob are answered."""
        self._blobs[manifest.blob_id] = manifest

    def drop(self, blob_id: str) -> None:
        """This blob is gone: what is queued of it is forgotten."""
        self._blobs.pop(blob_id, None)
        for peer in list(self._queues):
            queue = self._queues[peer]
            for item in [item for item in queue if item[0] == blob_id]:
                del queue[item]
            if not queue:
                del self._queues[peer]

    def forget(self, peer: str) -> None:
        """This peer needs nothing any more."""
        self._queues.pop(peer, None)

    def pull(self, peer: str, pull: Pull) -> Pulled:
        """A peer asked. Chunks that already wait for it or are on their way are not queued twice.

        Raises `PeerFault` for a range beyond the blob's end; nothing of that pull is queued.
        """
        manifest = self._blobs.get(pull.blob_id)
        if manifest is None:
            return Pulled.UNKNOWN
        if not pull.ranges:
            return Pulled.MANIFEST
        for start, stop in pull.ranges:
            if not 0 <= start < stop <= manifest.chunks:
                raise PeerFault(
                    f"asks for chunks {start}..{stop} of {manifest.chunks}", where=f"pull of {pull.blob_id[:16]}"
                )
        queue = self._queues.get(peer, OrderedDict())
        for start, stop in pull.ranges:
            for index in range(start, stop):
                if (pull.blob_id, index) in queue or self._send(peer, manifest, index) in self._in_flight:
                    continue
                if len(queue) >= self._queue_limit:
                    self.dropped += 1
                    continue
                queue[(pull.blob_id, index)] = None
        if queue:
            self._queues[peer] = queue
        return Pulled.QUEUED

    def next(self) -> Send | None:
        """The chunk to send now, of the peer whose turn it is; None when nothing waits or enough is in flight."""
        if not self._queues or len(self._in_flight) >= self._limit:
            return None
        peer, queue = self._queues.popitem(last=False)
        (blob_id, index), _ = queue.popitem(last=False)
        if queue:
            self._queues[peer] = queue
        send = self._send(peer, self._blobs[blob_id], index)
        self._in_flight.add(send)
        return send

    def sent(self, send: Send) -> None:
        """The broker has acknowledged this chunk, or it will not be published after all."""
        self._in_flight.discard(send)

    @staticmethod
    def _send(peer: str, manifest: Manifest, index: int) -> Send:
        start, stop = chunk_span(manifest, index)
        return Send(peer, manifest.blob_id, index, start, stop)
