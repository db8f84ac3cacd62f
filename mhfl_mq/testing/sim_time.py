"""Time, disk and death of simulated processes: everything that a real process takes from its machine.

A process that is killed does nothing more: its disk and its connection are dead at once, its tasks are cancelled, and
what they still try on their way out changes nothing. So `finally` blocks, which kill -9 does not run, do no good.
"""

import asyncio
import contextvars
import datetime
import errno
import os
import sqlite3
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

from mhfl_mq.store.files import RealFiles
from mhfl_mq.store.schema import BUSY_S
from mhfl_mq.testing.loop import VirtualLoop

__all__ = ["LIFE", "Database", "Killed", "Life", "SimClock", "SimFiles", "SimLoop"]

LIFE: Final[contextvars.ContextVar["Life | None"]] = contextvars.ContextVar("life", default=None)
"""The simulated process that the running code belongs to."""
START: Final = datetime.datetime(2026, 11, 23, tzinfo=datetime.UTC)


class Killed(BaseException):
    """Unwinds the code that was running when its process was killed; no `except Exception` may hold it up."""


class Life:
    """One process from its start to its end."""

    def __init__(self, node: str, ended_badly: Callable[[str, BaseException], None]) -> None:
        self.node = node
        self.dead = False
        self.effects_left = -1  # effects until it is killed; -1: never
        self.files = SimFiles(self)
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.cut_off: Callable[[], None] = lambda: None  # ends its connection without a goodbye
        self._ended_badly = ended_badly

    def kill(self) -> None:
        """Stop everything, as kill -9 does; from inside the process, raise `Killed` next."""
        if not self.dead:
            self.dead = True
            self.cut_off()
            for task in list(self.tasks):
                task.cancel()

    def effect(self) -> None:
        """The process is about to perform an effect."""
        if self.dead:
            raise Killed
        if self.effects_left >= 0:
            self.effects_left -= 1
            if self.effects_left < 0:
                self.kill()
                raise Killed

    def adopt(self, task: asyncio.Task[Any]) -> None:
        """A task of this process was started."""
        if self.dead:
            task.cancel()
        self.tasks[task] = None
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        del self.tasks[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            self._ended_badly(task.get_name(), error)


class SimLoop(VirtualLoop):
    """Virtual time, and no threads: what would run in one runs here, a little later. Nothing depends on the machine."""

    def __init__(self, pause_s: Callable[[], float]) -> None:
        super().__init__(patience_s=0.0)
        self._pause_s = pause_s
        self._started = 0
        self.set_task_factory(self._task)  # type: ignore[arg-type]  # it takes what asyncio gives

    def run_in_executor(  # type: ignore[override]  # typeshed speaks of type variables that nobody can name here
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """The function runs whole at one instant of virtual time, as a thread of a process would if it were alone."""
        done: asyncio.Future[Any] = self.create_future()
        life = LIFE.get()

        def work() -> None:
            if done.cancelled() or (life is not None and life.dead):
                return
            try:
                result = func(*args)
            except BaseException as error:
                if not done.done():  # a process that is killed has no task left that waits
                    done.set_exception(error)
            else:
                done.set_result(result)

        self.call_later(self._pause_s(), work)
        return done

    def _task(self, loop: Any, coro: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
        self._started += 1
        options["name"] = options.get("name") or f"{getattr(coro, '__qualname__', 'task')}-{self._started}"
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **options)
        life = LIFE.get()
        if life is not None:
            life.adopt(task)
        return task


class SimClock:
    """The loop's time, as a `Clock`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def now(self) -> datetime.datetime:
        """The wall clock, in UTC."""
        return START + datetime.timedelta(seconds=round(self._loop.time(), 6))

    def monotonic(self) -> float:
        """Virtual seconds."""
        return self._loop.time()


class SimFiles(RealFiles):
    """The disk of one life. Nothing waits for the platter: a simulated crash loses processes, not power."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self.writes_left = -1  # until `fate` befalls it; -1: never
        self.fate = "kill"  # or "full"
        self.was_full = False

    def open(self, path: Path, flags: int) -> int:
        """See `Files`; a dead process gets a file that keeps nothing."""
        if self._life.dead:
            return os.open(os.devnull, os.O_RDWR)
        self._step()
        return super().open(path, flags)

    def write(self, fd: int, data: bytes | memoryview, at: int) -> None:
        """See `Files`."""
        if self._life.dead:
            return
        if self.writes_left == 0 and self.fate == "kill":  # the last write is torn
            view = memoryview(data).cast("B")
            super().write(fd, view[: len(view) // 2], at)
        self._step()
        super().write(fd, data, at)

    def resize(self, fd: int, size: int) -> None:
        """See `Files`."""
        if not self._life.dead:
            self._step()
            super().resize(fd, size)

    def sync(self, fd: int) -> None:
        """See `Files`."""
        if not self._life.dead:
            self._step()

    def replace(self, source: Path, target: Path) -> None:
        """See `Files`."""
        if not self._life.dead:
            self._step()
            super().replace(source, target)

    def unlink(self, path: Path) -> None:
        """See `Files`."""
        if not self._life.dead:
            super().unlink(path)

    def sync_folder(self, folder: Path) -> None:
        """See `Files`."""

    def _step(self) -> None:
        if self.writes_left < 0:
            return
        self.writes_left -= 1
        if self.writes_left >= 0:
            return
        if self.fate == "full":
            self.writes_left = 0  # and it stays full
            self.was_full = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._life.kill()
        raise Killed


class Database:
    """`Connect` for the store of one life: counts commits, can be full, and does not wait for the platter."""

    def __init__(self, life: Life) -> None:
        self.commits = 0
        self._life = life

    def __call__(self, path: Path) -> sqlite3.Connection:
        """Open the database at `path`."""
        database = self

        class Connection(sqlite3.Connection):
            def execute(self, *args: Any) -> sqlite3.Cursor:
                if args[0] == "PRAGMA synchronous = FULL":
                    args = ("PRAGMA synchronous = OFF",)
                database.before(args[0])
                cursor = super().execute(*args)
                if args[0] == "COMMIT":
                    database.commits += 1
                return cursor

        return sqlite3.connect(path, isolation_level=None, timeout=BUSY_S, factory=Connection)

    def before(self, statement: str) -> None:
        """A statement is about to run."""
        files = self._life.files
        if statement == "COMMIT" and files.fate == "full" and files.writes_left >= 0:
            files.writes_left -= 1
            if files.writes_left < 0:
                files.writes_left, files.was_full = 0, True
                error = sqlite3.OperationalError("database or disk is full")
                error.sqlite_errorname = "SQLITE_FULL"
                raise error
