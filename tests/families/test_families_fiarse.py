"""FIARSE at the aggregator: the mean over who holds a coordinate, and a new order."""

from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mhfl_mq.families import Cut, make_algorithm
from mhfl_mq.segments import Accumulator, Axis, Bounds, Layout, Parameter, Tier, Vector
from mhfl_mq.segments.ranking import Ranking, classes_of, ranked_parameters

SIZES = [5, 10, 15]
TIERS = (Tier("small", 0.25), Tier("middle", 0.5), Tier("large"))
LAYOUT = Layout(TIERS, {}, (Parameter("norm", (Axis(1),)), *ranked_parameters(SIZES, "x")))
RANKING = Ranking.of(LAYOUT)
FIARSE = make_algorithm("fiarse")


def first(luck: np.random.Generator) -> Vector:
    flat = np.zeros(LAYOUT.total, np.float32)
    RANKING.publish(luck.normal(size=30).astype(np.float32), flat)
    return flat


def update(head: Vector, tier: int, deltas: Vector) -> Vector:
    """What a device of a tier sends that moved by these deltas, in the full model's order."""
    classes = classes_of(RANKING.values(head), SIZES)
    flat = np.zeros(LAYOUT.total, np.float32)
    for k, (start, stop) in enumerate(RANKING.ranks):
        flat[start:stop] = deltas[classes == k]
    return LAYOUT.take(flat, tier).copy()


@settings(max_examples=50)
@given(present=st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=5), seed=st.integers(0, 99))
def test_each_coordinate_is_the_mean_over_who_holds_it_and_then_all_are_ranked(
    present: list[tuple[int, bool]], seed: int
) -> None:
    """Traps T1 and T7: what nobody holds keeps its value, and who moved nothing counts."""
    luck = np.random.default_rng(seed)
    head = first(luck)
    values, classes = RANKING.values(head), classes_of(RANKING.values(head), SIZES)
    total = Accumulator(LAYOUT.holdings, Bounds(5, 1.0, 8.0))
    sums, counts = np.zeros(30), np.zeros(30)
    for tier, moved in present:
        deltas = (luck.integers(-4, 5, 30) / 4 * moved).astype(np.float32)
        total.fold(update(head, tier, deltas), tier, 1.0)
        sums += np.where(classes <= tier, deltas, 0)
        counts += classes <= tier
    new = np.empty_like(head)
    FIARSE.finalize(total, LAYOUT, head, new)
    expected = (values + np.divide(sums, counts, out=np.zeros(30), where=counts > 0)).astype(np.float32)
    np.testing.assert_array_equal(RANKING.values(new), expected)
    start, stop = RANKING.ranks[0]
    np.testing.assert_array_equal(np.sort(np.abs(new[start:stop])), np.sort(np.abs(expected))[-5:])
    if not present:
        assert new.tobytes() == head.tobytes()


def test_a_mask_is_the_heads_whatever_came_with_the_updates() -> None:
    head = first(np.random.default_rng(1))
    total = Accumulator(LAYOUT.holdings, Bounds(1, 1.0, 8.0))
    wrong = update(head, 2, np.zeros(30, np.float32))
    for start, stop in RANKING.masks:
        wrong[start:stop] = 3.0
    total.fold(wrong, 2, 1.0)
    new = np.empty_like(head)
    FIARSE.finalize(total, LAYOUT, head, new)
    assert new.tobytes() == head.tobytes()


def test_an_array_and_a_file_become_the_same_version(tmp_path: Path) -> None:
    luck = np.random.default_rng(2)
    head = first(luck)
    total = Accumulator(LAYOUT.holdings, Bounds(1, 1.0, 8.0))
    total.fold(update(head, 1, luck.normal(size=30).astype(np.float32)), 1, 1.0)
    new = np.empty_like(head)
    FIARSE.finalize(total, LAYOUT, head, new)
    head.tofile(tmp_path / "head")
    FIARSE.finalize(total, LAYOUT, tmp_path / "head", tmp_path / "new")
    assert (tmp_path / "new").read_bytes() == new.tobytes()
    assert not np.array_equal(new, head)


def test_first_weights_are_ranked_and_ranking_them_again_changes_nothing() -> None:
    head = first(np.random.default_rng(3))
    flat = head.copy()
    start, stop = RANKING.ranks[2]
    flat[stop - 1] = 50.0
    FIARSE.begin(LAYOUT, flat)
    assert flat[slice(*RANKING.ranks[0])].max() == 50.0
    again = flat.copy()
    FIARSE.begin(LAYOUT, again)
    assert again.tobytes() == flat.tobytes()
    assert start < stop


def test_trap_t6_it_counts_devices_alike_and_a_sum_is_enough() -> None:
    assert FIARSE.weight(9) == 1.0
    assert FIARSE.plan.cut is Cut.RANKED
    assert FIARSE.about.linear
