"""What we want to tell the broker: one queue in the order of the calls, and a window of unanswered packets."""

import asyncio
from collections import deque
from dataclasses import dataclass

from mhfl_mq.transport.link import Message

__all__ = ["Outbox", "Outgoing"]

# Packet ids of our PUBLISH packets; the upper half of MQTT's range belongs to SUBSCRIBE and UNSUBSCRIBE.
_LAST_ID = 0x7FFF


@dataclass(slots=True, eq=False)
class Outgoing:
    """A message on its way. `done` is the caller's; `sent` counts the connections it went out on."""

    message: Message
    done: asyncio.Future[None]
    packet_id: int = 0
    sent: int = 0


class Outbox:
    """Messages that wait, and QoS 1 messages that fly: sent and not yet acknowledged."""

    def __init__(self) -> None:
        self._waiting: deque[Outgoing] = deque()
        self._flying: dict[int, Outgoing] = {}
        self._grounded: set[int] = set()  # ids of waiting messages that flew before: not free
        self._last_id = 0

    @property
    def flying(self) -> int:
        """How many wait for the broker's answer."""
        return len(self._flying)

    def add(self, outgoing: Outgoing) -> None:
        """Queue behind all that was added before."""
        self._waiting.append(outgoing)

    def head(self) -> Outgoing | None:
        """The next message to send; those whose caller gave up are forgotten."""
        while self._waiting and self._waiting[0].done.done():
            self.drop()
        return self._waiting[0] if self._waiting else None

    def drop(self) -> Outgoing:
        """Take the head out unsent."""
        outgoing = self._waiting.popleft()
        self._grounded.discard(outgoing.packet_id)
        return outgoing

    def fly(self) -> Outgoing:
        """Take the head out to be sent; QoS 1 gets its packet id (or keeps the one of its last connection)."""
        outgoing = self.drop()
        if outgoing.message.qos:
            outgoing.packet_id = outgoing.packet_id or self._free_id()
            self._flying[outgoing.packet_id] = outgoing
        outgoing.sent += 1
        return outgoing

    def land(self, packet_id: int) -> Outgoing | None:
        """The broker answered; None for an id that is not in flight."""
        return self._flying.pop(packet_id, None)

    def ground(self) -> list[Outgoing]:
        """The connection is gone: what flew goes back to the front of the queue, in order."""
        grounded = list(self._flying.values())
        self._grounded.update(self._flying)
        self._flying.clear()
        self._waiting.extendleft(reversed(grounded))
        return grounded

    def fail(self, error: Exception) -> None:
        """Every caller that still waits gets this error."""
        for outgoing in [*self._flying.values(), *self._waiting]:
            if not outgoing.done.done():
                outgoing.done.set_exception(error)
        self._flying.clear()
        self._waiting.clear()
        self._grounded.clear()

    def _free_id(self) -> int:
        while True:
            self._last_id = self._last_id % _LAST_ID + 1
            if self._last_id not in self._flying and self._last_id not in self._grounded:
                return self._last_id
