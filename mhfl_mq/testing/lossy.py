"""A broker in memory whose network loses and doubles, and clients of it: for tests of what moves messages and blobs."""

import asyncio
import random
from collections.abc import Mapping

from mhfl_mq.transport.base import Session
from mhfl_mq.transport.memory import Fate, Hop, Kind, MemoryBroker, MemoryTransport

__all__ = ["Lossy", "LossyBroker", "SlowLine"]

LATENCY_S = 0.01


class Lossy:
    """Loses a part of the QoS 0 messages and doubles a part of the others; may be changed at any time."""

    def __init__(self, lose: float = 0.0, double: float = 0.0, seed: int = 0) -> None:
        self.lose = lose
        self.double = double
        self._luck = random.Random(seed)

    def fate(self, hop: Hop) -> Fate:
        """See `mhfl_mq.transport.memory.Faults`."""
        if hop.kind is Kind.PUBLISH and hop.qos == 0:
            return Fate(delay_s=LATENCY_S, lost=self._luck.random() < self.lose)
        return Fate(delay_s=LATENCY_S, copies=2 if self._luck.random() < self.double else 1)


class SlowLine(Lossy):
    """Some clients are behind a line of so many bytes per second, from the broker to them; nothing is lost."""

    def __init__(self, rates: Mapping[str, float]) -> None:
        super().__init__()
        self.rates = dict(rates)
        self._free_at: dict[str, float] = {}

    def fate(self, hop: Hop) -> Fate:
        """A packet waits for those before it, then takes its own time."""
        rate = self.rates.get(hop.client_id)
        if hop.up or rate is None:
            return super().fate(hop)
        now = asyncio.get_running_loop().time()
        free_at = self._free_at[hop.client_id] = max(now, self._free_at.get(hop.client_id, now)) + (
            len(hop.payload) / rate
        )
        return Fate(delay_s=LATENCY_S + free_at - now)


class LossyBroker(MemoryBroker):
    """The broker; `faults` of it is a `Lossy`."""

    def __init__(self, lossy: Lossy | None = None, *, max_packet: int = 2_000_000) -> None:
        self.lossy = lossy or Lossy()
        super().__init__(faults=self.lossy, max_packet=max_packet)

    async def client(self, name: str) -> MemoryTransport:
        """A client of this name, connected."""
        transport = MemoryTransport(self)
        await transport.connect(Session(name))
        return transport
