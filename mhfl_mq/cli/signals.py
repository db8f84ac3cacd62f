"""Ctrl-C and SIGTERM: the first one ends in good order, the second one at once.

To end at once is safe at any moment: what matters is durable before it is told to anybody.
"""

import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    import asyncio

__all__ = ["graceful", "run_interruptible", "second_interrupt_forces", "stop_in_good_order"]

FORCED: Final = "\nstopped at once; what was accepted before is on the disk\n"
STOPPING: Final = "\nstopping; Ctrl-C again to stop at once\n"

ResultT = TypeVar("ResultT")
Handler = Callable[[int, FrameType | None], None]


@contextmanager
def graceful(stop: Callable[[], None]) -> Iterator[None]:
    """Within, the first Ctrl-C or SIGTERM calls `stop`, the second one ends the process.

    `stop` runs between two bytecodes of the main thread, so it must not wait or take locks.
    """

    def first() -> None:
        _write(STOPPING)
        stop()

    with _handling((signal.SIGINT, signal.SIGTERM), _twice(first)):
        yield


def stop_in_good_order(stack: ExitStack, stop: Callable[[], object]) -> None:
    """`graceful` for what runs in the present event loop, until `stack` is closed."""
    import asyncio  # not at the top: `mhfl --help` needs none of it

    loop = asyncio.get_running_loop()
    stack.enter_context(graceful(lambda: _soon(loop, stop)))


def run_interruptible(work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """`asyncio.run`, but Ctrl-C cancels the work and is raised when that has ended, with all that it started.

    A `KeyboardInterrupt` in the middle of the event loop would close the loop over child processes that still end.
    """
    import asyncio

    async def main() -> "asyncio.Task[ResultT]":
        task = asyncio.create_task(work)
        with ExitStack() as stack:
            stop_in_good_order(stack, task.cancel)
            await asyncio.wait({task})
        return task

    task = asyncio.run(main())
    if task.cancelled():
        raise KeyboardInterrupt
    return task.result()


def _soon(loop: "asyncio.AbstractEventLoop", stop: Callable[[], object]) -> None:
    with suppress(RuntimeError):  # the loop is closed: it has stopped already
        loop.call_soon_threadsafe(stop)


@contextmanager
def second_interrupt_forces() -> Iterator[Callable[[], bool]]:
    """Within, the first Ctrl-C or SIGTERM is a `KeyboardInterrupt`, the second one ends the process at once.

    What it yields says whether there was a first one: a C library that is being imported may swallow the exception
    and raise one of its own.
    """
    interrupted = False

    def first() -> None:
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    with _handling((signal.SIGINT, signal.SIGTERM), _twice(first)):
        yield lambda: interrupted


def _twice(first: Callable[[], None]) -> Handler:
    seen = 0

    def handle(number: int, _frame: FrameType | None) -> None:
        nonlocal seen
        seen += 1
        if seen > 1:
            _write(FORCED)
            os._exit(128 + number)
        first()

    return handle


@contextmanager
def _handling(numbers: tuple[signal.Signals, ...], handler: Handler) -> Iterator[None]:
    try:
        before = [(number, signal.signal(number, handler)) for number in numbers]
    except ValueError:  # not the main thread: whoever runs it handles signals
        yield
        return
    try:
        yield
    finally:
        for number, old in before:
            signal.signal(number, old)


def _write(text: str) -> None:
    """To stderr by its number: the buffered stream may be in the middle of a write."""
    with suppress(OSError, ValueError):
        os.write(sys.stderr.fileno(), text.encode())
