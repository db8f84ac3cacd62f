"""The broker in this process, and the transport to it: for tests, simulations and demonstrations."""

from mhfl_mq.transport.backoff import Backoff
from mhfl_mq.transport.memory.broker import Access, MemoryBroker
from mhfl_mq.transport.memory.faults import FINE, NO_FAULTS, Fate, Faults, Hop, Kind
from mhfl_mq.transport.memory.link import MemoryLink
from mhfl_mq.transport.steady import SteadyTransport

__all__ = [
    "FINE",
    "NO_FAULTS",
    "Access",
    "Fate",
    "Faults",
    "Hop",
    "Kind",
    "MemoryBroker",
    "MemoryTransport",
]


def _middling() -> float:
    """No luck at all: every wait is half its bound."""
    return 0.5


class MemoryTransport(SteadyTransport):
    """`Transport` to a `MemoryBroker`; deterministic unless the backoff that comes in is not."""

    def __init__(self, broker: MemoryBroker, *, backoff: Backoff | None = None) -> None:
        super().__init__(
            lambda events: MemoryLink(broker, events), address="memory", backoff=backoff or Backoff(_middling)
        )
