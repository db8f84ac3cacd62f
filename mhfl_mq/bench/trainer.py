"""What trains in a simulated federation: the real jobs in this process, in virtual seconds of the devices' profiles."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mhfl_mq.bench.fleet import NEVER_S, Budgets, Cost, Device, capability
from mhfl_mq.policy import Policy
from mhfl_mq.run.ports import Founded, TrainResult
from mhfl_mq.run.training import TaskFoundation, TaskTrainer
from mhfl_mq.segments import Span, Vector
from mhfl_mq.wire.messages import Capability, Offer, Survey

__all__ = ["BenchFoundation", "BenchTrainer", "Spent"]

PROBE_STEPS = 50
"""Steps per tier that a device's probe takes of its time; what they cost was measured before."""


@dataclass(slots=True)
class Spent:
    """What training took of a device: virtual seconds of its profile, real seconds of this machine's processor."""

    compute_s: float = 0.0
    real_s: float = 0.0
    trainings: int = 0


class BenchTrainer:
    """Trains one device. `costs` are those of the tiers of its federation; `examples` how many it has."""

    def __init__(
        self, inner: TaskTrainer, device: Device, costs: Sequence[Cost], budgets: Budgets, examples: int, spent: Spent
    ) -> None:
        self._inner = inner
        self._device = device
        self._costs = costs
        self._budgets = budgets
        self._examples = examples
        self._spent = spent

    async def check(self) -> None:
        """The task is loaded: the first weights were made of it."""

    async def probe(self, survey: Survey, session: int) -> Capability:
        """What was measured once for all devices, as this device's profile would have measured it."""
        profile = self._device.profile
        measured = sum(cost.step_s for cost in self._costs if cost.step_s < NEVER_S)
        await asyncio.sleep(PROBE_STEPS * measured * profile.slowdown)
        names = [tier.name for tier in survey.tiers]
        return capability(
            names,
            self._costs,
            profile,
            self._budgets,
            session=session,
            layout=survey.layout,
            examples=self._examples,
        )

    async def train(
        self, survey: Survey, offer: Offer, segments: Sequence[Path], began: Callable[[], None]
    ) -> TrainResult:
        """Let the time pass that the device needs, then train: who is stopped before has cost nothing."""
        seconds = offer.options.get("steps", 1.0) * self._costs[offer.tier].step_s * self._device.profile.slowdown
        began()
        await asyncio.sleep(seconds)
        result = await self._inner.train(survey, offer, segments, began)
        self._spent.compute_s += seconds
        self._spent.real_s += result.metrics.get("cpu_s", 0.0)
        self._spent.trainings += 1
        # What this machine's clock showed stays here: nothing of a run may depend on it.
        step_s = self._costs[offer.tier].step_s * self._device.profile.slowdown
        simulated = {**result.metrics, "seconds": seconds, "cpu_s": seconds, "step_s": step_s}
        return TrainResult(result.update, result.weight, simulated)

    async def close(self) -> None:
        """Nothing to end."""


@dataclass(slots=True)
class BenchFoundation:
    """The task's first weights and evaluation; keeps the model that was evaluated last.

    Evaluates every `every`-th version and all after version `all_from`; for the others the last figures stand, since
    the gate wants some. `measured` are the versions that were evaluated, by the count of merges (0: the first weights).
    """

    inner: TaskFoundation
    every: int
    all_from: int
    measured: set[int] = field(default_factory=set)
    flat: Vector = field(default_factory=lambda: np.empty(0, np.float32))
    _merges: int = -1
    _figures: Mapping[str, float] = field(default_factory=dict)

    async def found(self, policy: Policy, folder: Path | None) -> Founded:
        """The layout of the task's models, and their first version."""
        return await self.inner.found(policy, folder)

    async def conclude(
        self, policy: Policy, *, head: Span, merged: Path, updates: Sequence[tuple[Path, int, float]], round_number: int
    ) -> None:
        """The algorithm's own step at the aggregator, which takes no virtual time: that machine is not simulated."""
        await self.inner.conclude(policy, head=head, merged=merged, updates=updates, round_number=round_number)

    async def evaluate(self, policy: Policy, flat: Path) -> Mapping[str, float]:
        """The task's metric of every tier; nothing where devices report their own."""
        self._merges += 1
        self.flat = np.fromfile(flat, "<f4").astype(np.float32, copy=False)
        if self._merges % self.every == 0 or self._merges > self.all_from:
            self._figures = await self.inner.evaluate(policy, flat)
            self.measured.add(self._merges)
        if not self._figures:  # they do, every round
            self.measured.add(self._merges)
        return self._figures

    async def close(self) -> None:
        """Nothing to end."""
