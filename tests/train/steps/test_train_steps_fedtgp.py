"""FedTGP's step at the aggregator: the margin, the loss, and prototypes that stay farther apart than their means."""

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch

from mhfl_mq.segments import Vector
from mhfl_mq.train.options import TrainOptions
from mhfl_mq.train.steps import Conclusion, PastUpdate, method_of
from mhfl_mq.train.steps.fedtgp import adaptive_margin, begun_generator, contrast, single_prototypes
from tests.train.steps.native_family import CLASSES, FEATURES, Federation, blobs

NAME = "fedtgp"
DEVICES = ((0, blobs(60, 10, (0, 1))), (1, blobs(45, 11, (1, 2))), (1, blobs(30, 12, (0, 2))))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def update(prototypes: dict[int, Sequence[float]]) -> Vector:
    """What a device sends that has these prototypes, each of an equal share."""
    sums, shares = np.zeros((CLASSES, FEATURES), np.float32), np.zeros(CLASSES, np.float32)
    for label, point in prototypes.items():
        shares[label] = 1 / len(prototypes)
        sums[label] = np.array(point) * shares[label]
    return np.concatenate([sums.reshape(-1), shares])


def concluded(
    federation: Federation, updates: Sequence[Vector], merged: Vector | None = None, **numbers: float
) -> Vector:
    past = [PastUpdate(vector, k % 2, 1.0) for k, vector in enumerate(updates)]
    merged = np.zeros_like(federation.flat) if merged is None else merged
    told = Conclusion(
        federation.models, federation.flat, merged, past, TrainOptions(seed=3), numbers, federation.number + 1
    )
    return method_of(NAME).conclude(told)


def point(first: float, second: float = 0.0) -> list[float]:
    return [first, second, 0.0, 0.0, 0.0, 0.0]


def test_the_margin_is_the_largest_gap_to_the_nearest_other_class_but_at_most_the_cap() -> None:
    points = torch.tensor([point(0.0), point(2.0), point(4.0), point(13.0), point(13.0)])
    labels = torch.tensor([0, 0, 1, 2, 2])  # means at 1, 4 and 13: gaps 3, 3 and 9
    assert adaptive_margin(points, labels, 100.0) == pytest.approx(9.0)
    assert adaptive_margin(points, labels, 5.0) == 5.0
    assert adaptive_margin(points[:2], labels[:2], 100.0) == 100.0


def test_the_loss_is_cross_entropy_over_distances_with_the_own_class_farther_by_the_margin() -> None:
    points, labels = torch.tensor([point(1.0, 2.0), point(-3.0)]), torch.tensor([2, 0])
    prototypes = torch.tensor([point(0.0), point(1.0), point(2.0, 2.0)])
    expected = []
    for p, label in zip(points, labels, strict=True):
        away = torch.tensor([float(torch.linalg.norm(p - other)) for other in prototypes])
        away[label] += 0.7
        expected.append(-torch.log_softmax(-away, dim=0)[label])
    assert contrast(points, labels, prototypes, 0.7).item() == pytest.approx(torch.stack(expected).mean().item())


def test_a_prototype_that_is_where_a_device_has_it_has_a_finite_slope() -> None:
    """Trap: the root of a distance of zero has none."""
    prototypes = torch.tensor([point(0.0), point(1.0), point(2.0)], requires_grad=True)
    contrast(torch.zeros(1, FEATURES), torch.tensor([0]), prototypes, 1.0).backward()  # type: ignore[no-untyped-call]
    assert prototypes.grad is not None
    assert torch.isfinite(prototypes.grad).all()


def test_the_network_begins_as_one_that_says_what_the_head_holds() -> None:
    torch.manual_seed(1)
    goal, known = torch.randn(CLASSES, FEATURES) * 5, torch.tensor([True, False, True])
    said = begun_generator(goal, known)()
    assert torch.allclose(said[known], goal[known], atol=1e-3)


