"""Packing: the identity, the agreement with the slow definition, and what is refused."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mhfl_mq.errors import LayoutError, LocalMisuse
from mhfl_mq.segments import Axis, Layout, Packer, Parameter, Tier, Vector

LAYOUT = Layout(
    (Tier("s", 0.5), Tier("l")), {"g": (2, 4)}, (Parameter("w", (Axis(4, group="g"), Axis(3))), Parameter("b", ()))
)


def arrays_of(layout: Layout, tier: int, seed: int) -> dict[str, Vector]:
    rng = np.random.default_rng(seed)
    return {n: rng.normal(size=s).astype(np.float32) for n, s in layout.shapes(tier).items()}


@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_unpacking_what_was_packed_is_the_identity(
    layouts: st.SearchStrategy[Layout], data: st.DataObject, seed: int
) -> None:
    layout = data.draw(layouts)
    for tier in range(len(layout.tiers)):
        packer, arrays = Packer(layout, tier), arrays_of(layout, tier, seed)
        empty = {name: np.zeros_like(array) for name, array in arrays.items()}
        flat = packer.gather(arrays)
        packer.scatter(flat, empty)
        assert all(np.array_equal(empty[name], arrays[name]) for name in arrays)
        assert np.array_equal(packer.gather(empty, np.empty_like(flat)), flat)


@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_scattering_a_tier_into_the_full_model_leaves_the_other_units_alone(
    layouts: st.SearchStrategy[Layout], oracle: Any, data: st.DataObject, seed: int
) -> None:
    layout = data.draw(layouts)
    last = len(layout.tiers) - 1
    tier = data.draw(st.integers(0, last))
    full, before = arrays_of(layout, last, seed), arrays_of(layout, last, seed)
    vector = np.arange(layout.lengths[tier], dtype=np.float32) + 1000
    Packer(layout, tier, model=last).scatter(vector, full)
    whole, old = oracle(layout).flat_of(full), oracle(layout).flat_of(before)
    assert np.array_equal(whole[: vector.size], vector)
    assert np.array_equal(whole[vector.size :], old[vector.size :])


def test_integer_buffers_beside_the_parameters_are_left_alone() -> None:
    arrays: dict[str, Any] = arrays_of(LAYOUT, 1, 0) | {"steps": np.array(7, np.int64)}
    packer = Packer(LAYOUT, 1)
    packer.scatter(packer.gather(arrays) * 0, arrays)
    assert arrays["steps"] == 7
    assert packer.length == 13


def test_an_array_that_is_not_contiguous_is_gathered_all_the_same() -> None:
    arrays = arrays_of(LAYOUT, 1, 0)
    turned = arrays | {"w": np.asfortranarray(arrays["w"])}
    assert np.array_equal(Packer(LAYOUT, 1).gather(turned), Packer(LAYOUT, 1).gather(arrays))


def test_a_wrong_shape_type_or_name_is_refused_by_the_parameters_name() -> None:
    packer, good = Packer(LAYOUT, 1), arrays_of(LAYOUT, 1, 0)
    bads: list[dict[str, Any]] = [{"w": good["w"][:2]}, {"w": good["w"].astype(np.float64)}]
    for bad in bads:
        with pytest.raises(LayoutError, match=r"^w: "):
            packer.gather({**good, **bad})
    with pytest.raises(LayoutError, match=r"^b: the model has no such array"):
        packer.gather({"w": good["w"]})


def test_nothing_is_written_when_one_array_cannot_be() -> None:
    packer, good = Packer(LAYOUT, 1), arrays_of(LAYOUT, 1, 0)
    good["b"].flags.writeable = False
    before = good["w"].copy()
    with pytest.raises(LocalMisuse, match=r"^b: "):
        packer.scatter(np.zeros(13, np.float32), good)
    with pytest.raises(LocalMisuse, match=r"^w: "):
        packer.scatter(np.zeros(13, np.float32), {**good, "w": np.asfortranarray(before)})
    assert np.array_equal(good["w"], before)


@pytest.mark.parametrize("bad", [np.zeros(13), np.zeros(12, np.float32), np.zeros(26, np.float32)[::2]])
def test_a_vector_that_is_not_the_prefix_is_refused(bad: Any) -> None:
    packer, arrays = Packer(LAYOUT, 1), arrays_of(LAYOUT, 1, 0)
    with pytest.raises(LocalMisuse):
        packer.gather(arrays, bad)
    with pytest.raises(LocalMisuse):
        packer.scatter(bad, arrays)


@pytest.mark.parametrize(("tier", "model"), [(2, None), (-1, None), (1, 0)])
def test_a_tier_that_the_model_does_not_hold_is_refused(tier: int, model: int | None) -> None:
    with pytest.raises(LocalMisuse):
        Packer(LAYOUT, tier, model=model)
