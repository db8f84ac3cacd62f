"""The numbers of rounds: which are used up, and how many rounds there were.

The two part when a device was in a round that our state folder does not know: its numbers are used up, but they are
not rounds that this folder was asked to run. Both follow from what is durable, so a restart changes neither.
"""

from typing import Final

from mhfl_mq.wire.bounds import MAX_INT

__all__ = ["Numbers"]

_MOST_SKIPPED: Final = 1_000_000  # rounds: a year of one every half minute; more is a device that makes numbers up
_MOST_HEARD: Final = MAX_INT - _MOST_SKIPPED  # beyond it the wire would soon have no number for a round
_MOST_CLAIMS: Final = 4096  # devices between their hello and their tier; the oldest claim gives way


class Numbers:
    """`last` is the last number that was used, `opened` how many rounds this state folder has opened."""

    def __init__(self, last: int, opened: int) -> None:
        self.last = last
        self.opened = opened
        self._claims: dict[str, int] = {}  # device -> the round that it says it was in, the oldest claim first

    def take(self) -> int:
        """The number of a new round."""
        self.last += 1
        self.opened += 1
        return self.last

    def spent(self, most: int | None) -> bool:
        """Whether `most` rounds were opened; None is no end."""
        return most is not None and self.opened >= most

    def claim(self, device: str, heard: int) -> bool:
        """A device says in which round it was last; false when that cannot be.

        Nothing follows from it yet: anybody can say hello, and only who is admitted is believed.
        """
        self._claims.pop(device, None)
        if heard <= self.last:
            return True
        if heard - self.last > _MOST_SKIPPED or heard > _MOST_HEARD:
            return False
        if len(self._claims) >= _MOST_CLAIMS:
            del self._claims[next(iter(self._claims))]
        self._claims[device] = heard
        return True

    def skip(self, device: str) -> int | None:
        """The device is admitted: what it claimed is used up. The last number that we knew, if it was a lower one."""
        heard, known = self._claims.pop(device, 0), self.last
        if heard <= known:
            return None
        self.last = heard
        return known
