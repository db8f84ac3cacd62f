"""A small federation in one process: what the aggregator and its devices do, without either."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from mhfl_mq.families import Algorithm, Evaluated, make_algorithm
from mhfl_mq.segments import Accumulator, Bounds, Tier, Vector
from mhfl_mq.train.evaluate import evaluate_tiers
from mhfl_mq.train.loop import Trained, train_round
from mhfl_mq.train.model import TaskModels
from mhfl_mq.train.options import TrainOptions
from mhfl_mq.train.steps import Conclusion, Job, Kept, PastUpdate, method_of
from mhfl_mq.train.task import Examples, Task

CLASSES = 3
CENTRES = torch.tensor([[2.0, 0.0, 0.0, 1.0], [0.0, 2.0, 0.0, -1.0], [0.0, 0.0, 2.0, 0.0]])


def blobs(count: int, seed: int, classes: Sequence[int] = range(CLASSES)) -> Examples:
    """Points around each class's centre, of these classes in turn."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.tensor([classes[i % len(classes)] for i in range(count)], dtype=torch.int64)
    return Examples(CENTRES[targets] + 0.9 * torch.randn(count, 4, generator=generator), targets)


SHARDS: Mapping[str, tuple[int, Sequence[int]]] = {"a": (60, (0, 1)), "b": (60, (1, 2)), "c": (60, (0, 2))}
"""Examples, and the classes that the device has: no device has all."""


def small() -> nn.Module:
    """A line."""
    return nn.Linear(4, CLASSES)


def tall() -> nn.Module:
    """An unrelated architecture."""
    return nn.Sequential(nn.Linear(4, 12), nn.Tanh(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, CLASSES))


TASK = Task(
    name="blobs",
    model=lambda shape: nn.Sequential(
        nn.Linear(4, round(16 * shape.width)), nn.ReLU(), nn.Linear(round(16 * shape.width), CLASSES)
    ),
    device_data=lambda shard, folder: blobs(SHARDS[shard][0], ord(shard), SHARDS[shard][1]),
    test_data=lambda folder: blobs(150, 1),
    local_test=lambda shard, folder: blobs(150, 1),
    public_data=lambda folder: Examples(blobs(80, 2).inputs, torch.zeros(80, dtype=torch.int64)),
    sample=lambda: torch.randn(2, 4),
    architectures={"small": small, "tall": tall},
)


@dataclass
class Federation:
    """Devices `a`, `b`, `c`, one of each tier that devices get (the last ones of the smallest), round after round."""

    algorithm: Algorithm
    models: TaskModels
    options: TrainOptions
    flat: Vector
    tiers: Mapping[str, int]
    kept: dict[str, Kept] = field(default_factory=dict)
    trained: dict[str, Trained] = field(default_factory=dict)
    number: int = 0

    @property
    def method_name(self) -> str:
        return self.algorithm.about.name

    def own(self, name: str) -> Vector:
        """An own array of the newest version, flat."""
        start, stop = self.models.layout.where(f"~{name}")
        return self.flat[start:stop]

    def job(self, shard: str) -> Job:
        """A device's next round."""
        tier, models = self.tiers[shard], self.models
        base = models.layout.take(self.flat, tier).copy()
        data = models.task.device_data(shard, None)
        numbers = self.algorithm.numbers
        luck = (ord(shard),)
        return Job(models, tier, base, data, self.options, numbers, self.number + 1, luck, self.kept.get(shard, {}))

    def train(self, shard: str) -> Trained:
        """A device's next round, done."""
        own_test = None
        if self.algorithm.evaluated is Evaluated.DEVICES and self.models.task.local_test is not None:
            own_test = self.models.task.local_test(shard, None)
        return train_round(method_of(self.method_name), self.job(shard), own_test=own_test)

    def round(self, shards: Sequence[str] = ()) -> None:
        """One round of these devices, in this order; all when none is named."""
        named = shards or tuple(self.tiers)
        self.trained = {shard: self.train(shard) for shard in named}
        for shard, result in self.trained.items():
            self.kept[shard] = result.kept
        self.merge([(result.update, self.tiers[shard], result.weight) for shard, result in self.trained.items()])

    def merge(self, updates: Sequence[tuple[Vector, int, float]]) -> None:
        """What the aggregator makes of (update, tier, examples)."""
        layout, algorithm = self.models.layout, self.algorithm
        counted = [PastUpdate(vector, tier, algorithm.weight(examples)) for vector, tier, examples in updates]
        total = Accumulator(layout.holdings, Bounds(len(counted), max(one.weight for one in counted), 1e3))
        for one in counted:
            total.fold(one.vector, one.tier, one.weight)
        head, merged = self.flat, np.empty_like(self.flat)
        algorithm.finalize(total, layout, head, merged)
        self.number += 1
        if algorithm.concludes:
            past = () if algorithm.about.linear else counted
            numbers = algorithm.numbers
            told = Conclusion(self.models, head, merged, past, self.options, numbers, self.number)
            merged = method_of(self.method_name).conclude(told)
        self.flat = merged

    def scores(self) -> dict[str, float]:
        """By tier where the aggregator evaluates, by device where devices do (after their last training)."""
        if self.algorithm.evaluated is Evaluated.DEVICES:
            return {shard: result.metrics["own/accuracy"] for shard, result in self.trained.items()}
        test = blobs(150, 1)
        found = evaluate_tiers(method_of(self.method_name), self.models, self.flat, test)
        return {name.partition("/")[2]: value for name, value in found.items()}


def federate(
    name: str,
    options: Mapping[str, float] | None = None,
    *,
    rounds: int = 0,
    tiers: Sequence[Tier] = (Tier("small", 0.25), Tier("large", 1.0)),
    devices: Mapping[str, int] | None = None,
    task: Task = TASK,
    training: TrainOptions | None = None,
) -> Federation:
    """A federation after so many rounds: the algorithm's name, its options, and what differs from the usual."""
    algorithm = make_algorithm(name, dict(options or {}))
    algorithm.check_tiers(len(tiers))
    public = task.public_data(None) if algorithm.plan.public and task.public_data is not None else None
    models = TaskModels(task, tiers, algorithm.plan, public)
    flat = models.initial(0)
    algorithm.begin(models.layout, flat)
    given = devices or {"a": 0, "b": 1, "c": 0}
    federation = Federation(algorithm, models, training or TrainOptions(steps=20, batch=16, rate=0.1), flat, given)
    for _ in range(rounds):
        federation.round()
    return federation