def test_more_classes_than_features_are_begun_as_nearly_as_can_be() -> None:
    torch.manual_seed(1)
    said = begun_generator(torch.randn(40, 4), torch.ones(40, dtype=torch.bool))()
    assert torch.isfinite(said).all()


def test_single_prototypes_are_sums_over_shares_of_the_classes_that_a_device_has() -> None:
    layout = Federation(NAME).models.layout
    past = [PastUpdate(update({0: point(1.0), 2: point(3.0)}), 1, 2.0), PastUpdate(update({1: point(5.0)}), 0, 2.0)]
    points, labels = single_prototypes(past, layout, (CLASSES, FEATURES))
    assert labels.tolist() == [1, 0, 2]
    assert torch.allclose(points, torch.tensor([point(5.0), point(1.0), point(3.0)]))


def test_classes_are_farther_apart_than_in_the_mean_of_unlike_devices() -> None:
    """Two devices whose classes are apart, in contrary ways: their means are one point, and trained ones are not."""
    federation = Federation(NAME)
    sent = [update({0: point(1.0, 1.0), 1: point(1.0, -1.0)}), update({0: point(-1.0, 1.1), 1: point(-1.0, -0.5)})]
    mean = np.zeros_like(federation.flat)
    mean[: 2 * FEATURES] = [0.0, 1.05, 0, 0, 0, 0, 0.0, -0.75, 0, 0, 0, 0]
    mean[-CLASSES:] = 0.5, 0.5, 0.0
    new = concluded(federation, sent, mean)
    gap = np.linalg.norm(new[:FEATURES] - new[FEATURES : 2 * FEATURES])
    assert gap > 1.3 * 1.8


def test_classes_that_nobody_has_keep_their_prototype_and_shares_are_the_sums() -> None:
    federation = Federation(NAME, devices=DEVICES)
    merged = np.arange(federation.flat.size, dtype=np.float32)
    new = concluded(federation, [update({0: point(1.0)}), update({1: point(-1.0)})], merged)
    np.testing.assert_array_equal(new[2 * FEATURES :], merged[2 * FEATURES :])
    assert not np.array_equal(new[: 2 * FEATURES], merged[: 2 * FEATURES])


def test_without_any_prototype_the_mean_stands() -> None:
    federation = Federation(NAME)
    merged = np.ones_like(federation.flat)
    assert concluded(federation, [np.zeros_like(merged)], merged).tobytes() == merged.tobytes()


def test_it_does_not_depend_on_the_order_of_arrival_nor_on_what_was_drawn_before() -> None:
    federation = Federation(NAME, devices=DEVICES).round()
    jobs = [federation.trained[d].update for d in range(3)]
    past = [PastUpdate(vector, 0, 1.0) for vector in jobs]
    results = []
    for order in ((0, 1, 2), (2, 0, 1)):
        torch.rand(order[0] + 1)
        state = torch.random.get_rng_state()
        told = Conclusion(
            federation.models, federation.flat, federation.flat, [past[k] for k in order], TrainOptions(), {}, 2
        )
        results.append(method_of(NAME).conclude(told).tobytes())
        assert torch.equal(state, torch.random.get_rng_state())
    assert results[0] == results[1]


def test_training_that_diverges_leaves_the_mean() -> None:
    federation = Federation(NAME)
    merged = np.ones_like(federation.flat)
    wild = [update({0: point(1e5), 1: point(-1e5)}), update({0: point(-1e5), 1: point(9e4)})]
    new = concluded(federation, wild, merged, generator_rate=10.0, server_epochs=300)
    assert new.tobytes() == merged.tobytes()


def test_a_federation_of_unlike_models_learns_and_its_devices_are_fedprotos() -> None:
    devices = [(tier, blobs(60, 10 + tier)) for tier in (0, 1)]
    federation = Federation(NAME, devices=devices)
    first = float(np.mean(federation.round().scores()))
    for _ in range(7):
        federation.round()
    assert float(np.mean(federation.scores())) > max(0.85, first)
    assert np.isfinite(federation.flat).all()
