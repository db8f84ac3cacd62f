"""What the training child is asked about and what it answers, as the agent sees it: plain data, no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from mhfl_mq.families import Algorithm, algorithm_numbers, make_algorithm
from mhfl_mq.segments import Layout, Tier
from mhfl_mq.wire.messages import ProbeResult, TierSpec

__all__ = ["BASELINES", "BaselineReport", "Description", "Participant", "ProbeReport", "Subject", "TrainReport"]

BASELINES = ("smallest-on-all", "exclusive-largest", "local-only", "same-tiers")
"""What `Worker.baseline` can run; see `mhfl_mq.train.baselines`."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What a job is about: the tiers (smallest first), the algorithm, and all numbers of both halves and of training.

    `weighting` is the policy's word; empty: the algorithm's own default. `public` is the SHA-256 of the public examples
    as the aggregator has them; empty: as this side has them.
    """

    tiers: tuple[Tier, ...]
    algorithm: str = "heterofl"
    options: Mapping[str, float] = field(default_factory=dict)
    weighting: str = ""
    public: str = ""

    @classmethod
    def of(
        cls,
        tiers: Sequence[TierSpec | Tier],
        algorithm: str = "heterofl",
        options: Mapping[str, float] | None = None,
        *,
        weighting: str = "",
        public: str = "",
    ) -> Self:
        """The subject of these tiers, as they stand in a layout or a survey."""
        plain = tuple(Tier(tier.name, float(tier.width), tier.depth, tier.architecture) for tier in tiers)
        return cls(plain, algorithm, dict(options or {}), weighting, public)

    def make(self) -> Algorithm:
        """The algorithm with its own numbers."""
        known = algorithm_numbers(self.algorithm)
        options: dict[str, object] = {name: value for name, value in self.options.items() if name in known}
        return make_algorithm(self.algorithm, options | ({"weighting": self.weighting} if self.weighting else {}))

    def document(self) -> dict[str, Any]:
        """As plain values, for a frame to the child."""
        return {
            "tiers": [[tier.name, tier.width, tier.depth, tier.architecture] for tier in self.tiers],
            "algorithm": self.algorithm,
            "options": dict(self.options),
            "weighting": self.weighting,
            "public": self.public,
        }

    @classmethod
    def plain(cls, document: Mapping[str, Any]) -> Self:
        """The subject of such a document."""
        tiers = tuple(Tier(name, float(width), int(depth), kind) for name, width, depth, kind in document["tiers"])
        options = {str(name): float(value) for name, value in document["options"].items()}
        return cls(tiers, document["algorithm"], options, document["weighting"], document["public"])


@dataclass(frozen=True, slots=True)
class Description:
    """A task's layout, how the task calls its metric, and the SHA-256 of the public set that the algorithm needs."""

    layout: Layout
    metric: str
    public: str = ""


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
