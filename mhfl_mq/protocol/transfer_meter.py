"""How fast a device's link is, by the chunks that come in: what the policy's `transfer_s` is held against.

Only time in which chunks flow counts, from the first chunk on: what passes between a question and its first answer
is latency and the aggregator's affair. All segments together, since they share the link. Measured from what really
came, so a broadcast that the policy slows down, or a busy broker, is measured as such.
"""

from collections import deque
from statistics import median
from typing import Final

__all__ = ["Meter"]

LEAST_BYTES: Final = 64 * 1024
"""After the first chunk: less comes out of one buffer, and says nothing about a link."""
LONG_S: Final = 10.0
"""Seconds of flow that make a sample of their own: a transfer that never ends must tell as well."""
KEPT: Final = 5
"""Samples: their median is the figure, so that two bad moments do not change it."""
STALL_S: Final = 1.0
STALL_TIMES: Final = 8.0
"""A silence longer than `STALL_S` and than so many usual ones is a lost chunk that was asked for again: no flow."""


class Meter:
    """Bytes per second on one link. `before` is the figure of an earlier life; 0: there is none."""

    def __init__(self, before: float = 0.0) -> None:
        self._samples: deque[float] = deque([before] if before > 0 else [], KEPT)
        self._last: float | None = None  # when the last chunk came; None: nothing flows
        self._pace: float | None = None  # usual seconds between two chunks
        self._bytes = 0
        self._seconds = 0.0

    @property
    def bytes_s(self) -> float:
        """The median of the last samples; 0 while there is none."""
        return median(self._samples) if self._samples else 0.0

    def took(self, size: int, now: float) -> None:
        """A chunk of so many bytes came in."""
        if self._last is not None:
            gap, pace = now - self._last, self._pace
            self._pace = gap if pace is None else 0.75 * pace + 0.25 * gap
            if pace is None or gap <= max(STALL_S, STALL_TIMES * pace):
                self._bytes += size
                self._seconds += gap
        self._last = now
        if self._seconds >= LONG_S and self._bytes >= LEAST_BYTES:
            self._keep()

    def rest(self) -> None:
        """Nothing is on its way any more: all is there, or the broker is gone."""
        if self._seconds > 0 and self._bytes >= LEAST_BYTES:
            self._keep()
        self._last = self._pace = None
        self._bytes, self._seconds = 0, 0.0

    def _keep(self) -> None:
        self._samples.append(self._bytes / self._seconds)
        self._bytes, self._seconds = 0, 0.0
