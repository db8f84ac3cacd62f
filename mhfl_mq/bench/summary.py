"""From the cells' documents to the rows of a report: each method under each constraint on each data set, over seeds."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Final

from mhfl_mq.bench.methods import BASELINES, EXCLUSIVE, SMALLEST

__all__ = ["FEWEST_SEEDS", "Row", "Spread", "honest", "not_beaten", "rows_of", "spread_of"]

FEWEST_SEEDS: Final = 3
"""With fewer seeds a spread says nothing, and the report says so."""

MISSING_NAMED: Final = 6
"""Missing cells that a report names."""

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over seeds: mean, sample standard deviation (None with one seed), and how many seeds."""

    mean: float
    deviation: float | None
    seeds: int

    def __str__(self) -> str:
        return self.show(3)

    def show(self, digits: int) -> str:
        """As text, e.g. `0.871 ± 0.004`."""
        text = f"{self.mean:.{digits}f}"
        return text if self.deviation is None else f"{text} ± {self.deviation:.{digits}f}"


def spread_of(values: Sequence[float | None]) -> Spread | None:
    """The spread of the values that there are; None when there is none."""
    there = [value for value in values if value is not None]
    if not there:
        return None
    return Spread(fmean(there), statistics.stdev(there) if len(there) > 1 else None, len(there))


@dataclass(slots=True)
class Row:
    """A method under a constraint on a data set. Figures are over its seeds; per device where it is said so.

    `over_smallest`: its mean over tiers less the accuracy of the smallest tier on all, paired by seed.
    `largest_over_smallest`: its largest tier less that accuracy, paired by seed.
    `over_exclusive`: its largest tier less the largest tier trained exclusively, paired by seed.
    `reached`: in how many seeds the target was reached; `to_target_s` is over those.
    """

    data: str
    constraint: str
    method: str
    seeds: tuple[int, ...]
    tiers: dict[str, Spread] = field(default_factory=dict)
    devices: dict[str, float] = field(default_factory=dict)  # by tier, mean over seeds
    mean: Spread | None = None
    of_devices: Spread | None = None
    largest: Spread | None = None
    over_smallest: Spread | None = None
    largest_over_smallest: Spread | None = None
    over_exclusive: Spread | None = None
    to_target_s: Spread | None = None
    reached: int = 0
    variance: Spread | None = None
    worst_tenth: Spread | None = None
    up_bytes: Spread | None = None  # per device
    down_bytes: Spread | None = None  # per device
    compute_s: Spread | None = None  # per device, simulated
    real_s: Spread | None = None  # per device, of this machine
    participation: Spread | None = None
    energy_j: Spread | None = None  # per device, an estimate
    aborted: int = 0
    impossible: int = 0


def rows_of(documents: Sequence[Document]) -> list[Row]:
    """The rows, in the order in which their cells come."""
    groups: dict[tuple[str, str, str], list[Document]] = {}
    for one in documents:
        cell = one["cell"]
        groups.setdefault((cell["data"], cell["constraint"], cell["method"]), []).append(one)
    return [_row(key, cells, groups) for key, cells in groups.items()]


def _row(
    key: tuple[str, str, str], cells: Sequence[Document], groups: Mapping[tuple[str, str, str], Sequence[Document]]
) -> Row:
    data, constraint, method = key
    done = [one for one in cells if one["outcome"] == "done"]
    row = Row(data, constraint, method, tuple(sorted(one["cell"]["seed"] for one in done)))
    row.impossible = len(cells) - len(done)
    if not done:
        return row

    def over(figure: Callable[[Document], float | None]) -> Spread | None:
        return spread_of([figure(one) for one in done])

    def each(name: str) -> Spread | None:
        return over(lambda one: one[name] / len(one["devices"]))

    names = dict.fromkeys(name for one in done for name in one["accuracy"])
    for name in names:
        found = over(lambda one, name=name: one["accuracy"].get(name))  # type: ignore[misc]  # its default is its value
        if found is not None:
            row.tiers[name] = found
        row.devices[name] = fmean(sum(tier["devices"] for tier in one["tiers"] if tier["name"] == name) for one in done)
    row.mean, row.largest = over(lambda one: one["mean"]), over(lambda one: one["largest"])
    row.of_devices = over(lambda one: one["of_devices"])
    smallest = groups.get((data, constraint, SMALLEST), ())
    row.over_smallest = _paired(done, smallest, "mean", "mean")
    row.largest_over_smallest = _paired(done, smallest, "largest", "mean")
    row.over_exclusive = _paired(done, groups.get((data, constraint, EXCLUSIVE), ()), "largest", "largest")
    row.to_target_s = over(lambda one: one["seconds_to_target_simulated"])
    row.reached = 0 if row.to_target_s is None else row.to_target_s.seeds
    row.variance = over(lambda one: one["stability"]["variance"])
    row.worst_tenth = over(lambda one: one["stability"]["worst_tenth"])
    row.up_bytes, row.down_bytes = each("bytes_up"), each("bytes_down")
    row.compute_s, row.real_s = each("compute_s_simulated"), each("compute_s_real")
    row.energy_j = each("energy_j_estimate")
    row.participation = over(lambda one: one["participation"])
    row.aborted = sum(len(one["aborted"]) for one in done)
    return row


