"""The report of a benchmark: results.json, report.md, and plots where matplotlib is there."""

import datetime
import json
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import mhfl_mq
from mhfl_mq.bench.matrix import Matrix, cells_of, read_cell
from mhfl_mq.bench.methods import BASELINES
from mhfl_mq.bench.plots import draw
from mhfl_mq.bench.profiles import constraints, profiles
from mhfl_mq.bench.sets import SETS
from mhfl_mq.bench.summary import Row, Spread, honest, rows_of
from mhfl_mq.store.files import RealFiles, atomic_write, explained

__all__ = ["COLUMNS", "machine", "markdown", "table_rows", "write_report"]

RESULTS: Final = "results.json"
REPORT: Final = "report.md"
COLUMNS: Final = (
    "method",
    "accuracy by tier",
    "mean over tiers",
    "largest tier",
    "gain over smallest",
    "gain over exclusive",
    "s to target",
    "worst tenth",
    "variance",
    "MB up",
    "MB down",
    "compute s",
    "compute s here",
    "participation",
    "energy J (estimate)",
)
"""Bytes, seconds and joules are per device; seconds are simulated but for those here."""
READING: Final = """
Accuracies are on the test part, mean of the last rounds (never the best one), ± the standard deviation over seeds.
*Gain over smallest*: mean over tiers less the smallest model trained on all devices, paired by seed. *Gain over
exclusive*: the largest tier less the largest model trained only on the devices that can hold it. *Worst tenth* and
*variance* are over the devices' own test data (over all test data where a task has no others). Bytes, seconds and
joules are per device. Seconds are of a simulated clock: steps measured on this machine, times the slowdown of the
device's profile, and bytes over its link; *compute s here* is processor time of this machine. Joules are an ESTIMATE
from the profiles' watts. Budgets are placed so that the fleet divides as planned under the costs of heterofl, and are
the same for every method over the same kind of tiers (widths, depths, both); for unrelated architectures they are
placed by the method's own costs. A tier is what fits by measured cost. Where the last tier is the aggregator's own
(feddf, fedet), devices carry the others.
"""


def write_report(
    matrix: Matrix, out: Path, say: Callable[[str], None] = lambda _text: None
) -> tuple[list[Row], list[str]]:
    """Write what the cells of the folder give; returns the rows and the sentences that a reader must know."""
    documents, missing = [], []
    for cell in cells_of(matrix):
        document = read_cell(out, cell, matrix.plans[cell.data])
        if document is None:
            missing.append(cell.key)
        else:
            documents.append(document)
    rows = rows_of(documents)
    notes = honest(rows, missing)
    _write(out / RESULTS, json.dumps(_results(matrix, rows, notes, documents), indent=1, ensure_ascii=False))
    pictures = draw(documents, out, say)
    _write(out / REPORT, markdown(matrix, rows, notes, [path.name for path in pictures]))
    return rows, notes


def machine() -> dict[str, Any]:
    """What it ran on."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "mhfl_mq": mhfl_mq.__version__,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _results(
    matrix: Matrix, rows: Sequence[Row], notes: Sequence[str], documents: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "matrix": asdict(matrix),
        "profiles": {name: asdict(profile) for name, profile in profiles().items()},
        "notes": list(notes),
        "rows": [asdict(row) for row in rows],
        "cells": [{key: value for key, value in one.items() if key != "devices"} for one in documents],
    }


def markdown(matrix: Matrix, rows: Sequence[Row], notes: Sequence[str], pictures: Sequence[str]) -> str:
    """The report as text."""
    seeds = ", ".join(map(str, matrix.seeds))
    here = machine()
    lines = [
        "# Benchmark of the algorithms",
        "",
        f"mhfl-mq {here['mhfl_mq']}, {here['processor']} x {here['cores']}, Python {here['python']}; seeds {seeds}.",
        *READING.splitlines(),
    ]
    if notes:
        lines += ["", "## To be read first", "", *(f"- {note}" for note in notes)]
    for name, plan in matrix.plans.items():
        data = SETS[name]
        for constraint in matrix.constraints:
            here_rows = [row for row in rows if (row.data, row.constraint) == (name, constraint)]
            lines += ["", f"## {name}, bound by {constraint} ({constraints()[constraint].title})", ""]
            cohort = "all of them" if plan.cohort is None else f"{plan.cohort} of them"
            lines += [
                f"{data.title}. {plan.devices} devices, {cohort} in a round, {plan.rounds} rounds; "
                f"target {data.target:g} on the mean over tiers.",
                "",
                f"| {' | '.join(COLUMNS)} |",
                f"|{'---|' * len(COLUMNS)}",
                *(f"| {' | '.join(cells)} |" for cells in table_rows(here_rows)),
            ]
            lines += ["", *(f"![{one}]({one})" for one in pictures if one.startswith(f"{name}.{constraint}."))]
    return "\n".join(lines) + "\n"


def table_rows(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """The cells of the table: algorithms by their mean, then the baselines."""
    order = sorted(rows, key=lambda row: (row.method in BASELINES, -(row.mean.mean if row.mean else -1.0)))
    return [_cells(row) for row in order]


def _cells(row: Row) -> tuple[str, ...]:
    tiers = ", ".join(f"{name} {spread.show(3)} ({row.devices[name]:g})" for name, spread in row.tiers.items())
    target = "-" if row.to_target_s is None else f"{row.to_target_s.show(0)} ({row.reached} of {len(row.seeds)})"
    return (
        row.method,
        tiers or "-",
        _show(row.mean),
        _show(row.largest),
        _show(row.over_smallest, sign=True),
        _show(row.over_exclusive, sign=True),
        target,
        _show(row.worst_tenth),
        _show(row.variance, 4),
        _show(row.up_bytes, 2, 1e-6),
        _show(row.down_bytes, 2, 1e-6),
        _show(row.compute_s, 1),
        _show(row.real_s, 1),
        _show(row.participation, 2),
        _show(row.energy_j, 0),
    )


def _show(spread: Spread | None, digits: int = 3, scale: float = 1.0, *, sign: bool = False) -> str:
    if spread is None:
        return "-"
    text = f"{spread.mean * scale:{'+' if sign else ''}.{digits}f}"
    return text if spread.deviation is None else f"{text} ± {spread.deviation * scale:.{digits}f}"


def _write(path: Path, text: str) -> None:
    with explained(path, "writing the report"):
        atomic_write(RealFiles(), path, text.encode())
