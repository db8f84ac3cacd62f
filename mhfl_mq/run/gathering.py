"""The way down, at a device: takes the segments of its tier from the carousel, and pulls what it missed."""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mhfl_mq.errors import StoreError
from mhfl_mq.run.fetcher import Fetcher
from mhfl_mq.store.blobs import Blobs
from mhfl_mq.wire.blobs import Chunk
from mhfl_mq.wire.messages import ManifestNote, Pull

__all__ = ["Gathering"]

LISTEN_S = 1.0
"""Seconds of silence after which a device stops waiting for the carousel; spread by up to as much again."""
LISTEN_CHUNKS = 2.0
"""And so many chunks' time on a link whose speed is known: on a slow one a broadcast is silent for long."""
ASK_MANIFEST_EVERY_S = 3.0
"""A manifest that was asked for and did not come is asked for again."""
AGGREGATOR = "aggregator"


@dataclass(slots=True)
class _Want:
    segments: tuple[str, ...]
    done: Callable[[str], None]


class Gathering:
    """The segments of one device. `send(pull)` asks the aggregator."""

    def __init__(
        self, blobs: Blobs, send: Callable[[Pull], None], luck: random.Random, *, listen_s: float = LISTEN_S
    ) -> None:
        self.link_bytes_s = 0.0  # as measured; 0: not known
        self._blobs = blobs
        self._send = send
        self._luck = luck
        self._listen_s = listen_s
        self._fetcher = Fetcher(blobs, lambda _peer, pull: send(pull))
        self._wants: dict[str, _Want] = {}
        self._current: dict[int, str] = {}  # segment -> blob id of the newest manifest
        self._timer: asyncio.TimerHandle | None = None

    @property
    def running(self) -> int:
        """Segments that are being fetched."""
        return self._fetcher.running

    def note(self, note: ManifestNote) -> None:
        """A segment's manifest came: get the segment."""
        manifest = note.manifest
        old = self._current.get(note.segment)
        self._current[note.segment] = manifest.blob_id
        if old is not None and old != manifest.blob_id and not self._wanted(old):
            self._fetcher.cancel(AGGREGATOR, old)
        if self._has(manifest.blob_id):
            self._check()
        else:
            try:
                self._get(note)
            except StoreError as error:  # no room: who waits for it hears why, the process goes on
                self._ended(manifest.blob_id)(str(error))

    def _get(self, note: ManifestNote) -> None:
        manifest = note.manifest
        if note.inline or not manifest.size:
            self._blobs.put(manifest, note.inline)
            self._check()
        else:
            listen_s = self._listen_s * (1.0 + self._luck.random())
            if self.link_bytes_s:
                listen_s += LISTEN_CHUNKS * manifest.chunk / self.link_bytes_s
            self._fetcher.fetch(AGGREGATOR, manifest, self._ended(manifest.blob_id), listen_s=listen_s)

    def chunk(self, chunk: Chunk, segment: int | None = None) -> None:
        """A chunk came, from the carousel (of this segment) or for us alone (None)."""
        for later, blob_id in self._current.items():
            if segment is not None and later > segment:  # smallest first: its turn comes
                self._fetcher.listen_on(AGGREGATOR, blob_id)
        self._fetcher.chunk(AGGREGATOR, chunk)

    def want(self, name: str, segments: Sequence[str], done: Callable[[str], None]) -> None:
        """Have these blobs on the disk; `done("")` when they are, `done(why)` when they cannot be had."""
        self._wants[name] = _Want(tuple(segments), done)
        self._check()

    def forget(self, name: str) -> None:
        """Nobody waits for these segments any more."""
        self._wants.pop(name, None)

    def useful(self) -> set[str]:
        """The blobs that are wanted, or were announced last: all others may be deleted."""
        return {*self._current.values(), *(one for want in self._wants.values() for one in want.segments)}

    def disconnected(self) -> None:
        """The broker is gone."""
        self._fetcher.disconnected()

    def connected(self, session_present: bool) -> None:
        """The broker is back."""
        self._fetcher.connected(session_present)
        self._check()

    def close(self) -> None:
        """Save what is there and stop."""
        if self._timer is not None:
            self._timer.cancel()
        self._wants.clear()
        self._fetcher.close()

    # ---- how ----

    def _has(self, blob_id: str) -> bool:
        return self._blobs.path(blob_id) is not None

    def _wanted(self, blob_id: str) -> bool:
        return any(blob_id in want.segments for want in self._wants.values())

    def _ended(self, blob_id: str) -> Callable[[str], None]:
        def ended(fault: str) -> None:
            if fault:
                for name in [name for name, want in self._wants.items() if blob_id in want.segments]:
                    self._wants.pop(name).done(fault)
            self._check()

        return ended

    def _check(self) -> None:
        """Tell those who have all they want; ask for manifests that nobody has shown us."""
        for name, want in list(self._wants.items()):
            if all(self._has(blob_id) for blob_id in want.segments):
                del self._wants[name]
                want.done("")
        unknown = [
            blob_id
            for want in self._wants.values()
            for blob_id in want.segments
            if not self._has(blob_id) and not self._fetcher.fetching(AGGREGATOR, blob_id)
        ]
        for blob_id in dict.fromkeys(unknown):
            if self._timer is None:  # else it was asked for a moment ago
                self._send(Pull(blob_id, ()))
        if unknown and self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(ASK_MANIFEST_EVERY_S, self._ask_again)

    def _ask_again(self) -> None:
        self._timer = None
        self._check()
