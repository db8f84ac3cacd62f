"""Rolling: a permutation with the slow definition's result, whose windows stay in their heads, gates and groups."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mhfl_mq.errors import LocalMisuse
from mhfl_mq.segments import Axis, Layout, Packer, Parameter, Tier, Vector
from mhfl_mq.segments.roll import next_steps, rolled

LAYOUT = Layout(
    (Tier("s", 0.5, 1), Tier("l", 1.0, 2)),
    {"heads": (2, 4), "out": (1, 3), "late": (0, 2)},
    (
        Parameter("q", (Axis(4, blocks=3, group="heads"), Axis(2))),
        Parameter("o", (Axis(3, inner=2, group="out"), Axis(4, blocks=3, group="heads"))),
        Parameter("new", (Axis(2, group="late"), Axis(3, group="out")), since=1),
        Parameter("scale", ()),
    ),
)


def numbered(layout: Layout) -> Vector:
    return np.arange(layout.lengths[-1], dtype=np.float32)


def arrays_of(layout: Layout, flat: Vector) -> dict[str, Vector]:
    """The full model's arrays out of its vector."""
    last = len(layout.tiers) - 1
    arrays = {name: np.empty(shape, np.float32) for name, shape in layout.shapes(last).items()}
    Packer(layout, last).scatter(flat, arrays)
    return arrays


def slowly(layout: Layout, arrays: Mapping[str, Vector], steps: Mapping[str, int]) -> dict[str, Vector]:
    """The definition, one index at a time: channel c becomes channel (c - step) mod C."""
    result = {name: np.empty_like(array) for name, array in arrays.items()}
    for p in layout.parameters:
        for where in np.ndindex(*arrays[p.name].shape):
            new = []
            for i, axis in zip(where, p.axes, strict=True):
                block, rest = divmod(i, axis.channels * axis.inner)
                channel, inner = divmod(rest, axis.inner)
                moved = (channel - steps.get(axis.group or "", 0)) % axis.channels
                new.append((block * axis.channels + moved) * axis.inner + inner)
            result[p.name][tuple(new)] = arrays[p.name][where]
    return result


def draw_steps(data: st.DataObject, layout: Layout) -> dict[str, int]:
    groups = data.draw(st.lists(st.sampled_from(sorted(layout.groups)), unique=True))
    return {group: data.draw(st.integers(-7, 7)) for group in groups}


@given(data=st.data())
def test_the_arrays_of_a_rolled_vector_are_those_of_the_definition(
    layouts: st.SearchStrategy[Layout], data: st.DataObject
) -> None:
    layout = data.draw(layouts)
    steps = draw_steps(data, layout)
    flat = numbered(layout)
    expected = slowly(layout, arrays_of(layout, flat), steps)
    found = arrays_of(layout, rolled(layout, flat, steps))
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


@given(data=st.data())
def test_a_roll_is_a_permutation_and_the_rest_of_the_way_round_undoes_it(
    layouts: st.SearchStrategy[Layout], data: st.DataObject
) -> None:
    layout = data.draw(layouts)
    steps, flat = draw_steps(data, layout), numbered(layout)
    there = rolled(layout, flat, steps)
    assert np.array_equal(np.sort(there), flat)
    back = {group: layout.groups[group][-1] - step for group, step in steps.items()}
    assert np.array_equal(rolled(layout, there, back), flat)


@given(data=st.data())
def test_one_roll_after_another_is_the_roll_by_their_sum(
    layouts: st.SearchStrategy[Layout], data: st.DataObject
) -> None:
    layout = data.draw(layouts)
    one, other = draw_steps(data, layout), draw_steps(data, layout)
    both = {group: one.get(group, 0) + other.get(group, 0) for group in {**one, **other}}
    flat = numbered(layout)
    assert np.array_equal(rolled(layout, rolled(layout, flat, one), other), rolled(layout, flat, both))


def test_windows_never_cross_heads() -> None:
    after = arrays_of(LAYOUT, rolled(LAYOUT, numbered(LAYOUT), {"heads": 3}))
    before = arrays_of(LAYOUT, numbered(LAYOUT))
    for head in range(3):
        rows = slice(4 * head, 4 * head + 4)
        assert np.array_equal(after["q"][rows], np.roll(before["q"][rows], -3, 0))  # each head by itself
        assert np.array_equal(after["o"][:, rows], np.roll(before["o"][:, rows], -3, 1))
    crossed = np.roll(before["q"], -3, 0)  # the roll over the flattened axis of the published code
    assert not np.array_equal(after["q"], crossed)


