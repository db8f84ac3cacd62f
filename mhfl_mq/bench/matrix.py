"""The matrix: method x constraint x data set x seed, each cell one JSON file, over a pool of processes.

A folder that holds cells already is continued: what is there, with the same settings, is not run again. What a step
costs is measured once for a folder, before anything else runs, and kept there (`costs.json`), so that all of its cells
go by the same figures.
"""

import asyncio
import hashlib
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import mhfl_mq
from mhfl_mq.bench.methods import BASELINES
from mhfl_mq.bench.plan import Cell, Plan, costs_wanted, own_costs
from mhfl_mq.bench.pool import BenchProcess
from mhfl_mq.errors import ConfigError, MhflError, TaskError
from mhfl_mq.store.files import RealFiles, atomic_write, explained, make_folder

__all__ = ["CELLS", "Matrix", "Outcome", "cells_of", "read_cell", "run_matrix"]

CELLS: Final = "cells"
COSTS: Final = "costs.{}.{}.json"  # data set, digest of the settings
MARK: Final = "mhfl-bench.json"
"""Says that a folder is a benchmark's, and which matrix it was started with."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """What to run. `plans` are by data set; `methods` hold the baselines too."""

    methods: tuple[str, ...]
    constraints: tuple[str, ...]
    seeds: tuple[int, ...]
    plans: Mapping[str, Plan]

    @property
    def rounds(self) -> int:
        """Rounds of all cells together: what progress is counted in."""
        return sum(self.plans[cell.data].rounds for cell in cells_of(self))


@dataclass(slots=True)
class Outcome:
    """What became of a run: cells that were there, that were run, and that failed (with why)."""

    found: list[Cell] = field(default_factory=list)
    done: list[Cell] = field(default_factory=list)
    failed: dict[Cell, str] = field(default_factory=dict)


def cells_of(matrix: Matrix) -> list[Cell]:
    """Every cell; baselines first, then seed by seed, so that an early look compares something."""
    order = sorted(matrix.methods, key=lambda name: name not in BASELINES)
    return [
        Cell(data, constraint, method, seed)
        for seed in matrix.seeds
        for data in matrix.plans
        for constraint in matrix.constraints
        for method in order
    ]


def read_cell(out: Path, cell: Cell, plan: Plan) -> dict[str, Any] | None:
    """The document of a cell that was run with these settings; None when there is none."""
    try:
        document = json.loads((out / CELLS / f"{cell.key}.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    same = isinstance(document, dict) and document.get("fingerprint") == plan.fingerprint(cell)
    return document if same else None


async def run_matrix(
    matrix: Matrix,
    out: Path,
    *,
    jobs: int,
    told: Callable[[float], None] = lambda _rounds: None,
    say: Callable[[str], None] = lambda _text: None,
) -> Outcome:
    """Run what is missing; `told` hears how many rounds are done, `say` a line now and then.

    A cell that fails is reported and the others go on. Raises `ConfigError` for a folder that is not a benchmark's.
    """
    _take_folder(out)
    outcome, waiting = Outcome(), asyncio.Queue[Cell]()
    for cell in cells_of(matrix):
        if read_cell(out, cell, matrix.plans[cell.data]) is not None:
            outcome.found.append(cell)
        else:
            waiting.put_nowait(cell)
    done: dict[Cell, float] = {cell: matrix.plans[cell.data].rounds for cell in outcome.found}
    told(sum(done.values()))
    if outcome.found:
        say(f"{len(outcome.found)} of {len(cells_of(matrix))} cells are in {out} already")
    if waiting.empty():
        return outcome
    costs, against = await _costs(matrix, out, say)

    async def serve() -> None:
        async with BenchProcess() as process:
            while not waiting.empty():
                cell = waiting.get_nowait()
                plan = matrix.plans[cell.data]

                def progress(rounds: int, cell: Cell = cell) -> None:
                    done[cell] = rounds
                    told(sum(done.values()))

                wanted = costs_wanted(cell.method)
                request = {
                    "job": "cell",
                    "cell": asdict(cell),
                    "plan": asdict(plan),
                    "costs": {name: tiers for name, tiers in costs.get(cell.data, {}).items() if name in wanted},
                }
                try:
                    if own_costs(cell.method) not in costs.get(cell.data, {}):
                        why = against[cell.data, own_costs(cell.method)]
                        raise ConfigError(f"its tiers could not be measured: {why}", where=cell.key)
                    document = await process.ask(request, progress)
                    _write(out / CELLS / f"{cell.key}.json", document)
                except MhflError as error:
                    outcome.failed[cell] = str(error)
                    say(f"{cell.key} failed: {error}")
                else:
                    outcome.done.append(cell)
                progress(plan.rounds)

    async with asyncio.TaskGroup() as group:
        for _ in range(max(1, min(jobs, waiting.qsize()))):
            group.create_task(serve())
    return outcome


async def _costs(
    matrix: Matrix, out: Path, say: Callable[[str], None]
) -> tuple[dict[str, dict[str, Any]], dict[tuple[str, str], MhflError]]:
    """What every tier of every algorithm costs, by data set and algorithm; measured alone, one after the other.

    An algorithm that cannot be measured is left out and stands with what went wrong in the second answer, so that its
    cells fail and no others. Raises what went wrong first
    when nothing of a data set can be measured: its files are missing, say.
    """
    files = {data: out / COSTS.format(data, _measured_for(plan)) for data, plan in matrix.plans.items()}
    costs: dict[str, dict[str, Any]] = {data: _read(file) for data, file in files.items()}
    wanted = dict.fromkeys(name for method in matrix.methods for name in costs_wanted(method))
    missing = [(data, name) for data in matrix.plans for name in wanted if name not in costs.get(data, {})]
    if missing:
        say("measuring this machine: what a training step of each tier costs")
    against: dict[tuple[str, str], MhflError] = {}
    async with BenchProcess() as process:
        for data, name in missing:
            request = {"job": "measure", "data": data, "costs": name, "plan": asdict(matrix.plans[data])}
            try:
                measured = await process.ask(request)
            except MhflError as error:
                against[data, name] = error
                if not costs.get(data) and name == list(wanted)[-1]:
                    raise next(first for (of, _), first in against.items() if of == data) from error
                if not isinstance(error, TaskError) or costs.get(data):
                    say(f"{name} on {data} cannot be measured: {error}")
            else:
                costs.setdefault(data, {})[name] = measured
                _write(files[data], costs[data])
    return costs, against


def _measured_for(plan: Plan) -> str:
    """A digest of what costs depend on: those of other settings are measured anew."""
    content = [mhfl_mq.__version__, plan.devices, plan.folder, plan.validation, dict(plan.options)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


def _take_folder(out: Path) -> None:
    """Make the folder, or take one that a benchmark made before."""
    if out.exists() and not out.is_dir():
        raise ConfigError("it is not a folder", where=str(out), remedy="give another --out")
    if out.is_dir() and any(out.iterdir()) and not (out / MARK).exists():
        raise ConfigError(
            "there are files here that no benchmark wrote",
            where=str(out),
            remedy="give an empty folder, a new one, or one of an earlier benchmark as --out",
        )
    make_folder(RealFiles(), out / CELLS)
    _write(out / MARK, {"machine": platform.machine(), "python": platform.python_version()})


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _write(path: Path, document: Mapping[str, Any] | Sequence[Any]) -> None:
    text = json.dumps(document, indent=1, ensure_ascii=False)
    with explained(path, "writing a result"):
        atomic_write(RealFiles(), path, text.encode() + b"\n")
