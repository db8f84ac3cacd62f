"""What a device remembers over a restart, shared by its standing and its work."""

from dataclasses import replace
from typing import TypedDict, Unpack

from mhfl_mq.protocol.effects import SavedDevice, SaveState
from mhfl_mq.protocol.site import Spent
from mhfl_mq.wire.messages import Manifest, Offer, Survey

__all__ = ["Memory"]


class _Changes(TypedDict, total=False):
    epoch: int
    tier: int | None
    layout: str
    last_round: int
    survey: Survey | None
    offer: Offer | None
    update: Manifest | None
    weight: float
    metrics: dict[str, float]
    link_bytes_s: float
    link_told: float
    step_told: float
    counted: int
    spent: Spent


class Memory:
    """The device's saved state; every change of it is an effect that makes it durable."""

    def __init__(self, saved: SavedDevice) -> None:
        self.saved = saved

    def save(self, **changes: Unpack[_Changes]) -> SaveState:
        """Change some fields."""
        self.saved = replace(self.saved, **changes)
        return SaveState(self.saved)
