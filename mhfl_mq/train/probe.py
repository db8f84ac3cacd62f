"""What a tier costs on this machine, measured: seconds per training step and peak bytes while training.

Memory is measured in two ways, and the larger is reported:

- **counted**: parameters, gradients, optimizer state, the minibatch and every tensor that autograd keeps for the
  backward pass. Exact and repeatable, but blind to the scratch memory of single operations.
- **resident**: how far the process's peak resident size (`VmHWM`, reset before the tier) rose above the resident size
  before the tier was built. Sees everything, but only to about +-16 MiB: the allocator keeps pages of earlier work and
  libraries touch pages of their own. So growth below `RESIDENT_NOISE` is not believed. Linux only.

Neither holds the fixed cost of the interpreter with torch (200 to 350 MB), which is the same for every tier.
"""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from mhfl_mq.errors import TrainingFailed
from mhfl_mq.train.loop import make_optimizer, train_step
from mhfl_mq.train.model import TaskModels
from mhfl_mq.train.options import Handicap, TrainOptions
from mhfl_mq.train.task import Examples

__all__ = ["Cost", "probe_tier"]

WARM_UP: Final = 2
"""Steps before the clock counts: the first ones allocate, choose kernels and fill caches."""
FEWEST_STEPS: Final = 5
MOST_STEPS: Final = 50
BUDGET_S: Final = 0.5
"""Seconds of measured steps per tier: with three tiers a probe stays near two seconds."""
RESIDENT_NOISE: Final = 16 * 1024 * 1024
"""Bytes of resident growth below which it says nothing about the tier."""

_WHOLE = Handicap()
_STATUS: Final = Path("/proc/self/status")
_RESET: Final = Path("/proc/self/clear_refs")


@dataclass(frozen=True, slots=True)
class Cost:
    """Measured cost of a tier: seconds per step (lower quartile), peak bytes; already with the handicap's slowdown."""

    step_s: float
    peak_bytes: int


def probe_tier(
    models: TaskModels,
    tier: int,
    examples: Examples,
    options: TrainOptions,
    *,
    handicap: Handicap = _WHOLE,
    clock: Callable[[], float] = time.perf_counter,
) -> Cost:
    """Build the tier and train it for a moment on the device's own examples; nothing of it is kept.

    Raises `TrainingFailed` when the tier does not run here, or needs more than the handicap's memory.
    """
    name = models.tiers[tier].name
    size = min(options.batch, len(examples))
    # A copy: a view would make autograd hold, and the count show, all of the device's data.
    batch = Examples(examples.inputs[:size].clone(), examples.targets[:size].clone())
    try:
        _settle(models, batch, options)
        before = _resident("VmRSS", reset_peak=True)
        module = models.build(tier).module.train()
        optimizer = make_optimizer(module, options, options.rate)
        with _counting(module) as kept:
            train_step(models.task, module, optimizer, batch, options.clip)
        step_s = _usual_step(lambda: train_step(models.task, module, optimizer, batch, options.clip), clock)
    except (RuntimeError, MemoryError) as error:
        told = str(error).strip().split("\n", 1)[0]
        raise TrainingFailed(f"{type(error).__name__}: {told}", where=f"tier {name!r}") from error
    counted = _held(module, optimizer) + kept.bytes + batch.inputs.nbytes + batch.targets.nbytes
    growth = _resident("VmHWM") - before
    peak = max(counted, growth) if growth > RESIDENT_NOISE else counted
    if handicap.memory_bytes and peak > handicap.memory_bytes:
        raise TrainingFailed(
            f"training needs {peak} bytes, this device has {handicap.memory_bytes}", where=f"tier {name!r}"
        )
    return Cost(step_s * handicap.slowdown, peak)


def _settle(models: TaskModels, batch: Examples, options: TrainOptions) -> None:
    """Train the smallest tier for one step: what torch loads and allocates at its first step is no tier's cost."""
    module = models.build(0).module.train()
    train_step(models.task, module, make_optimizer(module, options, options.rate), batch, options.clip)


def _usual_step(step: Callable[[], float], clock: Callable[[], float]) -> float:
    """The lower quartile of a step's seconds: neighbours on a machine make steps longer, never shorter.

    Measures at least FEWEST_STEPS, then until BUDGET_S or MOST_STEPS.
    """
    for _ in range(WARM_UP):
        step()
    taken: list[float] = []
    while len(taken) < FEWEST_STEPS or (len(taken) < MOST_STEPS and sum(taken) < BUDGET_S):
        begun = clock()
        step()
        taken.append(clock() - begun)
    return max(statistics.quantiles(taken, n=4)[0], 1e-9)


@dataclass(slots=True)
class _Kept:
    bytes: int = 0


@contextlib.contextmanager
def _counting(module: nn.Module) -> Iterator[_Kept]:
    """Counts the bytes that autograd keeps for the backward pass, without the module's own; shared memory once."""
    kept = _Kept()
    own = (*module.parameters(), *module.buffers())
    seen: dict[int, Tensor] = {tensor.untyped_storage().data_ptr(): tensor for tensor in own}

    def pack(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in seen:
            seen[place] = tensor  # held, so that its address is not given to another tensor meanwhile
            kept.bytes += tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def _held(module: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Bytes of parameters, buffers, gradients and the optimizer's state."""
    total = sum(p.nbytes + (p.grad.nbytes if p.grad is not None else 0) for p in module.parameters())
    total += sum(b.nbytes for b in module.buffers())
    states = optimizer.state.values()
    return total + sum(v.nbytes for state in states for v in state.values() if isinstance(v, Tensor))


def _resident(field: str, *, reset_peak: bool = False) -> int:
    """Bytes of a field of the process's status; 0 where the system does not tell."""
    try:
        if reset_peak:
            _RESET.write_text("5")  # resets VmHWM (proc(5))
        for line in _STATUS.read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
