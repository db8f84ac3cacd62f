"""Local training: from a base prefix to the delta that the device sends."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from mhfl_mq.errors import TrainingFailed
from mhfl_mq.segments import Vector
from mhfl_mq.train.model import TierModel
from mhfl_mq.train.options import Handicap, TrainOptions
from mhfl_mq.train.task import Examples, Task

__all__ = ["Trained", "batches", "make_optimizer", "shard_luck", "train_step", "train_tier"]

_ENDS: Final = 5  # steps whose mean loss is reported at either end: one minibatch alone is mostly noise
_WHOLE = Handicap()


@dataclass(frozen=True, slots=True)
class Trained:
    """What local training gave: the prefix of the delta (new - base) and the device's own metrics.

    `weight` is the number of examples behind it: what it counts is the aggregator's to say.
    """

    delta: Vector
    weight: float
    metrics: dict[str, float]


def make_optimizer(module: nn.Module, options: TrainOptions, rate: float) -> torch.optim.Optimizer:
    """A fresh optimizer: its state never outlives a round."""
    if options.adam:
        return torch.optim.Adam(module.parameters(), lr=rate)
    return torch.optim.SGD(module.parameters(), lr=rate, momentum=options.momentum)


def batches(count: int, size: int, luck: np.random.Generator) -> Iterator[npt.NDArray[np.int64]]:
    """Endless minibatches of `size` of `count` examples: each at most once per pass, then shuffled anew.

    What is left at the end of a pass and does not fill a batch is dropped; less than `size` examples are one batch.
    """
    size = min(size, count)
    while True:
        order = luck.permutation(count)
        for at in range(0, count - size + 1, size):
            yield order[at : at + size]


def train_step(
    task: Task, module: nn.Module, optimizer: torch.optim.Optimizer, examples: Examples, clip: float
) -> float:
    """One minibatch: forward, backward, clip, step. Gives the loss before the step."""
    loss = task.loss(module(examples.inputs), examples.targets)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if clip:
        nn.utils.clip_grad_norm_(module.parameters(), clip)
    optimizer.step()
    return float(loss.detach())


def train_tier(
    task: Task,
    model: TierModel,
    base: Vector,
    examples: Examples,
    options: TrainOptions,
    *,
    round_number: int,
    luck: Sequence[int],
    handicap: Handicap = _WHOLE,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Trained:
    """Train `model` from the prefix `base` on the device's examples for one round.

    `luck` are whole numbers that, with `options.seed` and the round, start every random choice, so that a round is
    repeatable. Raises `TrainingFailed` for data that is missing, for a loss that is not finite and for a model that
    is not.
    """
    if not len(examples):
        raise TrainingFailed("the device has no examples", where=f"task {task.name!r}", remedy="check its data")
    started, cpu_started = clock(), time.process_time()
    seeds = np.random.SeedSequence([options.seed, round_number, *luck])
    torch.manual_seed(int(seeds.generate_state(1)[0]))
    model.put(base)
    module = model.module.train()
    optimizer = make_optimizer(module, options, options.rate_in(round_number))
    chosen = batches(len(examples), options.batch, np.random.default_rng(seeds))
    losses: list[float] = []
    for step in range(options.steps):
        begun = clock()
        index = torch.from_numpy(next(chosen))
        batch = Examples(examples.inputs[index], examples.targets[index])
        losses.append(train_step(task, module, optimizer, batch, options.clip))
        if not np.isfinite(losses[-1]):
            raise TrainingFailed(
                f"the loss is {losses[-1]} at step {step + 1} of {options.steps}",
                where=f"task {task.name!r}",
                remedy=f"lower the rate (now {options.rate}) or look at the device's data",
            )
        if handicap.slowdown > 1.0:
            sleep((handicap.slowdown - 1.0) * (clock() - begun))
    delta = model.take() - base
    if not np.isfinite(delta).all():
        raise TrainingFailed("the trained model is not finite", where=f"task {task.name!r}", remedy="lower the rate")
    metrics = {
        "loss_first": float(np.mean(losses[:_ENDS])),
        "loss_last": float(np.mean(losses[-_ENDS:])),
        "seconds": clock() - started,
        "cpu_s": time.process_time() - cpu_started,
        "examples": float(len(examples)),
        "steps": float(len(losses)),
    }
    return Trained(delta, float(len(examples)), metrics)


def shard_luck(shard: str) -> tuple[int, ...]:
    """A shard's own numbers for `luck`, so that devices do not draw the same minibatches."""
    return tuple(shard.encode())
