"""Saying something again, and not saying it too often: growing jittered pauses, and quiet after an alarm."""

from enum import StrEnum
from typing import Final, Protocol

from mhfl_mq.protocol.effects import Alarm, SetTimer

__all__ = ["HERD_S", "Luck", "Once", "Pauses", "Quiet", "Timer"]

HERD_S: Final = 2.0
"""Seconds over which a fleet spreads its hellos when the aggregator returns: 1,000 devices are 500 a second."""
_GONE_S: Final = 600.0  # to an aggregator that is gone: 1,000 devices put 6,000 small messages an hour into its queue
_QUIET_S: Final = 60.0  # a flood of garbage shows as one line a minute
_NOTED: Final = 4096  # things that `Once` tells apart: 2 kinds for each of 2,000 devices
_DOUBLINGS: Final = 32  # beyond it no pause is under its cap: keeps the power finite over months of retries


class Timer(StrEnum):
    """The timers of both machines."""

    HELLO = "hello"  # device: say hello again
    CAPABILITY = "capability"  # device: say again what it can carry
    RETRY = "retry"  # device: refused, ask again
    RESEND = "resend"  # device: say again that the update is ready
    INSTALL = "install"  # device: try again to install the head
    DEADLINE = "deadline"  # both: the round's time is over
    INTERVAL = "interval"  # aggregator: the pause is over, or the schedule changes its word
    QUIET = "quiet"  # both: the silence after an alarm is over


class Luck(Protocol):
    """Where jitter comes from; `random.Random(seed)` is one."""

    def random(self) -> float:
        """A number from [0, 1)."""
        ...


class Pauses:
    """Pauses that double from `first_s` to `most_s`, each shortened by up to a half so that a fleet spreads out."""

    def __init__(self, first_s: float, most_s: float, luck: Luck) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._luck = luck
        self._count = 0

    def next_s(self, *, gone: bool = False) -> float:
        """Seconds until the next attempt; many while the other side is known to be `gone`: its birth comes first."""
        if gone:
            return self._jittered(_GONE_S)
        whole = min(self._most_s, self._first_s * 2.0 ** min(self._count, _DOUBLINGS))
        self._count += 1
        return self._jittered(whole)

    def reset(self) -> None:
        """There was an answer: the next pause is a first one."""
        self._count = 0

    def _jittered(self, whole_s: float) -> float:
        return whole_s * (1.0 - 0.5 * self._luck.random())


class Quiet:
    """Lets one alarm through, then counts for a minute what else there was."""

    def __init__(self) -> None:
        self._running = False
        self._held = 0
        self._last = ""

    def alarm(self, text: str) -> list[Alarm | SetTimer]:
        """This alarm, or nothing while it is quiet."""
        if self._running:
            self._held += 1
            self._last = text
            return []
        self._running = True
        return [Alarm(text), SetTimer(Timer.QUIET, _QUIET_S)]

    def over(self) -> list[Alarm | SetTimer]:
        """`Timer.QUIET` fired: what was held back, in one line."""
        held, self._held = self._held, 0
        self._running = held > 0
        if not held:
            return []
        text = f"{held} more of this kind in {_QUIET_S:.0f} s, the last: {self._last}"
        return [Alarm(text), SetTimer(Timer.QUIET, _QUIET_S)]


class Once:
    """Lets each kind of thing be noted once for each device, until it is cleared: a flood fills no ledger."""

    def __init__(self) -> None:
        self._noted: set[tuple[str, str]] = set()

    def first(self, device: str, kind: str) -> bool:
        """Whether this is the first of its kind. When too many are told apart already, nothing is a first one."""
        if (device, kind) in self._noted or len(self._noted) >= _NOTED:
            return False
        self._noted.add((device, kind))
        return True

    def clear(self) -> None:
        """A new round: everything may be noted again."""
        self._noted.clear()
