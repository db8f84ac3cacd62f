"""FedRolex's half at the aggregator: the mean of HeteroFL, rolled by the option's step."""

from pathlib import Path

import numpy as np
import pytest

from mhfl_mq.errors import ConfigError, StoreError
from mhfl_mq.families import Plan, Weighting, algorithm_class, make_algorithm
from mhfl_mq.families.rewrite import read_range, read_whole, write_range, write_whole
from mhfl_mq.segments import Accumulator, Axis, Bounds, Layout, Parameter, Span, Tier

LAYOUT = Layout(
    (Tier("small", 0.5), Tier("large")),
    {"g": (4, 8), "h": (1, 3)},
    (Parameter("w", (Axis(8, group="g"),)), Parameter("v", (Axis(3, group="h"),))),
    rolls={"g": 2},
)


@pytest.mark.parametrize(("step", "moved"), [(1, 2), (3, 6), (4, 0), (5, 2)])
def test_a_group_moves_on_by_units_and_one_that_may_not_stays(step: int, moved: int) -> None:
    head = np.arange(11, dtype=np.float32)  # w0..3 v0 w4..7 v1 v2
    total = Accumulator(LAYOUT.holdings, Bounds(1, 1.0, 8.0))
    total.fold(np.full(5, 0.5, np.float32), 0, 1.0)
    new = np.empty_like(head)
    make_algorithm("fedrolex", {"roll_step": step}).finalize(total, LAYOUT, head, new)
    mean = head + np.array([0.5] * 5 + [0.0] * 6, np.float32)
    w = np.roll(np.concatenate([mean[:4], mean[5:9]]), -moved)
    expected = np.concatenate([w[:4], mean[4:5], w[4:], mean[9:]])
    np.testing.assert_array_equal(new, expected)


def test_trap_t6_it_counts_devices_alike_and_its_plan_asks_for_rolls() -> None:
    assert make_algorithm("fedrolex").weight(7) == 1.0
    assert make_algorithm("fedrolex", {"weighting": "samples"}).weight(7) == 7.0
    assert make_algorithm("fedrolex").plan == Plan(rolls=True)
    assert make_algorithm("fedrolex").about.linear
    assert algorithm_class("fedrolex").WEIGHTING is Weighting.UNIFORM


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"roll_step": 0}, "roll_step: 0 is not within 1"),
        ({"roll_step": 1.5}, "not a whole number"),
        ({"rol_step": 1}, "did you mean 'roll_step'"),
    ],
)
def test_a_wrong_option_is_refused_with_a_hint(options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_algorithm("fedrolex", options)


def test_versions_are_read_and_rewritten_as_arrays_and_as_files(tmp_path: Path) -> None:
    array, path = np.arange(6, dtype=np.float32), tmp_path / "f32"
    write_whole(path, array)
    for out in (array.copy(), path):
        write_range(out, 2, np.array([7, 8], np.float32))
        np.testing.assert_array_equal(read_whole(out, 6), [0, 1, 7, 8, 4, 5])
        np.testing.assert_array_equal(read_range(out, 1, 3), [1, 7])
    np.testing.assert_array_equal(read_range(Span(path, 4, 5), 1, 3), [7, 8])
    with pytest.raises(StoreError, match="ends before coordinate 7"):
        read_range(path, 0, 7)
    with pytest.raises(StoreError, match="cannot be read: No such file"):
        read_range(tmp_path / "none", 0, 1)
    with pytest.raises(StoreError, match="cannot be written: No such file"):
        write_range(tmp_path / "none", 0, array)
