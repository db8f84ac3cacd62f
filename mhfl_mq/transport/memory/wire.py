"""The network between one client and the broker in memory: two lanes, each in order, each with its own delays."""

import asyncio
from collections import deque
from collections.abc import Callable

from mhfl_mq.transport.memory.faults import Fate, Faults, Hop, Kind

__all__ = ["Wire"]


class _Lane:
    """One direction. What is sent arrives in order, however the delays fall."""

    def __init__(self) -> None:
        self._queue: deque[Callable[[], None]] = deque()
        self._last_at = 0.0

    def carry(self, delay_s: float, arrive: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        self._queue.append(arrive)
        self._last_at = max(loop.time() + delay_s, self._last_at)
        if self._last_at <= loop.time():
            loop.call_soon(self._step)
        else:
            loop.call_at(self._last_at, self._step)

    def _step(self) -> None:
        # Each wake-up belongs to one packet, but timers of one instant have no order: the queue has.
        if self._queue:
            self._queue.popleft()()

    def clear(self) -> None:
        self._queue.clear()


class Wire:
    """A connection's network. `cut` is called, later, when a fault breaks it."""

    def __init__(self, faults: Faults, cut: Callable[[], None]) -> None:
        self._faults = faults
        self._cut = cut
        self._up = _Lane()
        self._down = _Lane()
        self._open = True

    def send(self, hop: Hop, arrive: Callable[[Fate], None]) -> None:
        """Let a packet cross; `arrive` gets its fate unless the connection is gone by then."""
        if not self._open:
            return
        fate = self._faults.fate(hop)
        if fate.lost and hop.kind is Kind.PUBLISH and hop.qos == 0:
            return
        lane = self._up if hop.up else self._down
        if fate.cut:
            lane.carry(fate.delay_s, self._break)
        else:
            lane.carry(fate.delay_s, lambda: arrive(fate) if self._open else None)

    def close(self) -> None:
        """Nothing arrives any more."""
        self._open = False
        self._up.clear()
        self._down.clear()

    def _break(self) -> None:
        if self._open:
            self._cut()
