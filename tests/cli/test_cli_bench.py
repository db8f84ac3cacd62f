"""`mhfl bench` as a person types it; the runs themselves are in tests/bench."""

import json
from pathlib import Path
from typing import Any

import pytest

from mhfl_mq.bench import matrix as module
from mhfl_mq.bench.matrix import Matrix, Outcome, cells_of


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Matrix]:
    """The matrices that were to be run; none is."""
    found: list[Matrix] = []

    async def run(matrix: Matrix, out: Path, **_: Any) -> Outcome:
        found.append(matrix)
        out.mkdir(exist_ok=True)
        return Outcome(failed={cells_of(matrix)[0]: "the loss is nan"} if matrix.seeds == (13,) else {})

    monkeypatch.setattr(module, "run_matrix", run)
    return found


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--algorithms", "hetrofl"), "did you mean 'heterofl'?"),
        (("--algorithms", "fedavg"), "smallest-on-all"),
        (("--constraints", "memmory"), "did you mean 'memory'?"),
        (("--data", "wnd"), "did you mean 'wind'?"),
        (("--data", "xyz"), "known are: wind"),
    ],
)
def test_a_wrong_name_is_an_error_with_the_closest_one(mhfl: Any, words: tuple[str, ...], says: str) -> None:
    done = mhfl("bench", *words)
    assert done.code == 3
    assert says in done.err


@pytest.mark.parametrize("seeds", ["", "a", "1,,2", "4..1", "-1"])
def test_seeds_that_are_no_numbers_are_refused(mhfl: Any, seeds: str) -> None:
    done = mhfl("bench", "--seeds", seeds)
    assert done.code == 2
    assert "0,1,2 or 0..4" in done.err


def test_the_whole_matrix_is_every_algorithm_and_case_with_the_baselines(
    mhfl: Any, asked: list[Matrix], tmp_path: Path
) -> None:
    assert mhfl("bench", "--out", tmp_path / "out", "--seeds", "0..4").code == 0
    (matrix,) = asked
    assert {"heterofl", "smallest-on-all", "exclusive-largest", "local-only", "largest-on-all"} <= set(matrix.methods)
    assert "fedavg" not in matrix.methods
    assert set(matrix.constraints) == {"computation", "communication", "memory", "mixed"}
    assert matrix.seeds == (0, 1, 2, 3, 4)


def test_quick_is_short_and_options_win_over_it(mhfl: Any, asked: list[Matrix], tmp_path: Path) -> None:
    assert mhfl("bench", "--quick", "--rounds", "2", "--no-baselines", "--out", tmp_path / "out", "--json").code == 0
    (matrix,) = asked
    assert matrix.methods == ("heterofl", "slimmable", "depthfl")
    assert matrix.constraints == ("computation",)
    assert (matrix.plans["wind-gateways"].rounds, matrix.plans["wind-gateways"].devices) == (2, 8)


def test_cells_that_failed_are_the_exit_code(mhfl: Any, asked: list[Matrix], tmp_path: Path) -> None:
    done = mhfl("bench", "--quick", "--seeds", "13", "--out", tmp_path / "out", "--json")
    assert done.code == 1
    document = json.loads(done.out)
    assert document["ok"] is False
    assert list(document["failed"].values()) == ["the loss is nan"]
    assert any("cells are missing" in note for note in document["notes"])
