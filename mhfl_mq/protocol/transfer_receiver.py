"""The receiver of one blob: knows what is there, asks for what is not, and proves every chunk.

At most `window` chunks are asked for and not yet there, so a broker's queue for us never holds more, and nothing
is dropped for want of room. When half of them are in, the next ones are asked for. What is older than the timeout is
asked for again: nobody counts on a PUBACK, which only says that the broker had it.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from mhfl_mq.errors import LocalMisuse
from mhfl_mq.wire.blobs import Chunk, chunk_matches, chunk_span
from mhfl_mq.wire.messages import Manifest

__all__ = ["Action", "Ask", "Complete", "GaveUp", "Phase", "Receiver", "Write"]

WINDOW: Final = 8
"""Chunks: 8 x 256 KiB fill 100 Mbit/s at 50 ms and 20 Mbit/s at 200 ms (measured: 0.94 and 0.84 of the line)."""
TIMEOUT_S: Final = 3.0
"""Seconds before a first re-ask: more than a loaded broker takes, less than a round's patience."""
TIMEOUT_LATENCIES: Final = 4.0
"""Re-ask after so many times the usual wait for a chunk, so that a slow line is not filled with repeats."""
TIMEOUT_CAP_S: Final = 60.0
"""Seconds: doubling stops here."""
BAD_LIMIT: Final = 16
"""Bad chunks of one blob: two windows; TCP lets none through by chance, so the holder or the disk behind it is ill."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Send a `Pull` with these ranges of chunks."""

    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Write:
    """Write these proven bytes at this offset of the blob."""

    offset: int
    data: memoryview


@dataclass(frozen=True, slots=True)
class Complete:
    """All chunks are there; said once, after the last `Write`."""


@dataclass(frozen=True, slots=True)
class GaveUp:
    """The blob cannot be had from this holder; said once."""

    reason: str


Action = Ask | Write | Complete | GaveUp


class Phase(Enum):
    """Where a receiver stands."""

    NEW = "new"
    LISTENING = "listening"  # the carousel may still bring it
    PULLING = "pulling"
    COMPLETE = "complete"
    GAVE_UP = "gave up"


