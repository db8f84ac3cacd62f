"""Tiers that are not prefixes: who holds which segment, what a tier's vector is, and how such vectors add up."""

import itertools
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mhfl_mq.errors import LayoutError, LocalMisuse
from mhfl_mq.segments import (
    Accumulator,
    Axis,
    Bounds,
    Holdings,
    Layout,
    Packer,
    Parameter,
    Tier,
    Vector,
)

BOUNDS = Bounds(cohort=6, weight=100.0, value=8.0)
TIERS = (Tier("s", 0.5), Tier("m", 0.75), Tier("l"))
GAPPED = Holdings(((0, 3), (3, 5), (5, 6), (6, 10)), ((0, 2), (0, 1), (0, 1, 3)))


def mixed() -> Layout:
    """Three tiers of width; the small and the large one have an array of their own, the middle one has not."""
    return Layout(
        TIERS,
        {"g": (2, 3, 4)},
        (
            Parameter("l:head", (Axis(3),), only=2),
            Parameter("w", (Axis(4, group="g"),)),
            Parameter("s:head", (Axis(2),), only=0),
            Parameter("b", (Axis(1),)),
        ),
    )


def numbered(layout: Layout) -> dict[str, Vector]:
    """Every coordinate of every whole array, by a number of its own."""
    made: dict[str, Vector] = {}
    count = 0
    for p in layout.parameters:
        shape = tuple(axis.size for axis in p.axes)
        size = int(np.prod(shape, dtype=int))
        made[p.name] = np.arange(count, count + size, dtype=np.float32).reshape(shape)
        count += size
    return made


# ---- the layout -----------------------------------------------------------------------------------------------


@given(data=st.data())
def test_there_is_one_flat_vector_of_which_every_tier_takes_what_its_model_has(
    any_layouts: st.SearchStrategy[Layout], oracle: Any, data: st.DataObject
) -> None:
    layout = data.draw(any_layouts)
    full, flat = numbered(layout), np.full(layout.total, -1, np.float32)
    own = [Packer(layout, k).gather(oracle(layout).cut(full, k)) for k in range(len(layout.tiers))]
    for k, vector in enumerate(own):
        assert vector.size == layout.lengths[k] == sum(int(np.prod(s, dtype=int)) for s in layout.shapes(k).values())
        layout.holdings.put(vector, k, flat)
    assert sorted(flat) == list(range(layout.total))
    for k, vector in enumerate(own):
        assert np.array_equal(layout.take(flat, k), vector)


@given(data=st.data())
def test_a_coordinates_segment_is_told_by_the_tiers_that_hold_it(
    any_layouts: st.SearchStrategy[Layout], data: st.DataObject
) -> None:
    layout = data.draw(any_layouts)
    assert [start for start, _ in layout.segment_bounds] == [0, *(stop for _, stop in layout.segment_bounds[:-1])]
    assert layout.segment_bounds[-1][1] == layout.total
    holders = [frozenset(k for k, held in enumerate(layout.holds) if s in held) for s in range(layout.segments)]
    assert all(holders)
    shared = [held for held in holders if len(held) > 1]
    assert len(set(shared)) == len(shared)
    for box in layout.boxes:
        low, high = layout.segment_bounds[box.segment]
        assert low <= box.start < box.stop <= high
    for held, runs, length in zip(layout.holds, layout.runs, layout.lengths, strict=True):
        covered = [i for start, stop in runs for i in range(start, stop)]
        assert covered == [i for s in held for i in range(*layout.segment_bounds[s])]
        assert len(covered) == length
        assert all(stop < start for (_, stop), (start, _) in itertools.pairwise(runs))


@given(data=st.data())
def test_any_document_gives_the_same_layout_back(any_layouts: st.SearchStrategy[Layout], data: st.DataObject) -> None:
    layout = data.draw(any_layouts)
    again = Layout.from_document(json.loads(json.dumps(layout.document())))
    assert again == layout
    assert again.digest == layout.digest
    assert again.holdings == layout.holdings


@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_unpacking_what_any_tier_packed_is_the_identity(
    any_layouts: st.SearchStrategy[Layout], data: st.DataObject, seed: int
) -> None:
    layout, rng = data.draw(any_layouts), np.random.default_rng(seed)
    for k in range(len(layout.tiers)):
        packer = Packer(layout, k)
        arrays = {n: rng.normal(size=s).astype(np.float32) for n, s in layout.shapes(k).items()}
        empty = {name: np.zeros_like(array) for name, array in arrays.items()}
        packer.scatter(packer.gather(arrays), empty)
        assert all(np.array_equal(empty[name], arrays[name]) for name in arrays)


