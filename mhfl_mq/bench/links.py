"""Links of simulated devices: bytes take time, one packet after the other, each way by itself.

The broker in memory asks for the fate of every packet (`mhfl_mq.transport.memory.faults`); here the fate is a delay.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from mhfl_mq.bench.profiles import Profile
from mhfl_mq.transport.memory import FINE, Fate, Hop

__all__ = ["Links", "Used"]

LATENCY_S: Final = 0.02
"""Seconds that a packet is under way besides what its bytes take: a plant's network, a broker on the way."""
HEADER: Final = 48
"""Bytes of a packet besides topic and payload: MQTT, TCP and IP."""


@dataclass(slots=True)
class Used:
    """What a device's link carried: bytes and the seconds that it was busy, to the broker and from it."""

    up_bytes: int = 0
    down_bytes: int = 0
    busy_s: float = 0.0


class Links:
    """The links of a federation; who has no profile (the aggregator) has a link without limits."""

    def __init__(self, profiles: Mapping[str, Profile], now: Callable[[], float]) -> None:
        self._profiles = profiles
        self._now = now
        self._free_at: dict[tuple[str, bool], float] = {}
        self.used = {name: Used() for name in profiles}

    def fate(self, hop: Hop) -> Fate:
        """When a packet arrives: after those before it."""
        profile = self._profiles.get(hop.client_id)
        if profile is None:
            return FINE
        size = HEADER + len(hop.topic) + len(hop.payload)
        took_s = size / (profile.up_bytes_s if hop.up else profile.down_bytes_s)
        now, key = self._now(), (hop.client_id, hop.up)
        free_at = self._free_at[key] = max(now, self._free_at.get(key, 0.0)) + took_s
        used = self.used[hop.client_id]
        used.busy_s += took_s
        if hop.up:
            used.up_bytes += size
        else:
            used.down_bytes += size
        return Fate(delay_s=free_at - now + LATENCY_S)
