"""A task of unrelated architectures with one feature size, and rounds of a federation of them in one process."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import nn

from mhfl_mq.families import Evaluated, make_algorithm
from mhfl_mq.segments import Accumulator, Bounds, Tier, Vector
from mhfl_mq.train.evaluate import evaluate_tiers
from mhfl_mq.train.loop import Trained, train_round
from mhfl_mq.train.model import TaskModels
from mhfl_mq.train.options import TrainOptions
from mhfl_mq.train.steps import Conclusion, Job, Kept, PastUpdate, method_of
from mhfl_mq.train.task import Examples, Task

CLASSES = 3
FEATURES = 6
TIERS = (Tier("plain", architecture="plain"), Tier("deep", architecture="deep"))
OPTIONS = TrainOptions(steps=20, batch=16, rate=0.1, seed=3)
CENTRES = torch.tensor([[2.0, 0.0, 0.0, 1.0], [0.0, 2.0, 0.0, -1.0], [0.0, 0.0, 2.0, 0.0]])


def blobs(count: int, seed: int, classes: Sequence[int] = range(CLASSES)) -> Examples:
    """Points around each class's centre, of these classes in turn."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.tensor([classes[i % len(classes)] for i in range(count)])
    return Examples(CENTRES[targets] + 0.8 * torch.randn(count, 4, generator=generator), targets)


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(4, FEATURES), nn.Tanh(), nn.Linear(FEATURES, CLASSES))


def deep() -> nn.Module:
    """Dropout and a batch's statistics: features differ between training and evaluation."""
    body = nn.Sequential(nn.Linear(4, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.2), nn.Linear(12, FEATURES))
    return nn.Sequential(body, nn.ReLU(), nn.Linear(FEATURES, CLASSES))


TASK = Task(
    name="blobs",
    model=lambda shape: plain(),
    device_data=lambda shard, folder: blobs(60, 1),
    test_data=lambda folder: blobs(150, 2),
    public_data=lambda folder: Examples(blobs(90, 3).inputs, torch.zeros(90, dtype=torch.int64)),
    sample=lambda: torch.linspace(-1.0, 1.0, 12).reshape(3, 4),
    architectures={"plain": plain, "deep": deep},
)


@dataclass
class Federation:
    """Rounds of one algorithm. `devices` are (tier, examples); all of them train in a round that names none."""

    name: str
    options: Mapping[str, object] = field(default_factory=dict)
    devices: Sequence[tuple[int, Examples]] = ()
    task: Task = TASK
    tiers: Sequence[Tier] = TIERS
    training: TrainOptions = OPTIONS

    def __post_init__(self) -> None:
        self.algorithm = make_algorithm(self.name, self.options)
        make = self.task.public_data
        public = make(None) if self.algorithm.plan.public and make is not None else None
        self.models = TaskModels(self.task, self.tiers, self.algorithm.plan, public)
        self.flat = self.models.initial(self.training.seed)
        self.algorithm.begin(self.models.layout, self.flat)
        self.number = 0
        self.kept: dict[int, Kept] = {}
        self.trained: dict[int, Trained] = {}
        self.test = blobs(150, 2)

    def own(self, name: str) -> Vector:
        """An own array of the version, in its shape."""
        start, stop = self.models.layout.where(f"~{name}")
        return self.flat[start:stop].reshape(self.models.build(0).own[name].shape)

    def job(self, device: int, steps: int = 0) -> Job:
        """A device's next round."""
        tier, examples = self.devices[device]
        base = self.models.layout.take(self.flat, tier).copy()
        options = replace(self.training, steps=steps) if steps else self.training
        numbers, kept = dict(self.algorithm.numbers), self.kept.get(device, {})
        return Job(self.models, tier, base, examples, options, numbers, self.number + 1, (device,), kept)

    def round(self, devices: Sequence[int] = ()) -> "Federation":
        """One round of these devices, merged in this order."""
        own_test = self.test if self.algorithm.evaluated is Evaluated.DEVICES else None
        named = devices or range(len(self.devices))
        self.trained = {d: train_round(method_of(self.name), self.job(d), own_test=own_test) for d in named}
        self.kept |= {d: trained.kept for d, trained in self.trained.items()}
        self.merge([(trained.update, self.devices[d][0], trained.weight) for d, trained in self.trained.items()])
        return self

    def merge(self, updates: Sequence[tuple[Vector, int, float]]) -> None:
        """What the aggregator makes of (update, tier, examples): single updates are for methods that are not linear."""
        algorithm, layout = self.algorithm, self.models.layout
        past = [PastUpdate(vector, tier, algorithm.weight(examples)) for vector, tier, examples in updates]
        total = Accumulator(layout.holdings, Bounds(len(past), max(one.weight for one in past), 1e3))
        for one in past:
            total.fold(one.vector, one.tier, one.weight)
        merged = np.empty_like(self.flat)
        algorithm.finalize(total, layout, self.flat, merged)
        self.number += 1
        if algorithm.concludes:
            singly = () if algorithm.about.linear else past
            told = Conclusion(
                self.models, self.flat, merged, singly, self.training, dict(algorithm.numbers), self.number
            )
            merged = method_of(self.name).conclude(told)
        self.flat = merged

    def scores(self) -> list[float]:
        """By tier where the aggregator evaluates, by device where devices do."""
        if self.algorithm.evaluated is Evaluated.DEVICES:
            return [trained.metrics["own/accuracy"] for trained in self.trained.values()]
        return list(evaluate_tiers(method_of(self.name), self.models, self.flat, self.test).values())
