"""FedProto's half at the aggregator: sums of prototypes and shares, and what becomes of classes that nobody has."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mhfl_mq.errors import ConfigError
from mhfl_mq.families import Algorithm, Evaluated, Weighting, make_algorithm
from mhfl_mq.families.native.fedproto import PROTOTYPES, SHARES
from mhfl_mq.segments import Accumulator, Axis, Bounds, Layout, Parameter, Tier, Vector

CLASSES, FEATURES = 3, 2
LAYOUT = Layout(
    (Tier("a"), Tier("b")),
    {},
    (Parameter("~prototypes", (Axis(CLASSES), Axis(FEATURES))), Parameter("~shares", (Axis(CLASSES),))),
    whole=True,
)
Features = Mapping[int, Sequence[Sequence[float]]]
"""The features of a device's examples, by class."""


def update(features: Features) -> Vector:
    """What a device of these features sends, written out."""
    count = sum(map(len, features.values()))
    sums, shares = np.zeros((CLASSES, FEATURES)), np.zeros(CLASSES)
    for label, of_class in features.items():
        shares[label] = len(of_class) / count
        sums[label] = shares[label] * np.mean(of_class, axis=0)
    return np.concatenate([sums.reshape(-1), shares]).astype(np.float32)


def merge(algorithm: Algorithm, devices: Sequence[Features], head: Vector) -> Vector:
    counts = [float(sum(map(len, features.values()))) for features in devices]
    weights = [algorithm.weight(count) for count in counts]
    total = Accumulator(LAYOUT.holdings, Bounds(len(devices), max(weights), 100.0))
    for k, (features, weight) in enumerate(zip(devices, weights, strict=True)):
        total.fold(update(features), k % 2, weight)
    out = np.empty_like(head)
    algorithm.finalize(total, LAYOUT, head, out)
    return out


def split(version: Vector) -> tuple[npt.NDArray[np.float32], Vector]:
    at = CLASSES * FEATURES
    return version[:at].reshape(CLASSES, FEATURES), version[at:]


ZEROS = np.zeros(LAYOUT.total, np.float32)
A: Features = {0: [[1.0, 2.0], [3.0, 4.0]], 1: [[5.0, 5.0]]}
B: Features = {0: [[9.0, 9.0]]}


def test_it_is_weighted_by_counts_as_published_and_devices_say_how_good_they_are() -> None:
    algorithm = make_algorithm("fedproto")
    assert algorithm.weight(7) == 7.0
    assert algorithm.evaluated is Evaluated.DEVICES
    assert algorithm.about.linear
    assert not algorithm.concludes
    assert algorithm.plan.own == (PROTOTYPES, SHARES)


def test_the_prototype_of_a_class_is_the_mean_of_all_its_examples_wherever_they_are() -> None:
    prototypes, shares = split(merge(make_algorithm("fedproto"), [A, B], ZEROS))
    np.testing.assert_allclose(prototypes[0], np.mean([[1, 2], [3, 4], [9, 9]], axis=0), rtol=1e-6)
    np.testing.assert_allclose(prototypes[1], [5, 5], rtol=1e-6)
    np.testing.assert_allclose(shares, [3 / 4, 1 / 4, 0], rtol=1e-6)


def test_uniform_weighting_counts_each_device_once_split_over_its_classes() -> None:
    prototypes, _ = split(merge(make_algorithm("fedproto", {"weighting": "uniform"}), [A, B], ZEROS))
    np.testing.assert_allclose(prototypes[0], (2 / 3 * np.array([2, 3]) + np.array([9, 9])) / (5 / 3), rtol=1e-6)


def test_a_class_that_nobody_has_keeps_its_prototype_and_nothing_is_divided_by_zero() -> None:
    head = merge(make_algorithm("fedproto"), [{2: [[7.0, 8.0]]}], ZEROS)
    with np.errstate(all="raise"):
        new = merge(make_algorithm("fedproto"), [A, B], head)
    prototypes, shares = split(new)
    assert prototypes[2].tolist() == [7.0, 8.0]
    assert shares[2] == 1.0
    assert not split(merge(make_algorithm("fedproto"), [A], ZEROS))[0][2].any()


@given(seed=st.integers(0, 2**32 - 1), weighting=st.sampled_from(Weighting))
def test_the_order_of_the_devices_does_not_matter(seed: int, weighting: Weighting) -> None:
    rng = np.random.default_rng(seed)
    devices: list[Features] = [
        {int(c): rng.normal(size=(rng.integers(1, 9), FEATURES)).tolist() for c in rng.integers(0, CLASSES, 2)}
        for _ in range(6)
    ]
    algorithm = make_algorithm("fedproto", {"weighting": weighting.value})
    counts = [max(1.0, sum(map(len, f.values()))) for f in devices]
    orders = [rng.permutation(6), rng.permutation(6)]
    made = []
    for order in orders:
        total = Accumulator(LAYOUT.holdings, Bounds(6, max(counts), 100.0))
        for k in order:
            total.fold(update(devices[k]), 0, algorithm.weight(counts[k]))
        made.append(np.empty_like(ZEROS))
        algorithm.finalize(total, LAYOUT, ZEROS, made[-1])
    assert made[0].tobytes() == made[1].tobytes()


def test_it_is_the_same_in_files(tmp_path: Path) -> None:
    algorithm, head = make_algorithm("fedproto"), merge(make_algorithm("fedproto"), [B], ZEROS)
    total = Accumulator(LAYOUT.holdings, Bounds(1, 3.0, 100.0))
    total.fold(update(A), 0, 3.0)
    head.tofile(tmp_path / "head")
    algorithm.finalize(total, LAYOUT, tmp_path / "head", tmp_path / "out")
    assert np.fromfile(tmp_path / "out", "<f4").tobytes() == merge(algorithm, [A], head).tobytes()


def test_a_liar_cannot_push_a_prototype_beyond_what_an_update_may_hold() -> None:
    algorithm = make_algorithm("fedproto")
    lie = ZEROS.copy()
    lie[:2], lie[2:4], lie[4:6] = 90.0, 90.0, 90.0
    lie[6:] = 1e-6, -1.0, 1e-30  # hardly a share, a negative one, and none to speak of
    total = Accumulator(LAYOUT.holdings, Bounds(1, 1.0, 100.0))
    total.fold(lie, 0, 1.0)
    out = np.empty_like(lie)
    algorithm.finalize(total, LAYOUT, ZEROS, out)
    prototypes, shares = split(out)
    assert prototypes.tolist() == [[100.0, 100.0], [0.0, 0.0], [0.0, 0.0]]
    assert shares[1:].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lamda": 1}, "did you mean 'lambda'"),
        ({"lambda": -1}, "not within 0"),
        ({"inference": 0.5}, "not a whole number"),
        ({"inference": 2}, "not within 0 to 1"),
        ({"largest_feature": 0}, "not within"),
    ],
)
def test_a_wrong_option_is_refused_with_a_hint(options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_algorithm("fedproto", options)
