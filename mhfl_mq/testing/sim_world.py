"""What a simulated federation learns: a tiny model of three tiers, a policy, and devices whose training is arithmetic.

Updates are vectors of small whole numbers, so that every sum is exact and each model can be recomputed.
"""

import asyncio
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final
from unittest import mock

import numpy as np

from mhfl_mq.errors import StoreError, TrainingFailed
from mhfl_mq.policy import (
    Algorithm,
    Budget,
    Condition,
    Gate,
    Limits,
    Participation,
    PerDevice,
    Policy,
    Quorum,
    Rule,
    Schedule,
    Tier,
    Window,
)
from mhfl_mq.run.ports import Founded, TrainResult
from mhfl_mq.segments import Axis, Layout, Parameter, Span, Vector
from mhfl_mq.segments import Tier as LayoutTier
from mhfl_mq.testing.faults import FaultPlan
from mhfl_mq.testing.invariants import Truth
from mhfl_mq.wire.messages import Capability, Offer, ProbeResult, Survey

__all__ = [
    "DEADLINE_S",
    "FEDERATION",
    "TASK",
    "Poison",
    "SimFoundation",
    "SimTrainer",
    "knobs",
    "sim_layout",
    "sim_policy",
]

FEDERATION: Final = "sim"
TASK: Final = "sim"
DEADLINE_S: Final = 40.0
FOR_EVER_S: Final = 1e9
CHUNK: Final = 64
"""Bytes, the smallest that the wire allows: an update of the largest tier has 13 chunks, more than a window."""
TIERS: Final = (("small", 0.2), ("medium", 0.5), ("large", 1.0))
LARGEST: Final = 8
"""Updates hold whole numbers up to this, examples up to half of it: exact in float32 and in every sum."""


def sim_layout(*, apart: bool = False) -> Layout:
    """Three tiers of 40, 100 and 200 coordinates.

    With `apart` they are no prefixes: 100 are shared by all, 40 by the two larger tiers, and each but the middle one
    has 60 of its own.
    """
    tiers = tuple(LayoutTier(name, width) for name, width in TIERS)
    if apart:
        own = [Parameter(f"{TIERS[k][0]}:head", (Axis(60),), only=k) for k in (0, 2)]
        shared = (Axis(14, group="units"), Axis(10))
        return Layout(tiers, {"units": (10, 14, 14)}, (own[1], Parameter("weight", shared), own[0]))
    axes = (Axis(20, group="units"), Axis(10))
    return Layout(tiers, {"units": (4, 10, 20)}, (Parameter("weight", axes),))


SCHEDULES: Final = (
    Schedule(),
    Schedule(),
    Schedule(windows=(Window("*/2 * * * *", 80.0),)),
    Schedule(blackouts=(Window("*/3 * * * *", 60.0),)),
    Schedule(cron="*/2 * * * *", within_s=70.0),
)
"""A round of `DEADLINE_S` fits in each of them again and again."""


IDLE: Final = Rule("idle", (Condition("idle", "is", True),))


def may_begin(schedule: Schedule, at: float) -> bool:
    """Whether one of these schedules allows a round at this second of the day; worked out by hand."""
    if schedule.windows:
        return at % 120 < 80 - DEADLINE_S
    if schedule.blackouts:
        return 60 <= at % 180 < 180 - DEADLINE_S
    return not schedule.cron or at % 120 < 70


