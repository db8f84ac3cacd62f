"""The driver: feeds events to a sans-IO machine and performs the effects that it answers with, in their order.

Timers are the driver's own; every other effect goes to `perform`, which the wiring of a process supplies. Events come
from anywhere in the process through `post`; they are handled one at a time. An exception in `perform` (a full disk,
say) stops the driver at that effect: nothing after it in the list is done, and `run` raises it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from mhfl_mq.protocol.effects import CancelTimer, SetTimer, Stop
from mhfl_mq.protocol.events import TimerFired

__all__ = ["Driver"]

EventT = TypeVar("EventT")
EffectT = TypeVar("EffectT")


class Driver(Generic[EventT, EffectT]):
    """One machine's event loop. `handle` is the machine's: it answers an event with what to do about it."""

    def __init__(
        self,
        handle: Callable[[EventT | TimerFired], Sequence[EffectT]],
        perform: Callable[[EffectT], Awaitable[None]],
    ) -> None:
        self._handle = handle
        self._perform = perform
        self._events: asyncio.Queue[EventT | TimerFired] = asyncio.Queue()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._fired: set[str] = set()  # ran out, and their event still waits in the queue

    def post(self, event: EventT | TimerFired) -> None:
        """Hand the machine an event; returns at once."""
        self._events.put_nowait(event)

    async def run(self) -> str:
        """Handle events until the machine says `Stop`; returns its reason."""
        try:
            while True:
                event = await self._events.get()
                if isinstance(event, TimerFired):
                    if event.name not in self._fired:
                        continue  # cancelled or set again while its event was waiting
                    self._fired.discard(event.name)
                for effect in self._handle(event):
                    match effect:
                        case SetTimer(name, after_s):
                            self._set_timer(name, after_s)
                        case CancelTimer(name):
                            self._cancel_timer(name)
                        case Stop(reason):
                            return reason
                        case _:
                            await self._perform(effect)
        finally:
            for name in list(self._timers):
                self._cancel_timer(name)

    def _set_timer(self, name: str, after_s: float) -> None:
        self._cancel_timer(name)
        loop = asyncio.get_running_loop()
        self._timers[name] = loop.call_later(max(0.0, after_s), self._fire, name)

    def _cancel_timer(self, name: str) -> None:
        self._fired.discard(name)
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def _fire(self, name: str) -> None:
        del self._timers[name]
        self._fired.add(name)
        self.post(TimerFired(name))
