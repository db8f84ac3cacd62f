"""The layout's laws, and what it refuses."""

import copy
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mhfl_mq.errors import LayoutError
from mhfl_mq.segments import Axis, Layout, Packer, Parameter, Tier


def small() -> Layout:
    out, middle = Axis(4, group="a"), Axis(4, inner=3, group="a")
    return Layout(
        (Tier("s", 0.5, 1), Tier("l", 1.0, 2)),
        {"a": (2, 4)},
        (Parameter("w", (out, Axis(5))), Parameter("v", (Axis(2), middle)), Parameter("deep", (Axis(3),), 1)),
    )


def rich() -> Layout:
    """A layout that says everything that can be said of one that is not whole."""
    base = small()
    tiers = (Tier("s", 0.5, 1, "tree"), base.tiers[1])
    return Layout(tiers, base.groups, (*base.parameters, Parameter("s:own", (Axis(3),), only=0)), rolls={"a": 2})


@given(data=st.data())
def test_segments_partition_the_vector(layouts: st.SearchStrategy[Layout], data: st.DataObject) -> None:
    layout = data.draw(layouts)
    owner = np.zeros(layout.lengths[-1], np.int64)
    for box in layout.boxes:
        owner[box.start : box.stop] += 1
        low, high = layout.segment_bounds[box.segment]
        assert low <= box.start < box.stop <= high
    assert (owner == 1).all()
    assert layout.lengths[-1] == sum(int(np.prod([a.size for a in p.axes])) for p in layout.parameters)


@given(data=st.data())
def test_a_tier_has_as_many_coordinates_as_its_own_model(
    layouts: st.SearchStrategy[Layout], data: st.DataObject
) -> None:
    layout = data.draw(layouts)
    for tier, length in enumerate(layout.lengths):
        assert length == sum(int(np.prod(shape)) for shape in layout.shapes(tier).values())


@given(data=st.data())
def test_tier_k_is_a_prefix_of_tier_k_plus_1(
    layouts: st.SearchStrategy[Layout], oracle: Any, data: st.DataObject
) -> None:
    layout = data.draw(layouts)
    last = len(layout.tiers) - 1
    count = iter(range(layout.lengths[-1]))
    full = {
        name: np.array([next(count) for _ in range(int(np.prod(shape)))], np.float32).reshape(shape)
        for name, shape in layout.shapes(last).items()
    }
    whole = Packer(layout, last).gather(full)
    for tier in range(last + 1):
        own = Packer(layout, tier).gather(oracle(layout).cut(full, tier))
        assert np.array_equal(own, whole[: layout.lengths[tier]])
        assert np.array_equal(own, Packer(layout, tier, model=last).gather(full))


@given(data=st.data())
def test_a_document_gives_the_same_layout_back(layouts: st.SearchStrategy[Layout], data: st.DataObject) -> None:
    layout = data.draw(layouts)
    again = Layout.from_document(json.loads(json.dumps(layout.document())))
    assert again == layout
    assert again.digest == layout.digest
    assert again.lengths == layout.lengths


def test_the_digest_is_the_same_in_every_version() -> None:
    assert small().digest == "6ae0fda59ca78ba1a18e3b2402d71680392048f96a434fbaded3c7a37eddaf87"


def test_the_order_in_which_groups_are_given_does_not_change_the_digest() -> None:
    tiers = (Tier("s", 0.5), Tier("l"))
    parameters = (Parameter("w", (Axis(4, group="a"), Axis(6, group="b"))),)
    one = Layout(tiers, {"a": (2, 4), "b": (3, 6)}, parameters)
    two = Layout(tiers, {"b": (3, 6), "a": (2, 4)}, parameters)
    assert one.digest == two.digest


def test_anything_that_changes_the_meaning_of_an_index_changes_the_digest() -> None:
    base = small()
    a, b, c = base.parameters
    others = [
        Layout(base.tiers, {"a": (3, 4)}, base.parameters),
        Layout(base.tiers, base.groups, (b, a, c)),
        Layout(base.tiers, base.groups, (Parameter("x", a.axes), b, c)),
        Layout(base.tiers, base.groups, (a, b, Parameter("deep", c.axes, 0))),
        Layout(base.tiers, base.groups, (a, Parameter("v", (Axis(2), Axis(4, blocks=3, group="a"))), c)),
    ]
    assert len({base.digest, *(o.digest for o in others)}) == 1 + len(others)


