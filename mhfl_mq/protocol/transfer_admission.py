"""Admission of uploads: so many at once, of so many bytes together, first come first served.

Ten thousand devices may finish in the same second; the aggregator's memory and the broker's queue for it are
bounded by what is admitted, not by how many wait. Who waits costs a name in a queue and is served in the order of
arrival, so nobody starves; who is admitted and sends nothing loses its place.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from mhfl_mq.errors import LocalMisuse
from mhfl_mq.wire.messages import Manifest

__all__ = ["Admission", "Answer", "Turn", "upload_cost"]

PLACES: Final = 8
"""Uploads at once."""
BUDGET: Final = 32 * 1024 * 1024
"""Bytes in flight over all of them: 16 windows of 8 x 256 KiB."""
PATIENCE_S: Final = 60.0
"""Seconds without a good chunk after which a place is freed: as long as a re-ask waits at most."""


class Answer(Enum):
    """What became of a request for a place."""

    ADMITTED = "admitted"
    QUEUED = "queued"
    TOO_BIG = "too big"  # costs more than the whole budget: ask for smaller chunks


@dataclass(frozen=True, slots=True)
class Turn:
    """What a tick changed: these lost their place for being silent, those got one."""

    evicted: tuple[str, ...]
    admitted: tuple[str, ...]


def upload_cost(manifest: Manifest, window: int) -> int:
    """Bytes of this blob that can be on their way at once."""
    return min(manifest.size, window * manifest.chunk)


class Admission:
    """Who may upload now. `who` is any name that is one upload's own, such as the device id."""

    def __init__(self, *, places: int = PLACES, budget: int = BUDGET, patience_s: float = PATIENCE_S) -> None:
        if places < 1 or budget < 1 or patience_s <= 0:
            raise LocalMisuse(f"{places} places, {budget} bytes, patience {patience_s} s", remedy="use more than 0")
        self._places = places
        self._budget = budget
        self._patience_s = patience_s
        self._connected = True
        self._costs: dict[str, int] = {}  # who has a place -> bytes
        self._moved: dict[str, float] = {}  # who has a place -> when it last made progress
        self._queue: dict[str, int] = {}  # who waits -> bytes, the longest wait first

    @property
    def admitted(self) -> tuple[str, ...]:
        """Who has a place."""
        return tuple(self._costs)

    @property
    def queued(self) -> tuple[str, ...]:
        """Who waits, the longest wait first."""
        return tuple(self._queue)

    @property
    def due(self) -> float | None:
        """When the next place is lost for silence; None when none can be."""
        return min(self._moved.values()) + self._patience_s if self._moved and self._connected else None

    def ask(self, who: str, cost: int, now: float) -> Answer:
        """Ask for a place for `cost` bytes in flight; to ask again changes nothing but a waiting one's cost."""
        if who in self._costs:
            return Answer.ADMITTED
        if cost > self._budget:
            self._queue.pop(who, None)
            return Answer.TOO_BIG
        self._queue[who] = cost
        return Answer.ADMITTED if who in self._admit(now) else Answer.QUEUED

    def progress(self, who: str, now: float) -> None:
        """A good chunk of this upload came in."""
        if who in self._moved:
            self._moved[who] = now

    def release(self, who: str, now: float) -> tuple[str, ...]:
        """This upload is done or given up; says who gets a place now."""
        self._queue.pop(who, None)
        self._costs.pop(who, None)
        self._moved.pop(who, None)
        return self._admit(now)

    def tick(self, now: float) -> Turn:
        """Time has passed: places of the silent go to those who wait. Early calls do nothing."""
        due = self.due
        if due is None or now < due:
            return Turn((), ())
        evicted = tuple(who for who, moved in self._moved.items() if now >= moved + self._patience_s)
        for who in evicted:
            del self._costs[who], self._moved[who]
        return Turn(evicted, self._admit(now))

    def disconnected(self) -> None:
        """The broker is gone: nobody is silent until `connected`."""
        self._connected = False

    def connected(self, now: float) -> None:
        """The broker is back: everybody's patience starts anew."""
        self._connected = True
        self._moved = dict.fromkeys(self._moved, now)

    def _admit(self, now: float) -> tuple[str, ...]:
        """Give places in the order of arrival; the first that does not fit waits, and all behind it."""
        admitted: list[str] = []
        free = self._budget - sum(self._costs.values())
        while self._queue and len(self._costs) < self._places:
            who = next(iter(self._queue))
            cost = self._queue[who]
            if cost > free:
                break
            del self._queue[who]
            free -= cost
            self._costs[who] = cost
            self._moved[who] = now
            admitted.append(who)
        return tuple(admitted)