def test_private_segments_come_after_the_nested_ones_and_empty_ones_do_not_exist() -> None:
    layout = mixed()
    assert layout.segment_bounds == ((0, 3), (3, 4), (4, 5), (5, 7), (7, 10))
    assert layout.holds == ((0, 3), (0, 1), (0, 1, 2, 4))
    assert layout.lengths == (5, 4, 8)
    assert layout.runs == (((0, 3), (5, 7)), ((0, 4),), ((0, 5), (7, 10)))
    assert (layout.total, layout.segments) == (10, 5)
    apart = Layout(TIERS[:2], {}, (Parameter("m:x", (Axis(2),), only=1), Parameter("s:x", (Axis(3),), only=0)))
    assert apart.holds == ((0,), (1,))
    assert apart.runs == (((0, 3),), ((3, 5),))


def test_a_tier_of_one_run_is_a_view_of_the_flat_vector() -> None:
    flat = np.arange(10, dtype=np.float32)
    assert np.shares_memory(mixed().take(flat, 1), flat)
    assert mixed().take(flat, 0).tolist() == [0, 1, 2, 5, 6]


def test_in_a_whole_layout_every_tier_holds_everything() -> None:
    layout = Layout(TIERS, {"g": (4, 4, 4)}, (Parameter("w", (Axis(4, group="g"),)),), whole=True)
    assert layout.holds == ((0,),) * 3
    assert layout.lengths == (4, 4, 4)
    assert layout.document()["whole"] is True


def test_an_array_that_is_not_cut_has_a_place_in_both_vectors() -> None:
    layout = mixed()
    assert layout.where("b") == (2, 3)
    assert layout.where("l:head") == (7, 10)
    assert layout.place("l:head", 2) == (5, 8)
    assert layout.place("s:head", 0) == (3, 5)
    assert layout.place("b", 1) == (2, 3)
    with pytest.raises(LocalMisuse, match="does not hold"):
        layout.place("s:head", 1)
    with pytest.raises(LocalMisuse, match="several rectangles"):
        layout.where("w")
    with pytest.raises(LocalMisuse, match="not in the layout"):
        layout.where("v")


def test_an_array_of_one_tier_is_known_by_its_name_in_that_tiers_own_model() -> None:
    packer, flat = Packer(mixed(), 0), np.arange(5, dtype=np.float32)
    arrays = {"w": np.zeros(2, np.float32), "b": np.zeros(1, np.float32), "head": np.zeros(2, np.float32)}
    packer.scatter(flat, arrays)
    assert arrays["head"].tolist() == [3, 4]
    assert np.array_equal(packer.gather({**arrays, "s:head": arrays.pop("head")}), flat)


def test_a_tier_is_only_taken_out_of_a_model_that_holds_all_of_it() -> None:
    with pytest.raises(LocalMisuse, match="does not hold all of it"):
        Packer(mixed(), 0, model=2)
    assert Packer(mixed(), 1, model=2).length == 4


def test_what_is_not_said_is_not_in_the_document() -> None:
    plain = Layout(TIERS[2:], {}, (Parameter("w", (Axis(2),)),))
    assert set(plain.document()) == {"format", "tiers", "groups", "parameters"}
    assert plain.document()["tiers"] == [["l", "1.0", 0]]
    assert plain.document()["parameters"] == [["w", 0, [[2, 1, 1, ""]]]]


def test_what_is_said_besides_changes_the_digest() -> None:
    tiers, groups, w = (Tier("s", 0.5), Tier("l")), {"g": (2, 4)}, Parameter("w", (Axis(4, group="g"),))
    plain = Layout(tiers, groups, (w,))
    others = [
        Layout((Tier("s", 0.5, architecture="tree"), Tier("l")), groups, (w,)),
        Layout(tiers, groups, (w,), rolls={"g": 1}),
        Layout(tiers, groups, (w,), rolls={"g": 2}),
        Layout(tiers, groups, (w, Parameter("s:x", (Axis(1),), only=0))),
        Layout(tiers, {}, (Parameter("w", (Axis(4),)),), whole=True),
    ]
    assert len({plain.digest, *(other.digest for other in others)}) == 1 + len(others)


