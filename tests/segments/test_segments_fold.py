"""The fold: the slow definition exactly, in any order, whoever is absent; and nothing bad gets in."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mhfl_mq.errors import LocalMisuse, StoreError
from mhfl_mq.segments import (
    Accumulator,
    Bounds,
    Fault,
    Layout,
    Packer,
    Source,
    Span,
    Vector,
    blocks,
    check_update,
)
from mhfl_mq.segments.blocks import BLOCK

BOUNDS = Bounds(cohort=6, weight=100.0, value=8.0)
LENGTHS = (3, 5, 9)


def vector(seed: int, n: int) -> Vector:
    """Arbitrary floats of many magnitudes within the bound."""
    rng = np.random.default_rng(seed)
    return (rng.uniform(-1, 1, n) * 2.0 ** rng.integers(-40, 3, n)).astype(np.float32)


def finalized(accumulator: Accumulator, head: Vector, rate: float = 1.0) -> Vector:
    out = np.empty_like(head)
    accumulator.finalize(head, out, rate)
    return out


@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_aggregation_is_per_coordinate_masked_averaging_exactly_whoever_is_absent(
    layouts: st.SearchStrategy[Layout], oracle: Any, data: st.DataObject, seed: int
) -> None:
    layout = data.draw(layouts)
    rng, last = np.random.default_rng(seed), len(layout.tiers) - 1
    present = data.draw(st.lists(st.tuples(st.integers(0, last), st.integers(1, 100)), max_size=6))

    def on_grid(tier: int) -> dict[str, Vector]:
        return {
            n: (rng.integers(-8 * 2**12, 8 * 2**12 + 1, s) / 2**12).astype(np.float32)
            for n, s in layout.shapes(tier).items()
        }

    updates = [(tier, on_grid(tier), float(weight)) for tier, weight in present]
    head = on_grid(last)
    ours = Accumulator(layout.lengths, BOUNDS)
    for tier, arrays, weight in updates:
        ours.fold(Packer(layout, tier).gather(arrays), tier, weight)
    packer = Packer(layout, last)
    assert np.array_equal(finalized(ours, packer.gather(head)), packer.gather(oracle(layout).average(head, updates)))


@given(
    present=st.lists(st.tuples(st.integers(0, 2), st.floats(0.01, 100)), min_size=1, max_size=6),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_the_result_does_not_depend_on_the_order_bit_for_bit(
    present: list[tuple[int, float]], seed: int, data: st.DataObject
) -> None:
    updates = [(vector(seed + i, LENGTHS[tier]), tier, weight) for i, (tier, weight) in enumerate(present)]
    head = vector(seed, LENGTHS[-1])
    one, two = Accumulator(LENGTHS, BOUNDS), Accumulator(LENGTHS, BOUNDS)
    for v, tier, weight in updates:
        one.fold(v, tier, weight)
    for v, tier, weight in data.draw(st.permutations(updates)):
        two.fold(v, tier, weight)
    assert finalized(one, head).tobytes() == finalized(two, head).tobytes()
    assert one.weights == two.weights


@given(
    present=st.lists(st.floats(0.01, 100), min_size=1, max_size=6),
    seed=st.integers(0, 2**32 - 1),
)
def test_arbitrary_floats_come_within_the_stated_error(present: list[float], seed: int) -> None:
    ours, n = Accumulator((7,), BOUNDS), len(present)
    updates = [vector(seed + i, 7) for i in range(n)]
    for v, weight in zip(updates, present, strict=True):
        ours.fold(v, 0, weight)
    total = math.fsum(present)
    found = finalized(ours, np.zeros(7, np.float32)).astype(np.float64)
    for i in range(7):
        exact = math.fsum(float(v[i]) * w for v, w in zip(updates, present, strict=True)) / total
        rounding = abs(exact) * 2.0**-23  # of the finished model to float32, and of the exact sum above
        assert abs(found[i] - exact) <= n * BOUNDS.grid / total + rounding


def test_products_exactly_between_two_grid_points_round_alike_in_every_order() -> None:
    tie = np.full(1, BOUNDS.grid / 2, np.float32)
    other = np.full(1, BOUNDS.grid, np.float32)
    results = set()
    for order in ([tie, other, tie], [other, tie, tie], [tie, tie, other]):
        ours = Accumulator((1,), BOUNDS)
        for v in order:
            ours.fold(v, 0, 1.0)
        results.add(finalized(ours, np.zeros(1, np.float32)).tobytes())
    assert len(results) == 1


@given(cohort=st.integers(1, 100_000), weight=st.floats(1e-30, 1e30), value=st.floats(1e-30, 1e30))
def test_the_grid_lets_a_whole_cohort_of_the_largest_products_fit(cohort: int, weight: float, value: float) -> None:
    bounds = Bounds(cohort, weight, value)
    assert weight * value <= bounds.grid * 2.0**51
    assert cohort * (weight * value / bounds.grid) < 2.0**63
    assert math.frexp(bounds.grid)[0] == 0.5


@pytest.mark.parametrize("sign", [1, -1])
def test_a_full_cohort_of_the_largest_updates_does_not_overflow(sign: int) -> None:
    bounds = Bounds(3000, 7.0, 3.0)
    ours = Accumulator((2,), bounds)
    for _ in range(3000):
        ours.fold(np.full(2, sign * 3.0, np.float32), 0, 7.0)
    assert finalized(ours, np.zeros(2, np.float32)).tolist() == [sign * 3.0] * 2


def test_coordinates_that_nobody_held_keep_their_value_bit_for_bit() -> None:
    head = np.array([1, 2, 3, 4, 5, -0.0, np.nan, 1e-42, np.inf], np.float32)
    ours = Accumulator(LENGTHS, BOUNDS)
    ours.fold(vector(1, 3), 0, 1.0)
    ours.fold(vector(2, 5), 1, 2.0)
    assert finalized(ours, head)[5:].tobytes() == head[5:].tobytes()
    assert ours.weights == (3.0, 2.0, 0.0)


def test_a_round_without_updates_changes_nothing_and_divides_by_nothing() -> None:
    head = vector(3, 9)
    assert finalized(Accumulator(LENGTHS, BOUNDS), head).tobytes() == head.tobytes()


def test_an_update_of_zeros_counts() -> None:
    ours = Accumulator(LENGTHS, BOUNDS)
    ours.fold(np.full(3, 4.0, np.float32), 0, 1.0)
    ours.fold(np.zeros(3, np.float32), 0, 1.0)
    assert finalized(ours, np.zeros(9, np.float32))[:3].tolist() == [2.0, 2.0, 2.0]
    assert ours.updates == 2


def test_the_servers_rate_scales_the_step() -> None:
    ours = Accumulator(LENGTHS, BOUNDS)
    ours.fold(np.full(9, 4.0, np.float32), 2, 3.0)
    assert finalized(ours, np.ones(9, np.float32), 0.5).tolist() == [3.0] * 9


def test_files_give_the_same_bits_as_arrays_over_many_blocks(tmp_path: Path) -> None:
    lengths = (BLOCK - 3, 2 * BLOCK + 5)
    head, updates = vector(0, lengths[1]), [vector(1, lengths[0]), vector(2, lengths[1])]
    head.tofile(tmp_path / "head")
    arrays, files = Accumulator(lengths, BOUNDS), Accumulator(lengths, BOUNDS)
    for tier, update in enumerate(updates):
        update.tofile(tmp_path / f"{tier}")
        arrays.fold(update, tier, 1.5)
        files.fold(tmp_path / f"{tier}", tier, 1.5)
    files.finalize(tmp_path / "head", tmp_path / "new")
    assert (tmp_path / "new").read_bytes() == finalized(arrays, head).tobytes()


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf, 8.5, -8.5])
def test_a_number_that_is_not_finite_or_too_large_never_gets_into_the_sum(bad: float) -> None:
    n = BLOCK + 10
    good, poison = vector(1, n), vector(2, n)
    poison[-2] = bad  # in the second block: the first is already in the sum when it is seen
    ours, clean = Accumulator((n,), BOUNDS), Accumulator((n,), BOUNDS)
    ours.fold(good, 0, 2.0)
    clean.fold(good, 0, 2.0)
    with pytest.raises(LocalMisuse, match="check_update"):
        ours.fold(poison, 0, 3.0)
    head = vector(3, n)
    assert finalized(ours, head).tobytes() == finalized(clean, head).tobytes()
    assert ours.updates == 1
    found = check_update(poison, n, 8.0)
    assert found.fault is (Fault.TOO_LARGE if np.isfinite(bad) else Fault.NOT_FINITE)
    assert str(n - 2) in found.reason


@given(value=st.floats(width=32), bound=st.floats(2.0**-100, 2.0**100, width=32))
def test_the_check_says_what_the_definition_says(value: float, bound: float) -> None:
    found = check_update(np.array([0.0, value, -0.0], np.float32), 3, bound)
    assert found.ok == (math.isfinite(value) and abs(value) <= bound)


def test_an_update_of_the_wrong_length_is_told_its_own_and_the_right_one(tmp_path: Path) -> None:
    found = check_update(np.zeros(4, np.float32), 5, 1.0)
    assert found.fault is Fault.LENGTH
    assert "4" in found.reason
    assert "5" in found.reason
    (tmp_path / "odd").write_bytes(b"12345")
    assert check_update(tmp_path / "odd", 1, 1.0).fault is Fault.LENGTH
    np.ones(5, "<f4").tofile(tmp_path / "good")
    assert check_update(tmp_path / "good", 5, 1.0).ok


@pytest.mark.parametrize(
    ("source", "tier", "weight"),
    [
        (np.zeros(3, np.float32), 3, 1.0),
        (np.zeros(3, np.float32), -1, 1.0),
        (np.zeros(3, np.float32), 0, 0.0),
        (np.zeros(3, np.float32), 0, 100.5),
        (np.zeros(3, np.float32), 0, math.nan),
        (np.zeros(4, np.float32), 0, 1.0),
        (np.zeros(3), 0, 1.0),
        (np.zeros(6, np.float32)[::2], 0, 1.0),
    ],
)
def test_a_fold_beyond_the_contract_is_refused_and_changes_nothing(source: Any, tier: int, weight: float) -> None:
    ours = Accumulator(LENGTHS, BOUNDS)
    with pytest.raises(LocalMisuse):
        ours.fold(source, tier, weight)
    assert ours.updates == 0
    assert ours.weights == (0.0, 0.0, 0.0)


def test_a_sums_storage_makes_the_next_sum_and_ends_the_old_one() -> None:
    first, again = Accumulator(LENGTHS, BOUNDS), vector(1, 9)
    first.fold(vector(2, 9), 2, 3.0)
    storage = first.storage
    second, fresh = Accumulator(LENGTHS, BOUNDS, storage), Accumulator(LENGTHS, BOUNDS)
    assert second.storage is storage
    second = Accumulator(LENGTHS, BOUNDS, storage)
    for one in (second, fresh):
        one.fold(again, 2, 2.0)
    head = vector(3, 9)
    assert finalized(second, head).tobytes() == finalized(fresh, head).tobytes()
    with pytest.raises(LocalMisuse, match="given away"):
        first.fold(again, 2, 1.0)
    with pytest.raises(LocalMisuse, match="given away"):
        finalized(first, head)
    with pytest.raises(LocalMisuse, match="a storage of"):
        Accumulator((3, 5), BOUNDS, storage)


def test_a_checked_update_makes_the_same_sum_and_a_wrong_voucher_is_the_callers(tmp_path: Path) -> None:
    head, update = vector(1, 9), vector(2, 9)
    (tmp_path / "update").write_bytes(update.tobytes())
    sums = [Accumulator(LENGTHS, BOUNDS) for _ in range(3)]
    sums[0].fold(update, 2, 3.0)
    sums[1].fold(tmp_path / "update", 2, 3.0, checked=True)
    assert finalized(sums[0], head).tobytes() == finalized(sums[1], head).tobytes()
    update[4] = BOUNDS.value * 2
    sums[2].fold(update, 2, 3.0, checked=True)
    assert sums[2].updates == 1
    with pytest.raises(LocalMisuse, match="came to the fold"):
        sums[0].fold(update, 2, 3.0)


def test_a_head_inside_a_file_is_read_where_it_lies(tmp_path: Path) -> None:
    head, ours = vector(1, 9), Accumulator(LENGTHS, BOUNDS)
    ours.fold(vector(2, 5), 1, 3.0)
    path = tmp_path / "model"
    path.write_bytes(b"header.." + head.tobytes() + b"more")
    out = tmp_path / "out"
    ours.finalize(Span(path, 8, 9), out)
    assert out.read_bytes() == finalized(ours, head).tobytes()
    with pytest.raises(LocalMisuse, match="overwrite the head"):
        ours.finalize(Span(path, 8, 9), path)
    with pytest.raises(StoreError, match="ends before coordinate 9"):
        ours.finalize(Span(path, 16, 9), out)
    with pytest.raises(LocalMisuse, match="the head has 8 coordinates"):
        ours.finalize(Span(path, 8, 8), out)


def test_one_update_more_than_the_cohort_is_refused() -> None:
    ours = Accumulator((1,), Bounds(1, 1.0, 1.0))
    ours.fold(np.zeros(1, np.float32), 0, 1.0)
    with pytest.raises(LocalMisuse, match="cohort of 1"):
        ours.fold(np.zeros(1, np.float32), 0, 1.0)


def test_a_file_that_ends_early_is_taken_back_out_of_the_sum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n = BLOCK + 10
    vector(1, BLOCK + 1).tofile(tmp_path / "u")
    ours = Accumulator((n,), BOUNDS)
    monkeypatch.setattr("mhfl_mq.segments.fold.source_length", lambda source: n)
    with pytest.raises(StoreError, match="ends before"):
        ours.fold(tmp_path / "u", 0, 1.0)
    ours.fold(np.ones(n, np.float32), 0, 1.0)
    assert finalized(ours, np.zeros(n, np.float32)).tolist() == [1.0] * n


def test_a_sum_that_cannot_be_repaired_is_never_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n = BLOCK + 10
    ours = Accumulator((n,), BOUNDS)
    poison = vector(1, n)
    poison[-1] = np.nan
    poison.tofile(tmp_path / "u")
    real = blocks.read_blocks

    def gone_after_the_first_pass(source: Source, stop: int) -> Iterator[tuple[int, Vector]]:
        yield from real(source, stop)
        if stop < n:
            raise StoreError("the disk is gone")

    monkeypatch.setattr("mhfl_mq.segments.fold.read_blocks", gone_after_the_first_pass)
    with pytest.raises(StoreError, match="gone"):
        ours.fold(tmp_path / "u", 0, 1.0)
    with pytest.raises(LocalMisuse, match="fold again from the stored updates"):
        ours.fold(np.zeros(n, np.float32), 0, 1.0)
    with pytest.raises(LocalMisuse, match="fold again from the stored updates"):
        ours.finalize(np.zeros(n, np.float32), np.zeros(n, np.float32))


def test_a_missing_file_is_a_store_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nowhere"):
        check_update(tmp_path / "nowhere", 3, 1.0)
    with pytest.raises(StoreError, match="nowhere"):
        Accumulator(LENGTHS, BOUNDS).fold(tmp_path / "nowhere", 0, 1.0)


def test_the_new_model_never_overwrites_the_head_that_it_is_made_from(tmp_path: Path) -> None:
    head = tmp_path / "head"
    vector(1, 9).tofile(head)
    before = head.read_bytes()
    with pytest.raises(LocalMisuse, match="overwrite the head"):
        Accumulator(LENGTHS, BOUNDS).finalize(head, head)
    assert head.read_bytes() == before


def test_a_head_or_result_of_another_length_is_refused(tmp_path: Path) -> None:
    ours = Accumulator(LENGTHS, BOUNDS)
    with pytest.raises(LocalMisuse, match="head has 8"):
        ours.finalize(np.zeros(8, np.float32), np.zeros(9, np.float32))
    with pytest.raises(LocalMisuse, match="to finalize into"):
        ours.finalize(np.zeros(9, np.float32), np.zeros(8, np.float32))
    with pytest.raises(StoreError, match="cannot be written"):
        ours.finalize(np.zeros(9, np.float32), tmp_path / "no" / "folder")


def test_a_model_that_is_not_finite_is_never_written() -> None:
    ours = Accumulator((1,), BOUNDS)
    ours.fold(np.ones(1, np.float32), 0, 1.0)
    with pytest.raises(LocalMisuse, match="not finite"):
        ours.finalize(np.full(1, np.nan, np.float32), np.zeros(1, np.float32))


@pytest.mark.parametrize("bad", [(0, 1.0, 1.0), (1, 0.0, 1.0), (1, 1.0, math.inf), (1, math.nan, 1.0)])
def test_bounds_that_bound_nothing_are_refused(bad: tuple[int, float, float]) -> None:
    with pytest.raises(LocalMisuse):
        Bounds(*bad)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.inf, math.nan])
def test_a_check_without_a_bound_is_refused(bad: float) -> None:
    with pytest.raises(LocalMisuse):
        check_update(np.zeros(1, np.float32), 1, bad)
