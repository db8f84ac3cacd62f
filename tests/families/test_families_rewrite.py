"""Ranges of a version that an algorithm makes by itself."""

from pathlib import Path

import numpy as np
import pytest

from mhfl_mq.errors import LocalMisuse, StoreError
from mhfl_mq.families.rewrite import mean_of, read_range, sum_of, write_range
from mhfl_mq.segments import Accumulator, Axis, Bounds, Layout, Parameter, Span, Tier
from mhfl_mq.segments.blocks import BLOCK

LAYOUT = Layout(
    (Tier("a", 0.5), Tier("b")),
    {},
    (Parameter("~t", (Axis(2), Axis(2))), Parameter("a:w", (Axis(1),), only=0), Parameter("b:w", (Axis(2),), only=1)),
)


def test_a_range_is_read_from_an_array_a_file_and_a_part_of_a_file(tmp_path: Path) -> None:
    values = np.arange(BLOCK + 9, dtype=np.float32)
    path = tmp_path / "head.f32"
    values.tofile(path)
    for source in (values, path, str(path)):
        assert read_range(source, 3, 5).tolist() == [3, 4]
        assert read_range(source, BLOCK - 1, BLOCK + 2).tolist() == [BLOCK - 1, BLOCK, BLOCK + 1]
        assert read_range(source, 0, values.size).tobytes() == values.tobytes()
    assert read_range(Span(path, 8, 5), 1, 3).tolist() == [3, 4]


def test_a_range_is_written_over_an_array_and_over_a_file(tmp_path: Path) -> None:
    path = tmp_path / "new.f32"
    np.zeros(5, np.float32).tofile(path)
    flat = np.zeros(5, np.float32)
    for out in (flat, path):
        write_range(out, 1, np.array([[1.5, 2.0], [3.0, 1e-9]]))
    expected = np.array([0, 1.5, 2, 3, 1e-9], np.float32)
    assert flat.tobytes() == expected.tobytes() == path.read_bytes()


def test_what_is_not_finite_is_never_written() -> None:
    flat = np.zeros(2, np.float32)
    for value in (np.nan, np.inf, 1e300):  # the last one is not finite as float32
        with pytest.raises(LocalMisuse, match="not finite"), np.errstate(over="ignore"):
            write_range(flat, 0, np.array([0.0, value]))
    assert flat.tolist() == [0, 0]


def test_a_version_that_cannot_be_written_names_its_file(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be written"):
        write_range(tmp_path / "none", 0, np.zeros(1))


def test_sum_and_mean_of_an_own_array_are_over_all_tiers_and_a_mean_of_nothing_is_none() -> None:
    total = Accumulator(LAYOUT.holdings, Bounds(2, 4.0, 10.0))
    assert mean_of(total, LAYOUT, "~t") is None
    assert sum_of(total, LAYOUT, "~t").tolist() == [[0, 0], [0, 0]]
    total.fold(np.array([1, 2, 3, 4, 9], np.float32), 0, 1.0)
    total.fold(np.array([5, 6, 7, 8, 9, 9], np.float32), 1, 3.0)
    assert sum_of(total, LAYOUT, "~t").tolist() == [[16, 20], [24, 28]]
    mean = mean_of(total, LAYOUT, "~t")
    assert mean is not None
    assert mean.tolist() == [[4, 5], [6, 7]]
