"""A small federation in one process, by an algorithm's name: what devices and the aggregator do, without the wire."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mhfl_mq.families import Algorithm, make_algorithm
from mhfl_mq.segments import Accumulator, Bounds, Tier, Vector
from mhfl_mq.train.evaluate import evaluate_tiers
from mhfl_mq.train.loop import shard_luck, train_round
from mhfl_mq.train.model import TaskModels
from mhfl_mq.train.options import TrainOptions
from mhfl_mq.train.steps import Conclusion, Job, Kept, Method, method_of
from mhfl_mq.train.task import Task

__all__ = ["OPTIONS", "Federation"]

OPTIONS = TrainOptions(steps=6, batch=16, rate=0.05, momentum=0.9)


@dataclass
class Federation:
    """Devices (shard: tier), the version, and what each device keeps."""

    task: Task
    tiers: Sequence[Tier]
    name: str
    devices: Mapping[str, int]
    numbers: Mapping[str, float] = field(default_factory=dict)
    options: TrainOptions = OPTIONS

    def __post_init__(self) -> None:
        self.algorithm: Algorithm = make_algorithm(self.name, self.numbers)
        self.algorithm.check_tiers(len(self.tiers))
        self.method: Method = method_of(self.name)
        public = self.task.public_data(None) if self.algorithm.plan.public and self.task.public_data else None
        self.models = TaskModels(self.task, self.tiers, self.algorithm.plan, public)
        self.flat: Vector = self.models.initial(0)
        self.algorithm.begin(self.models.layout, self.flat)
        self.round_number = 0
        self.kept: dict[str, Kept] = {}

    def update(self, shard: str, round_number: int) -> Vector:
        """What a device sends in a round."""
        tier, layout = self.devices[shard], self.models.layout
        job = Job(
            self.models,
            tier,
            layout.take(self.flat, tier).copy(),
            self.task.device_data(shard, None),
            self.options,
            self.algorithm.device_options({}),
            round_number,
            shard_luck(shard),
            self.kept.get(shard, {}),
        )
        trained = train_round(self.method, job)
        self.kept[shard] = trained.kept
        return trained.update

    def merged(self, updates: Mapping[str, Vector]) -> Vector:
        """The version that follows from these updates, folded in this order."""
        bounds = Bounds(cohort=len(updates), weight=1e6, value=1e3)
        total = Accumulator(self.models.layout.holdings, bounds)
        for shard, update in updates.items():
            weight = self.algorithm.weight(len(self.task.device_data(shard, None)))
            total.fold(update, self.devices[shard], weight)
        out = np.empty_like(self.flat)
        self.algorithm.finalize(total, self.models.layout, self.flat, out)
        if self.algorithm.concludes:
            heads = Conclusion(self.models, self.flat, out, (), self.options, self.algorithm.numbers, self.round_number)
            out = self.method.conclude(heads)
        return out

    def round(self, present: Sequence[str] | None = None) -> None:
        """One round of all devices, or of those who are there."""
        self.round_number += 1
        shards = list(self.devices) if present is None else present
        self.flat = self.merged({shard: self.update(shard, self.round_number) for shard in shards})

    def scores(self) -> list[float]:
        """Every tier's score on the task's test data."""
        assert self.task.test_data is not None
        return list(evaluate_tiers(self.method, self.models, self.flat, self.task.test_data(None)).values())
