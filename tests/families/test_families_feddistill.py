"""FedDistill at the aggregator: mean logits of each class out of two sums."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mhfl_mq.errors import ConfigError
from mhfl_mq.families import Evaluated, Weighting, make_algorithm
from mhfl_mq.families.distillation.feddistill import FedDistill
from mhfl_mq.segments import Accumulator, Axis, Bounds, Layout, Parameter, Tier, Vector

CLASSES = 3
LAYOUT = Layout(
    (Tier("small"), Tier("large")),
    {},
    (Parameter("~logits", (Axis(CLASSES), Axis(CLASSES))), Parameter("~shares", (Axis(CLASSES),))),
    whole=True,
)
ROWS = CLASSES * CLASSES
Logits = npt.NDArray[np.float64]  # (n, classes)


def update(logits: Logits, targets: Sequence[int]) -> Vector:
    """What a device of these examples sends."""
    sums, shares = np.zeros((CLASSES, CLASSES)), np.zeros(CLASSES)
    for row, target in zip(logits, targets, strict=True):
        sums[target] += row / len(targets)
        shares[target] += 1 / len(targets)
    return np.concatenate([sums.reshape(-1), shares]).astype(np.float32)


def finalized(
    devices: Sequence[tuple[Logits, Sequence[int]]], head: Vector, weighting: Weighting = Weighting.UNIFORM
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The new table and shares."""
    algorithm = FedDistill(weighting)
    total = Accumulator(LAYOUT.holdings, Bounds(9, 50.0, 100.0))
    for logits, targets in devices:
        total.fold(update(logits, targets), 0, algorithm.weight(len(targets)))
    new = np.empty_like(head)
    algorithm.finalize(total, LAYOUT, head, new)
    return new[:ROWS].reshape(CLASSES, CLASSES), new[ROWS:]


@given(
    devices=st.lists(st.lists(st.integers(0, CLASSES - 1), min_size=1, max_size=6), min_size=1, max_size=4),
    seed=st.integers(0, 999),
)
def test_with_weights_by_samples_a_row_is_the_mean_over_all_examples_of_its_class(
    devices: list[list[int]], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    data = [(rng.normal(size=(len(targets), CLASSES)), targets) for targets in devices]
    head = np.full(ROWS + CLASSES, 7.0, np.float32)
    table, shares = finalized(data, head, Weighting.SAMPLES)
    logits = np.concatenate([rows for rows, _ in data])
    targets = np.concatenate([targets for _, targets in data])
    for c in range(CLASSES):
        if (targets == c).any():
            np.testing.assert_allclose(table[c], logits[targets == c].mean(axis=0), atol=1e-5)
            np.testing.assert_allclose(shares[c], (targets == c).mean(), atol=1e-6)
        else:
            assert table[c].tolist() == [7, 7, 7]


def test_devices_count_alike_by_their_class_shares_when_weights_are_uniform() -> None:
    one = (np.array([[4.0, 0, 0], [0, 4.0, 0]]), [0, 1])  # half of it is of class 0
    other = (np.array([[1.0, 0, 0]]), [0])  # all of it
    table, _ = finalized([one, other], np.zeros(ROWS + CLASSES, np.float32))
    assert table[0, 0] == pytest.approx((0.5 * 4 + 1.0 * 1) / 1.5)


def test_t8_a_class_that_a_device_has_not_adds_nothing_to_its_mean() -> None:
    has = (np.array([[0.0, 0, 9.0]]), [2])
    lacks = (np.array([[5.0, 0, 0]]), [0])
    table, shares = finalized([has, lacks], np.zeros(ROWS + CLASSES, np.float32))
    assert table[2].tolist() == [0, 0, 9]
    assert shares.tolist() == [0.5, 0, 0.5]


def test_t8_a_class_that_nobody_has_keeps_what_it_had_and_nothing_divides_by_zero() -> None:
    head = np.arange(ROWS + CLASSES, dtype=np.float32)
    with np.errstate(all="raise"):
        table, shares = finalized([(np.array([[1.0, 2, 3]]), [1])], head)
        nobody, _ = finalized([], head)
    assert table.tolist() == [[0, 1, 2], [1, 2, 3], [6, 7, 8]]
    assert shares.tolist() == [9, 1, 11]
    assert nobody.reshape(-1).tolist() == head[:ROWS].tolist()


def test_files_give_what_arrays_give(tmp_path: Path) -> None:
    head = np.arange(ROWS + CLASSES, dtype=np.float32)
    head.tofile(tmp_path / "head")
    algorithm, total = make_algorithm("feddistill"), Accumulator(LAYOUT.holdings, Bounds(1, 1.0, 10.0))
    total.fold(update(np.array([[1.0, 2, 3]]), [1]), 1, 1.0)
    new = np.empty_like(head)
    algorithm.finalize(total, LAYOUT, head, new)
    algorithm.finalize(total, LAYOUT, tmp_path / "head", tmp_path / "new")
    assert (tmp_path / "new").read_bytes() == new.tobytes()


def test_it_is_linear_and_needs_no_public_data() -> None:
    algorithm = make_algorithm("feddistill")
    assert algorithm.about.linear
    assert not algorithm.plan.public
    assert algorithm.evaluated is Evaluated.DEVICES


def test_a_negative_gamma_is_refused() -> None:
    with pytest.raises(ConfigError, match="gamma: -1 is not within 0 to 1000"):
        make_algorithm("feddistill", {"gamma": -1})
