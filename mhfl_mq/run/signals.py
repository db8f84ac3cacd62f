"""Ctrl-C and SIGTERM: the first asks to end in good order, the second forces."""

import asyncio
import os
import signal
from collections.abc import Callable

__all__ = ["FORCED_EXIT", "stop_on_signals"]

FORCED_EXIT = 130
"""Exit code of a process that was forced: 128 + SIGINT."""


def stop_on_signals(stop: Callable[[], None], tell: Callable[[str], None] = lambda _text: None) -> None:
    """Call `stop` at the first SIGINT or SIGTERM of the running loop's process; leave at once at the second.

    To leave at once is safe at any moment: everything that matters is durable before it is told to anybody.
    """
    loop = asyncio.get_running_loop()
    asked = False

    def heard() -> None:
        nonlocal asked
        if asked:
            os._exit(FORCED_EXIT)
        asked = True
        tell("stopping; once more to force")
        stop()

    for one in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(one, heard)
