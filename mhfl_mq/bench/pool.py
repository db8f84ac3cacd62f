"""The benchmark's processes: each does one job after the other, and all end with us. No torch here."""

import asyncio
import contextlib
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, Self

from mhfl_mq.errors import ConfigError, LayoutError, MhflError, StoreError, TaskError, TrainingFailed
from mhfl_mq.transport.embedded import dies_with_us

__all__ = ["BenchProcess"]

LINES: Final = 8
"""Last lines of standard error that an error message quotes."""
GRACE_S: Final = 2.0
"""Seconds that a process has to leave after its standard input was closed."""
LIMIT: Final = 64 * 2**20
"""Bytes of one line: the document of a cell of some hundred devices and rounds is one."""
ONE_THREAD: Final = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_ERRORS: Final[Mapping[str, type[MhflError]]] = {
    kind.__name__: kind for kind in (ConfigError, LayoutError, StoreError, TaskError, TrainingFailed)
}


class BenchProcess:
    """One process of the pool, started at its first job. Use it as a context manager: its end ends the process."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._lines: deque[str] = deque(maxlen=LINES)
        self._listening: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close(at_once=kind is not None)

    async def ask(self, request: Mapping[str, Any], told: Callable[[int], None] = lambda _done: None) -> Any:
        """Do a job; `told` hears of its progress. Raises `MhflError` when it fails; the process goes on."""
        process = self._process or await self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(ConnectionError):  # it died: its end is read below
            process.stdin.write(json.dumps(request).encode() + b"\n")
            await process.stdin.drain()
        while line := await process.stdout.readline():
            reply = json.loads(line)
            if "done" in reply:
                told(int(reply["done"]))
            elif "error" in reply:
                error = reply["error"]
                kind = _ERRORS.get(error["kind"], TrainingFailed)
                raise kind(error["what"], where=error["where"], remedy=error["remedy"])
            else:
                return reply["answer"]
        await self.close()
        last = " | ".join(self._lines) or "it said nothing"
        raise TrainingFailed(f"a benchmark process ended in the middle of a job: {last}")

    async def close(self, *, at_once: bool = False) -> None:
        """End the process; the next job starts another."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        if at_once and process.returncode is None:
            process.kill()
        try:
            async with asyncio.timeout(GRACE_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        if self._listening is not None:
            await self._listening

    async def _start(self) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        try:
            process = self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "mhfl_mq.bench.worker"),
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                env={**os.environ, **ONE_THREAD},
                limit=LIMIT,
                preexec_fn=dies_with_us(),
            )
        except OSError as error:
            raise TrainingFailed(f"a benchmark process cannot be started: {error.strerror}") from error
        assert process.stderr is not None
        self._listening = asyncio.create_task(self._listen(process.stderr))
        return process

    async def _listen(self, stderr: asyncio.StreamReader) -> None:
        while line := await stderr.readline():
            self._lines.append(line.decode(errors="replace").rstrip())
