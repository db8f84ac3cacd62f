"""Key figures of a federation, held against the targets of its policy: pure, from what rounds and versions there were.

Means, never the best of several: an accuracy is the head's, which is what devices run.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Final

from mhfl_mq.policy.compiled import Kpi
from mhfl_mq.policy.conditions import COMPARE, NUMBER_CONDITION
from mhfl_mq.policy.quantities import parse_bytes, parse_duration, show_bytes, show_duration

__all__ = ["METRICS", "History", "Judged", "Metric", "RoundDone", "VersionDone", "judge", "read_target", "worst_tenth"]


@dataclass(frozen=True, slots=True)
class RoundDone:
    """A round that has ended. Times are seconds since 1970, `updates` the bytes and training seconds of each."""

    began: float
    ended: float
    invited: int
    updates: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class VersionDone:
    """A version, when it was made, and its metric by tier."""

    at: float
    accuracy: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class History:
    """What there was: rounds and versions, oldest first, and the tier of each device that belongs to the federation."""

    rounds: Sequence[RoundDone] = ()
    versions: Sequence[VersionDone] = ()
    tiers: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure: what it means, how it is written and shown, and how it is had from a history (None: no data)."""

    says: str
    read: Callable[[str], float]
    show: Callable[[float], str]
    measure: Callable[[Kpi, History], float | None]


@dataclass(frozen=True, slots=True)
class Judged:
    """A key figure and what it is now; `met` is None where there is nothing to measure yet."""

    kpi: Kpi
    actual: float | None
    met: bool | None

    @property
    def target(self) -> str:
        """The target as it reads."""
        return f"{self.kpi.operator} {METRICS[self.kpi.metric].show(self.kpi.target)}"

    @property
    def shown(self) -> str:
        """The figure as it reads."""
        return "no data" if self.actual is None else METRICS[self.kpi.metric].show(self.actual)


def judge(kpis: Sequence[Kpi], history: History, now: float) -> tuple[Judged, ...]:
    """Each key figure over its window, which ends now, against its target."""
    return tuple(_judged(kpi, history, now) for kpi in kpis)


def _judged(kpi: Kpi, history: History, now: float) -> Judged:
    since = -math.inf if kpi.window_s is None else now - kpi.window_s
    rounds = [one for one in history.rounds if one.ended > since]
    actual = METRICS[kpi.metric].measure(kpi, History(rounds, history.versions, history.tiers))
    return Judged(kpi, actual, None if actual is None else COMPARE[kpi.operator](actual, kpi.target))


def read_target(metric: str, written: str) -> tuple[str, float]:
    """Comparison and number of a target such as `<= 2MB`; raises `ValueError` with what to write after `; `."""
    match = re.fullmatch(r"\s*(>=|<=|>|<)\s*(\S.*?)\s*", written)
    try:
        if match is not None:
            return match[1], METRICS[metric].read(match[2])
    except ValueError:
        pass
    example = {"bytes_per_device_round": "<= 2MB", "training_per_device_round": "<= 30s", "time_to_accuracy": "<= 2h"}
    raise ValueError(f"not a target of {metric}: '{written[:40]}'; write e.g. \"{example.get(metric, '>= 0.9')}\"")


# ---- the figures ------------------------------------------------------------------------------------------------


def worst_tenth(values: Sequence[float]) -> float:
    """The mean of the worst tenth, of one value at least."""
    return fmean(sorted(values)[: max(1, round(len(values) / 10))])


def _participation(_kpi: Kpi, history: History) -> float | None:
    invited = sum(one.invited for one in history.rounds)
    return sum(len(one.updates) for one in history.rounds) / invited if invited else None


def _of_devices(version: VersionDone, tiers: Sequence[str]) -> list[float]:
    """What each device's tier makes of a version; where no device is known, what each tier makes of it."""
    held = [version.accuracy[tier] for tier in tiers if tier in version.accuracy]
    return held or list(version.accuracy.values())


def _accuracy(_kpi: Kpi, history: History) -> float | None:
    values = _of_devices(history.versions[-1], history.tiers) if history.versions else []
    return fmean(values) if values else None


def _worst(_kpi: Kpi, history: History) -> float | None:
    values = _of_devices(history.versions[-1], history.tiers) if history.versions else []
    return worst_tenth(values) if values else None


def _per_update(which: int) -> Callable[[Kpi, History], float | None]:
    def measure(_kpi: Kpi, history: History) -> float | None:
        values = [update[which] for one in history.rounds for update in one.updates]
        return fmean(values) if values else None

    return measure


def _energy(kpi: Kpi, history: History) -> float | None:
    seconds = _per_update(1)(kpi, history)
    return None if seconds is None or kpi.watts is None else seconds * kpi.watts


def _time_to(kpi: Kpi, history: History) -> float | None:
    """From the first version to the first one that is good enough; infinite while none is."""
    if not history.versions or kpi.of is None:
        return None
    first = history.versions[0].at
    for version in history.versions:
        values = _of_devices(version, history.tiers)
        if values and fmean(values) >= kpi.of:
            return version.at - first
    return math.inf


def _number(written: str) -> float:
    match = re.fullmatch(NUMBER_CONDITION, f"== {written}")
    if match is None:
        raise ValueError(written)
    return float(match[2])


def _time(seconds: float) -> str:
    return "not reached" if seconds == math.inf else show_duration(seconds) if seconds else "0s"


METRICS: Final = {
    "participation_rate": Metric(
        "share of the invited devices whose update counted", _number, "{:.1%}".format, _participation
    ),
    "accuracy": Metric("the head's metric, mean over the devices' tiers", _number, "{:.4f}".format, _accuracy),
    "accuracy_worst_tenth": Metric(
        "the head's metric for the tenth of the devices whose tier is worst", _number, "{:.4f}".format, _worst
    ),
    "bytes_per_device_round": Metric("bytes of an update, mean", parse_bytes, show_bytes, _per_update(0)),
    "training_per_device_round": Metric("time of a training, mean", parse_duration, _time, _per_update(1)),
    "energy_per_device_round": Metric(
        "joules of a training, mean: an ESTIMATE, its time times `watts`", _number, "{:.4g} J".format, _energy
    ),
    "time_to_accuracy": Metric(
        "from the first version to the first whose accuracy is `of` or more", parse_duration, _time, _time_to
    ),
}
"""Each figure by its name in a policy."""
