"""Sends messages in order without waiting for the broker's acknowledgement of each.

A PUBACK proves nothing to us (brokers drop silently), so nothing waits for one: what matters is said again by its
machine until the other end answers. What fails here is counted and told to `trouble`.
With MQTT 5, what is of no use after a while expires at the broker, so that the queue of a device that is away holds
what it needs: an offer lives as long as its round, a pull and its answers as long as `ASKED_AGAIN_S`. Receipts stay: a
device that comes back after days frees its update by one.
"""

import asyncio
import math
from collections.abc import Callable

from mhfl_mq.errors import MhflError
from mhfl_mq.run.traffic import Traffic
from mhfl_mq.transport.base import Transport
from mhfl_mq.wire.codec import encode
from mhfl_mq.wire.messages import ManifestNote, Message, Offer, Pull

__all__ = ["ASKED_AGAIN_S", "Mailer"]

ASKED_AGAIN_S = 300
"""A pull and what answers it: asked again within a minute, and a window of chunks takes so long at 56 kbit/s."""
LONGEST_S = 2**32 - 1
"""What an expiry of MQTT 5 holds."""


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
        expiry_s = None if retain else _life_s(message)
        task = asyncio.create_task(self._publish(topic, frame, retain, expiry_s))
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

    async def _publish(self, topic: str, frame: bytes, retain: bool, expiry_s: int | None) -> None:
        try:
            await self._transport.publish(topic, frame, qos=1, retain=retain, expiry_s=expiry_s)
        except MhflError as error:
            self._trouble(f"not sent to {topic}: {error}")


def _life_s(message: Message) -> int | None:
    """Seconds after which the broker may forget a message that waits for an absent receiver; None: never."""
    match message:
        case Offer():
            return max(1, min(math.ceil(message.deadline_s), LONGEST_S))
        case Pull() | ManifestNote():
            return ASKED_AGAIN_S
    return None