W = Parameter("w", (Axis(4, group="g"),))
G = {"g": (2, 3, 4)}


@pytest.mark.parametrize(
    ("groups", "parameters", "more", "said"),
    [
        (G, (W, Parameter("s:x", (Axis(1),), only=3)), {}, "belongs to tier 3 alone"),
        (G, (W, Parameter("s:x", (Axis(1),), only=-2)), {}, "belongs to tier -2 alone"),
        (G, (W, Parameter("x", (Axis(1),), only=0)), {}, "not named after it; name it s:"),
        (G, (W, Parameter("s:", (Axis(1),), only=0)), {}, "not named after it"),
        (G, (W, Parameter("m:x", (Axis(1),), only=0)), {}, "not named after it"),
        (G, (W, Parameter("l:x", (Axis(1),), 2, only=2)), {}, "no first tier"),
        (G, (W, Parameter("l:x", (Axis(4, group="g"),), only=2)), {}, "never sliced"),
        (G, (W, Parameter("l:w", (Axis(1),), only=2)), {}, "a shared array of that name"),
        ({"g": (4, 4, 4)}, (W, Parameter("l:x", (Axis(1),), only=2)), {"whole": True}, "every tier holds all"),
        (G, (W,), {"whole": True}, "every tier holds all"),
        ({"g": (4, 4, 4)}, (W, Parameter("d", (Axis(1),), 1)), {"whole": True}, "first appears in tier 1"),
        (G, (W,), {"rolls": {"h": 1}}, "does not exist"),
        (G, (W,), {"rolls": {"g": 2}}, "divides the width of every tier"),
        (G, (W,), {"rolls": {"g": 0}}, "divides the width of every tier"),
        (G, (W,), {"rolls": {"g": True}}, "divides the width of every tier"),
        ({"g": (4, 4, 4)}, (W, Parameter("l:x", (Axis(1),), only=2)), {}, "'m' adds no coordinate to tier 's'"),
        ({}, (Parameter("m:x", (Axis(1),), only=1), Parameter("l:x", (Axis(1),), only=2)), {}, "'s' adds no"),
    ],
)
def test_a_layout_that_contradicts_itself_is_refused_and_says_why(
    groups: dict[str, tuple[int, ...]], parameters: tuple[Parameter, ...], more: dict[str, Any], said: str
) -> None:
    with pytest.raises(LayoutError, match=said):
        Layout(TIERS, groups, parameters, **more)


@pytest.mark.parametrize(
    "change",
    [
        {"whole": False},
        {"whole": 1},
        {"rolls": {}},
        {"rolls": []},
        {"rolls": {"g": 1.0}},
        {"rolls": {"g": -1}},
        {"more": 1},
        {"tiers": [["s", "0.5", 0, ""], ["m", "0.75", 0], ["l", "1.0", 0]]},
        {"tiers": [["s", "0.5", 0, "tree", 1], ["m", "0.75", 0], ["l", "1.0", 0]]},
        {"parameters": [["w", 0, [[4, 1, 1, "g"]], -1]]},
        {"parameters": [["w", 0, [[4, 1, 1, "g"]], 0, 0]]},
    ],
)
def test_a_document_in_another_form_is_refused(change: dict[str, Any]) -> None:
    document = Layout(TIERS, G, (W,), rolls={"g": 1}).document()
    Layout.from_document(document)
    with pytest.raises(LayoutError):
        Layout.from_document({**document, **change})


# ---- the sum --------------------------------------------------------------------------------------------------


@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_averaging_any_layout_is_per_coordinate_masked_averaging_exactly(
    any_layouts: st.SearchStrategy[Layout], oracle: Any, data: st.DataObject, seed: int
) -> None:
    layout = data.draw(any_layouts)
    rng, last = np.random.default_rng(seed), len(layout.tiers) - 1
    present = data.draw(st.lists(st.tuples(st.integers(0, last), st.integers(1, 100)), max_size=6))

    def on_grid(shapes: dict[str, tuple[int, ...]]) -> dict[str, Vector]:
        return {n: (rng.integers(-(2**15), 2**15 + 1, s) / 2**12).astype(np.float32) for n, s in shapes.items()}

    updates = [(tier, on_grid(layout.shapes(tier)), float(weight)) for tier, weight in present]
    full = on_grid({name: array.shape for name, array in numbered(layout).items()})
    head, out = np.empty(layout.total, np.float32), np.empty(layout.total, np.float32)
    for k in range(last + 1):
        layout.holdings.put(Packer(layout, k).gather(oracle(layout).cut(full, k)), k, head)
    ours = Accumulator(layout.holdings, BOUNDS)
    for tier, arrays, weight in updates:
        ours.fold(Packer(layout, tier).gather(arrays), tier, weight)
    ours.finalize(head, out)
    new = oracle(layout).average(full, updates)
    for k in range(last + 1):
        assert np.array_equal(layout.take(out, k), Packer(layout, k).gather(oracle(layout).cut(new, k)))
    for s, weight in enumerate(ours.weights):
        assert weight == sum(w for tier, _, w in updates if s in layout.holds[tier])


