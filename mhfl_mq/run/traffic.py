"""Counts what a process moves: payload bytes, by direction and by what they carry."""

from collections import Counter
from dataclasses import dataclass, field

__all__ = ["Traffic"]


@dataclass(slots=True)
class Traffic:
    """Payload bytes of MQTT messages that this process sent and got; topics and MQTT's own headers are not counted."""

    sent: Counter[str] = field(default_factory=Counter)
    received: Counter[str] = field(default_factory=Counter)

    def out(self, what: str, size: int) -> None:
        """Count a message that we sent."""
        self.sent[what] += size

    def into(self, what: str, size: int) -> None:
        """Count a message that we got."""
        self.received[what] += size
