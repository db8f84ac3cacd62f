"""Local training of one round, whatever the algorithm: seeds, minibatches, checks, and what is measured."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch

from mhfl_mq.errors import TrainingFailed
from mhfl_mq.segments import Vector
from mhfl_mq.train.minibatches import batches
from mhfl_mq.train.options import Handicap
from mhfl_mq.train.steps.base import Job, Kept, Method
from mhfl_mq.train.task import Examples

__all__ = ["Trained", "batches", "shard_luck", "train_round", "usual_step"]

_ENDS: Final = 5  # steps whose mean loss is reported at either end: one minibatch alone is mostly noise
_TELLING: Final = 3  # steps of a round below which one odd step is most of it
_WHOLE = Handicap()


@dataclass(frozen=True, slots=True)
class Trained:
    """What local training gave: the vector to send, what the device keeps for itself, and its own metrics.

    `weight` is the number of examples behind it: what it counts is the aggregator's to say. The metric `step_s` is the
    usual step's seconds as a probe would tell them (see `usual_step`). It is left out where a round cannot tell: one of
    fewer than 3 steps, and one that was not as rounds usually are (`Finished.usual`).
    """

    update: Vector
    weight: float
    metrics: dict[str, float]
    kept: Kept = field(default_factory=dict)


def train_round(
    method: Method,
    job: Job,
    *,
    own_test: Examples | None = None,
    common_test: Examples | None = None,
    handicap: Handicap = _WHOLE,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
    began: Callable[[], None] = lambda: None,
) -> Trained:
    """Train for one round. With `own_test` the device's score on it is among the metrics, as `own/<metric>`; with
    `common_test`, which only benchmarks have on a device, as `common/<metric>`. `began` is called before the first
    step.
    Raises `TrainingFailed` for data that is missing, for a loss that is not finite and for a model that is not.
    """
    task, options = job.models.task, job.options
    if not len(job.examples):
        raise TrainingFailed("the device has no examples", where=f"task {task.name!r}", remedy="check its data")
    started, cpu_started = clock(), time.process_time()
    torch.manual_seed(int(job.seeds.generate_state(1)[0]))
    stepper = method.begin(job)
    chosen = batches(len(job.examples), options.batch, np.random.default_rng(job.seeds))
    losses: list[float] = []
    taken: list[float] = []  # seconds of each step
    began()
    for step in range(options.steps):
        begun = clock()
        index = torch.from_numpy(next(chosen))
        losses.append(stepper.step(Examples(job.examples.inputs[index], job.examples.targets[index])))
        if not np.isfinite(losses[-1]):
            raise TrainingFailed(
                f"the loss is {losses[-1]} at step {step + 1} of {options.steps}",
                where=f"task {task.name!r}",
                remedy=f"lower the rate (now {options.rate}) or look at the device's data",
            )
        taken.append(clock() - begun)
        if handicap.slowdown > 1.0:
            sleep((handicap.slowdown - 1.0) * taken[-1])
    finished = stepper.finish()
    if not np.isfinite(finished.update).all():
        raise TrainingFailed("the trained model is not finite", where=f"task {task.name!r}", remedy="lower the rate")
    metrics = {
        "loss_first": float(np.mean(losses[:_ENDS])),
        "loss_last": float(np.mean(losses[-_ENDS:])),
        "seconds": clock() - started,
        "cpu_s": time.process_time() - cpu_started,
        "examples": float(len(job.examples)),
        "steps": float(len(losses)),
        **finished.metrics,
    }
    if finished.usual and len(taken) >= _TELLING:
        metrics["step_s"] = usual_step(taken) * handicap.slowdown
    for kind, examples in (("own", own_test), ("common", common_test)):
        if examples is not None and len(examples):
            metrics[f"{kind}/{task.metric_name}"] = stepper.score(examples)
    return Trained(finished.update, float(len(job.examples)), metrics, finished.kept)


def usual_step(taken: Sequence[float]) -> float:
    """Mean seconds of a round's steps, with what is done once a round, in the first step, spread over all.

    A hiccup of the machine is no usual step, and a probe does not tell it: a step after the first counts as the median
    of itself and its neighbours. Steps of another kind stay in the mean where two or more of them follow each other.
    """
    others = (statistics.median_low(taken[at - 1 : at + 2]) for at in range(1, len(taken)))
    return statistics.fmean([taken[0], *others])


def shard_luck(shard: str) -> tuple[int, ...]:
    """A shard's own numbers for `luck`, so that devices do not draw the same minibatches."""
    return tuple(shard.encode())
