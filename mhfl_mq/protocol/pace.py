"""When the next round may begin: the pause after a round, a longer one after failures, and the schedule's word."""

from math import inf
from typing import Final

from mhfl_mq.protocol.effects import SetTimer
from mhfl_mq.protocol.pauses import Timer
from mhfl_mq.protocol.rules import Decider, Opening

__all__ = ["Pace"]

_BACKOFF_FIRST_S: Final = 2.0
_BACKOFF_MOST_S: Final = 600.0  # rounds that keep failing should neither fill the ledger nor wear out the devices
_DOUBLINGS: Final = 16
_LOOK_S: Final = 600.0  # the schedule is asked again so often: clocks are set, and machines sleep
_EARLY_S: Final = 0.001  # a timer that is so early is on time
_PAUSE: Final = "the pause after the last round"


class Pace:
    """`opening` is the last word on whether a round may begin, `committed_at` when the last one began that made a
    version.

    Times are seconds since 1970, UTC. What the last life left of a pause is forgotten: a restart looks at once.
    """

    def __init__(self, decider: Decider, committed_at: float | None, opened_at: float) -> None:
        self.opening = Opening(False)
        self.committed_at = committed_at
        self.opened_at = opened_at  # when the open round began, or the last one
        self._decider = decider
        self._failures = 0  # aborted rounds in a row
        self._pause = (0.0, 0.0)  # from and to
        self._look_at = inf  # when the timer runs out

    def under(self, decider: Decider) -> None:
        """Another policy decides from now on; what is left of a pause stays."""
        self._decider = decider
        self._look_at = inf

    def opened(self, now: float) -> None:
        """A round begins."""
        self.opened_at = now

    def ended(self, now: float, *, committed: bool, last_round: int) -> None:
        """A round is over, with or without a version: a pause begins."""
        if committed:
            self._failures, self.committed_at = 0, self.opened_at
        else:
            self._failures += 1
        pause_s = self._decider.pause_s(last_round)
        if self._failures:
            backoff_s = _BACKOFF_FIRST_S * 2.0 ** min(self._failures - 1, _DOUBLINGS)
            pause_s = max(pause_s, min(_BACKOFF_MOST_S, backoff_s))
        self._pause = now, now + pause_s
        self._look_at = inf

    def ask(self, now: float) -> Opening:
        """Whether a round may begin now. A pause that begins later than now is over: the clock was set back."""
        begin, end = self._pause
        if begin <= now < end - _EARLY_S:
            self.opening = Opening(False, end - now, _PAUSE)
        else:
            self.opening = self._decider.opening(now, self.committed_at)
        return self.opening

    def fired(self) -> None:
        """The timer ran out."""
        self._look_at = inf

    def look_in(self, now: float, seconds: float | None) -> list[SetTimer]:
        """Ask again in so many seconds (None: it is not known when the answer changes), or earlier."""
        seconds = _LOOK_S if seconds is None else min(_LOOK_S, max(0.0, seconds))
        if now + seconds >= self._look_at:
            return []
        self._look_at = now + seconds
        return [SetTimer(Timer.INTERVAL, seconds)]
