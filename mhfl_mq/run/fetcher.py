"""Gets blobs: any number of receivers over one blob store, with their timers.

A fetch is known by the peer that holds the blob and by the blob's id. Chunks are handed in as they come, and may be
acknowledged to the broker when `chunk` returns: they are written then.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from mhfl_mq.errors import StoreError
from mhfl_mq.protocol.transfer import Ask, Complete, GaveUp, Receiver, Write
from mhfl_mq.protocol.transfer_receiver import Action
from mhfl_mq.store.blobs import Blobs
from mhfl_mq.wire.blobs import Chunk
from mhfl_mq.wire.messages import Manifest, Pull

__all__ = ["Fetcher"]

PREFIX = 32  # hexadecimal digits of a blob id that a chunk carries


@dataclass(slots=True)
class _Fetch:
    peer: str
    receiver: Receiver
    done: Callable[[str], None]
    look: Callable[[memoryview], None] | None


class Fetcher:
    """The fetches of one process. `ask(peer, pull)` sends a pull to the peer that holds the blob."""

    def __init__(self, blobs: Blobs, ask: Callable[[str, Pull], None]) -> None:
        self._blobs = blobs
        self._ask = ask
        self._fetches: dict[tuple[str, str], _Fetch] = {}
        self._timer: asyncio.TimerHandle | None = None

    def fetch(
        self,
        peer: str,
        manifest: Manifest,
        done: Callable[[str], None],
        *,
        listen_s: float = 0.0,
        look: Callable[[memoryview], None] | None = None,
    ) -> None:
        """Get a blob; `done("")` when it is there, `done(why)` when it cannot be had.

        A blob that is being fetched from this peer already goes on, and only the new `done` is called.
        `look` sees each chunk that comes, before it is written; not those that an earlier fetch left.
        """
        key = (peer, manifest.blob_id[:PREFIX])
        running = self._fetches.get(key)
        if running is not None:
            running.done, running.look = done, look
            return
        now = self._now()
        receiver = Receiver(manifest, self._blobs.begin(manifest), listen_s=listen_s)
        fetch = self._fetches[key] = _Fetch(peer, receiver, done, look)
        self._perform(key, fetch, receiver.start(now))

    @property
    def running(self) -> int:
        """How many blobs are being fetched."""
        return len(self._fetches)

    def fetching(self, peer: str, blob_id: str) -> bool:
        """Whether this blob is being fetched from this peer."""
        return (peer, blob_id[:PREFIX]) in self._fetches

    def progress(self, peer: str) -> bool:
        """Whether anything is being fetched from this peer."""
        return any(key[0] == peer for key in self._fetches)

    def chunk(self, peer: str, chunk: Chunk) -> bool:
        """A chunk came from this peer; false when nobody waits for it. It is written when this returns."""
        key = (peer, chunk.blob)
        fetch = self._fetches.get(key)
        if fetch is None:
            return False
        self._perform(key, fetch, fetch.receiver.take(chunk, self._now()))
        return True

    def listen_on(self, peer: str, blob_id: str) -> None:
        """This peer's broadcast comes to this blob later."""
        fetch = self._fetches.get((peer, blob_id[:PREFIX]))
        if fetch is not None:
            fetch.receiver.listen_on(self._now())
            self._set_timer()

    def cancel(self, peer: str, blob_id: str | None = None) -> None:
        """Stop fetching this blob, or all blobs, from this peer; what is there stays for a resume."""
        for key in [key for key in self._fetches if key[0] == peer and blob_id in (None, self._id(key))]:
            self._pause(self._fetches.pop(key))

    def disconnected(self) -> None:
        """The broker is gone."""
        for fetch in self._fetches.values():
            fetch.receiver.disconnected()

    def connected(self, session_present: bool) -> None:
        """The broker is back."""
        for key, fetch in list(self._fetches.items()):
            if self._fetches.get(key) is fetch:  # else it ended with one before it
                self._perform(key, fetch, fetch.receiver.connected(self._now(), session_present))

    def close(self) -> None:
        """Save what is there and stop."""
        while self._fetches:
            self._pause(self._fetches.popitem()[1])
        if self._timer is not None:
            self._timer.cancel()

    # ---- how ----

    def _perform(self, key: tuple[str, str], fetch: _Fetch, actions: list[Action]) -> None:
        manifest = fetch.receiver.manifest
        if manifest.blob_id not in self._blobs.incoming:  # the same blob came whole from another peer, or was dropped
            self._end(key, "" if self._blobs.path(manifest.blob_id) is not None else "the blob was dropped")
            self._set_timer()
            return
        try:
            for action in actions:
                match action:
                    case Ask(ranges):
                        self._ask(fetch.peer, Pull(manifest.blob_id, ranges))
                    case Write(offset, data):
                        if fetch.look is not None:
                            fetch.look(data)
                        self._blobs.write_proven(manifest.blob_id, offset, data)
                    case Complete():
                        self._blobs.finish(manifest.blob_id)
                        self._end(key, "")
                    case GaveUp(reason):
                        if not self._shared(fetch):
                            self._blobs.drop(manifest.blob_id)
                        self._end(key, reason)
        except StoreError as error:  # a full disk: this blob cannot be kept, the process goes on
            self._end(key, str(error))
        self._set_timer()

    def _end(self, key: tuple[str, str], fault: str) -> None:
        fetch = self._fetches.pop(key, None)
        if fetch is not None:
            fetch.done(fault)

    def _pause(self, fetch: _Fetch) -> None:
        if self._shared(fetch):
            return  # another peer brings it as well
        with contextlib.suppress(StoreError):  # without it a resume starts from an older bitmap, and is right too
            self._blobs.pause(fetch.receiver.manifest.blob_id)

    def _shared(self, fetch: _Fetch) -> bool:
        """Whether the same blob is being fetched from another peer: two devices may come to the same update."""
        blob_id = fetch.receiver.manifest.blob_id
        return any(one is not fetch and one.receiver.manifest.blob_id == blob_id for one in self._fetches.values())

    def _id(self, key: tuple[str, str]) -> str:
        return self._fetches[key].receiver.manifest.blob_id

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        dues = [due for fetch in self._fetches.values() if (due := fetch.receiver.due) is not None]
        if dues:
            self._timer = asyncio.get_running_loop().call_at(min(dues), self._tick)

    def _tick(self) -> None:
        self._timer = None
        for key, fetch in list(self._fetches.items()):
            if self._fetches.get(key) is fetch:
                self._perform(key, fetch, fetch.receiver.tick(self._now()))
        self._set_timer()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
