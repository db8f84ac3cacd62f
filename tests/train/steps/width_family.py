"""A small federation in one process: a task, tiers and rounds, as devices and the aggregator do them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil

import numpy as np
import torch
from torch import Tensor, nn

from mhfl_mq.families import Algorithm, make_algorithm
from mhfl_mq.segments import Accumulator, Bounds, Tier, Vector
from mhfl_mq.train.derive import TierShape
from mhfl_mq.train.evaluate import evaluate_tiers
from mhfl_mq.train.loop import train_round
from mhfl_mq.train.model import TaskModels
from mhfl_mq.train.options import TrainOptions
from mhfl_mq.train.steps import Job, method_of
from mhfl_mq.train.task import Examples, Task

TIERS = (Tier("small", 0.25), Tier("middle", 0.5), Tier("large", 1.0))
OPTIONS = TrainOptions(steps=10, batch=16, rate=0.2)
SAMPLE = torch.randn(3, 4, generator=torch.Generator().manual_seed(9))


def up(channels: int, shape: TierShape) -> int:
    return ceil(channels * shape.width)


def mlp(shape: TierShape) -> nn.Module:
    hidden = up(16, shape)
    return nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 3))


def data(number: int, count: int = 64, classes: Sequence[int] = (0, 1, 2)) -> Examples:
    """Four numbers; the class is that of the largest of the first three."""
    inputs = torch.randn(4 * count, 4, generator=torch.Generator().manual_seed(number))
    targets = inputs[:, :3].argmax(dim=1)
    held = torch.isin(targets, torch.tensor(classes)).nonzero()[:count, 0]
    return Examples(inputs[held], targets[held])


def task_of(model: Callable[[TierShape], nn.Module] = mlp, sample: Tensor = SAMPLE) -> Task:
    return Task(name="width", model=model, device_data=lambda shard, folder: data(1), sample=lambda: sample)


@dataclass
class Federation:
    """Rounds of one algorithm; `devices` are (tier, examples), all of them in every round."""

    name: str
    options: Mapping[str, object] = field(default_factory=dict)
    task: Task = field(default_factory=task_of)
    tiers: Sequence[Tier] = TIERS
    devices: Sequence[tuple[int, Examples]] = ()
    training: TrainOptions = OPTIONS

    def __post_init__(self) -> None:
        self.algorithm: Algorithm = make_algorithm(self.name, self.options)
        self.models = TaskModels(self.task, self.tiers, self.algorithm.plan)
        self.devices = self.devices or [(tier, data(1 + i)) for i, tier in enumerate((0, 1, 2, 2))]

    def first(self) -> Vector:
        """Version 0."""
        flat = self.models.initial(1)
        self.algorithm.begin(self.models.layout, flat)
        return flat

    def update(self, head: Vector, device: int, number: int = 1) -> Vector:
        """What one device sends."""
        tier, examples = self.devices[device]
        base = self.models.layout.take(head, tier).copy()
        numbers = self.algorithm.device_options({})
        job = Job(self.models, tier, base, examples, self.training, numbers, number, (device,))
        return train_round(method_of(self.name), job).update

    def merged(self, head: Vector, updates: Sequence[tuple[int, Vector]]) -> Vector:
        """The version that follows from the head and these (device, update)."""
        weights = [self.algorithm.weight(len(examples)) for _, examples in self.devices]
        total = Accumulator(self.models.layout.holdings, Bounds(2 * len(self.devices), max(weights), 1e3))
        for device, update in updates:
            total.fold(update, self.devices[device][0], weights[device])
        new = np.empty_like(head)
        self.algorithm.finalize(total, self.models.layout, head, new)
        return new

    def round(self, head: Vector, number: int = 1) -> Vector:
        """All devices train, and the version that follows."""
        everybody = range(len(self.devices))
        return self.merged(head, [(device, self.update(head, device, number)) for device in everybody])

    def run(self, rounds: int) -> Vector:
        """The version after so many rounds."""
        flat = self.first()
        for number in range(1, rounds + 1):
            flat = self.round(flat, number)
        return flat

    def scores(self, flat: Vector) -> list[float]:
        """The accuracy of every tier, smallest first."""
        return list(evaluate_tiers(method_of(self.name), self.models, flat, data(99, 400)).values())


def assert_a_tier_computes_what_the_full_model_does_with_its_other_units_masked(
    federation: Federation, flat: Vector
) -> None:
    """Trap T2, for a model in which a unit without weights is silent."""
    models, inputs = federation.models, data(98, 20).inputs
    full = models.build(len(federation.tiers) - 1)
    for k in range(len(federation.tiers)):
        tier, masked = models.build(k), flat.copy()
        tier.put(models.layout.take(flat, k).copy())
        masked[models.layout.lengths[k] :] = 0
        full.put(masked)
        with torch.no_grad():
            torch.testing.assert_close(tier.module(inputs), full.module(inputs))


def assert_order_does_not_matter(federation: Federation) -> None:
    """The algorithm is linear: the same version, bit for bit, whoever's update comes first."""
    head = federation.first()
    updates = [(device, federation.update(head, device)) for device in range(len(federation.devices))]
    assert federation.merged(head, updates).tobytes() == federation.merged(head, updates[::-1]).tobytes()


def assert_untouched_coordinates_keep_their_value(federation: Federation) -> None:
    """Trap T1, where the algorithm does not move coordinates."""
    head = federation.first()
    held = federation.models.layout.lengths[0]
    new = federation.merged(head, [(0, federation.update(head, 0))])
    assert new[held:].tobytes() == head[held:].tobytes()
    assert not np.array_equal(new[:held], head[:held])