def _paired(ours: Sequence[Document], theirs: Sequence[Document], mine: str, his: str) -> Spread | None:
    """Our figure less the other's, seed by seed."""
    other = {one["cell"]["seed"]: one[his] for one in theirs if one["outcome"] == "done"}
    pairs = [(one[mine], other.get(one["cell"]["seed"])) for one in ours]
    return spread_of([one - two for one, two in pairs if one is not None and two is not None])


def not_beaten(rows: Sequence[Row], methods: Sequence[str]) -> list[str]:
    """Those of the methods whose largest tier nowhere beats the smallest model on all devices beyond the spread."""
    missed = []
    for method in methods:
        found = [(row, row.largest_over_smallest) for row in rows if row.method == method]
        if not any(gain is not None and _proven(gain) for _, gain in found):
            each = "; ".join(f"{row.data} {'-' if gain is None else _apart(gain)}" for row, gain in found) or "not run"
            missed.append(f"{method}: its largest tier is not above {SMALLEST} beyond the spread of the seeds ({each})")
    return missed


def _proven(gain: Spread) -> bool:
    """Whether a gain is beyond the spread of enough seeds."""
    return gain.seeds >= FEWEST_SEEDS and gain.deviation is not None and gain.mean > gain.deviation


def honest(rows: Sequence[Row], missing: Sequence[str]) -> list[str]:
    """What a reader must know before believing the table, one sentence each."""
    lines = []
    fewest = min((len(row.seeds) for row in rows if not row.impossible), default=FEWEST_SEEDS)
    if fewest < FEWEST_SEEDS:
        lines.append(
            f"Only {fewest} seed(s) for some rows: with fewer than {FEWEST_SEEDS}, differences are not proven."
        )
    if missing:
        some = ", ".join(missing[:MISSING_NAMED]) + (", ..." if len(missing) > MISSING_NAMED else "")
        lines.append(f"{len(missing)} cells are missing (failed or not run yet): {some}.")
    for row in rows:
        lines += [f"{row.data}, {row.constraint}, {row.method}: {says}" for says in _of_row(row)]
    return lines


def _of_row(row: Row) -> list[str]:
    says = []
    if row.impossible:
        says.append(f"in {row.impossible} seed(s) no device carries the tier that it takes.")
    if row.method in BASELINES:
        return says
    if row.over_exclusive is not None and row.over_exclusive.mean < 0:
        says.append(f"LOSES to exclusion on the largest tier: {_apart(row.over_exclusive)}.")
    if row.over_smallest is not None and row.over_smallest.mean < 0:
        says.append(f"LOSES to the smallest model on all devices, on the mean over tiers: {_apart(row.over_smallest)}.")
    if row.largest is not None:
        for name, spread in row.tiers.items():
            if spread.mean > row.largest.mean:
                says.append(f"the largest tier ({row.largest}) is worse than the tier {name} ({spread}).")
    if row.reached < len(row.seeds):
        says.append(f"the target was reached in {row.reached} of {len(row.seeds)} seeds.")
    if row.aborted:
        says.append(f"{row.aborted} round(s) were aborted.")
    return says


def _apart(spread: Spread) -> str:
    if spread.deviation is None:
        return f"{spread.mean:+.3f}, one seed"
    within = "beyond" if abs(spread.mean) > spread.deviation else "within"
    return f"{spread.mean:+.3f} ± {spread.deviation:.3f}, {within} the spread of {spread.seeds} seeds"