class Receiver:
    """Gets one blob. `bitmap` says which chunks are there already (bit i % 8 of byte i // 8), for a resume.

    With `listen_s` it first takes what the carousel broadcasts, and pulls only when that has passed its last chunk
    or has been quiet for so long; spread `listen_s` over devices so that they do not all pull at once.
    """

    def __init__(
        self,
        manifest: Manifest,
        bitmap: bytes = b"",
        *,
        listen_s: float = 0.0,
        window: int = WINDOW,
        timeout_s: float = TIMEOUT_S,
        bad_limit: int = BAD_LIMIT,
    ) -> None:
        if window < 1 or timeout_s <= 0 or bad_limit < 0 or listen_s < 0:
            raise LocalMisuse(f"window {window}, timeout {timeout_s} s, bad limit {bad_limit}, listen {listen_s} s")
        self.manifest = manifest
        self.phase = Phase.NEW
        self.duplicates = 0
        self.bad = 0
        self.asked_again = 0
        self._prefix = manifest.blob_id[:32]
        self._have = bytearray(manifest.chunks)  # one byte a chunk: at most 5 KiB
        for index in range(min(manifest.chunks, len(bitmap) * 8)):
            self._have[index] = bitmap[index >> 3] >> (index & 7) & 1
        self._missing = manifest.chunks - sum(self._have)
        self._listen_s = listen_s
        self._window = window
        self._timeout_floor = timeout_s
        self._bad_limit = bad_limit
        self._connected = True
        self._heard = 0.0  # when the carousel last brought something
        self._asked: dict[int, float] = {}  # chunk -> when it was last asked for, the oldest first
        self._first_asked: dict[int, float] = {}
        self._next = 0  # below it nothing is missing that has not been asked for
        self._latency = 0.0  # usual seconds from the first ask to the chunk
        self._doublings = 0

    # ---- what it knows ----

    @property
    def missing(self) -> int:
        """Chunks that are not there yet."""
        return self._missing

    @property
    def outstanding(self) -> int:
        """Chunks that were asked for and are not there yet; never more than the window."""
        return len(self._asked)

    @property
    def due(self) -> float | None:
        """When `tick` has something to do; None when only a chunk or a connection can move things."""
        if not self._connected:
            return None
        if self.phase is Phase.LISTENING:
            return self._heard + self._listen_s
        if self.phase is Phase.PULLING:
            return next(iter(self._asked.values())) + self._timeout()
        return None

    def bitmap(self) -> bytes:
        """What is there, to be saved after the written bytes are on the disk."""
        bits = bytearray(-(-len(self._have) // 8))
        for index, there in enumerate(self._have):
            bits[index >> 3] |= there << (index & 7)
        return bytes(bits)

    # ---- what happens to it ----

    def start(self, now: float) -> list[Action]:
        """Begin; call once. An empty or finished blob is complete at once."""
        if self.phase is not Phase.NEW:
            raise LocalMisuse("started twice", where=f"receiver of {self._prefix}")
        if not self._missing:
            return self._complete()
        self.phase = Phase.LISTENING
        self._heard = now
        return self.tick(now)

    def take(self, chunk: Chunk, now: float) -> list[Action]:
        """A chunk came in. Chunks of other blobs, repeats, and all after the end are ignored."""
        if chunk.blob != self._prefix:
            return []
        if self.phase not in (Phase.LISTENING, Phase.PULLING):
            self.duplicates += 1
            return []
        index = chunk.index
        if index < len(self._have) and self._have[index]:
            self.duplicates += 1
            return self._heard_of(index, now)
        if not chunk_matches(self.manifest, index, chunk.data):
            return self._bad(index, now)
        self._have[index] = 1
        self._missing -= 1
        self._doublings = 0
        if self._asked.pop(index, None) is not None:
            waited = now - self._first_asked.pop(index)
            self._latency = waited if self._latency == 0.0 else 0.875 * self._latency + 0.125 * waited
        actions: list[Action] = [Write(chunk_span(self.manifest, index)[0], chunk.data)]
        if not self._missing:
            return actions + self._complete()
        return actions + self._heard_of(index, now)

    def listen_on(self, now: float) -> None:
        """The carousel is not here yet, but alive: its silence begins anew. Means nothing once chunks are pulled."""
        self._heard = now

    def tick(self, now: float) -> list[Action]:
        """Time has passed: stop listening to a quiet carousel, ask again for what is late. Early calls do nothing."""
        due = self.due
        if due is None or now < due:
            return []
        if self.phase is Phase.LISTENING:
            return self._pull(now)
        timeout = self._timeout()
        late = [index for index, at in self._asked.items() if now >= at + timeout]
        self._doublings += 1
        return self._ask_again(late, now)

    def disconnected(self) -> None:
        """The broker is gone: nothing is late until `connected`."""
        self._connected = False

    def connected(self, now: float, session_present: bool) -> list[Action]:
        """The broker is back. With our session, what was asked for may still come; without it, all is asked again."""
        self._connected = True
        self._doublings = 0
        self._heard = now
        for index in self._asked:
            self._asked[index] = now
        actions = [] if session_present else self._ask_again(list(self._asked), now)
        return actions + (self._fill(now) if self.phase is Phase.PULLING else [])  # room made while the broker was gone

    # ---- how ----

    def _heard_of(self, index: int, now: float) -> list[Action]:
        """Go on after a chunk that was well formed: the carousel is alive, or there is room in the window."""
        if self.phase is Phase.LISTENING:
            self._heard = now
            return self._pull(now) if index == len(self._have) - 1 and self._connected else []
        return self._fill(now)

    def _pull(self, now: float) -> list[Action]:
        self.phase = Phase.PULLING
        return self._fill(now)

    def _fill(self, now: float) -> list[Action]:
        """Ask for the next chunks once half of the window is free."""
        if len(self._asked) > self._window // 2 or not self._connected:
            return []
        wanted = []
        while self._next < len(self._have) and len(self._asked) < self._window:
            if not self._have[self._next]:
                self._asked[self._next] = self._first_asked[self._next] = now
                wanted.append(self._next)
            self._next += 1
        return [Ask(_ranges(wanted))] if wanted else []

    def _ask_again(self, indexes: list[int], now: float) -> list[Action]:
        for index in indexes:
            del self._asked[index]  # to the end: the oldest stays first
            self._asked[index] = now
        self.asked_again += len(indexes)
        return [Ask(_ranges(sorted(indexes)))] if indexes else []

    def _bad(self, index: int, now: float) -> list[Action]:
        self.bad += 1
        if self.bad > self._bad_limit:
            self.phase = Phase.GAVE_UP
            self._asked.clear()
            return [GaveUp(f"{self.bad} bad chunks of blob {self._prefix}: they are not what its manifest promises")]
        return self._ask_again([index], now) if index in self._asked and self._connected else []

    def _complete(self) -> list[Action]:
        self.phase = Phase.COMPLETE
        self._asked.clear()
        return [Complete()]

    def _timeout(self) -> float:
        base = max(self._timeout_floor, TIMEOUT_LATENCIES * self._latency)
        return max(base, min(base * 2.0**self._doublings, TIMEOUT_CAP_S))


def _ranges(indexes: list[int]) -> tuple[tuple[int, int], ...]:
    """Sorted chunk numbers as ranges [start, stop)."""
    ranges: list[tuple[int, int]] = []
    for index in indexes:
        if ranges and ranges[-1][1] == index:
            ranges[-1] = (ranges[-1][0], index + 1)
        else:
            ranges.append((index, index + 1))
    return tuple(ranges)
