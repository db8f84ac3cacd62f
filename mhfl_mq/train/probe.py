"""What a tier costs on this machine, measured: seconds per training step and peak bytes while training.

Memory is measured in two ways, and the larger is reported:

- **counted**: parameters, gradients, optimizer state, the minibatch and every tensor that autograd keeps for the
  backward pass; of all steps' the most. Exact and repeatable, but blind to the scratch memory of single operations.
- **resident**: how far the process's peak resident size (`VmHWM`, reset before the tier) rose above the resident size
  before the tier was built. Sees everything, but only to about +-16 MiB: the allocator keeps pages of earlier work and
  libraries touch pages of their own. So growth below `RESIDENT_NOISE` is not believed. Linux only.

Neither holds the fixed cost of the interpreter with torch (200 to 350 MB), which is the same for every tier.

Both are measured in a rehearsal (`Job.rehearsal`) of one first step, which carries what is done once a round, and as
many more as the method has kinds of steps (`Stepper.kinds`). A round's usual step has its share of both.
"""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
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

FEWEST_CYCLES: Final = 2
"""Rehearsals that are timed, beside a first one, which allocates, chooses kernels and fills caches and is counted."""
MOST_CYCLES: Final = 12
BUDGET_S: Final = 0.5
"""Seconds of measured steps per tier: with three tiers a probe stays near two seconds."""
ENOUGH_S: Final = 5.0
"""Seconds after which one timed rehearsal does: a hiccup is little beside it."""
RESIDENT_NOISE: Final = 16 * 1024 * 1024
"""Bytes of resident growth below which it says nothing about the tier."""

_WHOLE = Handicap()
_STATUS: Final = Path("/proc/self/status")
_RESET: Final = Path("/proc/self/clear_refs")


@dataclass(frozen=True, slots=True)
class Cost:
    """Measured cost of a tier: seconds of a round's usual step, so that a round of n steps takes n times as long, and
    peak bytes; already with the handicap's slowdown.
    """

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

    def begin(of: int, steps: int, *, rehearsal: bool = True) -> Stepper:
        base = models.layout.take(models.initial(0), of).copy()
        short, given = replace(options, steps=steps), dict(numbers or {})
        return method.begin(Job(models, of, base, examples, short, given, round_number=1, rehearsal=rehearsal))

    try:
        # What torch loads and allocates at its first step is no tier's cost.
        begin(0, options.steps, rehearsal=False).step(batch)
        before = _resident("VmRSS", reset_peak=True)
        cycle = 1 + begin(tier, options.steps).kinds
        stepper = begin(tier, cycle)
        peak = 0
        for _ in range(cycle):
            with _counting(stepper) as kept:
                stepper.step(batch)
            peak = max(peak, sum(tensor.nbytes for tensor in stepper.tensors()) + kept.most)
        step_s = _usual_step(lambda: begin(tier, cycle), cycle, options.steps, batch, clock)
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


def _usual_step(
    begin: Callable[[], Stepper], cycle: int, steps: int, batch: Examples, clock: Callable[[], float]
) -> float:
    """Seconds of the usual one of a round's `steps`: the mean of all kinds, and a share of what is done once a round.

    Neighbours on a machine make steps longer, never shorter: of each step of the cycle the lower quartile over the
    cycles measured counts. These are at least FEWEST_CYCLES (one, where that takes ENOUGH_S), then as many as BUDGET_S
    and MOST_CYCLES allow.
    """
    taken: list[list[float]] = [[] for _ in range(cycle)]
    spent, done = 0.0, 0
    while done < 1 or (done < FEWEST_CYCLES and spent < ENOUGH_S) or (done < MOST_CYCLES and spent < BUDGET_S):
        stepper = begin()
        for of_step in taken:
            begun = clock()
            stepper.step(batch)
            of_step.append(clock() - begun)
            spent += of_step[-1]
        done += 1
    first, *others = (one[0] if done == 1 else statistics.quantiles(one, n=4)[0] for one in taken)
    once = max(first - others[0], 0.0)  # the first step is like the second, and has more to do
    return max(statistics.fmean(others) + once / steps, 1e-9)


class _Live:
    """Bytes that autograd keeps now, and the most that they were; memory that several tensors share counts once."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        """Of `known` tensors, which live anyway, nothing counts; they are held, so that their addresses stay theirs."""
        self.most = 0
        self._now = 0
        self._known = {tensor.untyped_storage().data_ptr(): tensor for tensor in known}
        self._holders: dict[int, int] = {}

    def hold(self, tensor: Tensor) -> "_Saved":
        """What autograd keeps in the tensor's place, until it has gone back through the step that needs it."""
        storage = tensor.untyped_storage()
        place, size = storage.data_ptr(), storage.nbytes()
        if place not in self._known:
            self._holders[place] = self._holders.get(place, 0) + 1
            if self._holders[place] == 1:
                self._now += size
                self.most = max(self.most, self._now)
        return _Saved(self, tensor, place, size)

    def let_go(self, place: int, size: int) -> None:
        """One holder less."""
        if place in self._known:
            return
        self._holders[place] -= 1
        if not self._holders[place]:
            del self._holders[place]
            self._now -= size


class _Saved:
    """A tensor that autograd keeps; it says when it is let go."""

    def __init__(self, live: _Live, tensor: Tensor, place: int, size: int) -> None:
        self.tensor = tensor
        self._live, self._place, self._size = live, place, size

    def __del__(self) -> None:
        self._live.let_go(self._place, self._size)


@contextlib.contextmanager
def _counting(stepper: Stepper) -> Iterator[_Live]:
    """Counts the bytes that autograd keeps for the backward pass, without what lives anyway.

    A step may go forward and back several times: what one pass kept is gone when the next begins.
    """
    live = _Live(stepper.tensors())
    with saved_tensors_hooks(live.hold, lambda saved: saved.tensor):
        yield live


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