def test_a_tier_lacks_the_parameters_of_deeper_tiers() -> None:
    assert small().shapes(0) == {"w": (2, 5), "v": (2, 6)}
    assert small().shapes(1) == {"w": (4, 5), "v": (2, 12), "deep": (3,)}


@pytest.mark.parametrize(
    ("tiers", "groups", "parameters", "said"),
    [
        ((), {}, (Parameter("w", (Axis(2),)),), "0 tiers"),
        ((Tier("a"), Tier("a")), {"g": (1, 2)}, (Parameter("w", (Axis(2, group="g"),)),), "its own name"),
        ((Tier("a", 0.0),), {}, (Parameter("w", (Axis(2),)),), "width 0.0"),
        ((Tier("a"), Tier("b")), {"g": (2, 1)}, (Parameter("w", (Axis(1, group="g"),)),), "smallest first"),
        ((Tier("a"), Tier("b")), {"g": (2,)}, (Parameter("w", (Axis(2, group="g"),)),), "for 2 tiers"),
        ((Tier("a"), Tier("b")), {"g": (2, 2)}, (Parameter("w", (Axis(2, group="g"),)),), "adds no coordinate"),
        ((Tier("a"),), {"g": (2,)}, (Parameter("w", (Axis(3, group="g"),)),), "does not fit its group"),
        ((Tier("a"), Tier("b")), {"g": (0, 2)}, (Parameter("w", (Axis(2, group="g"),)),), "does not fit"),
        ((Tier("a"),), {}, (Parameter("w", (Axis(3, group="g"),)),), "does not fit its group"),
        ((Tier("a"),), {"g": (2,)}, (Parameter("w", (Axis(3),)),), "no parameter uses group 'g'"),
        ((Tier("a"),), {}, (), "0 parameters"),
        ((Tier("a"),), {}, (Parameter("w", (Axis(3),)), Parameter("w", (Axis(3),))), "same name"),
        ((Tier("a"),), {}, (Parameter("w", (Axis(3),), 1),), "first appears in tier 1"),
        ((Tier("a"),), {}, (Parameter("w", (Axis(1),) * 11),), "11 axes"),
        ((Tier("a"),), {}, (Parameter("w", (Axis(1 << 30), Axis(1 << 30))),), "more than"),
    ],
)
def test_a_layout_that_is_not_nested_is_refused_and_says_why(
    tiers: tuple[Tier, ...], groups: dict[str, tuple[int, ...]], parameters: tuple[Parameter, ...], said: str
) -> None:
    with pytest.raises(LayoutError, match=said):
        Layout(tiers, groups, parameters)


@pytest.mark.parametrize("bad", [{"channels": 0}, {"channels": 2.0}, {"blocks": -1}, {"inner": True}, {"group": ""}])
def test_an_axis_of_nonsense_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(LayoutError):
        Axis(**{"channels": 2, **bad})


@given(data=st.data())
def test_a_document_with_any_part_replaced_is_a_layout_or_a_layout_error(data: st.DataObject) -> None:
    document: Any = copy.deepcopy(data.draw(st.sampled_from([small(), rich()])).document())
    junk = st.one_of(
        st.none(), st.booleans(), st.integers(-2, 2**70), st.text(max_size=3), st.just(float("nan")),
        st.just([]), st.just({}), st.just([[]]), st.binary(max_size=2),
    )  # fmt: skip
    holder, key = document, data.draw(st.sampled_from(sorted(document)))
    while isinstance(holder[key], list | dict) and holder[key] and data.draw(st.booleans()):
        holder = holder[key]
        key = data.draw(st.sampled_from(sorted(holder) if isinstance(holder, dict) else range(len(holder))))
    holder[key] = data.draw(junk)
    try:
        layout = Layout.from_document(document)
    except LayoutError:
        return
    assert Layout.from_document(layout.document()) == layout


@pytest.mark.parametrize("document", [None, [], {}, {"format": "mhfl-layout/1"}, "x", 3])
def test_what_is_no_layout_document_is_refused(document: object) -> None:
    with pytest.raises(LayoutError):
        Layout.from_document(document)


def test_a_document_of_a_later_format_is_refused_by_name() -> None:
    document = small().document() | {"format": "mhfl-layout/9"}
    with pytest.raises(LayoutError, match="mhfl-layout/9"):
        Layout.from_document(document)
