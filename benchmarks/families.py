"""What a simulated federation costs beyond the bare training steps that it consists of.

100 devices, 10 in a round, HeteroFL in five tiers, a CNN of 64-128-256-512 channels on made-up pictures of 28 x 28:
the machines, codec, stores, transfers, merges and evaluations of a round, against the same number of steps in a plain
loop of torch, one thread each, in one run. Processor time, so that neighbours on the machine count for neither.
"""

import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, max_pool2d, relu

from benchmarks.table import Row, at_most, note
from mhfl_mq.bench.federation import Setting, Simulated, run_federation
from mhfl_mq.bench.fleet import Budgets, Cost, Device, with_budgets
from mhfl_mq.bench.profiles import profiles
from mhfl_mq.bench.watch import RoundSeen
from mhfl_mq.policy import Tier
from mhfl_mq.train.derive import TierShape
from mhfl_mq.train.inprocess import LocalWorker
from mhfl_mq.train.task import Examples, Task

__all__ = ["measure"]

CHANNELS: Final = (64, 128, 256, 512)
CLASSES: Final = 10
WIDTHS: Final = (0.0625, 0.125, 0.25, 0.5, 1.0)
DEVICES: Final = 100
COHORT: Final = 10
ROUNDS: Final = 10
STEPS: Final = 20
BATCH: Final = 32
EXAMPLES: Final = 640
"""Of a device: an epoch is the steps of a round, as where the 60,000 pictures of MNIST are shared by 100 devices."""
TESTED: Final = 128
BARE: Final = 3
"""Steps of each tier in the plain loop after each round."""
WARM_UP: Final = 2


class Net(nn.Module):
    """Four 3 x 3 convolutions with GroupNorm and pooling, mean over the picture, one linear head."""

    def __init__(self, width: float) -> None:
        super().__init__()
        sizes = [max(2, round(width * channels)) for channels in CHANNELS]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in zip([1, *sizes], sizes, strict=False))
        self.norms = nn.ModuleList(nn.GroupNorm(size // 2, size) for size in sizes)
        self.head = nn.Linear(sizes[-1], CLASSES)

    def forward(self, pictures: Tensor) -> Tensor:
        """Scores (n, 10) of pictures (n, 1, 28, 28)."""
        x = pictures
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = max_pool2d(relu(norm(conv(x))), 2)
        scores: Tensor = self.head(x.mean(dim=(2, 3)))
        return scores


def _pictures(count: int, seed: int) -> Examples:
    luck = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 1, 28, 28, generator=luck)
    return Examples(inputs, torch.randint(CLASSES, (count,), generator=luck))


def _model(shape: TierShape) -> Net:
    return Net(shape.width)


def _data(shard: str, folder: Path | None) -> Examples:
    return _pictures(EXAMPLES, int(shard))


def _test(folder: Path | None) -> Examples:
    return _pictures(TESTED, DEVICES)


TASK: Final = Task("made-up", _model, _data, _test, sample=lambda: torch.linspace(-1, 1, 1568).reshape(2, 1, 28, 28))


def setting() -> Setting:
    """Twenty devices of each tier: a device's profile is as slow as lets just its tier into the budget."""
    lengths = (6_000, 24_000, 97_000, 388_000, 1_550_000)
    costs = [Cost(0.01 * 2**k, 1, length) for k, length in enumerate(lengths)]
    budgets = Budgets(train_s=1.0)
    tiers = tuple(Tier(f"tier{k}", width) for k, width in enumerate(WIDTHS))
    own = [replace(profiles()["pc"], slowdown=0.9 / (STEPS * cost.step_s)) for cost in costs]
    devices = [Device(f"d{k:02}", str(k), own[k % len(costs)], k % len(costs)) for k in range(DEVICES)]
    options = {"steps": float(STEPS), "batch": float(BATCH), "rate": 0.01, "momentum": 0.9}
    return Setting(
        task=TASK,
        folder=None,
        algorithm="heterofl",
        tiers=with_budgets(tiers, budgets, STEPS),
        costs=costs,
        budgets=budgets,
        devices=devices,
        options=options,
        rounds=ROUNDS,
        seed=0,
        cohort=COHORT,
        evaluate_every=ROUNDS,
    )


class Bare:
    """A plain loop of one tier; its seconds are taken between the federation's rounds, on the same warm machine."""

    def __init__(self, width: float) -> None:
        self.module, self.batch = Net(width).train(), _pictures(BATCH, 0)
        self.optimizer = torch.optim.SGD(self.module.parameters(), lr=0.01, momentum=0.9)
        self.taken: list[float] = []
        for _ in range(WARM_UP):
            self.step()
        self.taken.clear()

    def step(self) -> None:
        """One step, and its processor seconds."""
        began = time.process_time()
        loss = cross_entropy(self.module(self.batch.inputs), self.batch.targets)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self.optimizer.step()
        float(loss.detach())
        self.taken.append(time.process_time() - began)


def run(bare: list[Bare]) -> tuple[Simulated, float]:
    """The federation, and its processor seconds without those of the plain loops between its rounds."""
    between = 0.0

    def measure_bare(_: RoundSeen) -> None:
        nonlocal between
        began = time.process_time()
        for one in bare:
            for _step in range(BARE):
                one.step()
        between += time.process_time() - began

    began = time.process_time()
    simulated = run_federation(setting(), LocalWorker(TASK, None), measure_bare)
    return simulated, time.process_time() - began - between


def measure() -> list[Row]:
    """The federation's processor time beside that of its bare steps."""
    torch.set_num_threads(1)
    plain = [Bare(width) for width in WIDTHS]
    simulated, ours = run(plain)
    trained = Counter(one.invited[name] for one in simulated.rounds for name in one.counted)
    bare = sum(STEPS * count * fmean(plain[tier].taken) for tier, count in trained.items())
    return [
        note(
            f"simulated trainings in {len(simulated.rounds)} rounds of {COHORT} of {DEVICES} devices", trained.total()
        ),
        at_most("simulated federation, five tiers, CNN 64-128-256-512 / bare steps", ours, 1.15, reference=bare),
    ]
