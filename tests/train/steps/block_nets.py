"""Networks of blocks, with an exit after each or one head, and a small task for them: what the depth family trains."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mhfl_mq.families import Plan, algorithm_class
from mhfl_mq.segments import Tier
from mhfl_mq.train.derive import TierShape
from mhfl_mq.train.exits import ExitNet
from mhfl_mq.train.task import Examples, Task

DEPTHS = (Tier("one", 1.0, 1), Tier("two", 1.0, 2), Tier("three", 1.0, 3))
BOTH = (Tier("small", 0.5, 1), Tier("middle", 0.75, 2), Tier("large", 1.0, 3))
CLASSES, CHANNELS, LENGTH, PER_GROUP = 3, 8, 8, 2


def conv(into: int, out: int) -> nn.Module:
    return nn.Sequential(nn.Conv1d(into, out, 3, padding=1), nn.GroupNorm(out // PER_GROUP, out), nn.ReLU())


def head(features: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool1d(2), nn.Flatten(), nn.Linear(2 * features, CLASSES))


def steady(shape: TierShape) -> ExitNet:
    """Blocks that keep the number of channels: one head fits after any of them."""
    size, deep = int(CHANNELS * shape.width), shape.depth or 3
    blocks = [conv(size, size) for _ in range(deep)]
    return ExitNet(conv(2, size), blocks, [head(size) for _ in range(deep if shape.exits else 1)])


def data(shard: str, folder: Path | None = None) -> Examples:
    """Noise in two channels of a series, and a bump whose shape and channel are the class."""
    luck = np.random.default_rng(list(shard.encode()))
    targets = luck.integers(0, CLASSES, 60)
    inputs = 0.7 * luck.normal(size=(60, 2, LENGTH))
    wave = np.sin(np.arange(LENGTH) * np.pi / 4)
    for series, target in zip(inputs, targets, strict=True):
        series[target % 2] += wave if target < 2 else -wave
    return Examples(torch.from_numpy(inputs.astype(np.float32)), torch.from_numpy(targets))


def task_of(model: Callable[[TierShape], nn.Module] = steady, **more: Any) -> Task:
    return Task(
        name="blocks",
        model=model,
        device_data=data,
        test_data=lambda folder: data("held out"),
        sample=lambda: torch.zeros(2, 2, LENGTH),
        **more,
    )


def plan_of(name: str) -> Plan:
    """The plan of an algorithm."""
    return algorithm_class(name).PLAN


class Seen:
    """A metric that remembers the outputs it was given."""

    def __init__(self) -> None:
        self.outputs: list[Tensor] = []

    def __call__(self, outputs: Tensor, targets: Tensor) -> float:
        self.outputs.append(outputs)
        return 0.0


def divergence(teacher: Tensor, learner: Tensor) -> Tensor:
    """KL divergence written out: the sum of p * log(p / q), the mean over the examples."""
    p, q = torch.softmax(teacher, 1), torch.softmax(learner, 1)
    return (p * (p / q).log()).sum(1).mean()
