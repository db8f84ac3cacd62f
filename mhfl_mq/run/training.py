"""Learning, as the processes use it: the training child behind the contracts of `mhfl_mq.run`."""

import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mhfl_mq.errors import TrainingFailed
from mhfl_mq.policy import Policy
from mhfl_mq.run.ports import Founded, TrainResult
from mhfl_mq.run.rules import algorithm_of, layout_tiers, training_of
from mhfl_mq.segments import Span
from mhfl_mq.train.client import Worker
from mhfl_mq.train.options import Handicap
from mhfl_mq.train.reports import Subject
from mhfl_mq.train.task import task_names
from mhfl_mq.wire.messages import Capability, Offer, Survey

__all__ = ["TaskFoundation", "TaskTrainer", "subject_of"]

log = logging.getLogger(__name__)


def _told(line: str) -> None:
    log.info("training: %s", line)


class TaskTrainer:
    """Trains a task on this device. `shard` and `data` say which data is its own, `handicap` plays a weaker machine.

    What never leaves the device (private layers) is kept in a folder `kept` beside the scratch folder.
    """

    def __init__(
        self,
        task: str,
        scratch: Path,
        *,
        shard: str = "",
        data: Path | None = None,
        handicap: Handicap | None = None,
        nice: int = 0,
        idle_s: float = 60.0,
        worker: Worker | None = None,
    ) -> None:
        """`worker`: what does the jobs, where it is not a child process of this trainer's own."""
        self._task = task
        self._worker = worker or Worker(task, data=data, nice=nice, idle_s=idle_s, log=_told)
        self._scratch = scratch
        self._keep = scratch.with_name("kept")
        self._shard = shard
        self._handicap = handicap
        self._numbers = itertools.count()

    async def check(self) -> None:
        """Have the child load a task of one's own. A child that dies of something else may live the next time.

        An installed task is known to be one: a device that waits for an aggregator does not hold torch for it.
        """
        if self._task in task_names():
            return
        try:
            await self._worker.hello()
        except TrainingFailed as error:
            log.warning("the task cannot be loaded now: %s", error)

    async def probe(self, survey: Survey, session: int) -> Capability:
        """Build and measure every tier of the survey; the link's speed is the machine's to say."""
        report = await self._worker.probe(_surveyed(survey), shard=self._shard, handicap=self._handicap)
        for tier, why in report.left_out.items():
            log.warning("tier %s does not run here: %s", tier, why)
        return Capability(session, report.layout, report.examples, link_bytes_s=0.0, probes=report.probes)

    async def train(
        self, survey: Survey, offer: Offer, segments: Sequence[Path], began: Callable[[], None]
    ) -> TrainResult:
        """Train the offer's tier from its segments."""
        out = self._scratch / f"update-{offer.round}-{next(self._numbers)}.f32"
        report = await self._worker.train(
            _surveyed(survey),
            offer.tier,
            segments,
            out,
            shard=self._shard,
            options=offer.options,
            round_number=offer.round,
            handicap=self._handicap,
            keep=self._keep,
            began=began,
        )
        return TrainResult(out, report.weight, report.metrics)

    async def close(self) -> None:
        """End the training child."""
        await self._worker.close()


class TaskFoundation:
    """A task's layout, first version and evaluation, for the aggregator. `seed` draws the first weights."""

    def __init__(
        self,
        task: str,
        *,
        data: Path | None = None,
        seed: int = 0,
        idle_s: float = 300.0,
        worker: Worker | None = None,
    ) -> None:
        self._worker = worker or Worker(task, data=data, idle_s=idle_s, log=_told)
        self._seed = seed

    async def found(self, policy: Policy, folder: Path | None) -> Founded:
        """Build the task's models at the policy's tiers: the layout and, with a folder, version 0 in a file there."""
        out = folder / "first-weights.f32" if folder is not None else None
        description = await self._worker.describe(subject_of(policy), seed=self._seed, out=out)
        return Founded(description.layout, description.public, out)

    async def evaluate(self, policy: Policy, flat: Path) -> Mapping[str, float]:
        """The task's metric of every tier, on the data that the task gives the aggregator."""
        return await self._worker.evaluate(subject_of(policy), flat)

    async def conclude(
        self, policy: Policy, *, head: Span, merged: Path, updates: Sequence[tuple[Path, int, float]], round_number: int
    ) -> None:
        """The algorithm's own step at the aggregator, on the merged version."""
        place = (Path(head.path), head.start)
        await self._worker.conclude(
            subject_of(policy), head=place, merged=merged, updates=updates, round_number=round_number
        )

    async def close(self) -> None:
        """End the child."""
        await self._worker.close()


def subject_of(policy: Policy) -> Subject:
    """What the training child is asked about: the policy's tiers, algorithm and numbers."""
    algorithm = algorithm_of(policy)
    options = algorithm.device_options(training_of(policy))
    return Subject.of(layout_tiers(policy), algorithm.about.name, options, weighting=policy.algorithm.weighting)


def _surveyed(survey: Survey) -> Subject:
    options = {"batch": float(survey.batch), **survey.options}
    return Subject.of(survey.tiers, survey.algorithm or "heterofl", options, public=survey.public)
