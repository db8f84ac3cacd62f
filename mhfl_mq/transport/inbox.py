"""What the broker told us and nobody has taken yet: a short queue that says when it is full."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Generic, TypeVar

from mhfl_mq.transport.base import Inbound

__all__ = ["Feed", "Inbox"]

T = TypeVar("T")

# More than a window of 8 chunks of 256 KiB and the control messages between them.
FULL_MESSAGES = 64
FULL_BYTES = 8 * 2**20
# Reading may have to go on past "full", because an answer that our caller waits for stands behind the messages.
# Past this factor QoS 0, which promises nothing, is dropped; QoS 1 is bounded by the broker's window.
_OVERFULL = 4


class Feed(AsyncIterator[T], Generic[T]):
    """A queue of one producer and one consumer that can end, or end with an error, after its last item."""

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False
        self._error: Exception | None = None

    def put(self, item: T) -> None:
        """Add an item; after the end nothing is added."""
        if not self._ended:
            self._items.append(item)
            self._wake()

    def end(self, error: Exception | None = None) -> None:
        """No more items: the consumer gets those that are here, then the error or the end. The first end counts."""
        if not self._ended:
            self._ended = True
            self._error = error
            self._wake()

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        while not self._items:
            if self._ended:
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._take()

    def _take(self) -> T:
        return self._items.popleft()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Inbox(Feed[Inbound]):
    """Messages in the broker's order. `changed` is called when `full` may have changed."""

    def __init__(self, changed: Callable[[], None]) -> None:
        super().__init__()
        self._changed = changed
        self._bytes = 0
        self.full = False
        self.dropped = 0  # QoS 0 messages that found no room

    def put(self, item: Inbound) -> None:
        if item.qos == 0 and self._over(_OVERFULL):
            self.dropped += 1
            return
        self._bytes += len(item.payload)
        super().put(item)
        if not self.full and self._over(1):
            self.full = True
            self._changed()

    def forget_unacknowledged(self) -> None:
        """Drop the QoS 1 messages that wait here: the broker still has them and sends them again, in order."""
        self._items = deque(item for item in self._items if item.qos == 0)
        self._bytes = sum(len(item.payload) for item in self._items)
        self._check_room()

    def _take(self) -> Inbound:
        item = super()._take()
        self._bytes -= len(item.payload)
        self._check_room()
        return item

    def _check_room(self) -> None:
        # Half empty, so that reading is not switched at every message.
        if self.full and len(self._items) <= FULL_MESSAGES // 2 and self._bytes <= FULL_BYTES // 2:
            self.full = False
            self._changed()

    def _over(self, factor: int) -> bool:
        return len(self._items) >= factor * FULL_MESSAGES or self._bytes >= factor * FULL_BYTES
