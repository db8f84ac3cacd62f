"""What is measured of a run, as plain numbers for a JSON file. Everything here is a function of facts."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final

from mhfl_mq.bench.fleet import Device
from mhfl_mq.policy.kpi import worst_tenth

__all__ = ["DeviceFacts", "Point", "energy_j", "last_mean", "mean_over_tiers", "stability", "time_to", "worst_tenth"]

WINDOW: Final = 3
"""Rounds of the moving mean that must reach a target: one lucky round is not there."""


@dataclass(frozen=True, slots=True)
class Point:
    """The tiers' accuracies after a round, and the virtual seconds until then."""

    round: int
    seconds: float
    accuracy: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """One device's share of a run. Bytes are payloads; seconds are virtual but for `real_s`."""

    device: Device
    tier: str | None
    invited: int = 0
    counted: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    compute_s: float = 0.0
    real_s: float = 0.0
    transfer_s: float = 0.0
    local: float | None = None

    def document(self, seconds: float) -> dict[str, Any]:
        """For the JSON of a run that took so many virtual seconds."""
        return {
            "name": self.device.name,
            "shard": self.device.shard,
            "profile": self.device.profile.name,
            "tier": self.tier,
            "rounds_invited": self.invited,
            "rounds_counted": self.counted,
            "bytes_up": self.bytes_up,
            "bytes_down": self.bytes_down,
            "compute_s_simulated": self.compute_s,
            "compute_s_real": self.real_s,
            "transfer_s_simulated": self.transfer_s,
            "local_accuracy": self.local,
            "energy_j_estimate": energy_j(self, seconds),
        }


def energy_j(facts: DeviceFacts, seconds: float) -> float:
    """An ESTIMATE of joules: the profile's watts for what the device did of a run's seconds."""
    profile = facts.device.profile
    rest = max(0.0, seconds - facts.compute_s - facts.transfer_s)
    return profile.active_w * facts.compute_s + profile.radio_w * facts.transfer_s + profile.idle_w * rest


def mean_over_tiers(accuracy: Mapping[str, float], carried: Sequence[str]) -> float:
    """The mean over the tiers that devices carry; nan when there is none."""
    values = [accuracy[name] for name in carried if name in accuracy]
    return fmean(values) if values else math.nan


def last_mean(curve: Sequence[Point], last: int) -> dict[str, float]:
    """Each tier's mean over the last so many points: never the best one."""
    points = curve[-last:]
    names = dict.fromkeys(name for point in points for name in point.accuracy)
    return {name: fmean(one.accuracy[name] for one in points if name in one.accuracy) for name in names}


def time_to(curve: Sequence[Point], carried: Sequence[str], target: float) -> float | None:
    """Virtual seconds until the moving mean of the mean over tiers reached the target; None: never."""
    values = [mean_over_tiers(point.accuracy, carried) for point in curve]
    for end in range(WINDOW, len(values) + 1):
        if fmean(values[end - WINDOW : end]) >= target:
            return curve[end - 1].seconds
    return None


def stability(local: Sequence[float]) -> dict[str, float | None]:
    """How evenly devices are served: mean, variance and worst tenth of their local accuracies."""
    if not local:
        return {"mean": None, "variance": None, "worst_tenth": None}
    return {
        "mean": fmean(local),
        "variance": statistics.pvariance(local),
        "worst_tenth": worst_tenth(local),
    }
