"""Long work of a process, under names: starting a job ends the one of the same name."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["Jobs"]

ResultT = TypeVar("ResultT")


class Jobs:
    """Named tasks. A job that ends with an exception of its own is a broken disk, a lost broker or a bug: it ends
    `guard`, and with it the process, loudly. Made inside a running loop.
    """

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Run this in the background."""
        self.cancel(name)
        task = self._tasks[name] = asyncio.create_task(work, name=name)
        task.add_done_callback(self._done)

    def cancel(self, name: str) -> None:
        """End this job, if it runs."""
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()

    async def guard(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        """Run this until it ends, or until a job breaks: then raise what the job raised."""
        task = asyncio.create_task(work)
        try:
            waited: set[asyncio.Future[Any]] = {task, self._broken}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if self._broken.done():
                self._broken.result()
            return await task
        finally:
            task.cancel()

    async def close(self) -> None:
        """End all jobs and wait for their ends."""
        tasks = list(self._tasks.values())
        for name in list(self._tasks):
            self.cancel(name)
        if tasks:
            await asyncio.wait(tasks)
        if self._broken.done():
            self._broken.exception()  # it was raised by `guard`, or the process is ending anyway

    def _done(self, task: asyncio.Task[None]) -> None:
        if self._tasks.get(task.get_name()) is task:
            del self._tasks[task.get_name()]
        if not task.cancelled() and (error := task.exception()) is not None and not self._broken.done():
            self._broken.set_exception(error)
