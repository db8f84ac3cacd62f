"""What the training child answers, as the agent sees it: plain data, no torch."""

from collections.abc import Mapping
from dataclasses import dataclass

from mhfl_mq.segments import Layout
from mhfl_mq.wire.messages import ProbeResult

__all__ = ["BASELINES", "BaselineReport", "Description", "Participant", "ProbeReport", "TrainReport"]

BASELINES = ("smallest-on-all", "exclusive-largest", "local-only", "same-tiers")
"""What `Worker.baseline` can run; see `mhfl_mq.train.baselines`."""


@dataclass(frozen=True, slots=True)
class Description:
    """A task's layout over the tiers that were asked for, and how the task calls its metric."""

    layout: Layout
    metric: str


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What each tier costs on this device; `left_out` says why a tier does not run here. `layout` is the digest."""

    layout: str
    examples: int
    probes: tuple[ProbeResult, ...]
    left_out: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class TrainReport:
    """A finished training: what it weighs and the device's metrics (loss_first, loss_last, seconds, cpu_s, ...)."""

    weight: float
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Participant:
    """One device of a baseline: which data it has and which tier it carries in the federation."""

    shard: str
    tier: int


@dataclass(frozen=True, slots=True)
class BaselineReport:
    """A baseline's `score` (the mean of its last rounds, not the best), each tier's, the seconds that it took."""

    score: float
    tiers: Mapping[str, float]
    seconds: float
