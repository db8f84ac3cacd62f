"""What a plant itself says about one of its devices, whatever the aggregator asks: it may only forbid."""

from dataclasses import dataclass
from typing import Protocol

from mhfl_mq.wire.messages import Offer

__all__ = ["Anything", "Site", "Spent"]


@dataclass(frozen=True, slots=True)
class Spent:
    """What a device has done on the day that begins at `day`; times in seconds since 1970, UTC.

    `turned_at` is when it took its last offer (0: never), `last_s` how long its last training took.
    """

    day: float = 0.0
    size: int = 0
    seconds: float = 0.0
    last_s: float = 0.0
    turned_at: float = 0.0


class Site(Protocol):
    """The plant's rules for this device; it has a clock, and knows the machine."""

    def objection(self, offer: Offer, length: int, spent: Spent) -> str:
        """Why this offer, of a tier of so many coordinates, is not taken now, in one sentence; empty when it is."""
        ...

    def taken(self, spent: Spent) -> Spent:
        """An offer is taken now."""
        ...

    def sent(self, spent: Spent, size: int, seconds: float) -> Spent:
        """An update of so many bytes is finished now, whose training took so long."""
        ...


class Anything:
    """No rules: what the aggregator asks is done, and nothing is counted."""

    def objection(self, offer: Offer, length: int, spent: Spent) -> str:
        """Never one."""
        return ""

    def taken(self, spent: Spent) -> Spent:
        """As it was."""
        return spent

    def sent(self, spent: Spent, size: int, seconds: float) -> Spent:
        """As it was."""
        return spent
