"""Sends messages in order without waiting for the broker's acknowledgement of each.

A PUBACK proves nothing to us (brokers drop silently), so nothing waits for one: what matters is said again by its
machine until the other end answers. What fails here is counted and told to `trouble`.
"""

import asyncio
from collections.abc import Callable

from mhfl_mq.errors import MhflError
from mhfl_mq.run.traffic import Traffic
from mhfl_mq.transport.base import Transport
from mhfl_mq.wire.codec import encode
from mhfl_mq.wire.messages import Message

__all__ = ["Mailer"]


class Mailer:
    """The outgoing control messages of one process."""

    def __init__(self, transport: Transport, traffic: Traffic, trouble: Callable[[str], None]) -> None:
        self._transport = transport
        self._traffic = traffic
        self._trouble = trouble
        self._under_way: set[asyncio.Task[None]] = set()

    def send(self, topic: str, message: Message, *, retain: bool = False) -> None:
        """Start to send; returns at once. Messages of one process leave in the order of these calls."""
        frame = encode(message)
        self._traffic.out(message.kind, len(frame))
        task = asyncio.create_task(self._publish(topic, frame, retain))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def flush(self, patience_s: float) -> None:
        """Wait until the broker has everything, at most so long."""
        if self._under_way:
            await asyncio.wait(list(self._under_way), timeout=patience_s)

    def close(self) -> None:
        """Forget what is still under way."""
        for task in list(self._under_way):
            task.cancel()

    async def _publish(self, topic: str, frame: bytes, retain: bool) -> None:
        try:
            await self._transport.publish(topic, frame, qos=1, retain=retain)
        except MhflError as error:
            self._trouble(f"not sent to {topic}: {error}")
