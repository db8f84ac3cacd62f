"""An asyncio loop with virtual time: when nothing is ready, the clock jumps to the next timer."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["Deadlock", "VirtualLoop", "run_virtual"]

T = TypeVar("T")

_PATIENCE_S = 5.0  # real seconds that a thread or a socket may need when no timer is set


class Deadlock(RuntimeError):
    """Nothing is ready, no timer is set and nothing came from outside: the program would wait for ever."""


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits for a timeout: tells the loop to jump over it instead."""

    loop: "VirtualLoop"

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:  # no timer: only a thread or a socket can wake us, and those live in real time
            ready = super().select(self.loop.patience_s)
            if not ready:
                raise Deadlock("nothing to run and no timer")
            return ready
        self.loop.jump(timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """`time()` starts at 0 and moves only when nothing else can."""

    def __init__(self, *, patience_s: float = _PATIENCE_S) -> None:
        self._now = 0.0
        self.patience_s = patience_s
        selector = _JumpingSelector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self._now

    def jump(self, seconds: float) -> None:
        """Let time pass."""
        self._now += seconds


def run_virtual(main: Coroutine[Any, Any, T], *, patience_s: float = _PATIENCE_S) -> T:
    """`asyncio.run` under virtual time."""
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(patience_s=patience_s)) as runner:
        return runner.run(main)