@given(data=st.data(), seed=st.integers(0, 2**32 - 1), block=st.integers(1, 7))
def test_the_sums_of_a_range_are_the_weighted_sums_whatever_the_order_and_the_blocks(
    any_layouts: st.SearchStrategy[Layout], data: st.DataObject, seed: int, block: int
) -> None:
    layout, rng = data.draw(any_layouts), np.random.default_rng(seed)
    tiers = data.draw(st.lists(st.integers(0, len(layout.tiers) - 1), max_size=6))
    updates: list[tuple[Vector, int, float]] = [
        (
            (rng.integers(-(2**15), 2**15 + 1, layout.lengths[k]) / 2**12).astype(np.float32),
            k,
            float(rng.integers(1, 9)),
        )
        for k in tiers
    ]
    slow = np.zeros(layout.total)
    for vector, k, weight in updates:
        for at, value in zip((i for run in layout.runs[k] for i in range(*run)), vector, strict=True):
            slow[at] += weight * float(value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mhfl_mq.segments.blocks.BLOCK", block)
        ours = Accumulator(layout.holdings, BOUNDS)
        for one in data.draw(st.permutations(updates)):
            ours.fold(*one)
        low = data.draw(st.integers(0, layout.total))
        high = data.draw(st.integers(low, layout.total))
        assert ours.sums(low, high).tolist() == slow[low:high].tolist()


def test_an_update_of_several_runs_that_turns_out_bad_is_taken_back_out_of_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mhfl_mq.segments.blocks.BLOCK", 2)
    ours = Accumulator(GAPPED, BOUNDS)
    good = np.linspace(0, 2, 9, dtype=np.float32)
    ours.fold(good, 2, 3.0)
    before = ours.sums(0, 10).tolist()
    poison = np.ones(9, np.float32)
    poison[7] = np.nan  # in the fourth block, in the second run
    with pytest.raises(LocalMisuse, match="not finite"):
        ours.fold(poison, 2, 5.0)
    assert ours.sums(0, 10).tolist() == before
    assert before[5] == 0.0
    assert ours.weights == (3.0, 3.0, 0.0, 3.0)


def test_sums_out_of_range_and_those_of_a_sum_that_was_given_away_are_refused() -> None:
    ours = Accumulator(GAPPED, BOUNDS)
    for low, high in ((-1, 2), (3, 2), (0, 11)):
        with pytest.raises(LocalMisuse, match="there are 10"):
            ours.sums(low, high)
    emptied = ours.emptied(BOUNDS)
    with pytest.raises(LocalMisuse, match="given away"):
        ours.sums(0, 1)
    assert emptied.sums(0, 10).tolist() == [0.0] * 10


def test_a_sum_says_nested_tiers_by_their_lengths() -> None:
    assert Holdings.nested((3, 5)) == Holdings(((0, 3), (3, 5)), ((0,), (0, 1)))
    assert Accumulator((3, 5), BOUNDS).weights == (0.0, 0.0)


@pytest.mark.parametrize(
    ("bounds", "holds"),
    [
        ((), ()),
        (((0, 2), (3, 4)), ((0,),)),
        (((0, 2), (2, 2)), ((0,),)),
        (((1, 2),), ((0,),)),
        (((0, 2),), ((),)),
        (((0, 2),), ((1,),)),
        (((0, 2),), ((-1,),)),
        (((0, 2), (2, 3)), ((1, 0),)),
        (((0, 2),), ((0, 0),)),
    ],
)
def test_holdings_that_are_none_are_refused(
    bounds: tuple[tuple[int, int], ...], holds: tuple[tuple[int, ...], ...]
) -> None:
    with pytest.raises(LocalMisuse):
        Holdings(bounds, holds)
