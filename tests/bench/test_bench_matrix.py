"""The matrix over a pool: what is there is not run again, what fails keeps nothing else from running."""

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from mhfl_mq.bench import matrix as module
from mhfl_mq.bench.matrix import Matrix, cells_of, read_cell, run_matrix
from mhfl_mq.bench.methods import BASELINES
from mhfl_mq.bench.plan import Cell, Plan
from mhfl_mq.bench.pool import BenchProcess
from mhfl_mq.errors import ConfigError, TrainingFailed

PLAN = Plan(rounds=4, devices=5)
MATRIX = Matrix(("heterofl", *BASELINES), ("memory", "mixed"), (0, 1), {"wind": PLAN})


class Pretended:
    """Processes that answer at once; `asked` is what they were asked, in order."""

    def __init__(self) -> None:
        self.asked: list[Mapping[str, Any]] = []
        self.fails: Callable[[Mapping[str, Any]], bool] = lambda request: False

    async def __aenter__(self) -> "Pretended":
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def ask(self, request: Mapping[str, Any], told: Callable[[int], None] = lambda _done: None) -> Any:
        self.asked.append(request)
        await asyncio.sleep(0)
        if self.fails(request):
            raise TrainingFailed("the loss is nan")
        if request["job"] == "measure":
            return [{"step_s": 0.001, "peak_bytes": 1, "length": 1}]
        told(1)
        cell = Cell(**request["cell"])
        return {"fingerprint": Plan(**request["plan"]).fingerprint(cell), "cell": request["cell"], "outcome": "done"}

    @property
    def cells(self) -> int:
        return sum(request["job"] == "cell" for request in self.asked)


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Pretended:
    pretended = Pretended()
    monkeypatch.setattr(module, "BenchProcess", lambda: pretended)
    return pretended


def test_every_method_meets_every_constraint_with_every_seed() -> None:
    cells = cells_of(MATRIX)
    assert len(cells) == len({cell.key for cell in cells}) == 5 * 2 * 2
    assert cells[0].method in BASELINES
    assert MATRIX.rounds == 20 * PLAN.rounds


def test_a_run_writes_a_file_for_each_cell_and_says_how_far_it_is(tmp_path: Path, pool: Pretended) -> None:
    rounds: list[float] = []
    outcome = asyncio.run(run_matrix(MATRIX, tmp_path / "out", jobs=3, told=rounds.append))
    assert len(outcome.done) == 20
    assert not outcome.failed
    assert len(list((tmp_path / "out" / "cells").iterdir())) == 20
    assert rounds == sorted(rounds)
    assert rounds[-1] == MATRIX.rounds


def test_a_run_that_was_interrupted_goes_on_where_it_was(tmp_path: Path, pool: Pretended) -> None:
    asyncio.run(run_matrix(MATRIX, tmp_path, jobs=1))
    for cell in cells_of(MATRIX)[:3]:
        (tmp_path / "cells" / f"{cell.key}.json").unlink()
    half = tmp_path / "cells" / f"{cells_of(MATRIX)[4].key}.json"
    half.write_text(half.read_text()[:20])
    pool.asked.clear()
    said: list[str] = []
    outcome = asyncio.run(run_matrix(MATRIX, tmp_path, jobs=1, say=said.append))
    assert pool.cells == len(outcome.done) == 4
    assert len(pool.asked) == 4  # the costs are those of the first time
    assert "16 of 20 cells" in said[0]
    pool.asked.clear()
    asyncio.run(run_matrix(MATRIX, tmp_path, jobs=1))
    assert pool.asked == []


def test_results_of_other_settings_are_not_taken(tmp_path: Path, pool: Pretended) -> None:
    asyncio.run(run_matrix(MATRIX, tmp_path, jobs=1))
    longer = Matrix(MATRIX.methods, MATRIX.constraints, MATRIX.seeds, {"wind": Plan(rounds=9, devices=5)})
    assert all(read_cell(tmp_path, cell, longer.plans["wind"]) is None for cell in cells_of(longer))
    assert len(asyncio.run(run_matrix(longer, tmp_path, jobs=1)).done) == 20


def test_a_cell_that_fails_is_told_and_the_others_go_on(tmp_path: Path, pool: Pretended) -> None:
    pool.fails = lambda request: request["job"] == "cell" and request["cell"]["method"] == "heterofl"
    outcome = asyncio.run(run_matrix(MATRIX, tmp_path, jobs=2))
    assert len(outcome.done) == 16
    assert {cell.method for cell in outcome.failed} == {"heterofl"}
    assert "nan" in next(iter(outcome.failed.values()))
    pool.fails = lambda request: False
    assert len(asyncio.run(run_matrix(MATRIX, tmp_path, jobs=2)).done) == 4


def test_a_data_set_of_which_nothing_can_be_measured_ends_the_run_at_once(tmp_path: Path, pool: Pretended) -> None:
    pool.fails = lambda request: request["job"] == "measure"
    with pytest.raises(TrainingFailed, match="nan"):
        asyncio.run(run_matrix(MATRIX, tmp_path, jobs=1))
    assert pool.cells == 0


def test_an_algorithm_that_cannot_be_measured_fails_alone(tmp_path: Path, pool: Pretended) -> None:
    matrix = Matrix((*MATRIX.methods, "fedper"), MATRIX.constraints, MATRIX.seeds, MATRIX.plans)
    pool.fails = lambda request: str(request.get("costs", "")).startswith("fedper")
    outcome = asyncio.run(run_matrix(matrix, tmp_path, jobs=1))
    assert {cell.method for cell in outcome.failed} == {"fedper"}
    assert all("could not be measured: " in why and "nan" in why for why in outcome.failed.values())
    assert len(outcome.done) == 20


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path, pool: Pretended) -> None:
    (tmp_path / "thesis.tex").write_text("chapter 1")
    with pytest.raises(ConfigError, match="no benchmark wrote"):
        asyncio.run(run_matrix(MATRIX, tmp_path, jobs=1))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(ConfigError, match="not a folder"):
        asyncio.run(run_matrix(MATRIX, tmp_path / "thesis.tex", jobs=1))


async def test_a_real_process_measures_runs_a_cell_tells_errors_and_ends_at_once() -> None:
    plan = {"rounds": 2, "devices": 3, "options": {"steps": 1.0, "batch": 4.0}}
    cell = {"data": "wind", "constraint": "memory", "method": "heterofl", "seed": 0}
    heard: list[int] = []
    async with BenchProcess() as process:
        name = "heterofl.width"
        costs = {name: await process.ask({"job": "measure", "data": "wind", "costs": name, "plan": plan})}
        document = await process.ask({"job": "cell", "cell": cell, "plan": plan, "costs": costs}, heard.append)
        with pytest.raises(TrainingFailed, match="KeyError"):
            await process.ask({"job": "cell", "cell": {**cell, "data": "none"}, "plan": plan, "costs": costs})
        again = await process.ask({"job": "cell", "cell": cell, "plan": plan, "costs": costs})
    assert heard == [1, 2]
    assert document["outcome"] == "done"
    assert again["accuracy"] == document["accuracy"]
    assert json.dumps(document, allow_nan=False)


async def test_a_process_that_dies_is_an_error_that_quotes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    monkeypatch.setattr("sys.executable", "/bin/false")
    async with BenchProcess() as process:
        with pytest.raises(TrainingFailed, match="in the middle of a job"):
            await process.ask({"job": "measure"})
