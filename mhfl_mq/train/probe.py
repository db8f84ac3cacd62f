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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from mhfl_mq.errors import TrainingFailed
from mhfl_mq.train.model import TaskModels
from mhfl_mq.train.options import Handicap, TrainOptions
from mhfl_mq.train.steps.base import Job, Method, Stepper
from mhfl_mq.train.task import Examples

__all__ = ["Cost", "probe_tier"]

CYCLE: Final = 4
"""Steps that are measured one by one: an algorithm's steps may differ, as those that train one block after the other.
The first cycle, which allocates, chooses kernels and fills caches, is counted but not timed."""
FEWEST_CYCLES: Final = 2
MOST_CYCLES: Final = 12
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
    method: Method,
    models: TaskModels,
    tier: int,
    examples: Examples,
    options: TrainOptions,
    *,
    numbers: Mapping[str, float] | None = None,
    handicap: Handicap = _WHOLE,
    clock: Callable[[], float] = time.perf_counter,
) -> Cost:
    """Train the tier for a moment on the device's own examples, as the algorithm does it; nothing of it is kept.

    Raises `TrainingFailed` when the tier does not run here, or needs more than the handicap's memory.
    """
    name = models.tiers[tier].name
    size = min(options.batch, len(examples))
    # A copy: a view would make autograd hold, and the count show, all of the device's data.
    batch = Examples(examples.inputs[:size].clone(), examples.targets[:size].clone())
    short = replace(options, steps=CYCLE)

    def begin(of: int) -> Stepper:
        base = models.layout.take(models.initial(0), of).copy()
        return method.begin(Job(models, of, base, examples, short, dict(numbers or {}), round_number=1))

    try:
        begin(0).step(batch)  # what torch loads and allocates at its first step is no tier's cost
        before = _resident("VmRSS", reset_peak=True)
        stepper = begin(tier)
        peak = 0
        for _ in range(CYCLE):
            with _counting(stepper) as kept:
                stepper.step(batch)
            peak = max(peak, sum(tensor.nbytes for tensor in stepper.tensors()) + kept.bytes)
        step_s = _usual_step(lambda: begin(tier), batch, clock)
    except (RuntimeError, MemoryError) as error:
        told = str(error).strip().split("\n", 1)[0]
        raise TrainingFailed(f"{type(error).__name__}: {told}", where=f"tier {name!r}") from error
    counted = peak + batch.inputs.nbytes + batch.targets.nbytes
    growth = _resident("VmHWM") - before
    peak = max(counted, growth) if growth > RESIDENT_NOISE else counted
    if handicap.memory_bytes and peak > handicap.memory_bytes:
        raise TrainingFailed(
            f"training needs {peak} bytes, this device has {handicap.memory_bytes}", where=f"tier {name!r}"
        )
    return Cost(step_s * handicap.slowdown, peak)


def _usual_step(begin: Callable[[], Stepper], batch: Examples, clock: Callable[[], float]) -> float:
    """Mean over a cycle's steps of each step's usual seconds (the lower quartile over the cycles measured).

    Neighbours on a machine make steps longer, never shorter. Measures at least FEWEST_CYCLES, then until BUDGET_S or
    MOST_CYCLES.
    """
    taken: list[list[float]] = [[] for _ in range(CYCLE)]
    spent = 0.0
    while len(taken[0]) < FEWEST_CYCLES or (len(taken[0]) < MOST_CYCLES and spent < BUDGET_S):
        stepper = begin()
        for of_step in taken:
            begun = clock()
            stepper.step(batch)
            of_step.append(clock() - begun)
            spent += of_step[-1]
    return max(statistics.fmean(statistics.quantiles(of_step, n=4)[0] for of_step in taken), 1e-9)


@dataclass(slots=True)
class _Kept:
    bytes: int = 0


@contextlib.contextmanager
def _counting(stepper: Stepper) -> Iterator[_Kept]:
    """Counts the bytes that autograd keeps for the backward pass, without what lives anyway; shared memory once."""
    kept = _Kept()
    seen: dict[int, Tensor] = {tensor.untyped_storage().data_ptr(): tensor for tensor in stepper.tensors()}

    def pack(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in seen:
            seen[place] = tensor  # held, so that its address is not given to another tensor meanwhile
            kept.bytes += tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


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
