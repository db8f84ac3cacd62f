"""How long to wait before the next attempt to connect: full jitter, so that a fleet does not return as one."""

from collections.abc import Callable

__all__ = ["Backoff"]

_FIRST_S = 1.0  # the first wait is at most this: a broker's restart takes about a second
_CAP_S = 60.0  # a device that lost its broker for long is back within a minute of its return
_DOUBLINGS = 16  # 2**16 s is past every cap: no overflow however long the outage


class Backoff:
    """Waits drawn uniformly from [0, min(cap, first * 2**n)) for the n-th failure in a row.

    `luck` gives numbers from [0, 1). (Full jitter: Brooker, "Exponential Backoff And Jitter", 2015.)
    """

    def __init__(self, luck: Callable[[], float], *, first_s: float = _FIRST_S, cap_s: float = _CAP_S) -> None:
        self._luck = luck
        self._first_s = first_s
        self._cap_s = cap_s
        self._failures = 0

    def next_s(self) -> float:
        """Seconds to wait now; each call counts as one more failure."""
        bound = min(self._cap_s, self._first_s * 2.0 ** min(self._failures, _DOUBLINGS))
        self._failures += 1
        return bound * self._luck()

    def reset(self) -> None:
        """The connection held: the next failure is a first one."""
        self._failures = 0
