"""Time and luck as objects: everything above takes them as arguments, so that a simulation can give its own."""

import datetime
import random
import secrets
import time
from typing import Protocol

__all__ = ["Clock", "SystemClock", "seeded_luck"]


class Clock(Protocol):
    """The two kinds of time."""

    def now(self) -> datetime.datetime:
        """The wall clock, in UTC: for people and for the ledger, never for measuring."""
        ...

    def monotonic(self) -> float:
        """Seconds that only grow, from an arbitrary start: for measuring and for timers."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime.datetime:
        """The wall clock, in UTC."""
        return datetime.datetime.now(datetime.UTC)

    def monotonic(self) -> float:
        """Seconds since an arbitrary start."""
        return time.monotonic()


def seeded_luck(seed: int | None = None) -> random.Random:
    """A source of luck for jitter and order (never for secrets); unseeded, it starts from the system's entropy."""
    return random.Random(secrets.randbits(64) if seed is None else seed)
