"""Ctrl-C in commands that do not handle it themselves: the first one stops, the second one at once.

What runs for long (aggregator, device, broker) ends in good order through `mhfl_mq.run.signals`.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Final

__all__ = ["second_interrupt_forces"]

FORCED: Final = b"\nstopped at once; what was accepted before is on the disk\n"


@contextmanager
def second_interrupt_forces() -> Iterator[None]:
    """Within, the first Ctrl-C is a `KeyboardInterrupt`, and the second one ends the process without cleaning up."""
    seen = 0

    def handle(number: int, _frame: FrameType | None) -> None:
        nonlocal seen
        seen += 1
        if seen > 1:
            # By its number: the buffered stream may be in the middle of a write.
            with suppress(OSError, ValueError):
                os.write(sys.stderr.fileno(), FORCED)
            os._exit(128 + number)
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGINT, handle)
    except ValueError:  # not the main thread: whoever runs it handles signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
