"""The report: figures over seeds, what a reader must know first, and plots where they can be had."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mhfl_mq.bench.matrix import Matrix
from mhfl_mq.bench.methods import EXCLUSIVE, SMALLEST
from mhfl_mq.bench.plan import Cell, Plan
from mhfl_mq.bench.plots import MISSING, draw
from mhfl_mq.bench.report import COLUMNS, table_rows, write_report
from mhfl_mq.bench.summary import honest, rows_of, spread_of

MakeDocument = Callable[..., dict[str, Any]]
PLAN = Plan(rounds=3, devices=4)
MATRIX = Matrix(("heterofl", SMALLEST, EXCLUSIVE), ("memory",), (0, 1, 2), {"wind": PLAN})


@pytest.fixture
def documents(document: MakeDocument) -> list[dict[str, Any]]:
    """HeteroFL is below exclusion on the largest tier and above the smallest model on the mean."""
    found = []
    for seed in (0, 1, 2):
        shift = 0.01 * seed
        found.append(document("heterofl", seed, {"small": 0.7 + shift, "large": 0.8 + shift}))
        found.append(document(SMALLEST, seed, {"small": 0.72 + shift}))
        found.append(document(EXCLUSIVE, seed, {"large": 0.84 + 2 * shift}))
    return found


def test_a_spread_is_over_the_seeds_that_there_are() -> None:
    spread = spread_of([0.1, None, 0.3])
    assert spread is not None
    assert spread.mean == pytest.approx(0.2)
    assert spread.seeds == 2
    assert str(spread) == "0.200 ± 0.141"
    one = spread_of([0.5])
    assert one is not None
    assert str(one) == "0.500"
    assert spread_of([None]) is None


def test_gains_are_paired_by_seed(documents: list[dict[str, Any]]) -> None:
    row = rows_of(documents)[0]
    assert row.over_smallest is not None
    assert row.over_smallest.mean == pytest.approx(0.03)
    assert row.over_smallest.deviation == pytest.approx(0.0, abs=1e-9)
    assert row.over_exclusive is not None
    assert row.over_exclusive.mean == pytest.approx(-0.05)
    assert row.up_bytes is not None
    assert row.up_bytes.mean == 1_000_000


def test_losing_to_exclusion_is_said_with_its_size(documents: list[dict[str, Any]]) -> None:
    notes = honest(rows_of(documents), [])
    lost = [note for note in notes if "LOSES to exclusion" in note]
    assert len(lost) == 1
    assert "heterofl" in lost[0]
    assert "-0.050 ± 0.010, beyond the spread of 3 seeds" in lost[0]
    assert not any("LOSES to the smallest" in note for note in notes)
    assert not any("seed(s) for some rows" in note for note in notes)


def test_what_else_a_reader_must_know_is_said(document: MakeDocument) -> None:
    cells = [
        document("heterofl", 0, {"small": 0.7, "large": 0.6}, aborted=[{"round": 1, "why": "late"}]),
        document(SMALLEST, 0, {"small": 0.8}),
        {"cell": {"data": "wind", "constraint": "memory", "method": EXCLUSIVE, "seed": 0}, "outcome": "impossible"},
    ]
    text = "\n".join(honest(rows_of(cells), ["wind.memory.depthfl.0"]))
    assert "Only 1 seed(s)" in text
    assert "1 cells are missing" in text
    assert "LOSES to the smallest model on all devices" in text
    assert "-0.150, one seed" in text
    assert "the largest tier (0.600) is worse than the tier small (0.700)" in text
    assert "reached in 0 of 1 seeds" in text
    assert "1 round(s) were aborted" in text
    assert "no device carries the tier" in text


def test_the_table_has_algorithms_first_and_a_dash_where_nothing_is(documents: list[dict[str, Any]]) -> None:
    table = table_rows(rows_of(documents))
    assert [cells[0] for cells in table] == ["heterofl", EXCLUSIVE, SMALLEST]
    assert all(len(cells) == len(COLUMNS) for cells in table)
    assert table[0][COLUMNS.index("gain over exclusive")] == "-0.050 ± 0.010"
    assert table[2][COLUMNS.index("gain over exclusive")] == "-"
    assert table[0][1] == "small 0.710 ± 0.010 (2), large 0.810 ± 0.010 (2)"


def test_the_report_is_files_that_can_be_read(tmp_path: Path, documents: list[dict[str, Any]]) -> None:
    (tmp_path / "cells").mkdir()
    for one in documents[:-1]:
        cell = Cell(**one["cell"])
        one["fingerprint"] = PLAN.fingerprint(cell)
        (tmp_path / "cells" / f"{cell.key}.json").write_text(json.dumps(one))
    rows, notes = write_report(MATRIX, tmp_path)
    assert len(rows) == 3
    assert any("wind.memory.exclusive-largest.2" in note for note in notes)
    results = json.loads((tmp_path / "results.json").read_text())
    assert len(results["cells"]) == 8
    assert results["machine"]["python"]
    text = (tmp_path / "report.md").read_text()
    assert "LOSES to exclusion" in text
    assert "ESTIMATE" in text
    assert "| heterofl | small 0.710" in text
    for name in ("wind.memory.curves.png", "wind.memory.price.png"):
        assert f"({name})" in text
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_there_are_no_plots_and_a_line_says_how_to_get_them(
    tmp_path: Path, documents: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    said: list[str] = []
    assert draw(documents, tmp_path, said.append) == []
    assert said == [MISSING]
    assert "mhfl-mq[bench]" in MISSING


def test_the_parent_of_a_benchmark_never_loads_torch() -> None:
    code = (
        "import sys\nimport mhfl_mq.cli.bench, mhfl_mq.bench.matrix, mhfl_mq.bench.report, mhfl_mq.bench.sets\n"
        "print([name for name in ('torch', 'matplotlib', 'pydantic') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
