"""One training child as a subprocess: its pipes, the last lines of its standard error, its end. No torch here."""

import asyncio
import contextlib
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from mhfl_mq.errors import PeerFault, TrainingFailed
from mhfl_mq.train.frames import HEADER, MAX_FRAME, check_length, to_frame
from mhfl_mq.wire.codec import unpack

__all__ = ["Child"]

LINES: Final = 8
"""Last lines of standard error that an error message quotes: a traceback's end, not its whole."""
GRACE_S: Final = 2.0
"""Seconds that a child has to leave by itself after its standard input was closed."""
_LIMIT: Final = 64 * 1024  # bytes of one line of standard error


class Child:
    """A running child. Made by `Child.spawn`; one request at a time."""

    def __init__(self, process: asyncio.subprocess.Process, log: Callable[[str], None] | None) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._process = process
        self._requests, self._replies = process.stdin, process.stdout
        self._lines: deque[str] = deque(maxlen=LINES)
        self._log = log
        self._listening = asyncio.create_task(self._listen(process.stderr))
        self._next = 1

    @classmethod
    async def spawn(cls, arguments: Sequence[str], log: Callable[[str], None] | None) -> "Child":
        """Start `python -m mhfl_mq.train.worker` with these arguments."""
        command = [sys.executable, "-m", "mhfl_mq.train.worker", *arguments, "--parent", str(os.getpid())]
        pipe = asyncio.subprocess.PIPE
        one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        try:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=pipe, stdout=pipe, stderr=pipe, env={**os.environ, **one_thread}, limit=_LIMIT
            )
        except OSError as error:
            raise TrainingFailed(f"the training child cannot be started: {error.strerror}") from error
        return cls(process, log)

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.returncode is None

    async def ask(
        self, job: str, arguments: dict[str, Any], began: Callable[[], None] = lambda: None
    ) -> dict[str, Any]:
        """Send a request and wait for its reply; raises `TrainingFailed` when the child dies or talks nonsense.

        `began` is called when the child says that a training's steps begin.
        """
        number, self._next = self._next, self._next + 1
        self._lines.clear()  # an obituary quotes what was said in this job
        try:
            self._requests.write(to_frame({"id": number, "job": job, "arguments": arguments}))
            await self._requests.drain()
            reply = await self._frame()
            if reply == {"id": number, "began": True}:
                began()
                reply = await self._frame()
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise await self._obituary(job) from error
        except PeerFault as error:
            self.kill()
            raise TrainingFailed(f"the training child sent garbage: {error}", where=f"job {job!r}") from error
        if not isinstance(reply, dict) or reply.get("id") != number:
            self.kill()
            raise TrainingFailed("the training child answered another request", where=f"job {job!r}")
        return reply

    async def _frame(self) -> Any:
        header = await self._replies.readexactly(HEADER)
        return unpack(await self._replies.readexactly(check_length(header)), max_bytes=MAX_FRAME)

    def kill(self) -> None:
        """End it at once."""
        if self.alive:
            # Not Process.kill(): it polls, and a child that has just ended is then reaped with its exit code lost.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)

    async def close(self) -> None:
        """Let it leave by itself, or end it, and wait until it is gone."""
        self._requests.close()
        try:
            await self._ended()
        finally:
            # asyncio closes it only when it has seen the ends of all pipes, and the event loop may end before that.
            transport: asyncio.SubprocessTransport = vars(self._process)["_transport"]
            transport.close()

    async def _obituary(self, job: str) -> TrainingFailed:
        """How it ended, with the last lines that it wrote."""
        code = await self._ended()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        last = " | ".join(self._lines)
        remedy = "if it was not you, the machine may be out of memory" if code == -signal.SIGKILL else ""
        return TrainingFailed(
            f"the training child {how}" + (f": {last}" if last else ""), where=f"job {job!r}", remedy=remedy
        )

    async def _ended(self) -> int:
        """Wait for its end (its pipe is closed), but not for ever; gives the exit code."""
        try:
            async with asyncio.timeout(GRACE_S):
                code = await self._process.wait()
        except TimeoutError:
            self.kill()
            code = await self._process.wait()
        await self._listening
        return code

    async def _listen(self, errors: asyncio.StreamReader) -> None:
        """Keep the last lines of standard error, and hand each to the log."""
        while True:
            try:
                line = await errors.readline()
            except ValueError:  # a line beyond the limit: the reader has dropped it
                continue
            if not line:
                return
            words = line.decode("utf-8", "replace").rstrip()
            text = "".join(mark if mark.isprintable() or mark == "\t" else "?" for mark in words)
            self._lines.append(text)
            if self._log is not None:
                self._log(text)
