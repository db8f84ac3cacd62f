"""A process of the benchmark's pool: `python -m mhfl_mq.bench.worker`. One JSON line in for each job, JSON lines out.

It trains with one torch thread, answers `{"done": rounds}` while a cell runs and then `{"answer": ...}` or
`{"error": {"kind", "what", "where", "remedy"}}`, and ends with its standard input. Ctrl-C is its parent's affair.
"""

import json
import os
import signal
import sys
import traceback
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any, TextIO

from mhfl_mq.bench.cell import measure_costs, run_cell
from mhfl_mq.bench.fleet import Cost
from mhfl_mq.bench.plan import Cell, Plan
from mhfl_mq.bench.sets import SETS, Kind, open_task
from mhfl_mq.errors import MhflError
from mhfl_mq.train.inprocess import LocalWorker
from mhfl_mq.train.task import Task

__all__ = ["main"]


@lru_cache(maxsize=2)
def opened(data: str, folder: str | None, devices: int, seed: int, validation: bool) -> tuple[Task, LocalWorker]:
    """A task and what does its jobs: layouts and data are kept from one cell to the next."""
    place = None if folder is None else Path(folder)
    task = open_task(SETS[data], place, devices, seed, validation=validation)
    return task, LocalWorker(task, place)


def answer(request: dict[str, Any], out: TextIO) -> Any:
    """Do one job."""
    plan = Plan(**request["plan"])
    if request["job"] == "measure":
        _, worker = opened(request["data"], plan.folder, plan.devices, 0, plan.validation)
        algorithm, _, kind = request["costs"].rpartition(".")
        costs = measure_costs(worker, SETS[request["data"]], algorithm, Kind(kind), plan)
        return [asdict(cost) for cost in costs]
    cell = Cell(**request["cell"])
    known = {name: [Cost(**cost) for cost in tiers] for name, tiers in request["costs"].items()}
    task, worker = opened(cell.data, plan.folder, plan.devices, cell.seed, plan.validation)
    return run_cell(cell, plan, known, worker, task, lambda rounds: _write(out, {"done": rounds}))


def _write(out: TextIO, line: dict[str, Any]) -> None:
    out.write(json.dumps(line) + "\n")
    out.flush()


def main() -> int:
    """Serve until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import torch

    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a task's code prints is no answer
    for line in sys.stdin:
        try:
            _write(out, {"answer": answer(json.loads(line), out)})
        except MhflError as error:
            told = {"kind": type(error).__name__, "what": error.what, "where": error.where, "remedy": error.remedy}
            _write(out, {"error": told})
        except Exception as error:
            traceback.print_exc()
            _write(out, {"error": {"kind": "", "what": f"{type(error).__name__}: {error}", "where": "", "remedy": ""}})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
