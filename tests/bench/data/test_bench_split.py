"""Laws of splitting: nothing is lost, nothing is given twice, and the seed says it all."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mhfl_mq.bench.data import split
from mhfl_mq.errors import TaskError

Whole = npt.NDArray[np.int64]


def made(clients: int, classes: int, each: int, seed: int) -> tuple[Whole, Whole]:
    """Clients and classes of `each` records per client and class, shuffled."""
    pairs = np.array([(c, k) for c in range(clients) for k in range(classes) for _ in range(each)])
    shuffled = np.random.default_rng(seed).permutation(pairs)
    return shuffled[:, 0], shuffled[:, 1]


@given(st.integers(1, 5), st.integers(1, 17), st.integers(0, 99))
def test_a_natural_split_gives_each_record_to_one_device(clients: int, devices: int, seed: int) -> None:
    client, targets = made(clients, 3, 20, seed)
    parts = split.natural(client, targets, clients, devices, (seed,))
    held = [part for part in parts if part.size]
    assert sorted(np.concatenate(held).tolist()) == list(range(client.size))
    for k, part in enumerate(parts):
        assert set(client[part].tolist()) == set(split.natural_clients(k, devices, clients))


@given(st.integers(2, 4), st.integers(0, 99))
def test_devices_that_share_a_natural_client_get_equally_much_of_each_class(sharing: int, seed: int) -> None:
    client, targets = made(2, 4, 21, seed)
    parts = split.natural(client, targets, 2, 2 * sharing, (seed,))
    counts = np.array([np.bincount(targets[part], minlength=4) for part in parts])
    for k in range(2):
        assert np.ptp(counts[k::2], axis=0).max() <= 1
        assert np.ptp(counts[k::2].sum(axis=1)) <= 1


@given(st.integers(1, 12), st.integers(0, 99))
def test_a_dirichlet_split_gives_each_record_to_one_device_and_each_device_enough(devices: int, seed: int) -> None:
    _, targets = made(1, 10, 100, seed)
    parts = split.dirichlet(targets, devices, (seed,))
    assert sorted(np.concatenate(parts).tolist()) == list(range(targets.size))
    assert min(part.size for part in parts) >= split.FEWEST


@given(st.integers(1, 30), st.integers(2, 10), st.integers(0, 99))
def test_by_class_a_device_has_two_classes_and_every_class_is_held_by_as_many(
    devices: int, classes: int, seed: int
) -> None:
    _, targets = made(1, classes, 90, seed)
    parts = split.by_class(targets, classes, devices, (seed,))
    together = np.concatenate(parts)
    assert len(set(together.tolist())) == together.size
    held = [set(targets[part].tolist()) for part in parts]
    assert all(len(one) == 2 for one in held)
    times = [sum(label in one for one in held) for label in range(classes)]
    assert max(times) - min(times) <= 1


def test_a_seed_says_it_all() -> None:
    client, targets = made(3, 4, 30, 0)
    for one, again, other in (
        [split.dirichlet(targets, 5, (seed,)) for seed in (1, 1, 2)],
        [split.by_class(targets, 4, 5, (seed,)) for seed in (1, 1, 2)],
        [split.natural(client, targets, 3, 7, (seed,)) for seed in (1, 1, 2)],
    ):
        assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
        assert not all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@given(st.integers(2, 8), st.integers(0, 99))
def test_what_is_held_out_is_whole_units_of_every_stratum(every: int, seed: int) -> None:
    client, targets = made(2, 3, 60, seed)
    order = np.lexsort((targets, client))
    unit = np.empty(client.size, np.int64)
    unit[order] = np.arange(client.size) // 5  # 12 units of 5 for each client and class
    held = split.hold_out(unit, (client, targets), every, (seed,))
    assert not set(unit[held].tolist()) & set(unit[~held].tolist())
    assert abs(held.mean() - 1 / every) <= 1 / 72
    assert len(set(zip(client[held].tolist(), targets[held].tolist(), strict=True))) == 6


def test_a_unit_far_larger_than_the_others_is_never_held_out() -> None:
    unit = np.concatenate([np.repeat(np.arange(12), 5), np.full(100, 12)])
    nothing = np.zeros(unit.size, np.int64)
    for seed in range(20):
        assert not split.hold_out(unit, (nothing,), 2, (seed,))[unit == 12].any()


@given(st.integers(0, 99))
def test_records_are_drawn_alike_to_a_mix_and_none_twice(seed: int) -> None:
    _, targets = made(1, 4, 50, seed)
    own = np.repeat([0, 2, 3], [60, 30, 10])
    drawn = split.draw_alike(targets, own, 1000, (seed,))
    assert len(set(drawn.tolist())) == drawn.size
    assert np.bincount(targets[drawn], minlength=4).tolist() == [50, 0, 25, 8]
    assert split.draw_alike(targets, own, 40, (seed,)).size == 40


def test_too_many_devices_for_a_dirichlet_split_are_refused() -> None:
    with pytest.raises(TaskError, match="each of 12 devices has 10"):
        split.dirichlet(np.zeros(50, np.int64), 12, (0,))
    with pytest.raises(TaskError, match="each of 12 devices has 10"):
        split.dirichlet(np.zeros(121, np.int64), 12, (0,))
