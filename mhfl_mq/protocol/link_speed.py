"""What a device knows of its link's speed, and whether the aggregator knows it too.

A figure is saved when it differs by a quarter from the one before, and told in a capability. A device whose figure is
not the one that its tier was assigned from says its capability again by itself, as soon as it is in no round; one that
was not measured in this life says a hello without a layout instead, and is surveyed.
"""

from typing import Final

from mhfl_mq.protocol.effects import DeviceEffect
from mhfl_mq.protocol.memory import Memory

__all__ = ["LinkSpeed"]

CHANGE: Final = 1.25
"""A figure that differs by less is the same link on another day: no reason to be surveyed again."""


class LinkSpeed:
    """The link's speed in bytes per second, kept in the device's memory; 0: not measured yet."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._said = 0.0  # in the last capability

    @property
    def is_news(self) -> bool:
        """Whether our tier was assigned from another figure."""
        return self._memory.saved.link_bytes_s != self._memory.saved.link_told

    def measured(self, bytes_s: float) -> list[DeviceEffect]:
        """Keep this figure, when it differs from the one that is kept."""
        before = self._memory.saved.link_bytes_s
        if bytes_s <= 0 or (before > 0 and max(bytes_s / before, before / bytes_s) < CHANGE):
            return []
        return [self._memory.save(link_bytes_s=bytes_s)]

    def say(self) -> float:
        """The figure for a capability."""
        self._said = self._memory.saved.link_bytes_s
        return self._said

    @property
    def said(self) -> float:
        """The figure of the last capability: told once that is answered."""
        return self._said
