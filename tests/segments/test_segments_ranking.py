"""Ranks by magnitude, their masks of bits, and what a tier makes of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mhfl_mq.errors import LayoutError, LocalMisuse
from mhfl_mq.segments import Axis, Layout, Parameter, Tier, Vector
from mhfl_mq.segments.ranking import Ranking, by_class, chosen, classes_of, ranked_parameters, spread


def layout_of(sizes: list[int]) -> Layout:
    tiers = tuple(Tier(f"t{k}", (k + 1) / len(sizes)) for k in range(len(sizes)))
    return Layout(tiers, {}, (Parameter("norm", (Axis(2),)), *ranked_parameters(sizes, "mark")))


SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=4)
NUMBERS = st.sampled_from([0.0, -0.0, 0.5, -0.5, 1.0, -2.0, 3.0])  # few: many are equal


@given(sizes=SIZES, data=st.data())
def test_a_version_gives_back_its_coordinates_and_a_tier_holds_the_largest(
    sizes: list[int], data: st.DataObject
) -> None:
    count = sum(sizes)
    values = np.array(data.draw(st.lists(NUMBERS, min_size=count, max_size=count)), np.float32)
    layout = layout_of(sizes)
    ranking = Ranking.of(layout)
    flat = np.full(layout.total, 7.0, np.float32)
    ranking.publish(values, flat)
    assert ranking.values(flat).tobytes() == values.tobytes()
    assert flat[:2].tolist() == [7.0, 7.0]  # what every tier holds is not ranked
    again = flat.copy()
    ranking.publish(ranking.values(again), again)
    assert again.tobytes() == flat.tobytes()
    order = np.argsort(-np.abs(values), kind="stable")
    for tier in range(len(sizes)):
        vector = layout.take(flat, tier)
        names = [p.name for p in layout.parameters if p.since <= tier and p.name != "norm"]
        own = {name[1:]: vector[slice(*layout.place(name, tier))] for name in names}
        found, held = spread(by_class(own, "~rank"), by_class(own, "~mask"), count)
        expected = np.zeros(count, bool)
        expected[order[: sum(sizes[: tier + 1])]] = True
        np.testing.assert_array_equal(held, expected)
        np.testing.assert_array_equal(found, np.where(held, values, 0))


@pytest.mark.parametrize("count", [1, 23, 24, 25, 48, 49])
def test_a_mask_is_a_bit_for_each_coordinate_in_whole_numbers_that_float32_counts(count: int) -> None:
    layout = layout_of([1, count])
    flat = np.zeros(layout.total, np.float32)
    mask = flat[:0]
    for place in range(count + 1):
        values = np.zeros(count + 1, np.float32)
        values[place] = 1
        Ranking.of(layout).publish(values, flat)
        start, stop = layout.where("~mask0")
        mask = flat[start:stop]
        assert stop - start == -(-(count + 1) // 24)
        assert mask[place // 24] == 2 ** (23 - place % 24)
        assert np.count_nonzero(mask) == 1
    assert len(list(chosen([mask], [1, count], count + 1))) == 2


def test_of_equal_magnitudes_the_first_come_first() -> None:
    values = np.array([1, -2, 2, 2, 0], np.float32)
    assert classes_of(values, [2, 2, 1]).tolist() == [1, 0, 0, 1, 2]
    with pytest.raises(LocalMisuse, match="5 coordinates to rank into classes"):
        classes_of(values, [2, 2])


def test_models_of_other_arrays_have_layouts_of_other_digests() -> None:
    tiers = (Tier("a", 0.5), Tier("b"))
    one, other = (Layout(tiers, {}, ranked_parameters([2, 3], mark)) for mark in ("m", "n"))
    assert one.digest != other.digest
    assert Layout.from_document(one.document()).digest == one.digest
    with pytest.raises(LocalMisuse, match="has no ~rank0: it is not ranked"):
        Ranking.of(Layout(tiers, {"g": (1, 2)}, (Parameter("w", (Axis(2, group="g"),)),)))


@pytest.mark.parametrize("number", [0.0, 1.5, -1.0, 2.0**24, float("nan"), float("inf"), 2.0**23 + 2.0**22])
def test_a_mask_that_is_none_is_refused(number: float) -> None:
    masks: list[Vector] = [np.array([number], np.float32)]
    with pytest.raises(
        LayoutError, match=r"not whole numbers below|has \d coordinates instead of 1.*fetch the version"
    ):
        spread([np.ones(1, np.float32)], masks, 3)
    with pytest.raises(LayoutError, match="not whole numbers"):
        spread([np.ones(1, np.float32)], masks, 25)  # of another length
