"""The golden check's federation: four devices of three tiers, three rounds, and the networks as a plant writes them.

Both sides start from this: ours as tasks, tiers and options, the reference as devices with lists of indices.
"""

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from mhfl_mq.segments import Tier
from mhfl_mq.train.derive import TierShape
from mhfl_mq.train.loop import shard_luck
from mhfl_mq.train.options import TrainOptions
from mhfl_mq.train.task import Examples, Task
from tests.golden.network import CLASSES, PER_GROUP, SIDE, STREAM_A, STREAM_B
from tests.golden.reference import Descent, Device

WIDTHS: Final = (Tier("small", 0.25), Tier("middle", 0.5), Tier("large", 1.0))
DEPTHS: Final = (Tier("one", 1.0, 1), Tier("two", 1.0, 2), Tier("three", 1.0, 3))
TIER_OF: Final = {"north": 0, "east": 1, "south": 1, "west": 2}
EXAMPLES: Final = {"north": 13, "east": 17, "south": 21, "west": 26}  # no two alike, none a multiple of the batch
PRESENT: Final = (("north", "east", "south", "west"), ("north", "east", "south"), ("west", "south", "east", "north"))
"""Who takes part in each round: in the second one nobody holds what only the largest tier has."""

OPTIONS: Final = TrainOptions(steps=5, batch=8, rate=0.1, momentum=0.9, decay=0.8, clip=1.0, seed=7)

# ---- the networks ----------------------------------------------------------------------------------------------


class Network(nn.Module):
    """The CNN of `tests.golden.network` in a width."""

    def __init__(self, shape: TierShape) -> None:
        super().__init__()
        a, b = ceil(STREAM_A * shape.width), ceil(STREAM_B * shape.width)
        self.conv1, self.norm1 = nn.Conv2d(1, a, 3, padding=1), nn.GroupNorm(a // PER_GROUP, a)
        self.conv2, self.norm2 = nn.Conv2d(a, a, 3, padding=1), nn.GroupNorm(a // PER_GROUP, a)
        self.conv3, self.norm3 = nn.Conv2d(a, b, 3, padding=1), nn.GroupNorm(b // PER_GROUP, b)
        self.pool = nn.MaxPool2d(2)
        self.linear = nn.Linear(b * (SIDE // 4) ** 2, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(torch.relu(self.norm1(self.conv1(x))))
        x = torch.relu(x + self.norm2(self.conv2(x)))
        x = self.pool(torch.relu(self.norm3(self.conv3(x))))
        scores: Tensor = self.linear(x.flatten(1))
        return scores


def exit_parts(depth: int) -> tuple[nn.Module, list[nn.Module], list[nn.Module]]:
    """Stem, blocks and heads of the network with exits, for a model that calls them `stem`, `blocks` and `heads`."""
    stem = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.GroupNorm(3, 6), nn.ReLU())
    blocks: list[nn.Module] = []
    heads: list[nn.Module] = []
    for block in range(depth or len(DEPTHS)):
        blocks.append(nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.GroupNorm(3, 6), nn.ReLU(), nn.MaxPool2d(2)))
        heads.append(nn.Sequential(nn.Flatten(), nn.Linear(6 * (SIDE >> (block + 1)) ** 2, CLASSES)))
    return stem, blocks, heads


class Exits(nn.Module):
    """The network with exits in a depth: gives the scores of every exit, shallow first."""

    def __init__(self, depth: int = 0) -> None:
        super().__init__()
        self.stem, blocks, heads = exit_parts(depth)
        self.blocks, self.heads = nn.ModuleList(blocks), nn.ModuleList(heads)

    def forward(self, x: Tensor) -> list[Tensor]:
        x, scores = self.stem(x), []
        for block, head in zip(self.blocks, self.heads, strict=True):
            x = block(x)
            scores.append(head(x))
        return scores


# ---- the data --------------------------------------------------------------------------------------------------


def examples(shard: str, folder: Path | None = None) -> Examples:
    """A device's images: noise with one bright quarter, whose place is the class."""
    luck = np.random.default_rng(list(shard.encode()))
    count = EXAMPLES[shard]
    targets = luck.integers(0, CLASSES, count)
    images = luck.normal(size=(count, 1, SIDE, SIDE)).astype(np.float32)
    half = SIDE // 2
    for image, target in zip(images[:, 0], targets, strict=True):
        row, column = divmod(int(target), 2)
        image[row * half : (row + 1) * half, column * half : (column + 1) * half] += 1.0
    return Examples(torch.from_numpy(images), torch.from_numpy(targets))


TASK: Final = Task(name="golden", model=Network, device_data=examples, sample=lambda: torch.zeros(2, 1, SIDE, SIDE))

# ---- the same for the reference --------------------------------------------------------------------------------


def minibatches(shard: str, round_number: int) -> list[list[int]]:
    """The minibatches that a device's round draws, by the rule that `mhfl_mq.train.loop` documents.

    Passes over all examples, each shuffled anew; what is left of a pass and does not fill a batch is dropped.
    """
    seeds = np.random.SeedSequence([OPTIONS.seed, round_number, *shard_luck(shard)])
    luck, count = np.random.default_rng(seeds), EXAMPLES[shard]
    found: list[list[int]] = []
    while len(found) < OPTIONS.steps:
        order = [int(i) for i in luck.permutation(count)]
        while len(order) >= OPTIONS.batch:
            found.append(order[: OPTIONS.batch])
            order = order[OPTIONS.batch :]
    return found[: OPTIONS.steps]


def devices(round_number: int, drawn: Sequence[Sequence[float]] | None = None) -> list[Device]:
    """The devices of a round (1, 2, 3), in the order of `PRESENT`; `drawn` has the widths that each of them drew."""
    found = []
    for i, shard in enumerate(PRESENT[round_number - 1]):
        data, tier = examples(shard), TIER_OF[shard]
        found.append(
            Device(
                data.inputs.numpy(),
                data.targets.numpy(),
                minibatches(shard, round_number),
                width=WIDTHS[tier].width,
                depth=DEPTHS[tier].depth,
                drawn=drawn[i] if drawn else (),
            )
        )
    return found


def descent(round_number: int) -> Descent:
    """The descent of a round: the rate falls by the factor `decay` from each round to the next."""
    return Descent(OPTIONS.rate * OPTIONS.decay ** (round_number - 1), OPTIONS.momentum, OPTIONS.clip)