def sim_policy(luck: random.Random, devices: int) -> Policy:
    """A policy with a cohort, quorum and interval of the seed's choice."""
    return Policy(
        name="sim",
        tiers=tuple(Tier(name, width, budget=Budget(step_s=1.0)) for name, width in TIERS),
        algorithm=Algorithm("heterofl", luck.choice(("uniform", "samples")), {"steps": 1, "batch": 1}),
        participation=Participation(
            cohort=luck.choice((None, max(2, devices // 2))),
            over_provision=luck.choice((1.0, 1.3)),
            quorum=Quorum(min=2, fraction=luck.choice((0.0, 0.5, 0.8))),
            deadline_s=DEADLINE_S,
            require=luck.choice(((), (), (IDLE,))),
        ),
        schedule=replace(
            luck.choice(SCHEDULES),
            interval_s=luck.choice((0.0, 1.0, 5.0)),
            per_device=PerDevice(min_interval_s=luck.choice((0.0, 0.0, 30.0))),
        ),
        gate=Gate(max_drop=0.5),
        limits=Limits(
            update_bytes=800,
            chunk_bytes=CHUNK,
            concurrent_uploads=luck.choice((1, 2, 4)),
            devices=devices + 4,
            max_weight=LARGEST,
            largest_value=LARGEST,
        ),
    )


@contextmanager
def knobs(luck: random.Random) -> Iterator[None]:
    """Turn limits that only cost speed to other values, so that small models take the paths of large ones."""
    inline = luck.choice((0, 200, 32 * 1024))
    with ExitStack() as undo:
        for module, name, value in (
            ("mhfl_mq.run.sharing", "INLINE_LIMIT", inline),
            ("mhfl_mq.run.device", "INLINE_LIMIT", inline),
            ("mhfl_mq.run.bench", "THREAD_FROM", luck.choice((0, 150, 2**20))),
            ("mhfl_mq.run.collecting", "THREAD_FROM", luck.choice((0, 300, 2**20))),
        ):
            undo.enter_context(mock.patch(f"{module}.{name}", value))
        yield


class Poison:
    """What a device does wrong on purpose; none of it may be counted."""

    KINDS: Final = ("nan", "infinite", "large", "short", "long", "ragged")

    @classmethod
    def spoil(cls, update: Vector, luck: random.Random) -> bytes:
        """The update's bytes, spoiled in one way."""
        raw = update.tobytes()
        kind = luck.choice(cls.KINDS)
        if kind == "short":
            return raw[:-4]
        if kind == "long":
            return raw + raw[:4]
        if kind == "ragged":
            return raw[:-1]
        spoiled = update.copy()
        spoiled[luck.randrange(len(spoiled))] = {"nan": np.nan, "infinite": np.inf, "large": LARGEST + 1}[kind]
        return spoiled.tobytes()


class SimFoundation:
    """A model of zeros. Evaluating takes a while, and now and then finds the model worse than the gate allows."""

    def __init__(self, truth: Truth, plan: FaultPlan, luck: random.Random, faulty: Callable[[], bool]) -> None:
        self._truth = truth
        self._plan = plan
        self._luck = luck
        self._faulty = faulty

    async def found(self, policy: Policy, folder: Path | None) -> Founded:
        """The layout, and zeros."""
        layout = self._truth.layout
        if folder is None:
            return Founded(layout)
        out = folder / "first-weights.f32"
        await asyncio.sleep(self._luck.random())
        out.write_bytes(bytes(4 * layout.total))
        return Founded(layout, flat=out)

    async def evaluate(self, policy: Policy, flat: Path) -> Mapping[str, float]:
        """The same figure for every tier: 1, or 0 for a bad model."""
        await asyncio.sleep(self._luck.uniform(0.1, 5.0))
        fate = self._luck.random() if self._faulty() and self._truth.head is not None else 1.0
        if fate < self._plan.gate_no / 4:
            raise TrainingFailed("the simulated evaluation failed")
        figure = 0.0 if fate < self._plan.gate_no else 1.0
        return {f"accuracy/{tier.name}": figure for tier in policy.tiers}

    async def conclude(
        self, policy: Policy, *, head: Span, merged: Path, updates: Sequence[tuple[Path, int, float]], round_number: int
    ) -> None:
        """The mean is the new version."""

    async def close(self) -> None:
        """Nothing to end."""


class SimTrainer:
    """Trains one device: virtual seconds by its speed, whole numbers for an update. `poison`: how often it is bad."""

    def __init__(
        self,
        device: str,
        strength: int,
        scratch: Path,
        *,
        truth: Truth,
        plan: FaultPlan,
        luck: random.Random,
        faulty: Callable[[], bool],
        resting: Callable[[], bool],
        note: Callable[[str], None],
        poison: float = 0.0,
    ) -> None:
        self._device = device
        self._strength = strength
        self._scratch = scratch
        self._truth = truth
        self._plan = plan
        self._luck = luck
        self._faulty = faulty
        self._resting = resting
        self._note = note
        self._poison = poison
        self._count = 0

    async def check(self) -> None:
        """There is nothing to load."""

    async def probe(self, survey: Survey, session: int) -> Capability:
        """Tiers above the device's strength are too slow for the policy's budget."""
        await asyncio.sleep(self._luck.uniform(0.1, 5.0))
        probes = tuple(
            ProbeResult(tier.name, 0.5 if k <= self._strength else 2.0, 1) for k, tier in enumerate(survey.tiers)
        )
        return Capability(session, self._truth.layout.digest, 100, 0.0, probes)

    async def train(
        self, survey: Survey, offer: Offer, segments: Sequence[Path], began: Callable[[], None]
    ) -> TrainResult:
        """Check the base, take time, and make an update."""
        luck = self._luck
        flat = np.concatenate([np.fromfile(path, "<f4") for path in segments])
        self._truth.base_is(offer.base, offer.tier, flat)
        seconds = luck.uniform(1.0, 8.0)
        if self._faulty() and luck.random() < self._plan.slow:
            self._note("training.slow")
            seconds *= 10
        began()
        await asyncio.sleep(seconds if not self._resting() else FOR_EVER_S)
        if self._faulty() and luck.random() < self._plan.fail:
            self._note("training.failed")
            raise TrainingFailed("the simulated training failed")
        examples = float(luck.randint(1, LARGEST // 2))
        # Now and then devices of one tier come to the very same update: its blob has the same name.
        twins = random.Random(f"{offer.round}") if luck.random() < 0.3 else luck
        delta = np.array([twins.randint(-LARGEST, LARGEST) for _ in flat], np.float32)
        self._count += 1
        out = self._scratch / f"update-{offer.round}-{self._count}.f32"
        raw = delta.tobytes()
        if self._faulty() and luck.random() < self._poison:
            raw = Poison.spoil(delta, luck)
            self._note("update.poisoned")
        else:
            self._truth.trained(offer.round, self._device, offer.base, offer.tier, delta, examples)
        try:
            out.write_bytes(raw)
        except OSError as error:
            raise StoreError(str(error), where=str(out)) from error
        return TrainResult(out, examples, {"seconds": seconds, "loss": luck.random()})

    async def close(self) -> None:
        """Nothing to end."""