def test_the_prefix_of_a_rolled_vector_is_the_window_that_starts_at_the_step() -> None:
    full = arrays_of(LAYOUT, numbered(LAYOUT))
    small = {name: np.empty(shape, np.float32) for name, shape in LAYOUT.shapes(0).items()}
    Packer(LAYOUT, 0).scatter(rolled(LAYOUT, numbered(LAYOUT), {"heads": 3, "out": 1})[: LAYOUT.lengths[0]], small)
    assert np.array_equal(small["q"], full["q"][[3, 0, 7, 4, 11, 8]])  # channels 3 and 0 of each head
    assert np.array_equal(small["o"], full["o"][2:4][:, [3, 0, 7, 4, 11, 8]])


def test_arrays_that_only_larger_tiers_have_roll_with_the_others() -> None:
    full = arrays_of(LAYOUT, numbered(LAYOUT))
    after = arrays_of(LAYOUT, rolled(LAYOUT, numbered(LAYOUT), {"late": 1, "out": 2}))
    assert np.array_equal(after["new"], full["new"][[1, 0]][:, [2, 0, 1]])
    assert np.array_equal(after["q"], full["q"])
    assert after["scale"] == full["scale"]


def test_a_vector_may_be_given_to_roll_into() -> None:
    flat, out = numbered(LAYOUT), np.zeros(LAYOUT.lengths[-1], np.float32)
    assert rolled(LAYOUT, flat, {"out": 1}, out) is out
    assert np.array_equal(out, rolled(LAYOUT, flat, {"out": 1}))
    assert np.array_equal(rolled(LAYOUT, flat, {}), flat)


def test_what_cannot_be_rolled_is_refused() -> None:
    flat = numbered(LAYOUT)
    bad: Any
    for bad in (flat[:-1], flat.astype(np.float64), np.repeat(flat, 2)[::2]):
        with pytest.raises(LocalMisuse, match=r"the full model's is float32 \(\d+,\)"):
            rolled(LAYOUT, bad, {"out": 1})
    with pytest.raises(LocalMisuse, match="onto itself"):
        rolled(LAYOUT, flat, {"out": 1}, flat)
    for bad in ({"nowhere": 1}, {"out": 1.0}, {"out": True}):
        with pytest.raises(LocalMisuse, match="cannot be rolled by"):
            rolled(LAYOUT, flat, bad)


def rolling(groups: Mapping[str, tuple[int, ...]], rolls: Mapping[str, int]) -> Layout:
    """A layout of one parameter for each group."""
    parameters = tuple(Parameter(name, (Axis(widths[-1], group=name),)) for name, widths in groups.items())
    return Layout((Tier("s", 0.5), Tier("l")), groups, parameters, rolls=rolls)


def test_a_version_moves_every_group_by_its_unit_and_around_the_end() -> None:
    groups = {"a": (4, 8), "b": (1, 3), "order matters": (1, 2)}
    layout = rolling(groups, {"a": 4, "b": 1})
    assert next_steps(layout) == {"a": 4, "b": 1}
    assert next_steps(layout, 2) == {"a": 0, "b": 2}
    assert next_steps(layout, 5) == {"a": 4, "b": 2}
    assert next_steps(rolling(groups, {})) == {}


def test_after_as_many_versions_as_channels_every_channel_was_in_the_smallest_tier_equally_often() -> None:
    layout = replace(LAYOUT, rolls={"heads": 1})
    flat, seen = numbered(LAYOUT), []
    for _ in range(4):
        small = {name: np.empty(shape, np.float32) for name, shape in LAYOUT.shapes(0).items()}
        Packer(LAYOUT, 0).scatter(flat[: LAYOUT.lengths[0]], small)
        seen += small["q"].ravel().tolist()
        flat = rolled(LAYOUT, flat, next_steps(layout))
    every = arrays_of(LAYOUT, numbered(LAYOUT))["q"].ravel()
    assert sorted(seen) == sorted([*every, *every])
    assert np.array_equal(flat, numbered(LAYOUT))
