"""The training child: `python -m mhfl_mq.train.worker --task NAME`. Serves jobs over its standard pipes.

It loads torch and the task once, at the first job. What the task's code prints goes to standard error: standard output
belongs to the frames alone. It ends when its parent does: at the end of standard input, and on Linux by a signal even
in the middle of a job.
"""

import argparse
import contextlib
import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from mhfl_mq.errors import MhflError, TaskError
from mhfl_mq.train.frames import read_frame, write_frame
from mhfl_mq.train.task import load_task

if TYPE_CHECKING:
    from mhfl_mq.train.jobs import Jobs

__all__ = ["main"]

PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


class _Server:
    """Answers one request after the other; the task is loaded at the first one."""

    def __init__(self, task: str, folder: Path | None, replies: BinaryIO) -> None:
        self._task = task
        self._folder = folder
        self._replies = replies
        self._request: Any = None  # the id of the one that is being done
        self._jobs: Jobs | None = None

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The reply to a request; no error of a job ends the child."""
        self._request = request["id"]
        try:
            return {"id": request["id"], "answer": self._loaded().run(request["job"], request["arguments"])}
        except MhflError as error:
            told = {"kind": type(error).__name__, "what": error.what, "where": error.where, "remedy": error.remedy}
        except Exception as error:
            traceback.print_exc()
            told = {"kind": "", "what": _blame(error), "where": f"task {self._task!r}", "remedy": ""}
        return {"id": request["id"], "error": told}

    def _loaded(self) -> "Jobs":
        if self._jobs is None:
            task = load_task(self._task)  # before torch: a wrong name is answered at once
            try:
                import torch
            except ImportError as error:
                raise TaskError(
                    f"torch cannot be imported: {error}", remedy="install it: pip install 'mhfl-mq[train]'"
                ) from error
            torch.set_num_threads(1)  # one thread per device: on a shared machine two are slower than one
            with contextlib.suppress(RuntimeError):  # can be set once only
                torch.set_num_interop_threads(1)
            from mhfl_mq.train.jobs import Jobs

            self._jobs = Jobs(task, self._folder, began=self._began)
        return self._jobs

    def _began(self) -> None:
        """Tell the parent that a training's steps begin: it may stop us before there is a reply."""
        write_frame(self._replies, {"id": self._request, "began": True})


def _blame(error: Exception) -> str:
    """The error and the line of code that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"


def _own_pipes() -> tuple[BinaryIO, BinaryIO]:
    """The two pipes for frames; from here on, whatever reads or prints gets nothing and standard error."""
    requests = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    sys.stdout.flush()
    os.dup2(2, 1)
    return requests, replies


def _die_with(parent: int) -> None:
    """Ask Linux to kill this process when its parent ends; leave at once when it has already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit(0)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser(prog="mhfl_mq.train.worker")
    parser.add_argument("--task", required=True)
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--nice", type=int, default=0)
    parser.add_argument("--parent", type=int, default=os.getppid())
    options = parser.parse_args(argv)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the agent decides
    _die_with(options.parent)
    requests, replies = _own_pipes()
    if options.nice:
        os.nice(options.nice)
    server = _Server(options.task, options.data, replies)
    with requests, replies:
        while (request := read_frame(requests)) is not None:
            write_frame(replies, server.answer(request))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
