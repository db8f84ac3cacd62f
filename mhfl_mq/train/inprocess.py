"""Jobs without a child process: for many simulated devices in one process, which all train with its one torch.

A job runs whole when it is asked for, so the event loop stands meanwhile: right under virtual time, wrong on a plant.
"""

import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mhfl_mq.errors import MhflError, TrainingFailed
from mhfl_mq.train.client import Worker
from mhfl_mq.train.jobs import Jobs
from mhfl_mq.train.reports import Subject
from mhfl_mq.train.task import Task

__all__ = ["LocalWorker"]


class LocalWorker(Worker):
    """A `Worker` that does its jobs in this process; closing it changes nothing, so that many may share it.

    Torch's threads are the caller's to set.
    """

    def __init__(self, task: Task, folder: Path | None) -> None:
        super().__init__(task.name)
        self._jobs = Jobs(task, folder, common_test=True)

    async def close(self) -> None:
        """Nothing to end."""

    async def local_scores(self, subject: Subject, flat: Path, devices: Sequence[tuple[str, int]]) -> list[float]:
        """The metric of each device's tier of the version in the file `flat`, on the device's own test examples.

        `devices` are shards and tiers; empty where parts of the models never leave the devices.
        """
        arguments = {"subject": subject.document(), "flat": str(flat), "devices": [list(one) for one in devices]}
        scores: list[float] = (await self._job("local_scores", arguments))["scores"]
        return scores

    async def _job(
        self, job: str, arguments: dict[str, Any], began: Callable[[], None] = lambda: None
    ) -> dict[str, Any]:
        """Nobody can stop a job here, so nobody needs to know when its steps began."""
        try:
            return self._jobs.run(job, arguments)
        except MhflError:
            raise
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            told = f"{type(error).__name__}: {error} ({Path(frame.filename).name}:{frame.lineno})"
            raise TrainingFailed(told, where=f"task {self._jobs.task.name!r}") from error
